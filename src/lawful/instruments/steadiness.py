"""What the mini-batch gradient of W says about stationarity and the cross term.

With the update W ← W − η(∂L/∂W + γW) (torch's `weight_decay` = γ, no momentum),

    ‖W‖² stationary:   2⟨∂L/∂W, W⟩ + 2γ‖W‖² = η ‖∂L/∂W + γW‖²        on average,
    critical point:    E[g_b h_bᵀ] = (∂L/∂W) Wᵀ = −γ Z_b,    E[g_a h_aᵀ] = Wᵀ ∂L/∂W = −γ Z_a,

the second exactly, at any critical point of L + γ‖W‖²/2 (derived independently as FACT,
arXiv:2507.05644). A mini-batch gradient is mostly noise, whose square does not average out:
the gradients of a window are summed in two halves, whose difference tells the noise that is
taken off every square (with equal halves the square becomes the product of the two).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..estimators.uncertainty import infinitesimal_jackknife
from ..record import Measurement
from ..theory.fluctuation_dissipation import cross_term
from .readings import Label

PROBES = 8
EVERY = slice(None)


class Steadiness:
    """Gradient sums of one layer over a window."""

    def __init__(self, d_a: int, *, seed: int) -> None:
        self._directions = torch.randn(d_a, PROBES, generator=torch.Generator().manual_seed(seed))
        self._room = torch.empty(0, 3)  # one place: small tensors that stay split the heap
        self.reset()

    def reset(self) -> None:
        """Begin a new window."""
        self._start: Tensor | None = None
        self._halves: list[Tensor] = []
        self._weights = [0.0, 0.0]  # of the two halves
        self._turn = 0  # the half that the next mini-batch under decay belongs to
        self.exact = False  # the window's mean gradient is the gradient, not a sample of it
        self._rates: list[tuple[float, float]] = []

    @property
    def batches(self) -> int:
        """Mini-batches of the window so far."""
        return len(self._rates)

    @property
    def _scalars(self) -> Tensor:
        """⟨W, ∂L/∂W⟩, ‖∂L/∂W‖² and ‖W‖² of every mini-batch, (batches, 3)."""
        return self._room[: self.batches]

    @torch.no_grad()
    def begin(self, W: Tensor, columns: slice = EVERY) -> None:
        """Remember where W was, as its image of a few random directions: d_b × 8 numbers.

        columns: the ones that are given, where W lies in pieces.
        """
        if self._start is None:
            self._start = W.float() @ self._directions[columns].to(W.device)

    @torch.no_grad()
    def add(
        self, W: Tensor, gradient: Tensor, eta: float, gamma: float, weight: float = 1.0
    ) -> None:
        """One mini-batch: ∂L/∂W as the optimiser is about to use it, (d_b, d_a).

        weight: of this batch in the mean gradient, its size where sizes differ.
        """
        gradient, W = gradient.float(), W.float()
        if gamma > 0:
            self._weights[self._turn] += weight
            if self._turn == len(self._halves):
                self._halves.append(weight * gradient)
            else:
                self._halves[self._turn].add_(gradient, alpha=weight)
            self._turn = 1 - self._turn
        w, g = W.reshape(-1), gradient.reshape(-1)  # dot products: no temporary of W's size
        scalars = torch.stack([w.dot(g), g.dot(g), w.dot(w)])
        if self.batches == len(self._room) or self._room.device != scalars.device:
            more = scalars.new_empty(max(32, self.batches), 3)
            self._room = torch.cat([self._scalars.to(scalars), more])
        self._room[self.batches] = scalars
        self._rates.append((eta, gamma))

    def gather(
        self, *, image: Callable[[Tensor], Tensor], joined: Callable[[Tensor], Tensor],
        total: Callable[[Tensor], Tensor],
    ) -> None:  # fmt: skip
        """Become the sums of the whole W, of which several processes have held a piece each.

        image: makes W times the directions whole; joined: puts pieces of a matrix like W in
        place; total: adds numbers over the processes.
        """
        self._start = None if self._start is None else image(self._start)
        self._halves = [joined(half) for half in self._halves]
        if self.batches:
            self._room = total(self._scalars)

    @torch.no_grad()
    def drift(self, W: Tensor) -> float:
        """‖W_now − W_start‖/‖W_now‖, estimated on the random directions (Hutchinson)."""
        if self._start is None:
            return 0.0
        now = W.float() @ self._directions.to(W.device)
        return float((now - self._start).norm() / now.norm().clamp_min(1e-30))

    @torch.no_grad()
    def balance(self, label: Label, W: Tensor, *, decays: bool) -> Iterator[Measurement]:
        """Norms and the norm balance; `decays`: the optimiser adds γW to the gradient."""
        yield label.value("weight_norm2", float(W.float().square().sum()))
        if not self.batches:
            return
        dot, g2, w2 = self._scalars.double().cpu().numpy().T
        for name, series in (("gradient_dot_weight", dot), ("gradient_norm2", g2)):
            yield label.value(name, series.mean(), _error(series))
        eta, gamma = self._rates[-1]
        if decays and eta > 0 and gamma > 0 and w2.min() > 0:
            step2 = g2 + 2 * gamma * dot + gamma**2 * w2
            balance = (2 * dot + 2 * gamma * w2 - eta * step2) / (2 * gamma * w2)
            yield label.value("norm_balance", balance.mean(), _error(balance))

    @torch.no_grad()
    def cross(self, label: Label, W: Tensor, *, decays: bool) -> Iterator[Measurement]:
        """Distance of the mean gradient from −γW, seen from both sides of W."""
        if self._halves and decays and self._rates[-1][1] > 0:
            yield from self._cross(label, W.float(), self._rates[-1][1])

    def _cross(self, label: Label, W: Tensor, gamma: float) -> Iterator[Measurement]:
        n0, n1 = self._weights
        mean = sum(self._halves[1:], self._halves[0]) / (n0 + n1)
        noise_b = noise_a = 0.0  # E‖·‖² of the noise in the mean, on either side
        if n1 > 0 and not self.exact:
            # Half means differ by noise of variance σ²(1/n₀ + 1/n₁); their mean has σ²/(n₀ + n₁).
            difference = self._halves[0] / n0 - self._halves[1] / n1
            noise = math.sqrt(n0 * n1) / (n0 + n1) * difference
            noise_b = float((noise @ W.T).square().sum())
            noise_a = float((W.T @ noise).square().sum())
        term = cross_term(mean, W, gamma, noise_b=noise_b, noise_a=noise_a)
        Z_norm = float((W @ W.T).norm())  # = ‖WᵀW‖
        for c, value, aligned, noise2 in (
            ("b", term.residual_b, term.alignment_b, noise_b),
            ("a", term.residual_a, term.alignment_a, noise_a),
        ):
            known = (self.exact or n1 > 0) and Z_norm > 0
            stderr = _bound(value, math.sqrt(noise2) / (gamma * Z_norm)) if known else math.nan
            yield label.value(f"cross_{c}", value, stderr)
            yield label.value(f"cross_{c}_alignment", aligned, math.nan)


def _bound(value: float, noise: float) -> float:
    """Upper bound on the standard error of |value|, whose square has error ν(2|value| + ν)."""
    if not (math.isfinite(noise) and math.isfinite(value)):
        return math.nan
    of_square = noise * (2 * abs(value) + noise)
    return of_square / max(2 * abs(value), math.sqrt(of_square)) if of_square > 0 else 0.0


def _error(series: NDArray[np.float64]) -> float:
    return infinitesimal_jackknife(series[:, None], clusters=len(series)).stderr
