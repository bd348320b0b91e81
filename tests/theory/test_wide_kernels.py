"""ReLU kernels against wide networks; the linearised predictor against its own descent."""

from __future__ import annotations

import numpy as np
import pytest

from lawful.theory.wide_kernels import linearised, relu_kernels

X = np.random.default_rng(0).normal(size=(6, 5))


def empirical(x: np.ndarray, width: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Last-layer kernel and NTK of one draw with two hidden layers, by hand."""
    d = x.shape[1]
    W1, W2, w = rng.normal(size=(width, d)), rng.normal(size=(width, width)), rng.normal(size=width)
    z1 = x @ W1.T / np.sqrt(d)
    c = np.sqrt(2 / width)
    h1 = np.maximum(z1, 0)
    z2 = c * h1 @ W2.T
    h2 = np.maximum(z2, 0)
    g2 = c * w * (z2 > 0)
    g1 = c * (g2 @ W2) * (z1 > 0)
    S = 2 / width * h2 @ h2.T
    ntk = S + (g2 @ g2.T) * (2 / width * h1 @ h1.T) + (g1 @ g1.T) * (x @ x.T / d)
    return S, ntk


def test_recursion_is_the_limit_of_wide_networks() -> None:
    rng = np.random.default_rng(1)
    draws = [empirical(X, 512, rng) for _ in range(12)]
    for said, seen in zip(relu_kernels(X, X, 2), np.mean(draws, 0), strict=True):
        assert np.linalg.norm(said - seen) / np.linalg.norm(said) < 0.05


def test_no_hidden_layer_is_linear() -> None:
    S, T = relu_kernels(X, X, 0)
    assert np.array_equal(S, T)
    assert pytest.approx(S) == X @ X.T / 5
    with pytest.raises(ValueError, match="columns"):
        relu_kernels(X, X[:, :2], 1)


@pytest.mark.parametrize("time", [0.7, np.inf])
def test_linearised_is_descent_of_the_linear_model(time: float) -> None:
    rng = np.random.default_rng(2)
    J, Jx, gap = rng.normal(size=(5, 20)), rng.normal(size=(3, 20)), rng.normal(size=5)
    w, eta = np.zeros(20), 1e-4 if np.isfinite(time) else 1e-2
    for _ in range(round(time / eta) if np.isfinite(time) else 20_000):
        w += eta * J.T @ (gap - J @ w)
    said = linearised(J @ J.T, Jx @ J.T, gap, time)
    assert said == pytest.approx(Jx @ w, abs=2e-3)


def test_singular_kernels_warn_and_do_not_explode() -> None:
    J = np.random.default_rng(3).normal(size=(5, 2))
    with pytest.warns(RuntimeWarning, match="3 of 5"):
        said = linearised(J @ J.T, J @ J.T, J[:, 0])
    assert said == pytest.approx(J[:, 0], abs=1e-6)
    with pytest.raises(ValueError, match="not finite"):
        linearised(J @ J.T, J @ J.T, np.full(5, np.nan))


def test_inputs_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="x has 30 entries"):
        relu_kernels(X * np.nan, X, 1)
    with pytest.raises(ValueError, match="train has 25 entries"):
        linearised(np.full((5, 5), np.nan), np.eye(5), np.ones(5))
