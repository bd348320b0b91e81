"""One batch at one point: the loss as a function of all parameters, wherever they are put.

    g = ∇ℓ(θ)        Hv = ∇(g · v)        one backward pass, then one more for every v

The model is called with tensors of ours in place of its parameters and buffers: θ need not be
where the model is, and nothing of the model changes. Hv is exact to round-off. Fused attention
has no second derivative, so attention is computed as it is written. At a kink (ReLU) the Hessian
is that of the smooth piece on which θ lies. Dropout draws the same masks at every θ.

Source: B. A. Pearlmutter, Neural Computation 6 (1994) 147.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from .probe import Probe, samples_in, seeded

Named = Mapping[str, Tensor]


class Point:
    """ℓ, g and H at one θ on one batch.

    theta: one tensor a parameter of the model, by name; copied to the model's device and precision.
    batch: a pair (x, y) of the probe. Use inside `undisturbed`.
    output, loss: as the model and the probe's loss gave them;  gradient: g, by name.
    size: samples in the batch.
    """

    def __init__(
        self, model: nn.Module, probe: Probe, batch: tuple[Any, Any], theta: Named
    ) -> None:
        x, y = batch
        self.size = samples_in(x, y)
        args = () if isinstance(x, dict) else tuple(x) if isinstance(x, tuple | list) else (x,)
        self.leaves = {
            name: theta[name].detach().to(p, copy=True).requires_grad_()
            for name, p in model.named_parameters()
        }
        # Buffers are copied at each point: BatchNorm writes into its own while the graph lives.
        state = {**self.leaves, **{name: b.clone() for name, b in model.named_buffers()}}
        seeded(model, 0)
        with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
            self.output = functional_call(model, state, args, x if isinstance(x, dict) else {})
            self.loss = probe.loss(self.output, y).squeeze()
        self._slopes = self._gradient(self.loss, create_graph=True)
        self.gradient = plain(self._slopes)

    def times(self, v: Named) -> dict[str, Tensor]:
        """Hv; tensors that v lacks count as zero."""
        parts = [(self._slopes[n] * t.to(self._slopes[n])).sum() for n, t in v.items()]
        return plain(self._gradient(torch.stack(parts).sum()))

    def slope(self, scalar: Tensor) -> dict[str, Tensor]:
        """∇ of any scalar made from output and loss; zero where it has no path to a parameter."""
        return plain(self._gradient(scalar))

    def _gradient(self, scalar: Tensor, *, create_graph: bool = False) -> dict[str, Tensor]:
        if not scalar.requires_grad:
            return {name: torch.zeros_like(t) for name, t in self.leaves.items()}
        found = torch.autograd.grad(
            scalar, list(self.leaves.values()), create_graph=create_graph, retain_graph=True,
            allow_unused=True, materialize_grads=True,
        )  # fmt: skip
        return dict(zip(self.leaves, found, strict=True))


def plain(theta: Named) -> dict[str, Tensor]:
    """The numbers alone, in double precision on the CPU, where symmetries act."""
    return {name: t.detach().double().cpu() for name, t in theta.items()}


def inner(a: Named, b: Named) -> float:
    """⟨a, b⟩ over the tensors that both name."""
    return sum(float((t * b[name]).sum()) for name, t in a.items() if name in b)


def norm(a: Named) -> float:
    """‖a‖."""
    return inner(a, a) ** 0.5


def add(a: Named, b: Named, scale: float = 1.0) -> dict[str, Tensor]:
    """a + scale · b; a tensor that one of them lacks counts as zero."""
    total = dict(a)
    for name, t in b.items():
        total[name] = total[name] + scale * t if name in total else scale * t
    return total
