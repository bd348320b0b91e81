"""Collapse by noise: SGD falls into a symmetric state that gradient descent would leave.

Statement. Near a mirror plane the coordinate s across it follows SGD linearised,

    s' = s (1 − η(h(x) + 2γ)),          h(x) the curvature across the plane on the mini-batch x,

a product of random factors. By the law of large numbers ln|s| moves at the Lyapunov exponent

    Λ = E ln|1 − η(h + 2γ)|    per step,

so s → 0 in probability iff Λ < 0. Since E ln|1 − ηh| ≈ −ηE[h] − η²E[h²]/2, noise alone stabilises
a saddle (E h < 0) from η_c ≈ −2E[h]/E[h²] on. The mean square asks for more: E(1 − η(h+2γ))² < 1,
which no saddle (E[h + 2γ] < 0) satisfies.

Several directions: the top exponent of the product of the matrices I − η(OᵀH(x)O + 2γI).

Range. Steps independent; s small against the distance at which quartic terms matter (which keep s
from growing when Λ > 0); plain SGD.

Source: Ziyin, Li, Galanti, Ueda, "Type-II Saddles and Probabilistic Stability of Stochastic
Gradient Descent", arXiv 2303.13093 (negative top exponent ⇔ stability in probability).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import bisect

Array = NDArray[np.float64]


def exponent(
    h: Array, eta: float, *, gamma: float = 0.0, probabilities: Array | None = None
) -> float:
    """Λ = E ln|1 − η(h + 2γ)| per step; h (n,) curvatures of mini-batches.

    probabilities (n,) sum to 1; left out, the values count alike. −inf when a factor is 0.

    >>> round(exponent(np.array([2.0, -2.0]), 0.25), 4)  # ½ ln(½ · 3/2)
    -0.1438
    """
    weights = np.full(len(h), 1 / len(h)) if probabilities is None else probabilities
    if not math.isclose(float(np.sum(weights)), 1, rel_tol=1e-9):
        raise ValueError(f"probabilities sum to {np.sum(weights)}, not 1")
    factor, live = np.abs(1 - eta * (h + 2 * gamma)), weights > 0
    if not np.all(factor[live]):
        return -math.inf
    return float(weights[live] @ np.log(factor[live]))


def mean_square_factor(
    h: Array, eta: float, *, gamma: float = 0.0, probabilities: Array | None = None
) -> float:
    """E(1 − η(h + 2γ))²: the factor of E s² a step; below 1 is stability in mean square."""
    return float(np.average((1 - eta * (h + 2 * gamma)) ** 2, weights=probabilities))


def critical_eta(
    h: Array,
    *,
    gamma: float = 0.0,
    probabilities: Array | None = None,
    largest: float | None = None,
) -> float:
    """The smallest η > 0 at which a saddle turns attractive; 0 if small η already collapse.

    Searched up to `largest` (default: 4/max|h + 2γ|); NaN when no collapse is found there, as for a
    plane without any curvature.

    >>> two_kinds = np.array([-1.2, 0.8]), np.array([0.45, 0.55])
    >>> round(critical_eta(two_kinds[0], probabilities=two_kinds[1]), 4)
    0.2098
    """

    def rate(eta: float) -> float:
        return exponent(h, eta, gamma=gamma, probabilities=probabilities)

    steepest = float(np.max(np.abs(h + 2 * gamma)))
    if steepest == 0:
        return math.nan
    top = 4 / steepest if largest is None else largest
    grid = np.linspace(0, top, 2001)[1:]
    below = np.flatnonzero([rate(eta) < 0 for eta in grid])
    if len(below) == 0:
        return math.nan
    first = int(below[0])
    if first == 0:
        return 0.0
    return float(bisect(lambda eta: max(rate(eta), -1e300), grid[first - 1], grid[first]))


def top_exponent(matrices: Array) -> float:
    """Top Lyapunov exponent per step of the product … M_2 M_1; matrices (n, k, k) in order.

    Its sampling error is of order (spread of ln‖Mv‖)/√n.

    >>> round(top_exponent(np.repeat(np.diag([0.5, 2.0])[None], 200, axis=0)), 2)
    0.69
    """
    k = matrices.shape[1]
    v, grown = np.full(k, k**-0.5), 0.0
    for M in matrices:
        v = M @ v
        norm = float(np.linalg.norm(v))
        if norm == 0:
            return -math.inf
        grown, v = grown + math.log(norm), v / norm
    return grown / len(matrices)
