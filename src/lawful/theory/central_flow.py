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

the optimality condition of the convex problem  min_{Σ ⪰ 0} ½⟨Σ, B[Σ]⟩ + ⟨Σ, C/(ηδ) − A⟩.

Regime: η small enough that the oscillation is small against the scale on which H changes; start it
after a few oscillations, as a noiseless run needs time to leave the floor.

Source: J. Cohen, A. Damian, A. Talwalkar, J. Z. Kolter, J. D. Lee, arXiv 2410.24206.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
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
    """Where the flow is: w, and what gradient descent shows there on average.

    loss: L + tr Σ/η.  variance: tr Σ.  top: (k,) curvatures watched, falling.
    """

    w: Array
    loss: float
    variance: float
    top: Array


def oscillation(rate: float, slope: float) -> float:
    """σ² = 2⟨−∇L, ∇S⟩/‖∇S‖² of one unstable direction; 0 where the sharpness would fall.

    rate: ⟨−∇L, ∇S⟩.  slope: ‖∇S‖.

    >>> oscillation(3.0, 2.0)
    1.5
    """
    return max(0.0, 2 * rate / slope**2)


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
    """The path over `steps` steps of gradient descent, one moment at each step, both ends in it.

    at:       w ↦ the loss around it.
    substeps: Euler steps for one step of gradient descent.
    watch:    curvatures above watch/η take part in the complementarity problem.
    """
    path = []
    for n in range(steps * substeps + 1):
        surface = at(w)
        moment, dw = _velocity(surface, w, eta, 1 / substeps, watch)
        if n % substeps == 0:
            path.append(moment)
        w = w + dw / substeps
    return path


def gradient_flow(
    at: Callable[[Array], Surface], w: Array, eta: float, steps: int, *, substeps: int = 4
) -> list[Array]:
    """dw/dt = −η∇L, which knows no edge: the path it would take, as `flow` gives it."""
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
        return Moment(w, surface.loss, 0.0, values), -eta * surface.gradient
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
    return Moment(w, surface.loss + variance / eta, variance, values), -eta * force


def _positive(M: Array) -> Array:
    """The nearest positive semi-definite matrix."""
    values, vectors = np.linalg.eigh((M + M.T) / 2)
    return (vectors * values.clip(0)) @ vectors.T
