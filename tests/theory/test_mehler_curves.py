"""Gaussian kernel on Gaussian data: integral equation, inner products, a real learning curve."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lawful.theory import hermite_curves as hc
from lawful.theory import mehler_curves as mc

GAMMA = np.arange(1, 25.0) ** -1 / np.sum(np.arange(1, 25.0) ** -1)
TARGET: dict[hc.Index, float] = {
    (0,): 0.6, (1,): 0.4, (0, 0): 0.4, (0, 1): 0.4, (0, 1, 2): 0.4
}  # fmt: skip


def phi(z: np.ndarray, q: float, k: int) -> np.ndarray:
    return q**0.25 * np.exp(-(q - 1) * z**2 / 4) * hc.polynomials(math.sqrt(q) * z, k)[k]


@pytest.mark.parametrize("width", [0.7, 2.0])
def test_eigenfunctions_solve_the_integral_equation(width: float) -> None:
    """∫ k(z, z')φ_k(z')dN(z') = μ_kφ_k(z), by quadrature, for one direction of variance one."""
    q = float(mc.factors(np.array([1.0]), width)[0])
    nodes, weight = np.polynomial.hermite_e.hermegauss(120)
    weight = weight / weight.sum()
    z = np.linspace(-2, 2, 9)
    kernel = np.exp(-((z[:, None] - nodes) ** 2) / (2 * width**2))
    for k, mu in enumerate(mc.spectrum(np.array([1.0]), width, 6).eigenvalues):
        found = (kernel * weight) @ phi(nodes, q, k)
        assert found == pytest.approx(mu * phi(z, q, k), abs=1e-9)


def test_overlaps_are_a_change_of_basis() -> None:
    """Rows have length one (Parseval), parities do not mix, and q = 1 is the identity."""
    table = mc.overlaps(1.13, 3)
    assert (table**2).sum(1) == pytest.approx(np.ones(4), abs=1e-9)
    assert table[0, 1::2] == pytest.approx(0, abs=1e-12)
    assert table[1, 0::2] == pytest.approx(0, abs=1e-12)


def test_coefficients_are_inner_products() -> None:
    gamma = GAMMA[:4] / GAMMA[:4].sum()
    z = np.random.default_rng(0).normal(size=(400_000, 4))
    y = hc.features(z, tuple(TARGET)) @ np.array([*TARGET.values()])
    q = mc.factors(gamma, 2.0)
    indices: tuple[hc.Index, ...] = ((), (0,), (0, 0, 0), (0, 0, 1), (2, 2))
    zero = np.prod([phi(z[:, i], q[i], 0) for i in range(4)], axis=0)
    for index, said in zip(indices, mc.coefficients(gamma, 2.0, TARGET, indices), strict=True):
        mode = zero.copy()
        for i in set(index):
            mode *= phi(z[:, i], q[i], index.count(i)) / phi(z[:, i], q[i], 0)
        error = np.std(y * mode) / math.sqrt(len(y))
        assert error < 0.01
        assert said == pytest.approx(np.mean(y * mode), abs=3.5 * error)


def test_wide_kernels_have_hermite_modes() -> None:
    """γ_1/s² → 0 is the Hermite eigenstructure, with a difference of that order."""
    for width, apart in ((10.0, 0.02), (40.0, 0.0015)):
        exact, limit = mc.spectrum(GAMMA, width, 200), hc.spectrum(GAMMA, width, 200)
        assert np.max(np.abs(limit.eigenvalues / exact.eigenvalues - 1)) < apart
    theory = mc.a_priori(GAMMA, 40.0, TARGET, modes=4000)
    assert theory.coefficients.sum() + theory.unseen == pytest.approx(1.0)


def measured(n: int, draws: int, ridge: float) -> tuple[float, float]:
    """Mean squared error of kernel regression on TARGET, and its standard error."""
    rng, errors = np.random.default_rng(1), []
    for _ in range(draws):
        z, fresh = rng.normal(size=(n, 24)), rng.normal(size=(1500, 24))
        K = [
            np.exp(-(((a**2 @ GAMMA)[:, None] + z**2 @ GAMMA) - 2 * (a * GAMMA) @ z.T) / 8)
            for a in (z, fresh)
        ]
        y, new = (hc.features(a, tuple(TARGET)) @ [*TARGET.values()] for a in (z, fresh))
        errors.append(np.mean((K[1] @ np.linalg.solve(K[0] + ridge * np.eye(n), y) - new) ** 2))
    return float(np.mean(errors)), float(np.std(errors) / math.sqrt(draws))


def test_where_hermite_modes_are_too_optimistic_these_are_not() -> None:
    """Effective dimension 9, n = 300: Hermite modes a third too low, the exact ones an eighth."""
    seen, error = measured(300, 12, 1e-6)
    assert error < 0.05 * seen
    hermite, exact = (
        m.a_priori(GAMMA, 2.0, TARGET, modes=20_000).at(300, 1e-6).test for m in (hc, mc)
    )
    assert hermite < 0.75 * seen
    assert 0.8 * seen < exact < 1.05 * seen


def test_what_has_no_spectrum_is_refused() -> None:
    with pytest.raises(ValueError, match="width above 0"):
        mc.spectrum(GAMMA, 0.0, 10)
    with pytest.raises(ValueError, match="target has nan"):
        mc.a_priori(GAMMA, 2.0, {(0,): math.nan}, modes=10)
