"""The eigenframework against closed forms, ridge regression on Gaussian features, and bad input."""

from __future__ import annotations

import numpy as np
import pytest

from lawful.theory import kernel_eigenframework as ke
from lawful.theory.double_descent import excess_risk

INDEX = np.arange(1, 2001.0)


def regression(lam, v, n, ridge, noise, draws, rng, features=0):
    """Mean test and train error, and κ by trace, of kernels made of Gaussian eigenfunctions."""
    found = []
    for _ in range(draws):
        z = rng.normal(size=(n, len(lam))) * np.sqrt(lam)
        w = v / np.sqrt(lam)
        y = z @ w + np.sqrt(noise) * rng.normal(size=n)
        if features:
            F = rng.normal(size=(len(lam), features)) / np.sqrt(features)
            x, back = z @ F, F
        else:
            x, back = z, None
        alpha = np.linalg.solve(x @ x.T + ridge * np.eye(n), y)
        fit = x.T @ alpha if back is None else back @ (x.T @ alpha)
        test = float(((fit - w) ** 2) @ lam) + noise
        train = float(np.mean((ridge * alpha) ** 2))
        found.append((test, train, ke.kappa_of_trace(x @ x.T, ridge)))
    return np.mean(found, 0)


def test_test_and_train_error_and_kappa() -> None:
    """Master table, law 2: synthetic within 2 % (three standard errors of the draws allowed)."""
    rng = np.random.default_rng(0)
    lam, v = INDEX[:600] ** -1.5, INDEX[:600] ** -0.9
    theory = ke.Eigenframework(lam, v**2, noise=0.05)
    for n, ridge in ((30, 1e-3), (80, 1e-2)):
        said = theory.at(n, ridge)
        test, train, kap = regression(lam, v, n, ridge, 0.05, 60, rng)
        assert said.test == pytest.approx(test, rel=0.06)
        assert said.train == pytest.approx(train, rel=0.06)
        assert said.kappa == pytest.approx(kap, rel=0.03)


@pytest.mark.parametrize(("n", "k", "ridge"), [(40, 80, 1e-2), (240, 120, 1e-2), (50, 400, 1e-3)])
def test_random_features(n: int, k: int, ridge: float) -> None:
    """The formula is that of n, k → ∞: at n = 60, k = 30 it was 6 % low (3.5 standard errors)."""
    rng = np.random.default_rng(1)
    lam, v = INDEX[:400] ** -1.4, INDEX[:400] ** -0.9
    said = ke.random_features(lam, v**2, n, k, ridge, 0.02)
    draws = 80 if n < 100 else 20
    test, _, _ = regression(lam, v, n, ridge, 0.02, draws, rng, features=k)
    assert said == pytest.approx(test, rel=0.06)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "k", "ridge"), [(240, 120, 1e-2), (100, 400, 1e-3), (200, 200, 1e-2), (160, 640, 1e-2)]
)
def test_random_features_to_the_published_precision(n: int, k: int, ridge: float) -> None:
    """Four settings within 2.5 %, three seeds of 60 draws each."""
    lam, v = INDEX[:400] ** -1.4, INDEX[:400] ** -0.9
    said = ke.random_features(lam, v**2, n, k, ridge, 0.02)
    tests = [
        regression(lam, v, n, ridge, 0.02, 60, np.random.default_rng(seed), features=k)[0]
        for seed in range(3)
    ]
    assert said == pytest.approx(np.mean(tests), rel=0.025)


def test_many_random_features_are_the_kernel() -> None:
    lam, v2 = INDEX**-1.5, INDEX**-2.0
    wide = ke.random_features(lam, v2, 50, 10**7, 1e-3, 0.1)
    assert wide == pytest.approx(ke.Eigenframework(lam, v2, 0.1).at(50, 1e-3).test, rel=1e-4)


def test_equal_eigenvalues_are_double_descent() -> None:
    """λ_i = 1 for p features and no ridge: the isotropic risk, to O(1/n)."""
    for p in (500, 2000):
        said = ke.Eigenframework(np.ones(p), np.full(p, 1 / p), 0.25).at(1000)
        risk = excess_risk(1000, p, signal=1.0, noise=0.25)
        assert said.test - 0.25 == pytest.approx(risk, rel=0.01)
        assert said.learnability == pytest.approx(min(1, 1000 / p))


def test_learnabilities_share_out_the_samples() -> None:
    theory = ke.Eigenframework(INDEX**-1.3, INDEX**-2.0)
    assert theory.at(70).learnabilities.sum() == pytest.approx(70, rel=1e-9)


@pytest.mark.parametrize(("a", "b"), [(1.5, 1.8), (2.0, 2.5), (1.2, 4.0)])
def test_exponent(a: float, b: float) -> None:
    i = np.arange(1, 200_001.0)
    theory = ke.Eigenframework(i**-a, i**-b)
    low, high = (theory.at(n).test for n in (100, 1000))
    assert -np.log10(high / low) == pytest.approx(ke.exponent(a, b), rel=0.06)


def laplace(x: np.ndarray) -> np.ndarray:
    d2 = np.sum((x[:, None] - x[None]) ** 2, 2)
    return np.exp(-np.sqrt(d2))


