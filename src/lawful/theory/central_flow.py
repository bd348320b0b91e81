"""Central flow: the smooth path that gradient descent follows while it oscillates at the edge.

Past the edge the iterate is a centre w plus an oscillation of covariance Σ on the unstable
directions. Averaging the gradient over it to third order,

    dw/dt = −η [∇L + ½ ∇⟨Σ, H⟩],        0 ⪯ Σ ⟂ (2/η − H) ⪰ 0         (t in steps)

Σ is as large as keeps the curvature from passing 2/η, and zero where it is below. Averages of what
an observer sees at the iterates follow:

    mean loss  L + tr Σ/η,        mean ‖∇L‖²  ‖∇L‖² + (4/η²) tr Σ

One unstable direction u, S = uᵀHu:   σ² = 2⟨−∇L, ∇S⟩/‖∇S‖².   Several, spanned by U (D, k): with
C = 2/η − UᵀHU (what is left to the edge), A_ij = ⟨−∇L, ∇(u_iᵀHu_j)⟩ the rate at which it would be
used up, and B[Σ]_ij = ½⟨∇(u_iᵀHu_j), ∇⟨Σ, UᵀHU⟩⟩ what the oscillation gives back, a step of δ
leaves C − ηδ(A − B[Σ]), and

    0 ⪯ Σ ⟂ C/(ηδ) − A + B[Σ] ⪰ 0,

the optimality condition of the convex problem  min_{Σ ⪰ 0} ½⟨Σ, B[Σ]⟩ + ⟨Σ, C/(ηδ) − A⟩. Where a
flow begins above the edge, Σ of the first steps is a pulse ∝ 1/δ that brings it back: only means
over a time do not depend on δ.

Cycles. The balance is one of averages. The oscillation swells while S > 2/η and sinks below it,
each step ln x² by 2η(S − 2/η), and it is x² that pushes S back, each step by η(α − ½‖∇S‖²x²) with
α = ⟨−∇L, ∇S⟩. Small departures from σ² go round in

    2π/(η√(2α))   steps,

and over n steps the mean of B[xxᵀ] misses A by what C has changed, ΔC/(ηn). The formulas above are
therefore for means over whole cycles, and better the more of them.

Regime: η small enough that the oscillation is small against the scale on which H changes; start it
after a few cycles, as a noiseless run needs time to leave the floor.

Source: J. Cohen, A. Damian, A. Talwalkar, J. Z. Kolter, J. D. Lee, arXiv 2410.24206 (the flow);
A. Damian, E. Nichani, J. D. Lee, arXiv 2209.15594 (the cycle of one direction; its length here).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Surface(Protocol):
    """A loss around one point w, D numbers."""

    loss: float
    gradient: Array

    def unstable(self, above: float) -> tuple[Array, Array]:
        """Eigenvalues (k,) of H above a level, k possibly 0, and vectors (D, k)."""

    def slope(self, u: Array, v: Array) -> Array:
        """∇(uᵀHv), (D,)."""


@dataclass(frozen=True)
class Moment:
    """One step of the flow: where it begins, w, and what gradient descent shows there on average.

    loss: mean of L + tr Σ/η over the step.  variance: mean of tr Σ.
    rate: ⟨Σ, A⟩/tr Σ, the α of the directions that oscillate; 0 where none does.
    top:  (k,) curvatures watched at w, falling.
    """

    w: Array
    loss: float
    variance: float
    rate: float
    top: Array


def oscillation(rate: float, slope: float) -> float:
    """σ² = 2⟨−∇L, ∇S⟩/‖∇S‖² of one unstable direction; 0 where the sharpness would fall.

    rate: ⟨−∇L, ∇S⟩.  slope: ‖∇S‖.

    >>> oscillation(3.0, 2.0)
    1.5
    """
    return max(0.0, 2 * rate / slope**2)


def cycle(eta: float, rate: float) -> float:
    """2π/(η√(2α)): steps in which oscillation and sharpness go round once; infinite for α ≤ 0.

    >>> round(cycle(0.2, 0.05), 1)
    99.3
    """
    return 2 * math.pi / (eta * math.sqrt(2 * rate)) if rate > 0 else math.inf


def complementarity(B: Array, C: Array, *, rounds: int = 2000) -> Array:
    """Σ (k, k) with 0 ⪯ Σ ⟂ C + B[Σ] ⪰ 0, by accelerated projected gradient.

    B: (k, k, k, k) symmetric and positive semi-definite as a map of symmetric matrices,
       B[Σ]_ij = Σ_kl B_ijkl Σ_kl.   C: (k, k) symmetric.

    >>> complementarity(np.full((1, 1, 1, 1), 2.0), np.array([[-3.0]]))
    array([[1.5]])
    """
    k = len(C)
    top = float(np.linalg.eigvalsh(B.reshape(k * k, k * k))[-1]) if k else 0.0
    Sigma = ahead = np.zeros((k, k))
    if not top > 0:
        return Sigma
    tolerance = 1e-12 * np.linalg.norm(C) / top
    for n in range(rounds):
        force = C + np.tensordot(B, ahead, axes=2)
        new = _positive(ahead - force / top)
        step = new - Sigma
        restart = np.sum(step * (ahead - new)) > 0  # momentum against the descent: drop it
        ahead = new if restart else new + n / (n + 3) * step
        Sigma = new
        if n and np.linalg.norm(step) <= tolerance:
            break
    return Sigma


def flow(
    at: Callable[[Array], Surface], w: Array, eta: float, steps: int, *, substeps: int = 4,
    watch: float = 1.5,
) -> list[Moment]:  # fmt: skip
    """The path over `steps` steps of gradient descent: a moment for each, and one at its end.

    at:       w ↦ the loss around it.
    substeps: Euler steps for one step of gradient descent.
    watch:    curvatures above watch/η take part in the complementarity problem.
    """
    path = []
    for _ in range(steps):
        parts = []
        for _ in range(substeps):
            moment, dw = _velocity(at(w), w, eta, 1 / substeps, watch)
            parts.append(moment)
            w = w + dw / substeps
        path.append(_mean(parts))
    return [*path, _velocity(at(w), w, eta, 1 / substeps, watch)[0]]


def gradient_flow(
    at: Callable[[Array], Surface], w: Array, eta: float, steps: int, *, substeps: int = 4
) -> list[Array]:
    """dw/dt = −η∇L, which knows no edge: the path it would take, at every step.

    substeps: Euler steps for one of descent; one alone would be gradient descent itself.
    """
    path = []
    for n in range(steps * substeps + 1):
        if n % substeps == 0:
            path.append(w)
        w = w - eta / substeps * at(w).gradient
    return path


def _velocity(
    surface: Surface, w: Array, eta: float, delta: float, watch: float
) -> tuple[Moment, Array]:
    values, U = surface.unstable(watch / eta)
    k = len(values)
    if k == 0:
        return Moment(w, surface.loss, 0.0, 0.0, values), -eta * surface.gradient
    slopes = np.empty((k, k, len(w)))
    for i in range(k):
        for j in range(i + 1):
            slopes[i, j] = slopes[j, i] = surface.slope(U[:, i], U[:, j])
    A = -slopes @ surface.gradient
    B = np.tensordot(slopes, slopes, axes=(2, 2)) / 2
    left = np.diag(2 / eta - values) / (eta * delta)
    Sigma = complementarity(B, left - A)
    force = surface.gradient + np.tensordot(Sigma, slopes, axes=2) / 2
    variance = float(np.trace(Sigma))
    rate = float(np.sum(Sigma * A)) / variance if variance > 0 else 0.0
    return Moment(w, surface.loss + variance / eta, variance, rate, values), -eta * force


def _mean(parts: list[Moment]) -> Moment:
    """One moment of the parts of a step."""
    loss, variance, rate = (
        float(np.mean([getattr(part, name) for part in parts]))
        for name in ("loss", "variance", "rate")
    )
    return replace(parts[0], loss=loss, variance=variance, rate=rate)


def _positive(M: Array) -> Array:
    """The nearest positive semi-definite matrix."""
    values, vectors = np.linalg.eigh((M + M.T) / 2)
    return (vectors * values.clip(0)) @ vectors.T
