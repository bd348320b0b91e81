"""Charges under SGD: exact recursion, unique equilibrium, relaxation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lawful.theory import noise_equilibrium as ne
from lawful.theory.noise_equilibrium import Orbit

A_NET = np.repeat([1.0, -1.0], [16 * 5, 16 * 3])


def relu_net(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """4-16-3 ReLU with bias: incoming weights [W, b] scale up, outgoing ones down, per layer."""
    theta = rng.normal(size=A_NET.size) * 0.4
    return theta, rng.normal(size=(400, 4)), rng.normal(size=(400, 3))


def per_sample_gradients(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    W, V = theta[:80].reshape(16, 5), theta[80:].reshape(3, 16)
    inputs = np.c_[x, np.ones(len(x))]
    z = inputs @ W.T
    h = np.maximum(z, 0)
    r = 2 * (h @ V.T - y)
    delta = (r @ V) * (z > 0)
    grads = (np.einsum("ni,nj->nij", delta, inputs), np.einsum("ni,nj->nij", r, h))
    return np.concatenate([g.reshape(len(x), -1) for g in grads], axis=1)


def test_charge_recursion_is_exact_over_3000_minibatch_steps() -> None:
    rng = np.random.default_rng(0)
    theta, x, y = relu_net(rng)
    eta, decay, worst = 0.01, 0.01, 0.0
    charge = float(A_NET @ theta**2)
    for _ in range(3000):
        rows = rng.integers(0, 400, 8)
        g = per_sample_gradients(theta, x[rows], y[rows]).mean(0)
        charge = ne.charge_step(charge, float(A_NET @ g**2), eta=eta, weight_decay=decay)
        theta = theta - eta * (g + decay * theta)
        worst = max(worst, abs(charge - float(A_NET @ theta**2)))
    assert worst < 1e-10


@pytest.mark.parametrize("batch", [1, 8, 64])
def test_expected_change_matches_monte_carlo(batch: int) -> None:
    """At one point with a large mean gradient."""
    rng = np.random.default_rng(1)
    theta, x, y = relu_net(rng)
    eta, decay = 0.01, 0.05
    G = per_sample_gradients(theta, x, y)
    charge, mean = float(A_NET @ theta**2), G.mean(0)
    predicted = ne.expected_change(
        charge, float(A_NET @ G.var(0)), float(A_NET @ mean**2),
        eta=eta, batch=batch, weight_decay=decay,
    )  # fmt: skip
    draws = []
    for _ in range(4000):
        g = G[rng.integers(0, 400, batch)].mean(0)
        after = theta - eta * (g + decay * theta)
        draws.append(float(A_NET @ after**2) - charge)
    assert np.mean(draws) == pytest.approx(predicted, abs=4 * np.std(draws) / 4000**0.5)


def test_gradient_descent_drift_halves_with_eta_and_adam_drift_does_not() -> None:
    """At fixed time ηk the charge of GD drifts as O(η), that of Adam does not."""

    def drift(optimiser: type[torch.optim.Optimizer], eta: float) -> float:
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(64, 3, generator=generator, dtype=torch.float64)
        y = torch.tanh(x @ torch.randn(3, 1, generator=generator, dtype=torch.float64))
        W, V = (torch.randn(s, generator=generator, dtype=torch.float64) / 2 for s in (24, 8))
        p = [W.reshape(8, 3).requires_grad_(), V.reshape(1, 8).requires_grad_()]
        step, charges = optimiser(p, lr=eta), []
        for _ in range(round(0.3 / eta) + 1):
            step.zero_grad()
            (torch.relu(x @ p[0].T) @ p[1].T - y).square().mean().backward()
            charges.append(float((p[0].square().sum() - p[1].square().sum()).detach()))
            step.step()
        return abs(charges[-1] - charges[0])

    gd = [drift(torch.optim.SGD, eta) for eta in (0.01, 0.005, 0.0025)]
    adam = [drift(torch.optim.Adam, eta) for eta in (0.01, 0.005, 0.0025)]
    for coarse, fine in itertools.pairwise(gd):
        assert 1.9 < coarse / fine < 2.2
    for coarse, fine in itertools.pairwise(adam):
        assert fine == pytest.approx(coarse, rel=0.2)
    assert adam[2] > 1000 * gd[2]


positive = st.floats(1e-3, 1e3)


@given(positive, positive, positive, positive, st.sampled_from([0.0, 1e-3, 0.3]))
def test_numeric_root_is_the_closed_form(
    cp: float, cm: float, sp: float, sm: float, decay: float
) -> None:
    how = {"eta": 0.1, "batch": 4, "weight_decay": decay}
    point = ne.two_signs(cp, cm, sp, sm)
    found = ne.equilibrium(point, **how)
    assert found == pytest.approx(ne.equilibrium_two_signs(cp, cm, sp, sm, **how), abs=1e-10)
    residual, scale = (abs(ne.orbit_change(point, found + d, **how)) for d in (0.0, 0.2))
    assert residual <= 1e-10 * scale
    assert (
        ne.orbit_change(point, found - 0.2, **how) > 0 > ne.orbit_change(point, found + 0.2, **how)
    )


def test_noise_of_real_gradients_vanishes_along_a_at_the_equilibrium() -> None:
    """A ReLU net y = Σ_j u_j relu(w_jᵀx): gradients recomputed at e^{λ*A}θ, with decay too.

    |Tr ΣA| ≤ 1e-10 of its value .2 away on either side, of sign +, 0, −; with decay the residual
    of E[ΔC] is ≤ 1e-12 of what is balanced.
    """
    rng = np.random.default_rng(0)
    u, W, x = rng.normal(size=4), rng.normal(size=(4, 3)), rng.normal(size=(400, 3))
    noise = rng.normal(size=400)

    def point(shift: float) -> Orbit:
        """W grows, u shrinks; residuals are the labels' noise, for the function is the same."""
        V, v = W * math.exp(shift), u * math.exp(-shift)
        h = np.maximum(x @ V.T, 0)
        g_W = (noise[:, None] * v * (h > 0))[:, :, None] * x[:, None, :]
        spread = [np.var(g.reshape(400, -1), axis=0).sum() for g in (g_W, noise[:, None] * h)]
        return ne.two_signs(float((V**2).sum()), float((v**2).sum()), *map(float, spread))

    shift = ne.equilibrium(point(0.0))
    traces = [float(point(shift + d).a @ point(shift + d).noise) for d in (-0.2, 0.0, 0.2)]
    assert traces[0] > 0 > traces[2]
    assert abs(traces[1]) <= 1e-10 * min(abs(traces[0]), abs(traces[2]))
    how = {"eta": 0.05, "batch": 2, "weight_decay": 0.1}
    there = point(ne.equilibrium(point(0.0), **how))
    balanced = how["eta"] ** 2 / how["batch"] * float(there.noise.sum())
    assert abs(ne.orbit_change(there, **how)) <= 1e-12 * balanced


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-3, 3), positive, positive), min_size=2, max_size=8))
def test_change_decreases_along_the_orbit(rows: list[tuple[float, float, float]]) -> None:
    a, theta2, noise = np.array(rows).T
    point, how = Orbit(a, theta2, noise), {"eta": 0.1, "batch": 1, "weight_decay": 0.1}
    values = [ne.orbit_change(point, shift, **how) for shift in np.linspace(-2, 2, 41)]
    assert np.all(np.diff(values) <= 1e-9 * np.max(np.abs(values)))


