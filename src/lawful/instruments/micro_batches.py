"""The gradients of micro-batches, seen as they are added up: a noise scale for nothing.

With gradient accumulation every parameter is handed the gradients of K micro-batches of b samples,
and keeps their mean: two batch sizes at the same weights, of all parameters, whatever they are.
A hook on the parameter takes the norm of each as it comes. R processes that average their
gradients are R times as many micro-batches: a hook sees each process's own, before the average.
A parameter in shards gets its gradient after the average; the whole one that takes its place from
the forward pass to the backward pass gets it before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..estimators.gradient_noise import mean, ratio, two_batch_sizes
from ..record import Measurement
from .distributed import ALONE, Ranks, copies, held, sharded
from .readings import Label
from .sample_sums import widened
from .tap import Scale

Array = NDArray[np.float64]


@dataclass
class Step:
    """One step: of each parameter, and of all.

    small, seen: (P,) Σ‖g_k‖² over this process's micro-batches, and how many of them.
    large:       (P,) ‖g‖² of their mean over all processes, as the parameter keeps it; of the
                 shard held here, until `take`.
    sizes:       (3,) micro-batches here, Σ 1/n and Σ n of their samples.
    """

    small: Tensor
    seen: Tensor
    large: Tensor
    sizes: Tensor


class MicroBatches:
    """The gradients of micro-batches, seen as they are added to the parameter's."""

    def __init__(self, model: nn.Module, scale: Scale, ranks: Ranks = ALONE) -> None:
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.scale, self.ranks = scale, ranks
        self.device = self.parameters[0].device if self.parameters else torch.device("cpu")
        self.steps: list[Step] = []
        self._norms: list[list[Tensor]] = [[] for _ in self.parameters]
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        # Where parameters in shards stand, and the modules whose call makes them whole.
        number = {p: i for i, p in enumerate(self.parameters) if sharded(p)}
        self._places = {
            number[p]: (m, name) for m in model.modules() for name, p in m._parameters.items()
            if p in number
        }  # fmt: skip
        self._gathering = [m for m in model.modules() if hasattr(m, "set_requires_gradient_sync")]
        self._followed: dict[int, torch.utils.hooks.RemovableHandle] = {}  # while they are whole

    @property
    def each(self) -> int:
        """Micro-batches of a step, over all processes."""
        return self.scale.accumulation * self.ranks.size

    def place(self) -> None:
        if not self._handles and self.each > 1:
            pairs = [
                (p, norms) for p, norms in zip(self.parameters, self._norms, strict=True)
                if p.requires_grad and not sharded(p)  # it may have been frozen since
            ]  # fmt: skip
            self._handles = [
                *(p.register_hook(self._seen(norms)) for p, norms in pairs),
                *(m.register_forward_pre_hook(self._follow) for m in self._gathering),
            ]

    def lift(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._forget()

    def _forget(self) -> None:
        for norms in self._norms:
            norms.clear()
        for handle in self._followed.values():
            handle.remove()
        self._followed = {}

    def _follow(self, *_: object) -> None:
        """Hooks on the parameters that are whole by now, once a step."""
        for i in self._places.keys() - self._followed.keys():
            module, name = self._places[i]
            p = module._parameters[name]
            if isinstance(p, Tensor) and p.requires_grad and not sharded(p):
                self._followed[i] = p.register_hook(self._seen(self._norms[i]))

    def _seen(self, norms: list[Tensor]) -> Callable[[Tensor], None]:
        def on_gradient(g: Tensor) -> None:
            size = torch.linalg.vector_norm(widened(_numbers(g)))
            norms.append(self.scale.unscaled(size).double().square())

        return on_gradient

    def before(self, divisor: float, sizes: Sequence[int]) -> None:
        """The step's gradients are there; sizes: samples of each micro-batch of this process."""
        if self.each == 1 or not self.parameters:
            return
        K, zero = self.scale.accumulation, torch.zeros((), dtype=torch.float64)
        weight = [float(K) if self.scale.mean else 1 / n for n in sizes]
        small, seen, large = [], [], []
        for p, norms in zip(self.parameters, self._norms, strict=True):
            whole = len(norms) == len(sizes) == K and p.grad is not None
            seen.append(K if whole else 0)
            parts = [n * w**2 for n, w in zip(norms, weight, strict=True)] if whole else [zero]
            small.append(torch.stack(parts).sum().to(self.device))
            g = zero if p.grad is None else widened(_numbers(held(p.grad))) / divisor
            large.append(g.square().sum(dtype=torch.float64).to(self.device))
        self.steps.append(
            Step(torch.stack(small), torch.tensor(seen), torch.stack(large), sums_of(sizes))
        )
        self._forget()

    # -- several processes -----------------------------------------------------------------------

    def sums(self, batches: int) -> Tensor:
        """(batches, 3P + 3) what is added up over the processes."""
        out = torch.zeros(batches, 3 * len(self.parameters) + 3, dtype=torch.float64)
        same = [copies(p) if sharded(p) else self.ranks.size for p in self.parameters]
        for row, s in zip(out, self.steps, strict=False):
            large = s.large.cpu() / torch.tensor(same)
            row.copy_(torch.cat([s.small.cpu(), large, s.seen.double(), s.sizes]))
        return out

    def take(self, sums: Tensor) -> None:
        """Put what all processes have seen in place of what this one has."""
        P = len(self.parameters)
        for row, s in zip(sums, self.steps, strict=False):
            s.small, s.large, s.seen, s.sizes = row.to(self.device).split([P, P, P, 3])

    # -- reading ---------------------------------------------------------------------------------

    def readings(self, label: Label, inside: set[nn.Parameter]) -> list[Measurement]:
        """Of the parameters that per-sample gradients cover, and of all."""
        steps = [s for s in self.steps if s.sizes[0] == self.each and (s.seen == self.each).any()]
        if not steps:
            return []
        every = torch.ones(len(self.parameters), dtype=torch.bool, device=self.device)
        covered = torch.tensor([p in inside for p in self.parameters], device=self.device)
        signal, trace = self._split(steps, covered)
        out = [
            label.value("signal_norm2_micro", *mean(signal)),
            label.value("noise_trace_micro", *mean(trace)),
            label.value("noise_scale_micro", *ratio(trace, signal)),
        ]
        signal, trace = self._split(steps, every)
        return [*(out if inside else []), label.value("noise_scale_all", *ratio(trace, signal))]

    def _split(self, steps: list[Step], kept: Tensor) -> tuple[Array, Array]:
        """(‖∇L‖², trΣ) of the parameters kept, step by step."""
        whole = [kept & (s.seen.to(self.device) == self.each) for s in steps]
        small = torch.stack([s.small[w].sum() for s, w in zip(steps, whole, strict=True)])
        large = torch.stack([s.large[w].sum() for s, w in zip(steps, whole, strict=True)])
        parts, inverses, samples = torch.stack([s.sizes for s in steps]).cpu().numpy().T
        # Of a summed loss the parameter keeps 1/R of the sum over all samples.
        of_mean = 1.0 if self.scale.mean else self.ranks.size / samples
        return two_batch_sizes(
            small.cpu().numpy() / parts,
            large.cpu().numpy() * of_mean**2,
            inverse_small=inverses / parts,
            inverse_large=inverse_size(parts, inverses, samples, self.scale.mean),
        )


def _numbers(g: Tensor) -> Tensor:
    """The numbers of a gradient that may not be zero: of a sparse one those that it holds."""
    return g.coalesce().values() if g.is_sparse else g


def sums_of(sizes: Sequence[int]) -> Tensor:
    """(3,) how many micro-batches, Σ 1/n and Σ n: what adds up over processes."""
    inverses = sum(1 / n for n in sizes)
    return torch.tensor([len(sizes), inverses, sum(sizes)], dtype=torch.float64)


def inverse_size(parts: Array, inverses: Array, samples: Array, mean_loss: bool) -> Array:
    """1/B of a batch from its `sums_of`: unequal micro-batches weigh alike in a mean of means."""
    return inverses / parts**2 if mean_loss else 1 / samples
