"""The layer instrument: H, G and Z of every linear map, and what follows from them.

Samples reach it through taps, from the training batches as they pass (*stream*) or from a
probe run at fixed weights. Between measurements it holds nothing but the taps' sums.

G_a is *local*: the gradient through this layer, Wᵀ g_b. Where the input also feeds a residual
branch, the total gradient at that tensor is another quantity, and not the theorem's.
"""

from __future__ import annotations

import fnmatch
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ..estimators.linear_map import Canonical, canonical, output_side, part
from ..estimators.moments import Moments
from ..record import RELATIONS, VOCABULARY, Measurement
from .distributed import ALONE, Ranks, columns_held, gather, held, merge, sharded, whole
from .maps import LinearMap, beside, inner_modules, linear_maps, why_not
from .readings import (
    Depth,
    Label,
    alignment_readings,
    deeper_readings,
    permutation_readings,
)
from .steadiness import Steadiness
from .tap import Hooks, Scale, Tap

MINIMUM_ROWS = 4  # rows per dimension below which a law may not call anything settled
Arrays = dict[tuple[str, str], np.ndarray]  # (layer, quantity) → array


@dataclass(frozen=True)
class Unobserved:
    """A module with parameters that no tap covers, and why."""

    name: str
    kind: str
    reason: str
    parameters: int


@dataclass(frozen=True)
class Part:
    """A slice of a map that is read as a layer of its own: a head of a projection."""

    name: str
    rows: slice | None = None
    columns: slice | None = None


Heads = Mapping[str, "int | Mapping[str, slice]"]


def survey(
    model: nn.Module, layers: str | Sequence[str]
) -> tuple[list[LinearMap], list[Unobserved]]:
    """Every linear map of the model that `layers` selects, and every module left out.

    layers: globs over module paths; one that starts with `!` takes layers out again.

    Each parameter is either of an observed map or counted in exactly one `Unobserved`.
    Raises `ValueError` when a glob matches nothing, or when there is nothing to observe.
    """
    globs = [layers] if isinstance(layers, str) else list(layers)
    maps: list[LinearMap] = []
    left: list[Unobserved] = []
    covered: set[nn.Module] = set()
    for name, module in model.named_modules():
        if module in covered:
            continue
        kind, own = type(module).__name__, _size(module.parameters(recurse=False))
        try:
            found = linear_maps(name, module)
        except TypeError as no:
            left.append(Unobserved(name, kind, str(no), _size(module.parameters())))
            covered.update(module.modules())
            continue
        if found:
            maps += found
            covered.update(inner_modules(module))
            if extra := beside(module):
                size = _size(module._parameters[p] for p in extra)
                left.append(Unobserved(name, kind, f"beside its weight: {', '.join(extra)}", size))
        elif own:
            outside = "parameters of its own outside any layer"
            reason = outside if any(module.children()) else why_not(module)
            left.append(Unobserved(name, kind, reason, own))
    _check_globs("layers", globs, maps)
    left += [
        Unobserved(m.name, type(m.module).__name__, "not selected by layers=", m.parameters)
        for m in maps
        if not _selected(m.name, globs)
    ]
    chosen = [m for m in maps if _selected(m.name, globs)]
    if not chosen:
        raise ValueError(f"layers={globs!r} leaves no layer to observe")
    return chosen, left


def _size(parameters: Iterable[nn.Parameter | None]) -> int:
    return sum(p.numel() for p in parameters if p is not None)


def parts(map: LinearMap, heads: Heads) -> list[Part]:
    """The per-head slices of a map, as `heads` asks for them.

    An attention module is sliced by its own number of heads. Otherwise `heads` maps a glob to
    the number of heads (a fused qkv with d_b = 3·d_a gives q.0 … v.n−1; a square map is cut
    along its outputs, or along its inputs when its name ends in `proj` or `out`), or to a
    mapping from slice names to slices of the output neurons.

    Raises `ValueError` when the heads do not divide the map, or a slice is empty.
    """
    if isinstance(map.module, nn.MultiheadAttention):
        count = map.module.num_heads
        columns = map.name.endswith("out_proj")
        return _even(map, [""], count, columns) if count > 1 else []
    if map.kind == "embedding":
        return []
    for glob, spec in heads.items():
        if not fnmatch.fnmatchcase(map.name, glob):
            continue
        if isinstance(spec, Mapping):
            return [_slice(map, key, rows) for key, rows in spec.items()]
        fused = map.d_b == 3 * map.d_a
        columns = not fused and map.name.rpartition(".")[2] in _OUTPUT_NAMES
        return _even(map, ["q.", "k.", "v."] if fused else [""], spec, columns)
    return []


