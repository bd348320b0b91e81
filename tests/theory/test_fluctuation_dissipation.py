"""Fluctuation–dissipation: the fit against brute force, the identity at real critical points."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from lawful.theory import fluctuation_dissipation as fd


def psd(d: int, seed: int, rank: int | None = None) -> torch.Tensor:
    x = torch.randn(rank or d, d, generator=torch.Generator().manual_seed(seed)).double()
    return x.T @ x


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4), st.floats(-2, 2), st.floats(-2, 2))
def test_two_regressor_fit_equals_a_general_solver(
    seed: int, rank: int, z: float, g: float
) -> None:
    Z, G = psd(4, seed, rank), psd(4, seed + 1, rank)
    H = z * Z + g * G + 0.3 * psd(4, seed + 2)
    got = fd.fit(H, Z, G)
    design = np.stack([Z.flatten().numpy(), G.flatten().numpy()], 1)
    expected, residual = nnls(design, H.flatten().numpy())
    assert got.weight == pytest.approx(expected[0], abs=1e-8)
    assert got.noise == pytest.approx(expected[1], abs=1e-8)
    assert got.residual == pytest.approx(residual / float(H.norm()), abs=1e-6)


def test_fit_of_degenerate_matrices() -> None:
    Z, zero = psd(5, 0), torch.zeros(5, 5)
    assert fd.fit(2 * Z, Z, zero) == fd.FluctuationFit(pytest.approx(2.0), 0.0, 0.0)
    assert fd.fit(2 * Z, Z, 3 * Z).residual == pytest.approx(0.0, abs=1e-7)
    assert fd.fit(Z, zero, zero).residual == 1.0
    assert math.isnan(fd.fit(zero, Z, Z).residual)
    assert math.isnan(fd.fit(Z, Z * math.nan, Z).weight)


def test_identity_at_the_closed_form_critical_point_of_ridge_regression() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, 6, generator=generator, dtype=torch.float64)
    y = torch.randn(200, 4, generator=generator, dtype=torch.float64) + x[:, :4]
    gamma, n = 0.1, 200
    W = torch.linalg.solve(x.T @ x / n + gamma * torch.eye(6).double(), x.T @ y / n).T
    g = x @ W.T - y
    result = fd.cross_term(g.T @ x / n, W, gamma)
    assert max(result.residual_a, result.residual_b) < 1e-12
    assert min(result.alignment_a, result.alignment_b) == pytest.approx(1.0)


def test_identity_at_a_critical_point_of_a_deep_tanh_network() -> None:
    """tanh 8-12-12-3, γ = 3e-3 (reached by L-BFGS instead of 30k steps)."""
    generator, gamma = torch.Generator().manual_seed(2), 3e-3
    x = torch.randn(256, 8, generator=generator, dtype=torch.float64)
    y = torch.randn(256, 3, generator=generator, dtype=torch.float64) * 0.3 + torch.tanh(x[:, :3])
    sizes = (8, 12, 12, 3)
    weights = [
        (torch.randn(o, i, generator=generator, dtype=torch.float64) / i**0.5).requires_grad_()
        for i, o in itertools.pairwise(sizes)
    ]

    def forward() -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        inputs, outputs, h = [], [], x
        for k, W in enumerate(weights):
            inputs.append(h)
            outputs.append(h @ W.T)
            h = torch.tanh(outputs[-1]) if k < 2 else outputs[-1]
        return 0.5 * (h - y).square().sum(1).mean(), inputs, outputs

    def worst() -> float:
        loss, _, _ = forward()
        gradients = torch.autograd.grad(loss, weights)
        terms = [
            fd.cross_term(g, W.detach(), gamma) for g, W in zip(gradients, weights, strict=True)
        ]
        return max(max(abs(t.residual_a), abs(t.residual_b)) for t in terms)

    start = worst()
    solver = torch.optim.LBFGS(
        weights, max_iter=1500, history_size=50, line_search_fn="strong_wolfe",
        tolerance_grad=1e-10, tolerance_change=0,
    )  # fmt: skip

    def closure() -> torch.Tensor:
        solver.zero_grad()
        loss = forward()[0] + gamma / 2 * sum(W.square().sum() for W in weights)
        loss.backward()
        return loss

    solver.step(closure)
    assert start > 3
    assert worst() < 0.01
    loss, inputs, outputs = forward()
    rows = zip(weights, inputs, outputs, torch.autograd.grad(loss, outputs), strict=True)
    for W, h_a, h_b, g in ([t.detach() for t in row] for row in rows):
        g_b = g * len(x)
        for gradient, h in ((g_b, h_b), (g_b @ W, h_a)):
            trace = [float(t.square().sum(1).mean()) for t in (gradient, h)]
            assert 0 < fd.rho(gamma, float(W.square().sum()), *trace) <= 1 + 1e-6


def test_gradient_noise_is_removed_from_the_residual() -> None:
    """At an exact critical point seen through noisy batches the mean squared residual is 0."""
    generator, gamma, count = torch.Generator().manual_seed(3), 0.1, 10
    W = torch.randn(6, 8, generator=generator, dtype=torch.float64)
    squares, raw = [], []
    for _ in range(200):
        batches = -gamma * W + torch.randn(count, 6, 8, generator=generator, dtype=torch.float64)
        cross = batches @ W.T
        noise = fd.mean_noise(
            float(cross.square().sum()), float(cross.mean(0).square().sum()), count
        )
        clean = fd.cross_term(batches.mean(0), W, gamma, noise_b=noise).residual_b
        squares.append(math.copysign(clean**2, clean))
        raw.append(fd.cross_term(batches.mean(0), W, gamma).residual_b ** 2)
    error = np.std(squares) / 200**0.5
    assert abs(np.mean(squares)) < 4 * error
    assert np.mean(raw) > 20 * error


def test_no_decay_has_no_scale() -> None:
    W = torch.ones(2, 3)
    assert math.isnan(fd.cross_term(W, W, 0.0).residual_b)
    assert math.isnan(fd.norm_balance(1.0, 1.0, 1.0, eta=0.1, gamma=0.0))
    assert math.isnan(fd.rho(0.1, 1.0, 0.0, 1.0))
    assert math.isnan(fd.mean_noise(1.0, 1.0, 1))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.floats(1e-3, 1.0), st.floats(1e-4, 1.0))
def test_norm_balance_is_the_change_of_the_norm_in_one_step(
    seed: int, eta: float, gamma: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    W, gradient = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    after = W - eta * (gradient + gamma * W)
    products = ((gradient, W), (gradient, gradient), (W, W))
    dot, norm2, weight2 = (float((x * y).sum()) for x, y in products)
    balance = fd.norm_balance(dot, norm2, weight2, eta=eta, gamma=gamma)
    change = float(after.square().sum() - W.square().sum())
    assert -2 * eta * gamma * weight2 * balance == pytest.approx(change, rel=1e-6, abs=1e-9)


def test_proportional_gradients_saturate_rho() -> None:
    """g = −κh on every sample: E[g·h] = −κ tr H, so ρ = 1 and G = κ²H."""
    kappa, trace_H, gamma = 0.2, 5.0, 0.01
    weight_norm2 = kappa * trace_H / gamma
    assert fd.rho(gamma, weight_norm2, kappa**2 * trace_H, trace_H) == pytest.approx(1.0)
