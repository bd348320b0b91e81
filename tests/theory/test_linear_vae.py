"""Linear β-VAE: the closed form against minimisation of the full objective."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lawful.theory import linear_vae as lv


def problem() -> tuple[np.ndarray, np.ndarray]:
    """(E[yxᵀ], Σ_x) with five known modes ζ = 2, 1.5, 1.2, .8, .4."""
    rng = np.random.default_rng(0)
    root = np.diag([1.4, 1.0, 0.8, 0.7, 0.5])
    L, R = (np.linalg.qr(rng.normal(size=(5, 5)))[0] for _ in range(2))
    return L @ np.diag([2.0, 1.5, 1.2, 0.8, 0.4]) @ R.T @ root, root @ root


def train(
    cross: np.ndarray, Sigma: np.ndarray, beta: float, eta_d2: float, eta_e2: float,
    fixed: float | None, latents: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Minimise the objective over U, W, σ²; singular values of U and √Σ_x W, sorted σ²."""
    generator = torch.Generator().manual_seed(0)
    C, S = torch.as_tensor(cross), torch.as_tensor(Sigma)
    U, W = (torch.randn(5, latents, generator=generator).double().requires_grad_() for _ in "UW")
    log_s2 = torch.zeros(latents, dtype=torch.float64, requires_grad=fixed is None)
    parameters = [U, W] if fixed is not None else [U, W, log_s2]
    solver = torch.optim.LBFGS(
        parameters, max_iter=6000, history_size=50, line_search_fn="strong_wolfe",
        tolerance_grad=1e-12, tolerance_change=0,
    )  # fmt: skip

    def closure() -> torch.Tensor:
        solver.zero_grad()
        s2 = log_s2.exp() if fixed is None else torch.full((latents,), fixed).double()
        code = W.T @ S @ W + torch.diag(s2)
        fit = (torch.trace(U @ code @ U.T) - 2 * torch.trace(U.T @ C @ W)) / (2 * eta_d2)
        value = fit + beta / 2 * (code.diagonal() / eta_e2 - s2.log()).sum()
        value.backward()
        return value

    solver.step(closure)
    U, W, log_s2 = (t.detach() for t in (U, W, log_s2))
    white = torch.linalg.cholesky(S).T @ W
    return (
        torch.linalg.svdvals(U).numpy(), torch.linalg.svdvals(white).numpy(),
        log_s2.exp().sort().values.numpy(),
    )  # fmt: skip


def test_modes_of_the_data() -> None:
    zeta = lv.data_modes(*problem())
    assert zeta == pytest.approx([2.0, 1.5, 1.2, 0.8, 0.4])
    assert lv.critical_beta(zeta, 0.5)[0] == pytest.approx(8.0)
    with pytest.raises(ValueError, match="singular"):
        lv.data_modes(np.eye(2), np.diag([1.0, 0.0]))


@pytest.mark.parametrize(("beta", "active"), [(0.1, 5), (0.4, 4), (1.0, 3), (2.0, 2), (4.1, 0)])
def test_learned_variance(beta: float, active: int) -> None:
    """Mode counts exactly, u and w to four digits; prior variance 1.7, decoder variance 1."""
    cross, Sigma = problem()
    found = lv.learned_variance(lv.data_modes(cross, Sigma), beta, prior_variance=1.7)
    u, w, s2 = train(cross, Sigma, beta, 1.0, 1.7, None, 5)
    assert found.active == active == int(np.sum(u > 1e-3))
    assert u == pytest.approx(found.u, abs=1e-4)
    assert np.sort(w) == pytest.approx(np.sort(found.w), abs=1e-4)
    assert s2 == pytest.approx(np.sort(found.sigma2), rel=1e-4)


@pytest.mark.parametrize(("beta", "variance"), [(0.5, 0.6), (1.0, 2.0), (2.0, 4.5)])
def test_fixed_variance(beta: float, variance: float) -> None:
    cross, Sigma = problem()
    zeta = lv.data_modes(cross, Sigma)
    how = {"decoder_variance": 0.8, "prior_variance": 1.7}
    found = lv.fixed_variance(zeta, beta, variance, **how)
    u, w, _ = train(cross, Sigma, beta, 0.8, 1.7, variance, 5)
    assert u == pytest.approx(found.u, abs=1e-4)
    assert np.sort(w) == pytest.approx(np.sort(found.w), abs=1e-4)
    assert found.active == int(np.sum(zeta**2 > beta * 0.8 * variance / 1.7))


def test_few_latents_keep_the_largest_modes() -> None:
    cross, Sigma = problem()
    found = lv.learned_variance(lv.data_modes(cross, Sigma)[:2], 0.1)
    u, *_ = train(cross, Sigma, 0.1, 1.0, 1.0, None, 2)
    assert u == pytest.approx(found.u, abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(st.floats(0.0, 3), st.floats(0.05, 5), st.floats(0.2, 3), st.floats(0.2, 3))
def test_each_mode_is_stationary(zeta: float, beta: float, eta_d2: float, eta_e2: float) -> None:
    """The gradient of the scalar objective vanishes in u, w and σ²."""
    how = {"decoder_variance": eta_d2, "prior_variance": eta_e2}
    b = beta * eta_d2
    free = lv.learned_variance(np.array([zeta]), beta, **how)
    fixed = lv.fixed_variance(np.array([zeta]), beta, 0.7, **how)
    for found in (free, fixed):
        u, w, s2 = (float(v[0]) for v in (found.u, found.w, found.sigma2))
        assert u * (w * w + s2) - w * zeta == pytest.approx(0, abs=1e-9)
        assert u * u * w + b * w / eta_e2 - u * zeta == pytest.approx(0, abs=1e-9)
    u, s2 = float(free.u[0]), float(free.sigma2[0])
    assert u * u + b / eta_e2 == pytest.approx(b / s2)
    assert free.active == int(zeta**2 > b * (1 + 1e-12)) or abs(zeta**2 - b) < 1e-9


def test_without_decay_a_mode_without_signal_keeps_the_prior() -> None:
    modes = lv.learned_variance(np.array([2.0, 0.0]), 0.0, prior_variance=3.0)
    assert modes.sigma2.tolist() == [0.0, 3.0]
    assert modes.u.tolist() == pytest.approx([2 / 3**0.5, 0.0])
