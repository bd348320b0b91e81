"""Learning curves from summary statistics: a Gaussian kernel's spectrum before it is evaluated.

Statement (Hermite eigenstructure). Data with mean 0, covariance eigenvalues γ_i, Σ γ_i = 1. The
eigenfunctions of a kernel exp(−‖x − x′‖²/2s²) are close to products of Hermite polynomials of the
whitened principal components, and its eigenvalues to

    λ_α = c_l Π_i γ_i^{α_i},      |α| = l,      c_l = e^{−1/s²} s^{−2l},

so that covariance and the target's Hermite coefficients v_α = E[y h_α(x)] fix the learning curve
through the eigenframework: no kernel matrix, no fit.

It comes from expanding e^{xᵀx′/s²} in ⟨x, x′⟩^l/l! and reading x^α/√α! as γ^{α/2}h_α, with
‖x‖² = 1: good where the covariance has many directions (Σγ_i² ≪ 1) and the kernel is wide.

Regime: data near a rotated Gaussian; effective dimension (Σγ)²/Σγ² well above 1; s ≳ 1. Both λ_α
and the eigenfunctions err by γ_1/s² at least, which shows once little of the target is left: with
effective dimension 9 and s = 2, the error is foreseen a third too low where it is a twelfth of the
target's power. On Gaussian data `theory.mehler_curves` has both exactly.

Source: D. Karkada, J. Turnbull, Y. Liu, J. Simon, "Predicting kernel regression learning curves
from only raw data statistics", arXiv 2510.14878.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .kernel_eigenframework import Eigenframework

Array = NDArray[np.float64]
Index = tuple[int, ...]
"""A multi-index as the sorted list of its directions: (0, 0, 3) is α_0 = 2, α_3 = 1; () is 1."""


@dataclass(frozen=True)
class HermiteSpectrum:
    """indices: the leading modes, largest eigenvalue first; eigenvalues: λ_α (m,)."""

    indices: tuple[Index, ...]
    eigenvalues: Array


def level_coefficient(level: int, width: float) -> float:
    """c_l = e^{−1/s²}s^{−2l} of the Gaussian kernel of width s on data of unit trace."""
    return math.exp(-1 / width**2) * width ** (-2 * level)


def spectrum(gamma: Array, width: float, modes: int) -> HermiteSpectrum:
    """The `modes` largest λ_α by best-first search; gamma (d,) falling, scaled to sum 1.

    >>> spectrum(np.array([0.6, 0.4]), 2.0, 4).indices
    ((), (0,), (1,), (0, 0))
    """
    g = unit_trace(gamma)
    if not width > 0:
        raise ValueError(f"width={width}: a kernel has a width above 0")
    factor = g / width**2
    if factor[0] >= 1:
        raise ValueError(
            f"width={width}: γ_1/s² = {factor[0]:.2g} ≥ 1, the levels do not fall; widen the kernel"
        )
    return leading(level_coefficient(0, width), factor, modes)


def unit_trace(gamma: Array) -> Array:
    """gamma scaled to sum 1; raises ValueError unless positive and falling."""
    g = np.asarray(gamma, float)
    if not (g > 0).all() or (np.diff(g) > 0).any():
        raise ValueError("gamma: give positive eigenvalues, falling; leave out those that are zero")
    return np.asarray(g / g.sum())


def leading(top: float, factor: Array, modes: int) -> HermiteSpectrum:
    """The `modes` largest of top·Π_i factor_i^{α_i}, best first; factor (d,) falling, below 1."""
    # Every sorted index is reached once: raise its last direction by one, or repeat it.
    heap: list[tuple[float, Index]] = [(-top, ())]
    found: list[tuple[float, Index]] = []
    while heap and len(found) < modes:
        minus, index = heapq.heappop(heap)
        found.append((-minus, index))
        last = index[-1] if index else 0
        heapq.heappush(heap, (minus * factor[last], (*index, last)))
        if index and last + 1 < len(factor):
            heapq.heappush(heap, (minus * factor[last + 1] / factor[last], (*index[:-1], last + 1)))
    return HermiteSpectrum(tuple(i for _, i in found), np.array([v for v, _ in found]))


def polynomials(z: Array, degree: int) -> list[Array]:
    """h_0(z) … h_degree(z), normalised: √l·h_l = z·h_{l−1} − √(l−1)·h_{l−2}."""
    H = [np.ones_like(z), z]
    for l in range(2, degree + 1):
        H.append((z * H[-1] - math.sqrt(l - 1) * H[-2]) / math.sqrt(l))
    return H[: degree + 1]


def features(z: Array, indices: tuple[Index, ...]) -> Array:
    """h_α(z) (n, m), orthonormal under a Gaussian; z (n, d) whitened principal components."""
    H = polynomials(z, max((len(i) for i in indices), default=0))
    out = np.ones((len(z), len(indices)))
    for column, index in enumerate(indices):
        for direction in set(index):
            out[:, column] *= H[index.count(direction)][:, direction]
    return out


def summary(x: Array) -> tuple[Array, Array, Array]:
    """(γ, directions (d, r), mean) of x (n, d): covariance eigenvalues scaled to sum 1, falling.

    Directions without variance are left out. Whitened: (x − mean) @ directions.
    """
    if not np.isfinite(x).all():
        raise ValueError(f"x has {int(np.sum(~np.isfinite(x)))} entries that are not finite")
    mean = x.mean(0)
    values, vectors = np.linalg.eigh(np.cov(x.T).reshape(x.shape[1], -1))
    values, vectors = values[::-1], vectors[:, ::-1]
    if not values[0] > 0:
        raise ValueError(f"x has {len(x)} rows that are all the same: there is no covariance")
    kept = values > 1e-10 * values[0]
    return values[kept] / values[kept].sum(), vectors[:, kept] / np.sqrt(values[kept]), mean


def a_priori(
    gamma: Array, width: float, target: dict[Index, float], *, modes: int, noise: float = 0.0
) -> Eigenframework:
    """The eigenframework of a target Σ v_α h_α, from γ alone; target: {α: v_α}.

    Target modes beyond the leading `modes` count as unseen.
    """
    inside(target, len(gamma))
    found = spectrum(gamma, width, modes)
    v2 = np.array([target.get(index, 0.0) ** 2 for index in found.indices])
    rest = sum(v**2 for v in target.values()) - float(v2.sum())
    return Eigenframework(found.eigenvalues, v2, noise, max(rest, 0.0))


def inside(target: dict[Index, float], directions: int) -> None:
    """Refuse a target that is not finite or has modes in directions that the data lack."""
    for index, v in target.items():
        if not math.isfinite(v) or not all(0 <= i < directions for i in index):
            raise ValueError(
                f"target has {v} for the mode {index}: give numbers, for directions 0 to "
                f"{directions - 1}"
            )


def effective_dimension(gamma: Array) -> float:
    """(Σγ)²/Σγ²: how many directions the data have."""
    g = np.asarray(gamma, float)
    return float(g.sum() ** 2 / np.sum(g**2))
