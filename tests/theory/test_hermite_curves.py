"""Hermite eigenstructure: enumeration, orthonormality, and the spectrum of a real kernel matrix."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lawful.theory import hermite_curves as hc

GAMMA = np.arange(1, 25.0) ** -1.2 / np.sum(np.arange(1, 25.0) ** -1.2)


def test_best_first_finds_the_largest() -> None:
    g = np.array([0.5, 0.3, 0.2])
    brute = sorted(
        (hc.level_coefficient(l, 1.5) * np.prod(g[list(i)]) for l in range(9)
         for i in itertools.combinations_with_replacement(range(3), l)),
        reverse=True,
    )  # fmt: skip
    found = hc.spectrum(g, 1.5, 40)
    assert found.eigenvalues == pytest.approx(brute[:40])
    assert len(set(found.indices)) == 40


def test_features_are_orthonormal() -> None:
    z = np.random.default_rng(0).normal(size=(200_000, 3))
    H = hc.features(z, ((), (0,), (0, 0), (0, 1), (1, 1, 2)))
    assert H.T @ H / len(z) == pytest.approx(np.eye(5), abs=0.05)


@pytest.mark.parametrize("decay", [1.0, 0.5])
def test_spectrum_of_a_gaussian_kernel(decay: float) -> None:
    """Master table, law 2: within 8 %, the median over the leading 200 eigenvalues, as published.

    A steeper covariance (decay 1.2, effective dimension 6) gives 10 %: γ_1/s² is no longer small.
    """
    rng, width = np.random.default_rng(1), 2.0
    gamma = np.arange(1, 25.0) ** -decay / np.sum(np.arange(1, 25.0) ** -decay)
    x = rng.normal(size=(1500, 24)) * np.sqrt(gamma)
    d2 = np.sum(x**2, 1)
    K = np.exp(-(d2[:, None] + d2 - 2 * x @ x.T) / (2 * width**2))
    seen = np.linalg.eigvalsh(K)[::-1][:200] / 1500
    said = hc.spectrum(gamma, width, 200).eigenvalues
    assert np.median(np.abs(said / seen - 1)) < 0.08


def test_summary_whitens() -> None:
    x = np.random.default_rng(2).normal(size=(500, 4)) * [2.0, 1.0, 0.5, 0.0] + 3
    gamma, directions, mean = hc.summary(x)
    assert gamma.sum() == pytest.approx(1)
    assert len(gamma) == 3
    z = (x - mean) @ directions
    assert np.cov(z.T) == pytest.approx(np.eye(3), abs=1e-9)


def test_target_beyond_the_modes_is_unseen() -> None:
    theory = hc.a_priori(GAMMA, 2.0, {(0,): 1.0, (0,) * 9: 0.5}, modes=10)
    assert theory.coefficients.sum() == 1
    assert theory.unseen == 0.25


def test_narrow_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="widen"):
        hc.spectrum(np.array([0.9, 0.1]), 0.5, 10)
    with pytest.raises(ValueError, match="falling"):
        hc.spectrum(np.array([0.1, 0.9]), 2.0, 10)


def test_what_has_no_spectrum_is_refused() -> None:
    with pytest.raises(ValueError, match="all the same"):
        hc.summary(np.ones((10, 3)))
    with pytest.raises(ValueError, match="30 entries"):
        hc.summary(np.full((10, 3), np.nan))
    with pytest.raises(ValueError, match="width above 0"):
        hc.spectrum(GAMMA, 0.0, 10)
    with pytest.raises(ValueError, match=r"the mode \(30,\)"):
        hc.a_priori(GAMMA, 2.0, {(30,): 1.0}, modes=10)
