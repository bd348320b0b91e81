"""What an optimiser makes of curvature: its preconditioner now, and the edge that theory gives it.

    θ ← θ − η P^{−1} m      P = 1 (SGD),  √ν + ε (RMSProp),  (1−β₁ᵗ)(√(ν/(1−β₂ᵗ)) + ε) (Adam)

The curvature that the optimiser feels is P^{−1/2} (H + λ) P^{−1/2}, λ the weight decay that it adds
to the gradient. Parameters with a learning rate η_i of their own count as P_i η_1/η_i, η_1 being
that of the first group, so that one threshold serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..theory import edge_of_stability as edge
from .instrument import Rates


class NotCovered(ValueError):
    """The theory has no threshold for this optimiser; the message says which it has."""


@dataclass(frozen=True)
class Preconditioner:
    """scale: (D,) P^{−1/2}.  decay: (D,) coupled λ.  threshold: of the edge;  plain: P = 1."""

    scale: Tensor
    decay: Tensor
    threshold: float
    plain: bool

    def around(self, matvec: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """v ↦ P^{−1/2} (H + λ) P^{−1/2} v, symmetric as H is."""

        def product(v: Tensor) -> Tensor:
            inner = self.scale * v
            return self.scale * (matvec(inner) + self.decay * inner)

        return product


def preconditioner(
    optimizer: torch.optim.Optimizer | None,
    parameters: Sequence[nn.Parameter],
    rates: Mapping[nn.Parameter, Rates],
) -> Preconditioner:
    """Of these parameters, laid end to end, as the optimiser stands now.

    optimizer: needed for the state of adaptive methods only.

    Raises `NotCovered` for an optimiser without a known edge, groups that differ in anything but
    η and λ, or an adaptive one that has not taken a step.
    """
    missing = [p for p in parameters if p not in rates]
    if missing:
        raise NotCovered(f"{len(missing)} trained parameters belong to no known optimiser")
    first = rates[parameters[0]]
    if not first.lr > 0:
        raise NotCovered(f"the learning rate is {first.lr:g}: nothing can become unstable")
    if any(_kind(rates[p]) != _kind(first) for p in parameters):
        raise NotCovered("parameter groups differ in momentum: they have no common threshold")
    scales, decays = [], []
    for p in parameters:
        r = rates[p]
        P = _divisor(optimizer, p, r)
        scales.append(((r.lr / first.lr) / P).sqrt().expand(p.shape).reshape(-1))
        decays.append(torch.full_like(scales[-1], 0.0 if r.decoupled else r.weight_decay))
    return Preconditioner(
        torch.cat(scales), torch.cat(decays), threshold(first),
        first.optimizer == "SGD" and all(rates[p].lr == first.lr for p in parameters),
    )  # fmt: skip


def threshold(rates: Rates) -> float:
    """The edge of `theory.edge_of_stability` for these numbers."""
    name, eta = rates.optimizer, rates.lr
    if name == "SGD" and rates.nesterov:
        return edge.nesterov(eta, rates.momentum)
    if name == "SGD" and rates.momentum:
        return edge.heavy_ball(eta, rates.momentum, dampening=rates.dampening)
    if name in ("SGD", "RMSprop"):
        return edge.heavy_ball(eta, rates.momentum)
    if name in ("Adam", "AdamW"):
        apart = rates.weight_decay if rates.decoupled or name == "AdamW" else 0.0
        return edge.adam(eta, rates.betas[0], weight_decay=apart)
    raise NotCovered(f"no edge is known for {name}: SGD, RMSprop, Adam, AdamW have one")


def _kind(r: Rates) -> tuple[object, ...]:
    return r.optimizer, r.momentum, r.dampening, r.nesterov, r.betas, r.decoupled


def _divisor(optimizer: torch.optim.Optimizer | None, p: nn.Parameter, rates: Rates) -> Tensor:
    """P of one parameter, as torch divides."""
    if rates.optimizer == "SGD":
        return torch.ones((), dtype=p.dtype, device=p.device)
    threshold(rates)  # an optimiser without an edge is refused before its state is read
    if optimizer is None:
        raise NotCovered(f"{rates.optimizer} divides by a state: give the instrument the optimiser")
    state = optimizer.state.get(p, {})
    if rates.optimizer == "RMSprop" and "square_avg" in state:
        nu = state["square_avg"]
        if "grad_avg" in state:
            nu = nu - state["grad_avg"].square()
        return nu.clamp_min(0).sqrt() + rates.eps
    if rates.optimizer != "RMSprop" and "exp_avg_sq" in state:
        t = float(state["step"])
        beta1, beta2 = rates.betas
        nu = state.get("max_exp_avg_sq", state["exp_avg_sq"])
        return (1 - beta1**t) * ((nu / (1 - beta2**t)).sqrt() + rates.eps)
    raise NotCovered(f"{rates.optimizer} has not taken a step yet: it divides by nothing so far")
