"""The clock of linear modes against closed forms, an integrator, and gradient descent."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from lawful.theory import deep_linear_modes as dlm

TIMES = np.linspace(0, 6, 40)


def integrated(s: float, strengths: list[float]) -> np.ndarray:
    """da_l/dt = (u/a_l)(s − u), by brute force."""

    def rate(_: float, a: np.ndarray) -> np.ndarray:
        u = np.prod(a)
        return u / a * (s - u)

    found = solve_ivp(rate, (0, TIMES[-1]), strengths, t_eval=TIMES, rtol=1e-11, atol=1e-13)
    return found.y.prod(0)


@pytest.mark.parametrize(
    "strengths",
    [[0.1, 0.1], [0.3, 0.02], [0.2] * 3, [0.5, 0.1, 0.3], [0.6, 0.5, 0.4, 0.7], [1.5, 1.6]],
    ids=str,
)
def test_path_is_that_of_the_layer_strengths(strengths: list[float]) -> None:
    assert dlm.path(TIMES, 1.3, strengths) == pytest.approx(integrated(1.3, strengths), abs=2e-5)


def test_two_balanced_layers_are_logistic() -> None:
    s, u0 = 2.0, 1e-6
    exact = s / (1 + (s / u0 - 1) * np.exp(-2 * s * TIMES))
    assert dlm.path(TIMES, s, dlm.balanced(u0, 2)) == pytest.approx(exact, rel=1e-4)
    for q in (0.1, 0.5, 0.9):
        exact_time = (math.log(s / u0 - 1) + math.log(q / (1 - q))) / (2 * s)
        assert dlm.quantile_time(q, s, dlm.balanced(u0, 2)) == pytest.approx(exact_time, rel=1e-6)
    assert dlm.quantile_time(0.1, s, [1.0, 1.0]) == 0


@pytest.mark.parametrize("depth", [3, 4])
def test_half_time_of_deep_networks_from_small_weights(depth: int) -> None:
    s, u0 = 1.7, 1e-10
    ratio = dlm.quantile_time(0.5, s, dlm.balanced(u0, depth)) / dlm.half_time_small(s, u0, depth)
    assert ratio == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_descent_follows_within_one_and_a_half_steps_of_discretisation(depth: int) -> None:
    """Master table, law 1: aligned network, d = 16, four modes."""
    rng, eta, d = np.random.default_rng(0), 2e-3, 16
    s = np.array([4.0, 2.5, 1.5, 0.8])
    U, V = (np.linalg.qr(rng.normal(size=(d, d)))[0][:, :4] for _ in range(2))
    M, u0 = U @ np.diag(s) @ V.T, 1e-3
    R = [V, *(np.linalg.qr(rng.normal(size=(d, d)))[0][:, :4] for _ in range(depth - 1)), U]
    W = [u0 ** (1 / depth) * b @ a.T for a, b in pairwise(R)]
    worst = 0.0
    for step in range(int(8 / eta)):
        product = W[0]
        for w in W[1:]:
            product = w @ product
        if step % 100 == 0:
            u, leak = dlm.projections(product, U, V)
            foreseen = [dlm.path(np.array([eta * step]), k, dlm.balanced(u0, depth))[0] for k in s]
            worst = max(worst, float(np.max(np.abs(u - foreseen) / s)))
            assert leak < 1e-9
        if step % 10 == 0 and np.allclose(product, M, atol=1e-4):
            break
        error, left, grads = M - product, np.eye(d), []
        for l in reversed(range(depth)):
            right = np.eye(d)
            for w in W[:l]:
                right = w @ right
            grads.append(left.T @ error @ right.T)
            left = left @ W[l]
        W = [w + eta * g for w, g in zip(W, grads[::-1], strict=True)]
    assert 0 < worst <= 1.5 * dlm.discretisation(eta, 4.0, depth)


def test_small_random_weights_start_as_if_aligned() -> None:
    rng, eta = np.random.default_rng(1), 2e-3
    W1, W2 = (1e-4 * rng.normal(size=shape) for shape in ((32, 8), (8, 32)))
    M = np.diag([2.0, 1.0] + [0.0] * 6)
    U, s, V = dlm.modes(M)
    u0 = dlm.random_start(W1, W2, U[:, 0], V[:, 0])
    step = 0
    while dlm.projections(W2 @ W1, U, V)[0][0] < 1.0:
        error = M - W2 @ W1
        W1, W2 = W1 + eta * W2.T @ error, W2 + eta * error @ W1.T
        step += 1
    assert eta * step == pytest.approx(dlm.quantile_time(0.5, s[0], dlm.balanced(u0, 2)), rel=0.025)


def test_stages_separate_from_small_weights_only() -> None:
    s = (4.0, 2.5, 1.5, 0.8)
    for u0, gaps in ((1e-8, 3), (1e-2, 0)):
        first, last = ([dlm.quantile_time(q, k, dlm.balanced(u0, 2)) for k in s] for q in dlm.STAGE)
        assert dlm.separate_stages(first, last) == gaps


@pytest.mark.parametrize(("s", "a"), [(0.0, [1.0, 1.0]), (1.0, [0.0, 1.0]), (1.0, [-1.0, 1.0])])
def test_a_mode_that_is_not_learned_is_refused(s: float, a: list[float]) -> None:
    with pytest.raises(ValueError, match="strengths"):
        dlm.path(TIMES, s, a)


def test_what_has_no_time_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        dlm.quantile_time(1.5, 1.0, [0.1, 0.1])
    with pytest.raises(ValueError, match="depth=1"):
        dlm.half_time_small(1.0, 1e-6, 1)
    with pytest.raises(ValueError, match="9 entries"):
        dlm.modes(np.full((3, 3), np.nan))
