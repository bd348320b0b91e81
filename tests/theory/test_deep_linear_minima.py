"""Thresholds of deep linear networks against optimisation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from lawful.theory import deep_linear_minima as dm


def minimise(loss, weights: list[torch.Tensor]) -> float:
    """L-BFGS to a local minimum; leaves the weights there."""
    solver = torch.optim.LBFGS(
        weights, max_iter=2000, history_size=30, line_search_fn="strong_wolfe",
        tolerance_grad=1e-11, tolerance_change=0,
    )  # fmt: skip

    def closure() -> torch.Tensor:
        solver.zero_grad()
        value = loss(weights)
        value.backward()
        return value

    solver.step(closure)
    return float(loss(weights).detach())


@pytest.mark.parametrize(
    ("layers", "critical", "spinodal"), [(2, 1.0, 1.0), (3, 0.3467, 0.4127), (4, 0.2222, 0.3143)]
)
def test_values_of_the_sheet(layers: int, critical: float, spinodal: float) -> None:
    found = dm.thresholds(1.0, 1.5, layers)
    assert found.gamma_c == pytest.approx(critical, abs=5e-5)
    assert found.gamma_spinodal == pytest.approx(spinodal if layers > 2 else 1.0, abs=5e-5)
    assert found.weight_decay == 2 * found.gamma_c


@settings(max_examples=40, deadline=None)
@given(st.floats(0.1, 5), st.floats(0.1, 5), st.integers(2, 6), st.floats(1, 3))
def test_closed_form_is_where_the_scalar_loss_changes_its_minimum(
    r: float, s2: float, layers: int, noise: float
) -> None:
    found = dm.thresholds(r, s2, layers, noise=noise)

    def lowest(gamma: float) -> tuple[float, float]:
        """argmin and min over t = x^K of −2rt + cs²t² + Kγt^{2/K}, smooth in x."""
        x = np.linspace(1e-6, (2 * r / s2) ** (1 / layers), 20_001)
        values = x**2 * (-2 * r * x ** (layers - 2) + noise * s2 * x ** (2 * layers - 2))
        values = values + layers * gamma * x**2
        return float(x[np.argmin(values)] ** layers), float(values.min())

    assert lowest(found.gamma_c * 0.99)[1] < 0
    assert lowest(found.gamma_c * 1.01)[1] > -1e-9
    if layers > 2:
        assert lowest(found.gamma_c * 0.9999)[0] == pytest.approx(found.jump, rel=0.02)
        assert found.gamma_spinodal > found.gamma_c
    else:
        assert found.gamma_spinodal == found.gamma_c
    general = dm.thresholds_general(r * np.array([0.6, 0.8]), s2 * np.eye(2), layers, noise=noise)
    assert general.gamma_c == pytest.approx(found.gamma_c, rel=1e-6)
    assert general.gamma_spinodal == pytest.approx(found.gamma_spinodal, rel=1e-6)
    assert general.jump == pytest.approx(found.jump, rel=1e-3)


def test_spinodal_is_where_the_local_minimum_ends() -> None:
    found = dm.thresholds(1.0, 1.5, 3)
    for factor, survives in ((0.99, True), (1.01, False)):
        gamma = found.gamma_spinodal * factor
        slope = [-2 + 3 * t + 2 * gamma * t ** (-1 / 3) for t in np.linspace(0.05, 1, 5000)]
        assert (min(slope) < 0) == survives


@pytest.mark.parametrize("factor", [0.5, 0.95, 1.05])
@pytest.mark.parametrize("layers", [2, 3])
def test_anisotropic_network_collapses_where_predicted(layers: int, factor: float) -> None:
    """L-BFGS over the full weights, unequal decays with the given geometric mean."""
    cross, Sigma = np.array([0.9, -0.4, 0.3]), np.diag([2.0, 0.7, 0.3])
    gamma = dm.thresholds_general(cross, Sigma, layers).gamma_c * factor
    split = np.array([2.0, *[1.0] * (layers - 2), 0.5])
    best, seen = 0.0, np.zeros(3)
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        sizes = [3, *[4] * (layers - 1), 1]
        weights = [
            torch.randn(o, i, generator=generator, dtype=torch.float64).requires_grad_()
            for i, o in itertools.pairwise(sizes)
        ]

        def product(weights: list[torch.Tensor]) -> torch.Tensor:
            out = weights[0]
            for W in weights[1:]:
                out = W @ out
            return out[0]

        def loss(weights: list[torch.Tensor]) -> torch.Tensor:
            beta = product(weights)
            fit = beta @ torch.as_tensor(Sigma) @ beta - 2 * beta @ torch.as_tensor(cross)
            decays = zip(split, weights, strict=True)
            return fit + gamma * sum(s * W.square().sum() for s, W in decays)

        value = minimise(loss, weights)
        if value < best - 1e-9:
            best, seen = value, product(weights).detach().numpy()
    predicted = dm.minimum(cross, Sigma, gamma, layers)
    assert seen == pytest.approx(predicted, abs=1e-4)
    assert bool(np.any(predicted)) == (factor < 1)


@pytest.mark.parametrize("layers", [2, 3])
def test_neuron_noise_acts_through_its_factor(layers: int) -> None:
    """The exact expected loss under multiplicative noise, minimised over all weights."""
    width, variance, r, s2 = 3, 1.5, 1.0, 1.2
    noise = dm.noise_factor([width] * (layers - 1), [variance] * (layers - 1))
    gamma = 0.6 * dm.thresholds(r, s2, layers, noise=noise).gamma_c
    cross = torch.tensor([r, 0.0], dtype=torch.float64)

    def second(weights: list[torch.Tensor]) -> torch.Tensor:
        """E f²: propagate E hhᵀ; noise multiplies its diagonal by 1 + σ²."""
        M = s2 * torch.eye(2, dtype=torch.float64)
        for depth, W in enumerate(weights):
            M = W @ M @ W.T
            if depth < layers - 1:
                M = M + variance * torch.diag(torch.diag(M))
        return M[0, 0]

    def loss(weights: list[torch.Tensor]) -> torch.Tensor:
        beta = weights[0]
        for W in weights[1:]:
            beta = W @ beta
        penalty = sum(W.square().sum() for W in weights)
        return second(weights) - 2 * beta[0] @ cross + gamma * penalty

    results = []
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        sizes = [2, *[width] * (layers - 1), 1]
        weights = [
            torch.randn(o, i, generator=generator, dtype=torch.float64).requires_grad_()
            for i, o in itertools.pairwise(sizes)
        ]
        results.append((minimise(loss, weights), weights))
    value, weights = min(results, key=lambda pair: pair[0])
    beta = dm.minimum(cross.numpy(), s2 * np.eye(2), gamma, layers, noise=noise)
    decay = layers * gamma * np.linalg.norm(beta) ** (2 / layers)
    predicted = noise * s2 * beta @ beta - 2 * beta[0] * r + decay
    assert value == pytest.approx(predicted, abs=1e-6)
    last = weights[-1].detach().abs().numpy()
    assert np.ptp(last) < 1e-3 * np.max(last)
    # Negative control: without the factor the prediction is off by more than a tenth.
    plain = dm.minimum(cross.numpy(), s2 * np.eye(2), gamma, layers)
    assert np.linalg.norm(plain) > 1.1 * np.linalg.norm(beta)


@pytest.mark.parametrize("gamma", [0.1, 0.35, 0.8, 1.5])
@pytest.mark.parametrize("layers", [2, 3])
def test_rank_of_a_factorisation_is_predicted(layers: int, gamma: float) -> None:
    """‖M − W_K … W_1‖² + γΣ‖W‖²: singular values to 1e-5, rank exactly, from the best of seeds."""
    s = np.array([2.0, 1.0, 0.5, 0.2])
    generator = torch.Generator().manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(4, 4, generator=generator).double())[0] for _ in range(2))
    M = (U * torch.as_tensor(s)) @ V.T

    def product(weights: list[torch.Tensor]) -> torch.Tensor:
        out = weights[0]
        for W in weights[1:]:
            out = W @ out
        return out

    def loss(weights: list[torch.Tensor]) -> torch.Tensor:
        penalty = sum(W.square().sum() for W in weights)
        return (product(weights) - M).square().sum() + gamma * penalty

    # Start where the surviving modes are: K ≥ 3 has a local minimum for every subset of them.
    predicted = dm.modes(s, gamma, layers)
    parts = torch.as_tensor(np.where(predicted > 0, s, 1e-3) ** (1 / layers))
    weights = [torch.diag(parts) for _ in range(layers)]
    weights[0], weights[-1] = weights[0] @ V.T, U @ weights[-1]
    weights = [
        (W + 1e-3 * torch.randn(4, 4, generator=generator).double()).detach().requires_grad_()
        for W in weights
    ]
    minimise(loss, weights)
    found = torch.linalg.svdvals(product(weights).detach()).numpy()
    assert found == pytest.approx(predicted, abs=1e-5)
    assert np.sum(found > 1e-4) == np.sum(predicted > 0)
    if layers == 2:
        assert np.array_equal(predicted, np.clip(s - gamma, 0, None))


@settings(max_examples=40, deadline=None)
@given(st.floats(0.05, 4), st.floats(0.01, 2), st.integers(2, 6), st.floats(0.2, 3))
def test_a_mode_minimises_its_scalar_loss(r: float, gamma: float, layers: int, s2: float) -> None:
    t = float(dm.modes(np.array([r]), gamma, layers, second_moment=s2)[0])

    def loss(x: float) -> float:
        return s2 * x**2 - 2 * r * x + layers * gamma * x ** (2 / layers)

    x = np.linspace(0, r / s2, 4001)
    assert loss(t) <= np.min([loss(v) for v in x]) + 1e-9
    if t > 0:
        near = minimize_scalar(loss, bounds=(0.9 * t, 1.1 * t), method="bounded")
        assert near.x == pytest.approx(t, rel=1e-3)


def test_limits_and_errors() -> None:
    cross, Sigma = np.array([1.0, 2.0]), np.diag([1.0, 3.0])
    assert dm.minimum(cross, Sigma, 0.0, 3) == pytest.approx(np.linalg.solve(Sigma, cross))
    assert not np.any(dm.minimum(cross, Sigma, 100.0, 2))
    assert not np.any(dm.minimum(0 * cross, Sigma, 0.1, 3))
    assert dm.modes(np.array([2.0]), 0.0, 3).tolist() == [2.0]
    assert math.isclose(dm.thresholds_general(cross, Sigma, 2).gamma_c, math.sqrt(5))
    with pytest.raises(ValueError, match="ridge regression"):
        dm.thresholds(1.0, 1.0, 1)
    with pytest.raises(ValueError, match="at least 1"):
        dm.thresholds(1.0, 1.0, 2, noise=0.5)
    with pytest.raises(ValueError, match="singular"):
        dm.minimum(cross, np.diag([1.0, 0.0]), 0.1, 2)
