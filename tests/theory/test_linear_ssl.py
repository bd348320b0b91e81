"""Linear InfoNCE: exact loss against samples, exact minimum against optimisation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lawful.theory import linear_ssl as ls


def covariances(seed: int, d: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """A₀ with eigenvalues 1, .5, .2, .05 and a C that does not commute with it."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.normal(size=(d, d)))[0]
    M = 0.5 * rng.normal(size=(d, d))
    return (Q * np.array([1.0, 0.5, 0.2, 0.05])) @ Q.T, M @ M.T + 0.05 * np.eye(d)


def test_population_loss_is_that_of_samples_with_many_negatives() -> None:
    A0, C = covariances(0)
    W = np.random.default_rng(1).normal(size=(3, 4)) * 0.8
    generator = torch.Generator().manual_seed(0)
    n = 2000
    parts = [
        torch.randn(n, 4, generator=generator).double() @ torch.linalg.cholesky(
            torch.as_tensor(S)
        ).T
        for S in (A0, C, C)
    ]  # fmt: skip
    f, g = ((parts[0] + parts[i]) @ torch.as_tensor(W).T for i in (1, 2))
    positive = 0.5 * (f - g).square().sum(1).mean()
    logits = -0.5 * torch.cdist(f, g).square()
    logits.fill_diagonal_(-torch.inf)
    negative = (torch.logsumexp(logits, 1) - np.log(n - 1)).mean()
    assert float(positive + negative) == pytest.approx(ls.infonce_loss(W, A0, C), abs=0.05)
    assert ls.infonce_loss(W, A0, C) < -0.15
    assert ls.infonce_loss(0 * W, A0, C) == 0.0


@pytest.mark.parametrize(("gamma", "active"), [(0.03, 4), (0.1, 3), (0.35, 2), (0.7, 1), (1.2, 0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_minimum_is_the_closed_form(gamma: float, active: int, seed: int) -> None:
    """L-BFGS over W from a random start: same WᵀW, same number of directions."""
    A0, C = covariances(seed)
    S, G = torch.as_tensor(A0 + C), torch.as_tensor(C + gamma * np.eye(4))
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(4, 4, generator=generator).double().requires_grad_()
    solver = torch.optim.LBFGS(
        [W], max_iter=4000, history_size=50, line_search_fn="strong_wolfe",
        tolerance_grad=1e-12, tolerance_change=0,
    )  # fmt: skip

    def closure() -> torch.Tensor:
        solver.zero_grad()
        M, I = W @ S @ W.T, torch.eye(4, dtype=torch.float64)
        value = torch.trace(W @ G @ W.T) - torch.logdet(I + M) / 2
        value = value - torch.trace(torch.linalg.solve(I + M, M)) / 2
        value.backward()
        return value

    solver.step(closure)
    found = W.detach().numpy()
    predicted = ls.optimum(A0, C, gamma)
    assert found.T @ found == pytest.approx(predicted, abs=1e-4 * (1 + np.max(predicted)))
    assert ls.active_directions(A0, gamma) == active
    assert np.linalg.matrix_rank(predicted, tol=1e-9) == active
    assert ls.infonce_loss(found, A0, C, gamma=gamma) == pytest.approx(float(closure().detach()))


def test_a_narrow_encoder_keeps_the_best_directions() -> None:
    A0, C = covariances(0)
    narrow = ls.optimum(A0, C, 0.03, width=2)
    assert np.linalg.matrix_rank(narrow, tol=1e-9) == 2
    values, Q = np.linalg.eigh(narrow)
    W = (Q[:, -2:] * np.sqrt(values[-2:])).T
    best = ls.infonce_loss(W, A0, C, gamma=0.03)
    rng = np.random.default_rng(0)
    for _ in range(300):
        trial = W + 0.3 * rng.normal(size=W.shape)
        assert ls.infonce_loss(trial, A0, C, gamma=0.03) > best


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.02, 1.2))
def test_augmentation_never_changes_how_many_directions_live(seed: int, gamma: float) -> None:
    A0, C = covariances(seed)
    if np.min(np.abs(np.linalg.eigvalsh(A0) - gamma)) < 1e-4:
        return
    rank = np.linalg.matrix_rank(ls.optimum(A0, C, gamma), tol=1e-10)
    assert rank == ls.active_directions(A0, gamma)
    assert rank == np.linalg.matrix_rank(ls.optimum(A0, 3 * C, gamma), tol=1e-10)


def test_quartic_approximation_holds_near_the_threshold_only() -> None:
    A0, C = covariances(0)

    def error(gamma: float) -> float:
        exact, near = ls.optimum(A0, C, gamma), ls.optimum_near_threshold(A0, C, gamma)
        return float(np.linalg.norm(near - exact) / np.linalg.norm(exact))

    assert error(0.99) < 0.02
    assert error(0.9) < 0.12
    assert error(0.03) > 0.3


def test_errors() -> None:
    with pytest.raises(ValueError, match="without bound"):
        ls.optimum(np.eye(2), np.zeros((2, 2)), 0.0)
    with pytest.raises(ValueError, match="A0 \\+ C is singular"):
        ls.optimum(np.diag([1.0, 0.0]), np.zeros((2, 2)), 0.1)