def test_without_noise_on_both_signs_there_is_no_equilibrium() -> None:
    assert ne.equilibrium(ne.two_signs(1, 1, 1, 0)) == math.inf
    assert ne.equilibrium(ne.two_signs(1, 1, 0, 1)) == -math.inf
    assert ne.equilibrium_two_signs(1, 1, 1, 0) == math.inf
    assert ne.equilibrium_two_signs(1, 1, 0, 1) == -math.inf
    assert math.isnan(ne.equilibrium(ne.two_signs(1, 1, 0, 0)))
    assert math.isnan(ne.equilibrium_two_signs(1, 1, 0, 0))
    scale = Orbit(np.ones(1), np.ones(1), np.ones(1))
    assert ne.equilibrium(scale) == math.inf
    assert math.isfinite(ne.equilibrium(scale, eta=0.1, weight_decay=0.1))


def test_orbit_of_a_dense_generator_and_its_finite_transform() -> None:
    rng = np.random.default_rng(3)
    M = rng.normal(size=(5, 5))
    A, theta = M + M.T, rng.normal(size=5)
    root = rng.normal(size=(5, 5))
    Sigma = root @ root.T
    values, Q = np.linalg.eigh(A)
    grow = (Q * np.exp(0.1 * values)) @ Q.T
    shrink = np.linalg.inv(grow)
    there = ne.orbit(A, theta, Sigma).shifted(0.1)
    assert there.a @ there.theta2 == pytest.approx(theta @ grow @ A @ grow @ theta)
    assert there.a @ there.noise == pytest.approx(np.trace(shrink @ Sigma @ shrink @ A))
    with pytest.raises(ValueError, match="not symmetric"):
        ne.orbit(M, theta, Sigma)
    with pytest.raises(ValueError, match="must not be negative"):
        ne.two_signs(1, -1, 1, 1)


