"""A probe: given batches, run at fixed weights, leaving no trace in the training run.

Before and after a probe the parameters, their gradients, every buffer (BatchNorm statistics),
the train/eval mode of each module and the random states of torch, NumPy and Python are the
same to the bit. Gradients are asked for with `torch.autograd.grad`, so `p.grad` is not touched.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..estimators import collapse
from ..estimators.feature_ansatz import nfa
from ..estimators.nulls import haar_mean
from ..estimators.uncertainty import as_normal, delete_block_jackknife, share_error
from ..record import Measurement
from .layers import LayerMoments
from .maps import output_rows
from .readings import Label
from .tap import Tap

OUTPUTS_AT_MOST = 16


@dataclass(frozen=True)
class Probe:
    """Samples to measure on, apart from the training batches.

    batches: (x, y) pairs, or a loader of them; iterated anew at every measurement. x is passed
             to the model (unpacked when it is a tuple, as keywords when it is a dict).
    loss:    loss(output, y) → scalar, averaged over the batch (whatever the training loss does).
    mode:    `eval` or `train`, the mode of the model while it is probed.
    whole:   True when the batches are the whole training set: their mean gradient is then the
             gradient of the loss itself, without sampling error, which the cross terms want.
             Otherwise it is a sample, whose noise is estimated and taken off.
    """

    batches: Iterable[tuple[Any, Any]]
    loss: Callable[[Any, Any], Tensor]
    mode: str = "eval"
    whole: bool = False

    def __post_init__(self) -> None:
        if self.mode not in ("eval", "train"):
            raise ValueError(f"mode={self.mode!r}: choose 'eval' or 'train'")
        if not callable(self.loss):
            raise ValueError(f"loss={self.loss!r} must be a function of (output, y)")
        if not isinstance(self.batches, Iterable) or isinstance(self.batches, Iterator):
            raise ValueError(
                f"batches is a {type(self.batches).__name__}: give a list or a loader of (x, y), "
                "which can be gone through at every measurement"
            )
        if getattr(self.batches, "persistent_workers", False):
            # Such a loader has one iterator, which may be in the middle of a training epoch.
            own: Any = copy.copy(self.batches)
            own._iterator = None
            object.__setattr__(self, "batches", own)


@contextmanager
def undisturbed(model: nn.Module, mode: str, batches: object = ()) -> Iterator[None]:
    """Run the model on the batches inside, and find everything as it was outside."""
    training = {m: m.training for m in model.modules()}
    buffers = [
        (m._buffers, name, b, b.detach().clone())
        for m in model.modules()
        for name, b in m._buffers.items()
        if b is not None
    ]
    loaders = {id(g): (g, g.get_state()) for g in _generators(batches)}
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with (
            torch.random.fork_rng(devices=_gpus(model)),
            torch.enable_grad(),
            # A compiled model would not run the probe's hooks: have it run as it is written.
            torch.compiler.set_stance("force_eager"),
        ):
            model.train(mode == "train")
            yield
    finally:
        for module, was in training.items():
            module.training = was
        for holder, name, buffer, value in buffers:
            holder[name] = buffer
            if not torch.equal(buffer, value):
                buffer.detach().copy_(value)
        for generator, state in loaders.values():
            generator.set_state(state)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def seeded(model: nn.Module, seed: int) -> None:
    """Seed the generators that `undisturbed` finds again, and no others, as torch would."""
    torch.default_generator.manual_seed(seed)
    for i in _gpus(model):
        torch.cuda.default_generators[i].manual_seed(seed)


def _gpus(model: nn.Module) -> list[int]:
    """The numbers of the CUDA devices on which a parameter lies."""
    return sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})


def _generators(batches: object) -> Iterator[torch.Generator]:
    """The private generators of a loader and its samplers, which may be those of training."""
    sampler, batch_sampler = (getattr(batches, n, None) for n in ("sampler", "batch_sampler"))
    for owner in (batches, sampler, batch_sampler, getattr(batch_sampler, "sampler", None)):
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator):
            yield generator


@dataclass
class Wants:
    """Which of the probe's extra readings the laws asked for."""

    collapse: bool = False
    ansatz: bool = False


