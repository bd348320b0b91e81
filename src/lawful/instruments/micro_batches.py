"""The gradients of micro-batches, seen as they are added up: a noise scale for nothing.

With gradient accumulation every parameter is handed the gradients of K micro-batches of b samples,
and keeps their mean: two batch sizes at the same weights, of all parameters, whatever they are.
A hook on the parameter takes the norm of each as it comes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..estimators.gradient_noise import mean, ratio, two_batch_sizes
from ..record import Measurement
from .readings import Label
from .sample_sums import widened
from .tap import Scale

Array = NDArray[np.float64]


@dataclass
class Step:
    """‖g_k‖² summed over micro-batches and ‖g‖² of their mean, parameter by parameter."""

    small: dict[nn.Parameter, Tensor]
    large: dict[nn.Parameter, Tensor]
    inverse_small: float
    inverse_large: float


class MicroBatches:
    """The gradients of micro-batches, seen as they are added to the parameter's."""

    def __init__(self, model: nn.Module, scale: Scale) -> None:
        self.model, self.scale = model, scale
        self.steps: list[Step] = []
        self._norms: dict[nn.Parameter, list[Tensor]] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def place(self) -> None:
        if self._handles:
            return
        for p in self.model.parameters():
            if p.requires_grad:
                self._norms[p] = []
                self._handles.append(p.register_hook(self._seen(p)))

    def lift(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._norms = [], {}

    def _seen(self, p: nn.Parameter) -> Callable[[Tensor], None]:
        def on_gradient(g: Tensor) -> None:
            size = torch.linalg.vector_norm(widened(g))
            self._norms[p].append(self.scale.unscaled(size).double().square())

        return on_gradient

    def before(self, divisor: float, sizes: list[int]) -> None:
        K, mean_loss = self.scale.accumulation, self.scale.mean
        whole = {p: n for p, n in self._norms.items() if len(n) == K and p.grad is not None}
        if len(sizes) == K and whole:
            weight = [float(K) if mean_loss else 1 / n for n in sizes]
            large = 1.0 if mean_loss else 1 / sum(sizes)
            small = {p: torch.stack(norms) for p, norms in whole.items()}
            self.steps.append(
                Step(
                    {p: (s * s.new_tensor(weight) ** 2).mean() for p, s in small.items()},
                    {
                        p: (widened(p.grad) / divisor).square().sum(dtype=torch.float64) * large**2  # type: ignore[arg-type]
                        for p in whole
                    },
                    sum(1 / n for n in sizes) / K,
                    inverse_size(sizes, mean_loss),
                )
            )
        for norms in self._norms.values():
            norms.clear()

    def readings(self, label: Label, inside: set[nn.Parameter]) -> list[Measurement]:
        """Of the parameters that per-sample gradients cover, and of all."""
        signal, trace = self._split(inside)
        out = [
            label.value("signal_norm2_micro", *mean(signal)),
            label.value("noise_trace_micro", *mean(trace)),
            label.value("noise_scale_micro", *ratio(trace, signal)),
        ]
        signal, trace = self._split(None)
        return [*(out if inside else []), label.value("noise_scale_all", *ratio(trace, signal))]

    def _split(self, inside: set[nn.Parameter] | None) -> tuple[Array, Array]:
        def total(norms: dict[nn.Parameter, Tensor]) -> float:
            return float(sum(v for p, v in norms.items() if inside is None or p in inside))

        sizes = {"inverse_small": np.array([s.inverse_small for s in self.steps]),
                 "inverse_large": np.array([s.inverse_large for s in self.steps])}  # fmt: skip
        return two_batch_sizes(
            np.array([total(s.small) for s in self.steps]),
            np.array([total(s.large) for s in self.steps]),
            **sizes,
        )


def inverse_size(sizes: list[int], mean_loss: bool) -> float:
    """1/B of the batch: micro-batches of unequal size weigh alike in a mean of means."""
    return sum(1 / n for n in sizes) / len(sizes) ** 2 if mean_loss else 1 / sum(sizes)
