"""The common kernel and the equal gradients, against the equilibrium and against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from lawful.theory import deep_linear_entropy as entropy
from lawful.theory import linear_equilibrium as le
from lawful.theory import sharpness

RNG = np.random.default_rng(0)
V = RNG.normal(size=(5, 6))
SIGMA_X = np.diag([1.5, 1.2, 1.0, 0.8, 0.6, 0.4])
SIGMA_EPS = np.diag([1.0, 0.9, 0.8, 0.7, 0.6])


def absorbed(M_in: np.ndarray, M_out: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The plain network that one with fixed ends is."""
    inner = np.linalg.inv(M_out) @ V @ np.linalg.inv(M_in)
    return inner, M_in @ SIGMA_X @ M_in.T, M_out.T @ SIGMA_EPS @ M_out


@pytest.mark.parametrize(("depth", "width"), [(2, 5), (3, 8), (5, 6)])
def test_every_layer_of_every_network_has_the_kernel(depth: int, width: int) -> None:
    M_in, M_out = RNG.normal(size=(6, 6)), RNG.normal(size=(5, 5))
    weights = le.equilibrium(*absorbed(M_in, M_out), depth=depth, width=width).weights
    K, h = entropy.kernel(V, SIGMA_X, SIGMA_EPS), M_in
    for W in weights[:-1]:
        h = W @ h
        assert entropy.alignment(h.T @ h, K, SIGMA_X) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_every_layer_has_the_gradient_of_the_formula(depth: int) -> None:
    """By sampling at the equilibrium with the residual −ε: E‖g_i‖² within 1 %, and exactly."""
    M_in, M_out = RNG.normal(size=(6, 6)), RNG.normal(size=(5, 5))
    inner, Sigma_x, Sigma_eps = absorbed(M_in, M_out)
    weights = le.equilibrium(inner, Sigma_x, Sigma_eps, depth=depth).weights
    formula = entropy.layer_gradient_norm2(
        V, SIGMA_X, SIGMA_EPS, depth=depth, M_in=M_in, M_out=M_out
    )
    A, B = le.signals(weights, Sigma_x, Sigma_eps)
    for i in range(depth):
        assert 4 * np.trace(A[i]) * np.trace(B[i + 1]) == pytest.approx(formula)
    rng, n = np.random.default_rng(1), 200_000
    h = rng.normal(size=(n, 6)) @ np.sqrt(SIGMA_X) @ M_in.T
    delta = 2 * rng.normal(size=(n, 5)) @ np.sqrt(SIGMA_EPS) @ M_out
    for W in reversed(weights[1:]):
        delta = delta @ W
    sampled = ((h**2).sum(1) * (delta**2).sum(1)).mean()  # the first layer's ‖δ hᵀ‖²
    assert sampled == pytest.approx(formula, rel=0.01)


def test_no_factorisation_has_less_entropy() -> None:
    inner, Sigma_x, Sigma_eps = V, SIGMA_X, SIGMA_EPS
    base = le.equilibrium(inner, Sigma_x, Sigma_eps, depth=3).weights
    least = 3 * entropy.layer_gradient_norm2(V, SIGMA_X, SIGMA_EPS, depth=3)
    for seed in range(20):
        turns = [
            np.eye(5) + 0.3 * np.random.default_rng((seed, i)).normal(size=(5, 5)) for i in (0, 1)
        ]
        P, Q = turns
        moved = [P @ base[0], Q @ base[1] @ np.linalg.inv(P), base[2] @ np.linalg.inv(Q)]
        A, B = le.signals(moved, Sigma_x, Sigma_eps)
        assert sum(4 * np.trace(A[i]) * np.trace(B[i + 1]) for i in range(3)) >= least


def test_orthogonal_labels_do_not_matter_others_do() -> None:
    K = entropy.kernel(V, SIGMA_X, SIGMA_EPS)
    turn = np.linalg.qr(RNG.normal(size=(5, 5)))[0]
    for T, same in ((turn, True), (np.diag([0.2, 0.5, 1.0, 1.6, 2.5]), False)):
        other = entropy.kernel(T @ V, SIGMA_X, T @ SIGMA_EPS @ T.T)
        assert (entropy.alignment(K, other, SIGMA_X) > 1 - 1e-12) == same


def test_a_saddle_keeps_the_largest_directions() -> None:
    white = np.eye(6)
    K = entropy.kernel(V, white, SIGMA_EPS)
    values, Q = np.linalg.eigh(K)
    cut = Q[:, -3:] * values[-3:] @ Q[:, -3:].T
    assert entropy.saddle_alignment(V, white, SIGMA_EPS, rank=3) == pytest.approx(
        entropy.alignment(K, cut, white)
    )
    assert entropy.saddle_alignment(V, white, SIGMA_EPS, rank=6) == pytest.approx(1)


@pytest.mark.parametrize("s", [(1.0, 1.0), (2.0, 0.2), (1.0, 0.01)])
def test_trace_of_the_hessian_of_the_two_layer_case(s: tuple[float, float]) -> None:
    """V = I₂, Σ_ε = diag(s): 4[√c Σ s^{−½} + c^{−½} Σ s^{½}], c = mean(s); 16, 19.45, 37.5."""
    noise = np.array(s)
    c = noise.mean()
    wanted = 4 * (np.sqrt(c) * (noise**-0.5).sum() + (noise**0.5).sum() / np.sqrt(c))
    found = sharpness.at_equilibrium(np.eye(2), np.eye(2), np.diag(noise))
    assert found == pytest.approx(wanted)
    assert found == pytest.approx({2.0: 19.45, 0.2: 19.45, 1.0: found}[s[0]], abs=0.01)


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="Sigma_x is singular"):
        entropy.kernel(V, np.diag([1.0, 1, 1, 1, 1, 0]), SIGMA_EPS)
    with pytest.raises(ValueError, match="depth=1"):
        entropy.layer_gradient_norm2(V, SIGMA_X, SIGMA_EPS, depth=1)
    with pytest.raises(ValueError, match="rank=0: give 1 to 6"):
        entropy.saddle_alignment(V, SIGMA_X, SIGMA_EPS, rank=0)
