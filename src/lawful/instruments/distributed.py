"""Several processes that train one model: what each of them saw, made one.

Under data parallelism (`DistributedDataParallel`, or `fully_shard` of FSDP2) process r of R has

    L_r = (1/n_r) Σ_i ℓ_i  over its own samples,        ∂L/∂W = (1/R) Σ_r ∂L_r/∂W,

and the mean over processes is taken at the parameters, after everything has been
differentiated. So the gradient that reaches the output of a layer is that of L_r alone, and n_r
times it is the g_b of the per-sample loss, whatever R is: a `Scale` counts the samples of its own
process, and nothing else. H = Σ h hᵀ and G = Σ g gᵀ are sums over samples, so those of all
processes are added up, exactly. `p.grad` at the optimiser is the mean already, with equal n_r
that of one process on the whole batch, and is taken as it is. (Of a summed loss it is 1/R of the
sum: the reduction divides whatever the loss did.)

    a measured batch    the rows so far are counted over all processes, so that all of them close
                        the window at the same step; where one failed, all give the window up
    a reading           one all-reduce of every sum; where W lies in shards it is gathered, layer
                        by layer; the first process computes and writes
    gradient noise      sums over samples, added up at its readings (`added`); Hebb's matrices at
                        the one batch in 16 that shows them; gradients and weights in shards are
                        gathered, layer by layer, at each of its batches
    charges             the noise sums over samples; the account needs θ and g whole: where they
                        lie in shards, those that symmetries move are gathered for each of its
                        steps, θ before and after it, in the first process
    any other step      no communication

Where one process alone has to decide (the clock, the counted cost of what it computes) it says at
a reading when the next window may open.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..estimators.moments import Moments
from ..estimators.stream import KEEP_CLUSTERS, KEEP_ROWS
from ..record import RecordError

if TYPE_CHECKING:
    from .steadiness import Steadiness
    from .tap import Tap

T = TypeVar("T")
CPU = torch.device("cpu")
PATIENCE = timedelta(minutes=5)
_MEETINGS = itertools.count()
DIGIT = 4096  # counts travel as digits, so that float32 sums of up to 4096 processes are exact


@dataclass(frozen=True)
class Ranks:
    """This process among those that train the model with it; alone unless told otherwise.

    rank, size: its place, and how many there are.
    group:      their process group; device: where its collectives take tensors; dtype: of sums.
    """

    rank: int = 0
    size: int = 1
    group: Any = None
    device: torch.device = CPU
    dtype: torch.dtype = torch.float32

    @property
    def first(self) -> bool:
        """Whether this is the process that computes and writes."""
        return self.rank == 0

    @property
    def every(self) -> int:
        """Each how-many-th process keeps clusters: 64 of them at most."""
        return math.ceil(self.size / KEEP_CLUSTERS)

    @property
    def keep(self) -> int:
        """Clusters that a process keeps, so that all of them keep what one alone would."""
        return math.ceil(KEEP_CLUSTERS / math.ceil(self.size / self.every))

    @property
    def connected(self) -> bool:
        """Whether the processes can still reach each other."""
        return self.size == 1 or dist.is_initialized()

    def meet(self) -> None:
        """Wait until every process has come here: one that has not would leave the rest hanging.

        Raises `ValueError` when some have not come within five minutes.
        """
        if self.size == 1:
            return
        meeting = next(_MEETINGS)
        keys = [f"lawful/{meeting}/{rank}" for rank in self._members()]
        store = dist.distributed_c10d._get_default_store()
        store.set(keys[self.rank], "here")
        try:
            store.wait(keys, PATIENCE)
        except RuntimeError:
            raise ValueError(
                f"model is trained by {self.size} processes and not all of them attach: call "
                "lawful.observe in every process, not only in the first"
            ) from None

    def agree(self, told: Sequence[str]) -> bool:
        """Whether every process says the same."""
        if self.size == 1:
            return True
        said = zlib.crc32("\n".join(told).encode())
        ends = torch.tensor([said, -said], dtype=torch.int64, device=self.device)
        dist.all_reduce(ends, op=dist.ReduceOp.MAX, group=self.group)
        return int(ends.sum()) == 0

    def lead(self, action: Callable[[], T]) -> T | None:
        """Do it in the first process, None in the others; where it fails, it fails in all."""
        if self.size == 1:
            return action()
        done, problem = None, None
        if self.first:
            try:
                done = action()
            except Exception as error:
                problem = error
        told = [None if problem is None else f"{type(problem).__name__}: {problem}"]
        dist.broadcast_object_list(
            told, src=self._members()[0], group=self.group, device=self.device
        )
        if problem is not None:
            raise problem
        if told[0] is not None:
            raise RecordError(f"the first process could not go on: {told[0]}")
        return done

    def say(self, number: int) -> int:
        """The number that the first process has."""
        if self.size == 1:
            return number
        said = torch.tensor([number], dtype=torch.int64, device=self.device)
        dist.broadcast(said, src=self._members()[0], group=self.group)
        return int(said)

    def total(self, counts: Sequence[int], *, failed: bool = False) -> list[int]:
        """Counts summed over the processes, each of which calls this, also one that failed.

        Raises `RuntimeError` in those that did not fail when another did.
        """
        if self.size == 1:
            return list(counts)
        sums = torch.tensor([int(failed), *counts], dtype=torch.int64, device=self.device)
        dist.all_reduce(sums, group=self.group)
        lost, *totals = sums.tolist()
        if lost and not failed:
            raise RuntimeError(f"{lost} of {self.size} processes could not take their batch in")
        return totals

    def _members(self) -> list[int]:
        return dist.get_process_group_ranks(self.group)


ALONE = Ranks()


class NoPen:
    """What the processes that are not the first write with: nothing is written."""

    def write(self, *_: object) -> None: ...

    def event(self, *_: object) -> None: ...

    def update_manifest(self, **_: object) -> None: ...

    def close(self) -> None: ...


def unwrapped(model: nn.Module) -> nn.Module:
    """The module as it was written, whose layer names know of no compiler and no wrapper."""
    while True:
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def ranks_of(model: nn.Module) -> Ranks:
    """The processes that train this model: those of its wrapper or of its sharded parameters.

    A model that is neither wrapped nor sharded is trained by this process alone, as far as can
    be told. Raises `ValueError` for a model that is split in ways other than by samples.
    """
    parameters = list(model.parameters())
    shards = [p for p in parameters if sharded(p)]
    wrapper = _wrapper(model)
    if any(type(m).__name__ == "FullyShardedDataParallel" for m in model.modules()):
        raise ValueError(
            "model is wrapped by FullyShardedDataParallel, which flattens its weights: use "
            "torch.distributed.fsdp.fully_shard(model)"
        )
    if not shards and wrapper is None:
        return ALONE
    group = wrapper.process_group if wrapper is not None else _group(model, shards)
    wide = any(p.dtype == torch.float64 for p in parameters)
    return Ranks(
        rank=dist.get_rank(group), size=dist.get_world_size(group), group=group,
        device=torch.device(parameters[0].device.type, parameters[0].device.index),
        dtype=torch.float64 if wide else torch.float32,
    )  # fmt: skip


def _wrapper(model: nn.Module) -> nn.parallel.DistributedDataParallel | None:
    """The outer or, in a compiled model, inner `DistributedDataParallel`."""
    found = (m for m in model.modules() if isinstance(m, nn.parallel.DistributedDataParallel))
    return next(found, None)


def _group(model: nn.Module, shards: list[Any]) -> Any:
    """The group over which `fully_shard` shards, and perhaps replicates, the parameters."""
    mesh = shards[0].device_mesh
    by_samples = any(hasattr(m, "set_requires_gradient_sync") for m in model.modules())
    once = all(sum(not x.is_replicate() for x in p.placements) <= 1 for p in shards)
    if not by_samples or not once or any(p.device_mesh != mesh for p in shards):
        raise ValueError(
            "model has layers split over processes (tensor parallelism): only data parallelism "
            "is observed, DistributedDataParallel or fully_shard"
        )
    if mesh.ndim == 1:
        return mesh.get_group()
    if mesh.size() != dist.get_world_size():
        raise ValueError(
            f"model is sharded over {mesh.size()} of {dist.get_world_size()} processes on a mesh "
            f"of {mesh.ndim} dimensions: replicas must span all of them, or the mesh be flat"
        )
    return dist.group.WORLD


# -- weights in shards -----------------------------------------------------------------------------


def sharded(t: object) -> bool:
    """Whether a tensor lies in pieces on several processes (a DTensor)."""
    return hasattr(t, "full_tensor")


def whole(t: Any) -> Any:
    """The tensor with the pieces of all processes; a collective where it lies in shards."""
    return t.full_tensor() if sharded(t) else t


def held(t: Any) -> Tensor:
    """The rows or columns of a weight that this process holds; no communication."""
    return t.to_local() if sharded(t) else t


def copies(t: Any) -> int:
    """How many processes hold the same piece of a tensor in shards."""
    mesh = t.device_mesh
    return math.prod(mesh.size(i) for i, p in enumerate(t.placements) if p.is_replicate())


def columns_held(W: Any) -> slice:
    """Which columns of W (d_b, d_a) those of `held` are: all, unless W is cut by columns."""
    if not sharded(W) or _by_rows(W):
        return slice(None)
    which = next(i for i, p in enumerate(W.placements) if not p.is_replicate())
    chunk = math.ceil(W.shape[1] / W.device_mesh.size(which))  # as `torch.chunk` cuts
    at = W.device_mesh.get_local_rank(which) * chunk
    return slice(at, at + chunk)


def _by_rows(W: Any) -> bool:
    return all(p.is_replicate() or p.is_shard(0) for p in W.placements)


def gather(steady: Steadiness, W: Any) -> None:
    """Make gradient sums over the piece of W held here those of the whole W; a collective."""
    if not sharded(W):
        return
    from torch.distributed.tensor import DTensor, Partial  # loaded, since W is one

    def joined(local: Tensor) -> Tensor:
        shape = torch.Size([W.shape[0], local.shape[1] if _by_rows(W) else W.shape[1]])
        return DTensor.from_local(
            local, W.device_mesh, W.placements, run_check=False, shape=shape, stride=(shape[1], 1)
        ).full_tensor()

    def total(local: Tensor) -> Tensor:
        summed = [p if p.is_replicate() else Partial() for p in W.placements]
        return DTensor.from_local(local, W.device_mesh, summed, run_check=False).full_tensor()

    steady.gather(image=joined if _by_rows(W) else total, joined=joined, total=total)


# -- sums ------------------------------------------------------------------------------------------


def added(parts: Sequence[Tensor], ranks: Ranks) -> list[Tensor]:
    """Each tensor summed over the processes: one all-reduce, in float64.

    Every process gives as many tensors, of the same shapes.
    """
    if ranks.size == 1:
        return list(parts)
    flat = torch.cat([p.reshape(-1).to(ranks.device, torch.float64) for p in parts])
    dist.all_reduce(flat, group=ranks.group)
    pieces = flat.split([p.numel() for p in parts])
    return [piece.view(p.shape) for piece, p in zip(pieces, parts, strict=True)]


# -- moments ---------------------------------------------------------------------------------------


def merge(taps: Sequence[Tap], ranks: Ranks) -> None:
    """Give the first process the moments of all: one all-reduce over all layers.

    A layer that could not be observed in some process counts as not observed.
    """
    if ranks.size == 1:
        return
    shapes = [_shapes(tap, ranks) for tap in taps]
    flat = torch.zeros(
        sum(math.prod(s) for of_tap in shapes for s in of_tap),
        dtype=ranks.dtype, device=ranks.device,
    )  # fmt: skip
    views = list(_cut(flat, shapes))
    for tap, view in zip(taps, views, strict=True):
        _pack(tap, view, ranks)
    dist.all_reduce(flat, group=ranks.group)
    if ranks.first:
        for tap, view in zip(taps, views, strict=True):
            _unpack(tap, view)


def _shapes(tap: Tap, ranks: Ranks) -> list[tuple[int, ...]]:
    """Counts, H, G, Σh, Σg; then of each keeping process: rows and ages, clusters of h, of g."""
    d_a, d_b = tap.map.d_a, tap.map.d_b
    keepers, slots = math.ceil(ranks.size / ranks.every), 2 * ranks.keep
    sums: list[tuple[int, ...]] = [(7,), (d_a, d_a), (d_b, d_b), (d_a,), (d_b,)]
    return [
        *sums, (keepers, 1 + slots),
        (keepers, slots, KEEP_ROWS, d_a), (keepers, slots, KEEP_ROWS, d_b),
    ]  # fmt: skip


def _cut(flat: Tensor, shapes: list[list[tuple[int, ...]]]) -> Iterator[list[Tensor]]:
    at = 0
    for of_tap in shapes:
        views = []
        for shape in of_tap:
            views.append(flat[at : at + math.prod(shape)].view(shape))
            at += math.prod(shape)
        yield views


def _pack(tap: Tap, view: list[Tensor], ranks: Ranks) -> None:
    counts, H, G, h_sum, g_sum, labels, kept_h, kept_g = view
    m = tap.stream.moments()
    counts[0] = float(bool(tap.problem))
    if m is None:
        return
    counts[1:] = torch.tensor([*_digits(m.rows), *_digits(m.clusters)])
    for place, value in ((H, m.H), (G, m.G), (h_sum, m.h_sum), (g_sum, m.g_sum)):
        place.copy_(value)
    keeper, beside = divmod(ranks.rank, ranks.every)
    if beside == 0:
        few = min(labels.shape[1] - 1, len(m.kept_h))
        rows = m.kept_h.shape[1]
        labels[keeper, 0] = rows
        labels[keeper, 1 : 1 + few] = 1.0 + torch.tensor(tap.stream.ages()[-few:])
        kept_h[keeper, :few, :rows] = m.kept_h[-few:].to(kept_h.dtype)
        kept_g[keeper, :few, :rows] = m.kept_g[-few:].to(kept_g.dtype)


def _unpack(tap: Tap, view: list[Tensor]) -> None:
    counts, H, G, h_sum, g_sum, labels, kept_h, kept_g = view
    trouble, *digits = (int(c) for c in counts.tolist())
    if trouble and not tap.problem:
        tap.problem = f"could not be observed in {trouble} of the processes"
    rows, clusters = _number(digits[:3]), _number(digits[3:])
    if not rows:
        return
    per_cluster = int(labels[:, 0].max())  # processes with fewer rows in a cluster stay out
    ages = torch.where(labels[:, :1] == per_cluster, labels[:, 1:], 0).flatten()
    # In the order in which one process with all the samples would have met them.
    order = ages.argsort(descending=True, stable=True)[: int((ages > 0).sum())]
    tap.stream.replace(
        Moments(
            H=H, G=G, h_sum=h_sum, g_sum=g_sum, rows=rows, clusters=clusters,
            kept_h=kept_h.flatten(0, 1)[order, :per_cluster],
            kept_g=kept_g.flatten(0, 1)[order, :per_cluster],
        )
    )  # fmt: skip


def _digits(n: int) -> list[int]:
    """Three digits of a count.

    >>> _digits(5000), _number([904, 1, 0])
    ([904, 1, 0], 5000)
    """
    return [n % DIGIT, n // DIGIT % DIGIT, n // DIGIT**2]


def _number(digits: Sequence[int]) -> int:
    return sum(d * DIGIT**i for i, d in enumerate(digits))