def _slice(map: LinearMap, key: str, rows: object) -> Part:
    if not isinstance(rows, slice) or not range(map.d_b)[rows]:
        raise ValueError(
            f"heads: {key!r} of {map.name!r} is {rows!r}: give a slice of its {map.d_b} outputs"
        )
    return Part(f"{map.name}[{key}]", rows=rows)


_OUTPUT_NAMES = {"proj", "out_proj", "o_proj", "c_proj", "out", "wo", "dense"}


def _even(map: LinearMap, groups: list[str], count: int, columns: bool) -> list[Part]:
    whole = map.d_a if columns else map.d_b
    size = whole // (len(groups) * count) if isinstance(count, int) and count > 0 else 0
    if not size or size * len(groups) * count != whole:
        raise ValueError(
            f"heads={count!r} does not divide {map.name!r}, which has {map.d_a} inputs and "
            f"{map.d_b} outputs: give a mapping from names to slices instead"
        )
    cuts = [slice(i * size, (i + 1) * size) for i in range(len(groups) * count)]
    names = [f"{map.name}[{g}{i}]" for g in groups for i in range(count)]
    return [
        Part(n, columns=cut) if columns else Part(n, rows=cut)
        for n, cut in zip(names, cuts, strict=True)
    ]


_NAMES = """
H_a H_b G_a G_b Z_a Z_b W mean_h_a mean_g_b view samples clusters effective_samples
required_samples drift width_a width_b trace_H_a trace_G_b participation_H_a participation_H_b
participation_G_a participation_G_b participation_Z entropy_rank_H_b entropy_rank_Z rank_W rank_H_b
spectrum_H_a spectrum_H_b spectrum_G_a spectrum_G_b singular_values power_H_a power_G_b exponent_p
exponent_q directions decades cross_a cross_b cross_a_alignment cross_b_alignment norm_balance
weight_norm2 gradient_dot_weight gradient_norm2 fdt_b_residual fdt_b_weight fdt_b_noise
fdt_a_residual fdt_a_weight fdt_a_noise nc1 nc2_norm nc2_angle nc3 nc4 classes train_error agop nfa
nfa_sqrt nfa_haar
"""


