"""Learning curves of a Gaussian kernel on Gaussian data: spectrum and eigenfunctions exactly.

Statement. x_i ~ N(0, γ_i) independent, kernel exp(−‖x − x′‖²/2s²) = Π_i (one factor a direction).
With z = x_i/√γ_i and q = √(1 + 4γ_i/s²), each factor has

    eigenvalues      μ_k = 2/(1+q) · ((q−1)/(q+1))^k,      Σ_k μ_k = 1,      k = 0, 1, …
    eigenfunctions   φ_k(z) = q^{1/4} e^{−(q−1)z²/4} h_k(√q z),

h_k the normalised Hermite polynomials. The kernel has the products of both, λ_α = Π_i μ_{α_i}, and
a target Σ v_α h_α has in them the coefficients Σ_α v_α Π_i ⟨h_{α_i}, φ_{k_i}⟩: the eigenframework
then gives the learning curve from γ and v alone.

The Hermite eigenstructure (`theory.hermite_curves`) is the limit γ_i/s² → 0: μ_k → (γ_i/s²)^k and
φ_k → h_k. It errs by 2kγ_i/s² in μ_k, and takes a target of finite degree for one that n samples
can exhaust; truly each h_α has tails in all φ of its parity, and the curve does not fall as fast.

Regime: the data are Gaussian. The eigenframework wants eigenfunctions that look like independent
Gaussians, and polynomials of a few directions do not: where little is left, it is too low.

Source: Mehler 1866; H. Zhu, C. Williams, R. Rohwer, M. Morciniec 1998 (kernel form); overlaps with
Hermite polynomials derived here.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .hermite_curves import HermiteSpectrum, Index, inside, leading, polynomials, unit_trace
from .kernel_eigenframework import Eigenframework

Array = NDArray[np.float64]

NODES = 160
"""Gauss–Hermite nodes: exact to round-off for the degrees below."""

DEGREE = 24
"""Modes of a higher degree in one direction are left without a share of the target."""


def factors(gamma: Array, width: float) -> Array:
    """q_i = √(1 + 4γ_i/s²).

    >>> factors(np.array([0.75]), 1.0).tolist()
    [2.0]
    """
    if not width > 0:
        raise ValueError(f"width={width}: a kernel has a width above 0")
    return np.asarray(np.sqrt(1 + 4 * np.asarray(gamma, float) / width**2))


def spectrum(gamma: Array, width: float, modes: int) -> HermiteSpectrum:
    """The `modes` largest λ_α; gamma (d,) falling, scaled to sum 1.

    >>> s = spectrum(np.array([1.0]), 2.0, 60)
    >>> round(float(s.eigenvalues.sum()), 12)
    1.0
    """
    q = factors(unit_trace(gamma), width)
    return leading(float(np.prod(2 / (1 + q))), (q - 1) / (q + 1), modes)


def overlaps(q: float, degree: int) -> Array:
    """⟨h_j, φ_k⟩ (degree + 1, DEGREE + 1) in one direction; zero where j + k is odd.

    >>> np.allclose(overlaps(1.0, 1)[:, :3], np.eye(2, 3), atol=1e-9)
    True
    """
    z, weight = np.polynomial.hermite_e.hermegauss(NODES)
    weight = weight / weight.sum()
    h = np.stack(polynomials(z, degree))
    phi = q**0.25 * np.exp(-(q - 1) * z**2 / 4) * np.stack(polynomials(math.sqrt(q) * z, DEGREE))
    return np.asarray((h * weight) @ phi.T)


def coefficients(
    gamma: Array, width: float, target: dict[Index, float], indices: tuple[Index, ...]
) -> Array:
    """⟨Σ v_α h_α, φ_k⟩ (m,) for the modes k listed; gamma as in `spectrum`, target: {α: v_α}."""
    g = unit_trace(gamma)
    top = max((index.count(i) for index in target for i in index), default=0)
    table = np.stack([overlaps(q, top) for q in factors(g, width)])
    k = _degrees(indices, len(g))
    every, seen = np.arange(len(g)), np.minimum(k, DEGREE)
    found = np.zeros(len(indices))
    for index, v in target.items():
        found += v * np.prod(table[every, _degrees((index,), len(g)), seen], axis=1)
    return np.where((k > DEGREE).any(1), 0.0, found)


def a_priori(
    gamma: Array, width: float, target: dict[Index, float], *, modes: int, noise: float = 0.0
) -> Eigenframework:
    """The eigenframework of a target Σ v_α h_α on Gaussian data; what the modes miss is unseen."""
    inside(target, len(gamma))
    found = spectrum(gamma, width, modes)
    v2 = coefficients(gamma, width, target, found.indices) ** 2
    rest = sum(v**2 for v in target.values()) - float(v2.sum())
    return Eigenframework(found.eigenvalues, v2, noise, max(rest, 0.0))


def _degrees(indices: tuple[Index, ...], d: int) -> NDArray[np.int64]:
    """Multi-indices as degrees (m, d)."""
    rows = [np.bincount(index, minlength=d) if index else np.zeros(d) for index in indices]
    return np.array(rows, np.int64)
