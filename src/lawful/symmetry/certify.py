"""Certification: does each proposed symmetry hold for every sample?

    continuous   violation_i = ( Σ ⟨B_i θ, g⟩² / Σ gross_i² )^½      over samples and draws of θ
    discrete     violation   = ‖g(Pθ) − P g(θ)‖ / ‖P g(θ)‖           for a random P of the group

gross_i is the same pairing with every term taken positive, so the violation is the fraction that
fails to cancel: ~1e-16 when the symmetry is exact, of order 1 when it is not, ~ε/variance when
the ε of a norm breaks it. θ is the model's own and random perturbations of it, because an initial
point (biases zero, gains one) is special. Where gross_i = 0 (a dead neuron) nothing was tested,
and nothing is certified.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_map

from .discrete import Discrete
from .generator import Family
from .graph import Loss, arguments

Gradient = Callable[[dict[str, Tensor], int], dict[str, Tensor | None]]
NEGLIGIBLE = 1e-13  # of the largest gross pairing: below, round-off is all there is


@dataclass(frozen=True)
class Certificate:
    """violation: (n,) of each direction, or of the whole discrete element; live: (n,) tested."""

    violation: Tensor
    live: Tensor


@dataclass(frozen=True)
class Bench:
    """A model, its loss and the samples that are tried. `whole`: one sample is a whole batch."""

    model: nn.Module
    x: Any
    targets: tuple
    loss: Loss
    count: int
    whole: bool

    @property
    def samples(self) -> int:
        return 1 if self.whole else self.count

    def value(self, theta: dict[str, Tensor], i: int) -> Tensor:
        """ℓ(θ, x_i)."""

        def cut(t: Any) -> Any:
            batched = isinstance(t, Tensor) and t.dim() > 0 and t.shape[0] >= self.count
            return t[: self.count] if batched and self.whole else t[i : i + 1] if batched else t

        x, targets = tree_map(cut, self.x), tree_map(cut, self.targets)
        return self.loss(functional_call(self.model, theta, arguments(x)), *targets)

    def gradient(self, theta: dict[str, Tensor], i: int) -> dict[str, Tensor | None]:
        """∇ℓ(θ, x_i), None where θ has no path to the loss."""
        leaves = {name: t.detach().clone().requires_grad_() for name, t in theta.items()}
        value = self.value(leaves, i)
        grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        return dict(zip(leaves, grads, strict=True))


def batch_statistics(model: nn.Module) -> bool:
    """Whether samples see each other, through BatchNorm in training mode."""
    return any(
        isinstance(m, _BatchNorm) and (m.training or m.running_mean is None)
        for m in model.modules()
    )


def draws(theta: dict[str, Tensor], count: int, generator: torch.Generator) -> list[dict]:
    """θ and `count` points near it: each tensor moved by 0.2 of its size (0.1 where it is 0)."""
    points = [theta]
    for _ in range(count):
        moved = {}
        for name, t in theta.items():
            size = 0.2 * t.square().mean().sqrt() if t.numel() else t.new_zeros(())
            size = torch.where(size > 0, size, 0.1)
            moved[name] = t + size * torch.randn(t.shape, generator=generator, dtype=t.dtype)
        points.append(moved)
    return points


def certify(
    acts: list[Family | Discrete], bench: Bench, points: list[dict], generator: torch.Generator
) -> list[Certificate]:
    """A certificate for each, from per-sample gradients at every point."""
    families = [a for a in acts if isinstance(a, Family)]
    paired = [torch.zeros(2, f.dimension, dtype=torch.float64) for f in families]
    active = {id(a): torch.zeros(a.size) for a in acts if isinstance(a, Discrete)}
    last: dict[str, Tensor] = {}
    for theta in points:
        for i in range(bench.samples):
            last = _whole(bench.gradient(theta, i), theta)
            for f, total in zip(families, paired, strict=True):
                total[0] += f.pairing(theta, last).double().square()
                total[1] += f.gross(theta, last).double().square()
            for a in acts:
                if isinstance(a, Discrete):
                    active[id(a)] += a.neurons(last).abs().sum(1).float()
    results = {id(f): _continuous(*t) for f, t in zip(families, paired, strict=True)}
    for a in acts:
        if isinstance(a, Discrete):
            live = active[id(a)] > 0
            results[id(a)] = _discrete(a, live, bench, points[-1], last, generator)
    return [results[id(a)] for a in acts]


def _continuous(paired: Tensor, gross: Tensor) -> Certificate:
    live = gross.sqrt() > NEGLIGIBLE * gross.amax().sqrt()
    return Certificate(torch.where(live, (paired / gross).sqrt(), torch.nan), live)


def _discrete(
    act: Discrete,
    live: Tensor,
    bench: Bench,
    theta: dict[str, Tensor],
    g: dict[str, Tensor],
    generator: torch.Generator,
) -> Certificate:
    """g: the gradient at θ for the last sample."""
    chosen = live.nonzero().flatten()
    enough = len(chosen) >= (2 if act.kind == "permutation" else 1)
    if not enough:
        return Certificate(torch.full((1,), torch.nan), torch.zeros_like(live))
    part = act.only(chosen)
    element = part.random(generator)
    turned = part.act(g, element)
    moved = part.act(theta, element)
    there = _whole(bench.gradient(moved, bench.samples - 1), theta)
    names = part.parameters
    gap = sum(float((there[n] - turned[n]).square().sum()) for n in names)
    size = sum(float(turned[n].square().sum()) for n in names)
    return Certificate(torch.tensor([(gap / size) ** 0.5 if size else torch.nan]), live)


def _whole(g: dict[str, Tensor | None], theta: dict[str, Tensor]) -> dict[str, Tensor]:
    return {n: torch.zeros_like(theta[n]) if t is None else t for n, t in g.items()}