class LayerMoments:
    """Taps, windows and readings of the selected layers.

    rows: rows pooled in a window, in units of the larger dimension of each layer.
    ranks: the processes that train the model together.
    quantities: what a window, or a probe of the layers, can tell.
    """

    quantities = frozenset(_NAMES.split()) | {q for q in VOCABULARY if q.startswith(RELATIONS)}

    def __init__(
        self, model: nn.Module, maps: list[LinearMap], scale: Scale, *, heads: Heads, rows: float,
        seed: int, batch_dim: int, normalise: bool, matrices: bool, ranks: Ranks = ALONE,
    ) -> None:  # fmt: skip
        self.scale, self.rows, self.seed, self.matrices = scale, rows, seed, matrices
        self.ranks = ranks
        _check_globs("heads", list(heads), maps)
        self.taps = [
            Tap(m, scale, seed=seed + 2 * i, batch_dim=batch_dim, normalise=normalise)
            for i, m in enumerate(maps)
        ]
        for tap in self.taps:
            tap.stream.keep = ranks.keep
        self.steadiness = [Steadiness(m.d_a, seed=seed + i) for i, m in enumerate(maps)]
        self.hooks = Hooks(model, self.taps, scale, batch_dim)
        self.parts = {m.name: parts(m, heads) for m in maps}
        self._uses = Counter(p for m in model.modules() for p in m._parameters.values())
        self.batches = 0
        self._everywhere: list[int] = []  # rows of each tap in the window, over all processes
        self._weights: dict[str, tuple[Tensor, Tensor | None]] = {}
        self._owed: int | None = None  # the step of a reading that could go deeper
        self._depth = Depth.ALIGNMENT

    # -- collecting ----------------------------------------------------------------------------

    def listen(self, on: bool) -> None:
        """Switch every tap on or off."""
        for tap in self.taps:
            tap.active = on

    def begin(self, *, half_positions: bool = False, half_samples: bool = False) -> None:
        """Open a window: the sums start from zero, and W is remembered.

        half_positions, half_samples: what a tap leaves out of each batch.
        """
        self.batches = 0
        self._everywhere = [0] * len(self.taps)
        self._weights, self._owed = {}, None
        for tap, steady in zip(self.taps, self.steadiness, strict=True):
            tap.begin()
            tap.half_positions, tap.half_samples = half_positions, half_samples
            steady.reset()
            if tap.map.kind != "embedding":
                W = tap.map.weight()
                steady.begin(held(W), columns_held(W))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Around `end_of_batch`: all processes count their rows, and none goes on without another.

        Raises `RuntimeError` when taking the batch in failed in another process.
        """
        try:
            yield
        except Exception:
            self.ranks.total([0] * len(self.taps), failed=True)
            raise
        self._everywhere = self.ranks.total([t.stream.rows for t in self.taps])

    def end_of_batch(
        self,
        rates: Mapping[nn.Parameter, tuple[float, float]],
        planned: int,
        divisor: Tensor | float = 1.0,
    ) -> None:
        """Called after the backward pass of a measured batch, before the optimiser moves.

        rates: (η, γ) of every trained parameter. Of a long window at most 16 batches give
        their weight gradient. divisor: what a loss scaler left in the gradients.
        """
        if self.batches % max(1, planned // 16) == 0:
            for tap, steady in zip(self.taps, self.steadiness, strict=True):
                p = tap.map.parameter
                if p is not None and p.grad is not None and p in rates and self.alone(tap):
                    gradient = held(tap.map.gradient(p.grad)) / divisor
                    steady.add(held(tap.map.weight()), gradient, *rates[p])
        self.batches += 1
        self.scale.begin(self.scale.batch)  # also for those who call parts, never the whole

    def end_of_probe_batch(
        self, gradients: Mapping[nn.Parameter, Tensor | None],
        decays: Mapping[nn.Parameter, float], size: int, *, exact: bool,
    ) -> None:  # fmt: skip
        """The same for a batch of a probe, whose gradients are not on the parameters.

        decays: γ of every parameter; size: samples in the batch; exact: the probe is the whole
        training set.
        """
        for tap, steady in zip(self.taps, self.steadiness, strict=True):
            p = tap.map.parameter
            g = gradients.get(p) if p is not None else None
            if p is not None and g is not None and self.alone(tap):
                steady.exact, gamma = exact, decays.get(p, 0.0)
                steady.add(tap.map.weight(), tap.map.gradient(g), 0.0, gamma, weight=size)
        self.batches += 1

    def alone(self, tap: Tap) -> bool:
        """Whether the gradient of the weight is that of this map only, and of all of it."""
        p = tap.map.parameter
        return p is not None and tap.map.kind != "embedding" and self._uses[p] == 1

    def required(self, tap: Tap) -> int:
        return math.ceil(self.rows * max(tap.map.d_a, tap.map.d_b))

    def full(self) -> bool:
        """Whether every layer that is called at all has the rows it needs."""
        counts = [(rows, self.required(t)) for t, rows in self._counted()]
        return bool(counts) and all(have >= need for have, need in counts)

    def seen(self) -> bool:
        """Whether any layer has rows in this window, in any process."""
        return any(True for _ in self._counted())

    def enough(self) -> bool:
        """Whether every layer that is called at all has the rows a law asks for."""
        counts = [(rows, MINIMUM_ROWS * max(t.map.d_a, t.map.d_b)) for t, rows in self._counted()]
        return bool(counts) and all(have >= need for have, need in counts)

    def batches_needed(self) -> int:
        """Batches of the last seen size that fill a window (1 before anything was seen)."""
        needed = [
            math.ceil(self.required(t) * self.batches / rows)
            for t, rows in self._counted()
            if self.batches
        ]
        return max(needed, default=1)

    def _counted(self) -> Iterator[tuple[Tap, int]]:
        """The taps that have seen rows in this window, in any process, and how many."""
        alone = self.ranks.size == 1
        rows = [t.stream.rows for t in self.taps] if alone else self._everywhere
        return ((t, n) for t, n in zip(self.taps, rows, strict=True) if n)

    # -- counted work of this process, in multiplications: reproducible where a clock is not ----

    def training_work(self) -> float:
        """Multiply-adds of the observed maps in one training step (forward and backward)."""
        per = max(self.batches, 1) * self.ranks.size
        return sum(3.0 * rows / per * t.map.d_a * t.map.d_b for t, rows in self._counted())

    def batch_work(self) -> float:
        """Multiply-adds of taking one batch in."""
        per = max(self.batches, 1) * self.ranks.size
        return sum(rows / per * (t.map.d_a**2 + t.map.d_b**2) for t, rows in self._counted())

    def reading_work(self) -> float:
        """Multiply-adds of one reading without decompositions: products of W, H, G and rows."""
        return sum(
            1.5 * (2.25 * t.map.d_a * t.map.d_b * (t.map.d_a + t.map.d_b))
            + 600.0 * (t.map.d_a**2 + t.map.d_b**2)
            for t in self.taps
        )

    def exponents_work(self) -> float:
        """A decomposition of W, which runs like 10 d³, and its products with H, G and W."""
        sizes = [(t.map.d_a, t.map.d_b) for t in self.taps]
        return sum(10.0 * min(a, b) ** 3 + min(a, b) * (a + b) ** 2 for a, b in sizes)

    def evidence_work(self) -> float:
        """Exponents and permutation nulls, whose Fourier transforms run like 1500 d²."""
        nulls = sum(1500.0 * (t.map.d_a**2 + t.map.d_b**2) for t in self.taps)
        return self.exponents_work() + nulls

    def spectra_work(self) -> float:
        """The eigenvalues of H and G on both sides, beyond the evidence."""
        return sum(9.0 * (t.map.d_a**3 + t.map.d_b**3) for t in self.taps)

    # -- reading -------------------------------------------------------------------------------

    @torch.no_grad()
    def read(
        self, step: int, depth: Depth, *, decays: bool
    ) -> tuple[list[Measurement], Arrays, list[tuple[str, str]]]:
        """Measure the window that just ended, at the weights as they are now.

        Returns the measurements, the arrays, and problems as (layer, message): of all processes
        in the first one after `merge`, nothing in the others, whose shards of W it gathers.
        """
        weights = self._weights_now()
        try:
            return self._read(step, weights, depth, decays=decays)
        finally:
            for _ in weights:  # whatever happened here, the others wait for our shards
                pass

    def merge(self) -> None:
        """Give the first process the window of all, before `read`."""
        merge(self.taps, self.ranks)

    def _weights_now(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """W and bias of every layer in turn, gathered where they lie in shards."""
        for tap, steady in zip(self.taps, self.steadiness, strict=True):
            W, bias = tap.map.weight(), tap.map.bias()
            gather(steady, W)
            yield whole(W), whole(bias)
            if sharded(W):
                steady.reset()  # one layer at a time is held whole

    def _read(
        self, step: int, weights: Iterator[tuple[Tensor, Tensor | None]], depth: Depth, *,
        decays: bool,
    ) -> tuple[list[Measurement], Arrays, list[tuple[str, str]]]:  # fmt: skip
        out: list[Measurement] = []
        arrays: Arrays = {}
        problems: list[tuple[str, str]] = []
        self._weights, self._owed, self._depth = {}, None, depth
        if not self.ranks.first:
            return out, arrays, problems
        for tap, steady, (W, bias) in zip(self.taps, self.steadiness, weights, strict=True):
            name = tap.map.name
            m = tap.stream.moments()
            if tap.problem:
                problems.append((name, tap.problem))
            elif m is not None and not _finite(m, W):
                problems.append((name, "its weights, activations or gradients are not finite"))
            elif m is not None:
                label = Label(step, name, m.clusters)
                out += _counts(label, m, self.required(tap))
                if tap.map.kind == "embedding":
                    out += self._output_only(label, tap, m, W)
                    continue
                out.append(label.value("drift", steady.drift(W), math.nan))
                out += steady.balance(label, W, decays=decays)
                out += steady.cross(label, W, decays=decays)
                self._read_map(tap, m, label, (W, bias), depth, out, arrays)
                if depth < Depth.SPECTRA:
                    self._weights[name] = W.clone(), None if bias is None else bias.clone()
                    self._owed = step
        return out, arrays, problems

    @torch.no_grad()
    def read_owed(self, depth: Depth) -> tuple[int, list[Measurement], Arrays] | None:
        """The latest reading once more, at this depth; None when it went as deep already."""
        if self._owed is None or depth <= self._depth:
            return None
        out: list[Measurement] = []
        arrays: Arrays = {}
        for tap in self.taps:
            m = tap.stream.moments()
            if tap.map.name in self._weights and m is not None:
                label = Label(self._owed, tap.map.name, m.clusters)
                for label_, m_, c in self._pieces(tap, m, label, *self._weights[tap.map.name]):
                    self._go_deeper(label_, m_, c, depth, out, arrays)
        step, self._owed, self._weights = self._owed, None, {}
        return step, out, arrays

    def _read_map(
        self, tap: Tap, m: Moments, label: Label, weights: tuple[Tensor, Tensor | None],
        depth: Depth, out: list[Measurement], arrays: Arrays,
    ) -> None:  # fmt: skip
        for label_, m_, c in self._pieces(tap, m, label, *weights):
            if label_ is not label:
                out += _counts(label_, m_, self.required(tap))
                out += [replace(r, layer=label_.layer) for r in out if r.layer == label.layer
                        and r.quantity == "drift"]  # fmt: skip
            elif self.matrices:
                arrays |= {(label.layer, q): a for q, a in _matrices(m, c, weights[1]).items()}
            out += _shape(label_, c.W)
            out += alignment_readings(label_, c.sides())
            self._go_deeper(label_, m_, c, depth, out, arrays)

    def _go_deeper(
        self, label: Label, m: Moments, c: Canonical, depth: Depth, out: list[Measurement],
        arrays: Arrays,
    ) -> None:  # fmt: skip
        readings, found = deeper_readings(label, m, c, depth, seed=self.seed)
        out += readings
        arrays |= {(label.layer, q): a for q, a in found.items()}

    def _pieces(
        self, tap: Tap, m: Moments, label: Label, W: Tensor, bias: Tensor | None
    ) -> Iterator[tuple[Label, Moments, Canonical]]:
        """The map as a whole, then its heads."""
        yield label, m, canonical(m, W, bias)
        for piece in self.parts[tap.map.name]:
            yield _piece(label, m, W, bias, piece)

    def _output_only(self, label: Label, tap: Tap, m: Moments, W: Tensor) -> list[Measurement]:
        W = W.to(m.H.dtype)
        side = output_side(m, W @ W.T)
        generator = torch.Generator().manual_seed(self.seed)
        return [
            label.value("width_b", tap.map.d_b),
            label.value("weight_norm2", float(W.square().sum())),
            *alignment_readings(label, [("b", side)]),
            *permutation_readings(label, "b", side, generator),
        ]


def _piece(
    label: Label, m: Moments, W: Tensor, bias: Tensor | None, piece: Part
) -> tuple[Label, Moments, Canonical]:
    device = W.device
    rows = _indices(piece.rows, W.shape[0], device)
    columns = _indices(piece.columns, W.shape[1], device)
    m = part(m, rows, columns)
    W = W if rows is None else W[rows]
    W = W if columns is None else W[:, columns]
    # A block of columns makes only a share of h_b: the bias belongs to the sum, not to it.
    bias = None if bias is None or columns is not None else bias[rows] if rows is not None else bias
    return replace(label, layer=piece.name), m, canonical(m, W, bias)


def _indices(cut: slice | None, size: int, device: torch.device) -> Tensor | None:
    return None if cut is None else torch.arange(size, device=device)[cut]


def _counts(label: Label, m: Moments, required: int) -> list[Measurement]:
    return [
        label.value("samples", m.rows),
        label.value("clusters", m.clusters),
        label.value("required_samples", required),
    ]


def _shape(label: Label, W: Tensor) -> list[Measurement]:
    return [label.value("width_a", W.shape[1]), label.value("width_b", W.shape[0])]


def _matrices(m: Moments, c: Canonical, bias: Tensor | None) -> dict[str, np.ndarray]:
    kept = {
        "H_a": m.H / m.rows, "G_b": m.G / m.rows, "W": c.W,
        "mean_h_a": m.h_sum / m.rows, "mean_g_b": m.g_sum / m.rows,
    }  # fmt: skip
    if bias is not None:
        kept["H_b"] = c.b.M[0]  # H_b = W H_a Wᵀ only without bias
    return {name: value.cpu().numpy() for name, value in kept.items()}


def _finite(m: Moments, W: Tensor) -> bool:
    """A sum of squares is finite only if every term was: the diagonals tell."""
    parts = (m.H.diagonal(), m.G.diagonal(), W)
    return all(bool(torch.isfinite(x).all()) for x in parts)


def _selected(name: str, globs: Iterable[str]) -> bool:
    chosen = False
    wanted = list(globs)
    if wanted and all(g.startswith("!") for g in wanted):
        chosen = True
    for glob in wanted:
        if glob.startswith("!"):
            chosen = chosen and not fnmatch.fnmatchcase(name, glob[1:])
        else:
            chosen = chosen or fnmatch.fnmatchcase(name, glob)
    return chosen


def _check_globs(argument: str, globs: list[str], maps: list[LinearMap]) -> None:
    names = [m.name for m in maps]
    if not names:
        raise ValueError(
            "model has nothing to observe: no Linear, Conv1d, Conv2d, Embedding or attention"
        )
    for glob in globs:
        if not any(fnmatch.fnmatchcase(n, glob.removeprefix("!")) for n in names):
            shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
            raise ValueError(f"{argument}={glob!r} matches no layer; the layers are: {shown}")