def held_out(K: np.ndarray, y: np.ndarray, n: int, draws: int, seed: int) -> float:
    """Mean error of kernel regression on random n of the pool, on the rest."""
    rng, errors = np.random.default_rng(seed), []
    for _ in range(draws):
        order = rng.permutation(len(K))
        chosen, rest = order[:n], order[n:]
        A = K[np.ix_(chosen, chosen)] + 1e-6 * np.eye(n)
        fit = K[np.ix_(rest, chosen)] @ np.linalg.solve(A, y[chosen])
        errors.append(np.mean((fit - y[rest]) ** 2))
    return float(np.mean(errors))


def test_pool_of_samples_with_held_out_factor() -> None:
    """Points in ten dimensions: theory of the pool against regression on subsets of it."""
    x = np.random.default_rng(2).normal(size=(400, 10))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y, K = x[:, 0] * 3 + 9 * x[:, 1] * x[:, 2], laplace(x)
    said = ke.from_pool(K, y).at(80, 1e-6)
    assert said.held_out == pytest.approx(said.test * 400 / 320, rel=1e-3)
    assert said.held_out == pytest.approx(held_out(K, y, 80, 30, 3), rel=0.04)


def test_one_dimension_is_out_of_regime() -> None:
    """On a circle eigenfunctions are no independent Gaussians: theory is five times too low."""
    angle = np.random.default_rng(2).uniform(0, 2 * np.pi, 300)
    K, y = laplace(np.stack([np.cos(angle), np.sin(angle)], 1)), np.cos(3 * angle)
    said = ke.from_pool(K, y).at(60, 1e-6).held_out
    assert held_out(K, y, 60, 30, 3) > 2 * said


def test_gcv_estimates_test_from_the_training_set() -> None:
    rng, lam = np.random.default_rng(3), INDEX[:500] ** -1.5
    z = rng.normal(size=(200, 500)) * np.sqrt(lam)
    y = z @ (INDEX[:500] ** -0.3) + 0.3 * rng.normal(size=200)
    theory = ke.Eigenframework(lam, lam * INDEX[:500] ** -0.6, 0.09)
    assert ke.gcv(z @ z.T, y, 0.1) == pytest.approx(theory.at(200, 0.1).test, rel=0.25)


def test_targets_that_are_not_finite_are_counted_and_left_out() -> None:
    x = np.random.default_rng(4).normal(size=(40, 3))
    y = x[:, 0].copy()
    y[:3] = np.nan
    with pytest.warns(RuntimeWarning, match="3 of 40 targets"):
        theory = ke.from_pool(laplace(x), y)
    assert theory.pool == 37


def test_singular_kernels_are_told_with_their_rank() -> None:
    x = np.random.default_rng(5).normal(size=(50, 4))
    with pytest.warns(RuntimeWarning, match="46 of 50 eigenvalues"):
        theory = ke.from_pool(x @ x.T, x[:, 0])
    assert len(theory.eigenvalues) == 4
    with pytest.warns(RuntimeWarning, match="rank 4"):
        assert theory.at(4).test == np.inf
    with pytest.warns(RuntimeWarning, match=r"rank 4 of 50"):
        assert np.isfinite(ke.gcv(x @ x.T, x[:, 0], 0.0))


def test_more_samples_than_the_pool_has() -> None:
    x = np.random.default_rng(6).normal(size=(30, 3))
    theory = ke.from_pool(laplace(x), x[:, 0])
    with pytest.warns(RuntimeWarning, match="n=31 samples from a pool of 30"):
        said = theory.at(31, 1e-3)
    assert np.isnan(said.held_out)


@pytest.mark.parametrize(
    "bad", [{"n": 0}, {"n": float("nan")}, {"n": 5, "ridge": -1.0}, {"n": 5, "ridge": float("nan")}]
)
def test_what_is_no_problem_is_refused(bad: dict) -> None:
    with pytest.raises(ValueError, match="eigenvalues ≥ 0"):
        ke.kappa(np.ones(10), **bad)


def test_a_kernel_that_is_no_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        ke.from_pool(np.full((3, 3), np.nan), np.ones(3))
    with pytest.raises(ValueError, match=r"from its transpose by 0\.5"):
        ke.from_pool(np.array([[1.0, 0.5], [0.0, 1.0]]), np.ones(2))
    with pytest.raises(ValueError, match="must be positive"):
        ke.from_pool(-np.eye(3), np.ones(3))
    with pytest.raises(ValueError, match="9 entries"):
        ke.kappa_of_trace(np.full((3, 3), np.nan), 0.1)
    with pytest.raises(ValueError, match="square"):
        ke.from_pool(np.ones((3, 2)), np.ones(3))


def test_targets_without_a_number_are_refused() -> None:
    with pytest.warns(RuntimeWarning, match="3 of 3"), pytest.raises(ValueError, match="no finite"):
        ke.from_pool(np.eye(3), np.full(3, np.nan))
    with pytest.raises(ValueError, match="1 of 3 targets"):
        ke.gcv(np.eye(3), np.array([1.0, np.nan, 2.0]), 0.1)
    with pytest.raises(ValueError, match="coefficients has 2 of 5"):
        ke.Eigenframework(np.ones(5), np.array([1.0, np.nan, 2.0, -1.0, 0.0]))
    with pytest.raises(ValueError, match="5 eigenvalues, 3 coefficients"):
        ke.random_features(np.ones(5), np.ones(3), 10, 10, 0.1)
    with pytest.raises(ValueError, match="n=0, k=10"):
        ke.random_features(np.ones(5), np.ones(5), 0, 10, 0.1)
