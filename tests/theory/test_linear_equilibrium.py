"""Deep linear networks: SGD goes to the predicted factorisation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lawful.theory import linear_equilibrium as le

V = np.array([[1.2, 0.2, 0.0], [-0.1, 0.8, 0.1], [0.2, 0.0, 0.5]])
SIGMA_X, SIGMA_EPS = np.diag([1.5, 1.0, 0.5]), np.diag([1.0, 0.3, 0.1])


def start(depth: int, width: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Factors of V far from balance: each hidden basis of the equilibrium changed at random."""
    weights = list(le.equilibrium(V, SIGMA_X, SIGMA_EPS, depth=depth, width=width).weights)
    idle = np.diag([0.0] * 3 + [0.8] * (width - 3))
    for i in range(1, depth):
        M = (np.eye(width) + 0.35 * rng.normal(size=(width, width))) * (1.4 if i == 1 else 1.0)
        weights[i - 1] = M @ (weights[i - 1] + (idle if i > 1 else 0.0))
        weights[i] = weights[i] @ np.linalg.inv(M)
    return weights


def train(
    weights: list[np.ndarray], *, eta: float, steps: int, noise: bool = True
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """Batch-1 SGD on ‖W_D … W_1 x − y‖², and the averages of A_i, B_i over the last half.

    noise=False replaces the sample by the population: gradient descent.
    """
    rng, D = np.random.default_rng(7), len(weights)
    roots = [np.sqrt(np.diag(S)) for S in (SIGMA_X, SIGMA_EPS)]
    A, B = ([np.zeros(())] * (D + 1) for _ in range(2))
    draws = rng.normal(size=(steps, 2, 3, 1)) if noise else np.zeros((steps, 0))
    for step, draw in enumerate(draws):
        x, eps = (r[:, None] * d for r, d in zip(roots, draw, strict=True)) if noise else (
            np.diag(roots[0]), 0.0
        )  # fmt: skip
        h = [x]
        for W in weights:
            h.append(W @ h[-1])
        delta, after = 2 * (h[-1] - V @ x - eps), list(weights)
        for i in reversed(range(D)):
            after[i] = weights[i] - eta * delta @ h[i].T
            delta = weights[i].T @ delta
        weights = after
        if step >= steps // 2 and step % 50 == 0:
            for mean, new in zip((A, B), le.signals(weights, SIGMA_X, SIGMA_EPS), strict=True):
                mean[:] = [m + n / (steps // 100) for m, n in zip(mean, new, strict=True)]
    return weights, A, B


def test_two_layers_reach_the_normalised_balance() -> None:
    weights = start(2, 4, np.random.default_rng(0))
    after, A, B = train(weights, eta=0.01, steps=40_000)
    X, Y = A[1] / np.trace(SIGMA_X), B[1] / np.trace(SIGMA_EPS)
    assert np.linalg.norm(X - Y) / np.linalg.norm(X) < 0.10
    assert np.linalg.norm(A[1] - B[1]) / np.linalg.norm(A[1]) > 0.4
    descended, *_ = train(weights, eta=0.01, steps=4_000, noise=False)
    for W in (weights, descended):
        assert le.gaps(W, SIGMA_X, SIGMA_EPS)[0] > 0.6
    spectrum = np.sort(np.linalg.eigvalsh(A[1]))[::-1]
    assert spectrum[:2] == pytest.approx(le.hidden_spectrum(V, SIGMA_X, SIGMA_EPS)[:2], rel=0.08)
    assert np.linalg.norm(after[1] @ after[0] - V) < 0.5


def test_three_layers_make_the_middle_one_an_isometry() -> None:
    weights = start(3, 3, np.random.default_rng(3))
    after, A, B = train(weights, eta=0.01, steps=40_000)
    rho = le.equilibrium(V, SIGMA_X, SIGMA_EPS, depth=3).rho
    ends = np.trace(A[1]) / np.trace(SIGMA_X), np.trace(B[2]) / np.trace(SIGMA_EPS)
    assert ends == pytest.approx((rho**2, rho**2), rel=0.05)
    before, middle = (np.linalg.svd(W[1], compute_uv=False) for W in (weights, after))
    assert middle == pytest.approx(np.full(3, rho), rel=0.08)
    assert np.ptp(before) > 4 * np.ptp(middle)


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("width", [3, 6])
def test_solution_satisfies_every_claim(depth: int, width: int) -> None:
    rng = np.random.default_rng(depth)
    roots = rng.normal(size=(2, 4, 4))
    Sx, Se = (R @ R.T + 0.1 * np.eye(4) for R in roots)
    target = rng.normal(size=(4, 3)) @ rng.normal(size=(3, 4))
    found = le.equilibrium(target, Sx, Se, depth=depth, width=width)
    product = np.eye(4)
    for W in found.weights:
        product = W @ product
    assert np.allclose(product, target)
    assert np.max(le.gaps(found.weights, Sx, Se)) < 1e-9
    A, B = le.signals(found.weights, Sx, Se)
    assert np.trace(A[1]) / np.trace(Sx) == pytest.approx(found.rho**2)
    assert np.trace(B[-2]) / np.trace(Se) == pytest.approx(found.rho**2)
    for W in found.weights[1:-1]:
        assert np.linalg.svd(W, compute_uv=False)[:3] == pytest.approx(np.full(3, found.rho))
    if depth == 2:
        spectrum = np.sort(np.linalg.eigvalsh(A[1]))[::-1][:3]
        assert spectrum == pytest.approx(le.hidden_spectrum(target, Sx, Se))
    # Negative controls: the shorthand without traces, and the factors rescaled.
    assert np.max(le.gaps(found.weights, Sx, Se, normalised=False)) > 0.05
    scaled = (found.weights[0] * 1.3, *found.weights[1:-1], found.weights[-1] / 1.3)
    assert np.max(le.gaps(scaled, Sx, Se)) > 0.1


def test_drift_of_the_charges_is_the_balance() -> None:
    """E[Δ(W₂ᵀW₂ − W₁W₁ᵀ)] = 4η²(A₁ Tr B₂ − B₁ Tr A₀): Monte Carlo off the equilibrium."""
    rng, n = np.random.default_rng(0), 400_000
    W, U = start(2, 3, rng)
    x = rng.normal(size=(n, 3)) * np.sqrt(np.diag(SIGMA_X))
    eps = rng.normal(size=(n, 3)) * np.sqrt(np.diag(SIGMA_EPS))
    h, r = x @ W.T, 2 * eps
    delta = r @ U
    up = np.einsum("ni,nj,n->ij", h, h, (r**2).sum(1)) / n
    down = np.einsum("ni,nj,n->ij", delta, delta, (x**2).sum(1)) / n
    A, B = le.signals([W, U], SIGMA_X, SIGMA_EPS)
    predicted = 4 * (A[1] * np.trace(B[2]) - B[1] * np.trace(A[0]))
    assert np.linalg.norm(up - down - predicted) < 0.02 * np.linalg.norm(up)
    assert np.linalg.norm(predicted) > 0.5 * np.linalg.norm(up)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 10), st.floats(0.1, 10))
def test_prediction_scales_as_it_must(seed: int, scale_x: float, scale_eps: float) -> None:
    """The noise level drops out; the input scale only moves between the ends."""
    target = np.random.default_rng(seed).normal(size=(3, 3))
    one = le.equilibrium(target, SIGMA_X, SIGMA_EPS, depth=3)
    two = le.equilibrium(target, scale_x * SIGMA_X, scale_eps * SIGMA_EPS, depth=3)
    assert two.rho == pytest.approx(one.rho)
    for W1, W2 in zip(one.weights, two.weights, strict=True):
        assert np.allclose(W1, W2)


def test_errors_name_the_remedy() -> None:
    with pytest.raises(ValueError, match="one layer has no charge"):
        le.equilibrium(V, SIGMA_X, SIGMA_EPS, depth=1)
    with pytest.raises(ValueError, match="width=2"):
        le.equilibrium(V, SIGMA_X, SIGMA_EPS, width=2)
    with pytest.raises(ValueError, match="Sigma_eps is not positive definite"):
        le.equilibrium(V, SIGMA_X, np.diag([1.0, 1.0, 0.0]))
    with pytest.raises(ValueError, match="rank 0"):
        le.equilibrium(0 * V, SIGMA_X, SIGMA_EPS)


def test_a_layer_wider_than_the_rank_balances_only_in_part() -> None:
    """Three singular values of W₂ reach ρ; what the function does not use stays as it was."""
    weights = start(3, 5, np.random.default_rng(0))
    after, A, _ = train(weights, eta=0.005, steps=60_000)
    rho = le.equilibrium(V, SIGMA_X, SIGMA_EPS, depth=3).rho
    read, written = np.linalg.qr(after[2].T)[0], np.linalg.qr(after[0])[0]
    used = np.linalg.svd(read.T @ after[1] @ written, compute_uv=False)
    assert used == pytest.approx(np.full(3, rho), rel=0.08)
    assert np.trace(A[1]) / np.trace(SIGMA_X) == pytest.approx(rho**2, rel=0.05)
    before, everything = (np.linalg.svd(W[1], compute_uv=False) for W in (weights, after))
    assert everything[0] == pytest.approx(before[0], rel=0.02)
    assert everything[0] > 5 * rho