def _vector_neuron(runs: int, steps: int, eta: float, decay: float, start: float) -> np.ndarray:
    """SGD, batch 1, on Σ_j (u w_j x − y_j)² with unequal label noise; the mean of ln(u²/‖w‖²)/4.

    u scales up and w ∈ R² down. Returns one value every steps/20 steps.
    """
    rng = np.random.default_rng(5)
    target, noise = np.array([1.0, 0.5]), np.array([0.6, 0.3])
    u, w = np.full(runs, math.exp(start)), np.tile(target * math.exp(-start), (runs, 1))
    kept = []
    for step in range(steps + 1):
        if step % (steps // 20) == 0:
            kept.append(float(np.log(u**2 / (w**2).sum(1)).mean() / 4))
        x = rng.normal(size=runs)
        r = 2 * (
            u[:, None] * w * x[:, None] - target * x[:, None] - noise * rng.normal(size=w.shape)
        )
        gu, gw = (r * w).sum(1) * x, r * (u * x)[:, None]
        u, w = u - eta * (gu + decay * u), w - eta * (gw + decay * w)
    return np.array(kept)


@pytest.mark.parametrize("start", [0.5, -0.5])
def test_sgd_follows_the_mean_path_to_the_predicted_equilibrium(start: float) -> None:
    """From either side, at the predicted speed; the end does not know the start."""
    eta, steps = 0.02, 6000
    found = _vector_neuron(200, steps, eta, 0.0, start)
    # At the minimum ∂ℓ/∂(uw_j) = 2ε_j x: s_u = 4 Σ σ_j² w_j², s_w = 4 u² Σ σ_j².
    up, w = math.exp(2 * start), np.array([1.0, 0.5]) * math.exp(-start)
    s2 = np.array([0.36, 0.09])
    point = ne.two_signs(up, float(w @ w), 4 * float(s2 @ w**2), 4 * up * float(s2.sum()))
    grid = np.linspace(0, steps, 21)
    path = ne.orbit_path(point, grid, eta=eta, batch=1)
    shifts = found - found[0]
    assert shifts == pytest.approx(path, abs=0.05)
    rest = ne.equilibrium(point)
    assert abs(rest) > 0.4
    assert shifts[-1] == pytest.approx(rest, abs=0.04)
    long_after = ne.orbit_path(point, np.array([0.0, 10.0 * steps]), eta=eta, batch=1)
    assert long_after[-1] == pytest.approx(rest, abs=1e-6)


def test_relaxation_time_is_the_tangent_of_the_path() -> None:
    point = ne.two_signs(2.0, 1.0, 3.0, 5.0)
    for decay in (0.0, 1e-4):
        how = {"eta": 0.01, "batch": 2, "weight_decay": decay}
        rest = point.shifted(ne.equilibrium(point, **how))
        near = rest.shifted(1e-3)
        steps = ne.relaxation_steps(rest, **how)
        path = ne.orbit_path(near, np.array([0.0, steps]), **how)
        assert (1e-3 + path[-1]) / 1e-3 == pytest.approx(math.exp(-1), rel=5e-3)
    assert ne.relaxation_steps(ne.two_signs(1, 1, 0, 0), eta=0.1, batch=1) == math.inf


def test_scalar_balance_shrinks_by_a_known_factor_each_step() -> None:
    """u² − w² ← (1 − η²G²)(u² − w²), G = 2(uwx − y)x; mean rate 4η²σ_x²σ_ε²."""
    rng, eta, sigma = np.random.default_rng(0), 0.01, 0.5
    u, w, product, log_start = 1.6, 0.7, 1.0, math.log(1.6**2 - 0.7**2)
    steps = 40_000
    for _ in range(steps):
        x = rng.normal()
        G = 2 * (u * w * x - x - sigma * rng.normal()) * x
        product *= 1 - (eta * G) ** 2
        u, w = u - eta * G * w, w - eta * G * u
    assert u * u - w * w == pytest.approx((1.6**2 - 0.7**2) * product, rel=1e-10)
    rate = (log_start - math.log(u * u - w * w)) / steps
    point = ne.two_signs(u * u, w * w, 4 * sigma**2 * w * w, 4 * sigma**2 * u * u)
    predicted = 1 / ne.relaxation_steps(point, eta=eta, batch=1)
    assert predicted == pytest.approx(4 * eta**2 * sigma**2, rel=1e-6)
    assert rate / predicted == pytest.approx(1.1, abs=0.1)


def test_law_of_balance_is_the_charge_law_of_an_outer_product() -> None:
    rng, eta = np.random.default_rng(2), 0.01
    u, w, draws = rng.normal(size=3), rng.normal(size=4), rng.normal(size=(500, 3, 4))
    noise = draws - draws.mean(0)
    C_u = np.einsum("nij,nkj->ik", noise, noise) / 500
    C_w = np.einsum("nji,njk->ik", noise, noise) / 500
    gu, gw = noise @ w, np.einsum("nij,i->nj", noise, u)
    trace = float((gu**2).sum(1).mean() - (gw**2).sum(1).mean())
    rate = ne.balance_rate(u, w, C_u, C_w, eta=eta, batch=4)
    charge = float(u @ u - w @ w)
    assert rate == pytest.approx(ne.flow_rate(charge, trace, eta=eta, batch=4))
    exact = ne.expected_change(charge, trace, eta=eta, batch=4)
    assert exact == pytest.approx(eta * rate)


def test_sde_is_the_small_step_limit() -> None:
    for eta in (1e-2, 1e-4):
        how = {"eta": eta, "batch": 2, "weight_decay": 0.3}
        exact, flow = ne.expected_change(2.0, 5.0, **how) / eta, ne.flow_rate(2.0, 5.0, **how)
        assert exact - flow == pytest.approx(eta * 0.3**2 * 2.0, rel=1e-6)