def run_probe(
    probe: Probe, model: nn.Module, layers: LayerMoments, wants: Wants, *,
    decays: Mapping[nn.Parameter, float], seed: int,
) -> tuple[list[Measurement], list[str]]:  # fmt: skip
    """Fill the layers' windows from the probe; return readings of its own, and problems.

    decays: the weight decay of every parameter, 0 where it is left out.
    The layer readings themselves are taken afterwards with `layers.read`.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        return [], ["no parameter of the model is trained: the probe has no gradient to follow"]
    watch = _Features(layers) if wants.collapse else None
    gradients = _OutputGradients(layers, seed) if wants.ansatz else None
    losses: list[float] = []
    sizes: list[int] = []
    with undisturbed(model, probe.mode, probe.batches):
        layers.begin()
        layers.hooks.place()
        try:
            for item in probe.batches:
                x, y = _pair(item)
                layers.listen(True)
                output = _call(model, x)
                loss = _scalar(probe.loss(output, y))
                grads = torch.autograd.grad(
                    loss, parameters, allow_unused=True, retain_graph=gradients is not None
                )
                layers.listen(False)
                losses.append(float(loss.detach()))
                sizes.append(samples_in(x, y))
                found = dict(zip(parameters, grads, strict=True))
                layers.end_of_probe_batch(found, decays, sizes[-1], exact=probe.whole)
                if watch is not None:
                    watch.batch(output, y)
                if gradients is not None:
                    gradients.batch(output, parameters)
        finally:
            layers.listen(False)
            layers.hooks.lift()
            for extra in (watch, gradients):
                if extra is not None:
                    extra.close()
    if not losses:
        return [], ["the probe gave no batch: nothing was measured"]
    n = sum(sizes)
    weights = np.array(sizes) / n
    mean = float(np.dot(weights, losses))
    spread = float(np.std(losses, ddof=1) / math.sqrt(len(losses))) if len(losses) > 1 else math.nan
    out = [Measurement(0, "", "loss", mean, spread, n)]
    problems = [] if math.isfinite(mean) else [f"the probe's loss is {mean}"]
    if watch is not None:
        out += watch.readings()
    if gradients is not None:
        out += gradients.readings()
    return out, problems


def _pair(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise ValueError(f"a probe's batches are pairs (x, y), got {type(item).__name__}")
    return item[0], item[1]


def samples_in(x: Any, y: Any) -> int:
    """How many samples a batch holds: the length of the first tensor of y that has one, or of x.

    >>> samples_in(torch.ones(5, 2), (torch.ones(5), torch.tensor(3)))
    5
    """
    lengths = (len(t) for t in tree_leaves((y, x)) if isinstance(t, Tensor) and t.dim())
    return next(lengths, 1)


def _scalar(loss: Any) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"the probe's loss must be one number, the batch mean; got {shape}")
    return loss.squeeze()


def _call(model: nn.Module, x: Any) -> Any:
    if isinstance(x, dict):
        return model(**x)
    return model(*x) if isinstance(x, tuple | list) else model(x)


class _Features:
    """Class sums of the input of every linear layer, for neural collapse."""

    def __init__(self, layers: LayerMoments) -> None:
        self.taps = [t for t in layers.taps if t.map.kind == "linear"]
        self.inputs: dict[str, Tensor] = {}
        self.blocks: dict[str, list[collapse.ClassSums]] = {t.map.name: [] for t in self.taps}
        self.kept: list[tuple[dict[str, Tensor], Tensor, Tensor]] = []
        self.wrong = self.samples = self.classes = 0
        self.handles = [
            t.map.module.register_forward_pre_hook(self._remember(t.map.name)) for t in self.taps
        ]

    def _remember(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple) -> None:
            if args and isinstance(args[0], Tensor) and args[0].dim() == 2:
                self.inputs[name] = args[0].detach()

        return hook

    def batch(self, output: Any, y: Any) -> None:
        inputs, self.inputs = self.inputs, {}
        if not self.taps or not _classified(output, y):
            return
        K = output.shape[1]
        self.classes = K
        predictions = output.detach().argmax(1)
        self.wrong += int((predictions != y).sum())
        self.samples += len(y)
        for name, features in inputs.items():
            self.blocks[name].append(collapse.class_sums(features, y, K))
        last = self.taps[-1].map.name
        if last in inputs:
            self.kept.append(({last: inputs[last]}, y, predictions))

    def readings(self) -> Iterator[Measurement]:
        if not self.samples:
            return
        error = self.wrong / self.samples
        spread = share_error(error, self.samples)
        yield Measurement(0, "", "train_error", error, spread, self.samples)
        yield Measurement(0, "", "accuracy", 1 - error, spread, self.samples)
        for tap in self.taps:
            if self.blocks[tap.map.name]:
                yield from self._layer(tap, _grouped(self.blocks[tap.map.name]))

    def _layer(self, tap: Tap, blocks: list[collapse.ClassSums]) -> Iterator[Measurement]:
        label = Label(0, tap.map.name, self.samples)

        def read(quantity: str, metric: Callable[[collapse.ClassSums], float]) -> Measurement:
            if len(blocks) < 2:
                return label.value(quantity, metric(blocks[0]), math.nan)
            value, stderr = collapse.jackknife(metric, blocks)
            return label.value(quantity, value, as_normal(stderr, len(blocks) - 1))

        yield label.value("classes", int((collapse.merge(blocks).count > 0).sum()))
        yield read("nc1", collapse.nc1)
        yield read("nc2_norm", lambda s: collapse.nc2(s)[0])
        yield read("nc2_angle", lambda s: collapse.nc2(s)[1])
        W = tap.map.weight()
        if tap is self.taps[-1] and W.shape[0] == self.classes and self.kept:
            yield read("nc3", lambda s: collapse.nc3(s, W))
            features = torch.cat([f[tap.map.name] for f, _, _ in self.kept])
            predictions = torch.cat([p for _, _, p in self.kept])
            share = collapse.nc4(features, predictions, collapse.merge(blocks).means)
            yield label.value("nc4", share, share_error(share, len(features)))

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()


def _classified(output: Any, y: Any) -> bool:
    return (
        isinstance(output, Tensor)
        and isinstance(y, Tensor)
        and output.dim() == 2
        and y.dim() == 1
        and not y.is_floating_point()
    )


def _grouped(blocks: list[collapse.ClassSums], groups: int = 10) -> list[collapse.ClassSums]:
    """At most ten blocks, so that each holds every class."""
    count = min(groups, len(blocks))
    return [collapse.merge(blocks[i::count]) for i in range(count)]


class _OutputGradients:
    """Σ_x Σ_o ∇f_o ∇f_oᵀ at the output of every layer, from one backward pass per output.

    The correlations that are read do not see a factor.

    Above sixteen outputs, sixteen Gaussian combinations f·ξ are differentiated instead, whose
    expected outer product is the same sum over all outputs. The AGOP at the layer's input is
    Wᵀ(·)W, through this layer only.
    """

    def __init__(self, layers: LayerMoments, seed: int) -> None:
        self.taps = [t for t in layers.taps if t.map.kind in ("linear", "conv")]
        self.sums: dict[str, list[Tensor]] = {t.map.name: [] for t in self.taps}
        self.samples = 0
        self.generator = torch.Generator().manual_seed(seed)
        self._totals: dict[str, Tensor] | None = None
        self.handles = [t.map.module.register_forward_hook(self._watch(t)) for t in self.taps]

    def _watch(self, tap: Tap) -> Callable[..., None]:
        def on_gradient(g: Tensor) -> None:
            if self._totals is not None:
                rows = output_rows(tap.map, g.detach(), None, None).flatten(0, 1).float()
                self._totals[tap.map.name] = self._totals.get(tap.map.name, 0) + rows.T @ rows

        def on_forward(module: nn.Module, args: tuple, output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(on_gradient)

        return on_forward

    def batch(self, output: Any, parameters: list[nn.Parameter]) -> None:
        if not isinstance(output, Tensor) or output.dim() < 2:
            return
        outputs, self._totals = output.flatten(1), {}
        K = outputs.shape[1]
        if K <= OUTPUTS_AT_MOST:
            directions = torch.eye(K)
        else:
            directions = torch.randn(OUTPUTS_AT_MOST, K, generator=self.generator)
            directions /= math.sqrt(OUTPUTS_AT_MOST)
        for xi in directions.to(outputs):
            torch.autograd.grad(
                (outputs @ xi).sum(), parameters, retain_graph=True, allow_unused=True
            )
        for name, total in self._totals.items():
            self.sums[name].append(total)  # of a larger batch the more, as in the mean of all
        self.samples += len(outputs)
        self._totals = None

    def readings(self) -> Iterator[Measurement]:
        for tap in self.taps:
            sums = self.sums[tap.map.name]
            if not sums:
                continue
            W, label = tap.map.weight().float(), Label(0, tap.map.name, self.samples)

            def correlation(parts: Sequence[Tensor], power: float, W: Tensor = W) -> float:
                return nfa(W, W.T @ sum(parts[1:], parts[0]) @ W, power)

            for quantity, power in (("nfa", 1.0), ("nfa_sqrt", 0.5)):
                stderr = math.nan
                if len(sums) > 1:
                    stderr, _ = delete_block_jackknife(partial(correlation, power=power), sums)
                    stderr = as_normal(stderr, len(sums) - 1)
                yield label.value(quantity, correlation(sums, power), stderr)
            total = W.T @ sum(sums[1:], sums[0]) @ W
            yield label.value("nfa_haar", float(haar_mean(W.T @ W, total)), math.nan)

    def close(self) -> None:
        for handle in self.handles:
            handle.remove()
