"""Mirror collapse: γ_c from the projected Hessian against where networks collapse."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lawful.theory import mirror_collapse as mc

SWAP = np.array([[1.0, 0.0, -1.0, 0.0], [0.0, 1.0, 0.0, -1.0]]).T / math.sqrt(2)

# Two tanh neurons v_1 tanh(w_1 x) + v_2 tanh(w_2 x), θ = (w_1, v_1, w_2, v_2).
X = torch.linspace(-2, 2, 41, dtype=torch.float64)
Y = torch.tanh(2.5 * X) - 0.6 * torch.tanh(0.7 * X)


def loss(theta: torch.Tensor) -> torch.Tensor:
    w1, v1, w2, v2 = theta
    return (v1 * torch.tanh(w1 * X) + v2 * torch.tanh(w2 * X) - Y).square().mean()


def minimise(gamma: float, start: np.ndarray, O: np.ndarray | None = None) -> np.ndarray:
    """L-BFGS on ℓ + γ‖θ‖² from `start`, within the plane Oᵀθ = 0 if O is given."""
    P = torch.eye(4, dtype=torch.float64)
    if O is not None:
        P = P - torch.as_tensor(O @ O.T)
    theta = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS(
        [theta], max_iter=1000, line_search_fn="strong_wolfe", tolerance_grad=1e-12,
        tolerance_change=0,
    )  # fmt: skip

    def closure() -> torch.Tensor:
        solver.zero_grad()
        value = loss(P @ theta) + gamma * (P @ theta).square().sum()
        value.backward()
        return value

    solver.step(closure)
    return (P @ theta).detach().numpy()


def critical_at(gamma: float) -> float:
    theta = minimise(gamma, np.array([1.0, 0.5, 1.0, 0.5]), SWAP)
    H = torch.autograd.functional.hessian(loss, torch.as_tensor(theta)).numpy()
    return mc.critical_gamma(H, SWAP)


def test_two_tanh_neurons_merge_at_the_predicted_decay() -> None:
    """γ_c within ±5 %, a continuous transition with the square-root law."""
    gamma_c = mc.critical_gamma_moving(critical_at, 1e-4, 0.1)
    split = {}
    for factor in (0.95, 0.9875, 1.05):
        start = minimise(factor * gamma_c, np.array([1.0, 0.5, 1.0, 0.5]), SWAP)
        theta = minimise(factor * gamma_c, start + 0.05 * SWAP @ np.array([1.0, -0.5]))
        split[factor] = float(np.linalg.norm(SWAP.T @ theta))
    assert split[1.05] < 1e-4
    assert split[0.95] > 0.1
    assert 1.9 < split[0.95] / split[0.9875] < 2.2


def test_the_symmetric_plane_is_invariant_and_the_hessian_block_diagonal() -> None:
    theta = torch.tensor([0.7, -0.4, 0.7, -0.4], dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(theta), theta)
    H = torch.autograd.functional.hessian(loss, theta.detach()).numpy()
    plane = np.eye(4) - SWAP @ SWAP.T
    assert np.max(np.abs(SWAP.T @ gradient.numpy())) < 1e-15
    assert np.max(np.abs(SWAP.T @ H @ plane)) < 1e-15
    # Negative control: off the plane neither is true.
    off = torch.tensor([0.7, -0.4, 0.3, 0.9], dtype=torch.float64)
    H_off = torch.autograd.functional.hessian(loss, off).numpy()
    assert np.max(np.abs(SWAP.T @ H_off @ plane)) > 1e-3


@pytest.mark.parametrize("k", [5, 100])
def test_matrix_free_and_dense_agree(k: int) -> None:
    rng = np.random.default_rng(k)
    M = rng.normal(size=(150, 150))
    H, O = M + M.T, np.linalg.qr(rng.normal(size=(150, k)))[0]
    expected = np.linalg.eigvalsh(O.T @ H @ O)[0]
    assert mc.least_curvature(H, O) == pytest.approx(expected)
    assert mc.least_curvature(lambda v: H @ v, O) == pytest.approx(expected)
    assert mc.critical_gamma(H, O) == pytest.approx(-expected / 2)
    with pytest.raises(ValueError, match=r"np\.linalg\.qr"):
        mc.least_curvature(H, 2 * O)


def test_a_sign_mirror_follows_the_toy_of_the_slides() -> None:
    """E(w²x − y)² + γw²: γ_c = 2E[xy] and w*² = (2E[xy] − γ)/(2E[x²])."""
    xy, x2 = 0.7, 1.3
    gamma_c = mc.critical_gamma(np.array([[-4 * xy]]), np.eye(1))
    assert gamma_c == pytest.approx(2 * xy)
    w = np.linspace(0, 2, 200_001)
    for gamma in (0.0, 0.5, 1.3, 1.5):
        best = w[np.argmin(x2 * w**4 - 2 * xy * w**2 + gamma * w**2)]
        assert mc.order_parameter(gamma, gamma_c, x2) == pytest.approx(best, abs=1e-4)
    values = x2 * w**4 - 2 * xy * w**2
    assert mc.global_gamma(values, np.zeros_like(w), w**2) == pytest.approx(gamma_c, rel=1e-6)


def test_a_first_order_collapse_has_its_global_threshold_above_the_local_one() -> None:
    s = np.linspace(0, 2, 2001)
    values = -(s**2) - 3 * s**4 + 2 * s**6  # c₁ < 0: a jump
    local = mc.critical_gamma(np.array([[-2.0]]), np.eye(1))
    assert local == 1.0
    assert mc.global_gamma(values, np.zeros_like(s), s**2) == pytest.approx(1 + 9 / 8, rel=1e-5)


@given(st.floats(0, 4), st.floats(0.1, 3), st.floats(0.2, 3), st.floats(0, 0.5))
def test_order_parameter_minimises_the_pitchfork(
    gamma: float, gamma_c: float, quartic: float, anchor: float
) -> None:
    found = mc.order_parameter(gamma, gamma_c, quartic, anchor=anchor)

    def free(s: np.ndarray | float) -> np.ndarray | float:
        return (gamma - gamma_c) * s**2 + quartic * s**4 - 2 * gamma * anchor * s

    assert free(found) <= np.min(free(np.linspace(0, 10, 20_001))) + 1e-9


def test_anchored_decay_never_collapses_exactly() -> None:
    assert mc.order_parameter(5.0, 1.0, 1.0) == 0.0
    s = mc.order_parameter(5.0, 1.0, 1.0, anchor=0.01)
    assert s == pytest.approx(5 * 0.01 / (5 - 1), rel=1e-3)
    with pytest.raises(ValueError, match="quartic > 0"):
        mc.order_parameter(1.0, 1.0, -1.0)


def test_bracket_errors_say_which_end_to_move() -> None:
    with pytest.raises(ValueError, match="lower low"):
        mc.critical_gamma_moving(lambda _: 0.5, 1.0, 2.0)
    with pytest.raises(ValueError, match="raise high"):
        mc.critical_gamma_moving(lambda _: 5.0, 1.0, 2.0)
