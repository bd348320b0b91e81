"""Scale-invariant weights: exact norm law, growth, radius and angular step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from lawful.theory import scale_invariance as si


def noise_run(
    eta: float, decay: float, momentum: float, steps: int, d: int = 40, r0: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Tangential unit noise, ‖ĝ‖ = 1: (‖θ‖², angle of the step) for each step."""
    rng = np.random.default_rng(0)
    theta = rng.normal(size=d)
    theta *= r0 / np.linalg.norm(theta)
    v, rows = np.zeros(d), []
    for _ in range(steps):
        n2 = theta @ theta
        g = rng.normal(size=d)
        g -= (g @ theta) / n2 * theta
        g /= np.linalg.norm(g) * math.sqrt(n2)
        v = momentum * v + g + decay * theta
        after = theta - eta * v
        cosine = after @ theta / math.sqrt(n2 * (after @ after))
        rows.append((n2, math.acos(min(cosine, 1.0))))
        theta = after
    norm2, angle = np.array(rows).T
    return norm2, angle


def test_norm_law_is_exact_for_weights_under_a_normalisation() -> None:
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(6, generator=generator, dtype=torch.float64).requires_grad_()
    x = torch.randn(500, 6, generator=generator, dtype=torch.float64)
    y = torch.randn(500, generator=generator, dtype=torch.float64)
    optimiser, worst = torch.optim.SGD([W], lr=0.1, weight_decay=0.05), 0.0
    predicted = float(W.detach().square().sum())
    for _ in range(500):
        rows = torch.randint(0, 500, (8,), generator=generator)
        optimiser.zero_grad()
        (x[rows] @ W / W.norm() - y[rows]).square().mean().backward()
        norm2 = float(W.detach().square().sum())
        unit = float(W.grad.square().sum()) * norm2
        predicted = si.norm2_step(predicted, unit, eta=0.1, weight_decay=0.05)
        optimiser.step()
        worst = max(worst, abs(predicted - float(W.detach().square().sum())))
    assert worst < 1e-12


def test_fourth_power_grows_linearly_without_decay() -> None:
    eta, steps = 0.1, 5000
    norm2, _ = noise_run(eta, 0.0, 0.0, steps)
    slope = (norm2[-1] ** 2 - norm2[0] ** 2) / (steps - 1)
    assert slope / (2 * eta**2) == pytest.approx(1.0, abs=0.01)
    grid = np.arange(steps)
    assert norm2 == pytest.approx(si.norm2_path(norm2[0], 1.0, grid, eta=eta), rel=0.01)


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
@pytest.mark.parametrize(("eta", "decay"), [(0.1, 0.02), (0.2, 0.05)])
def test_radius_and_angular_step_under_decay(momentum: float, eta: float, decay: float) -> None:
    norm2, angle = noise_run(eta, decay, momentum, 12_000)
    late = slice(4_000, None)
    radius = si.equilibrium_radius(1.0, eta=eta, weight_decay=decay, momentum=momentum)
    turn = si.angular_step(eta=eta, weight_decay=decay, momentum=momentum)
    assert np.mean(norm2[late] ** 2) ** 0.25 == pytest.approx(radius, rel=0.01)
    assert np.mean(angle[late]) == pytest.approx(turn, rel=0.01)
    assert turn == pytest.approx(math.sqrt(2 * eta * decay / (1 + momentum)), rel=0.01)


@pytest.mark.parametrize("r0", [0.5, 3.0])
def test_relaxation_from_above_and_below(r0: float) -> None:
    eta, decay, steps = 0.05, 0.02, 1000
    norm2, _ = noise_run(eta, decay, 0.0, steps, r0=r0)
    path = si.norm2_path(r0**2, 1.0, np.arange(steps), eta=eta, weight_decay=decay)
    assert norm2 == pytest.approx(path, rel=0.01)
    target = si.equilibrium_radius(1.0, eta=eta, weight_decay=decay) ** 4
    at = round(si.relaxation_steps(eta=eta, weight_decay=decay))
    assert (path[at] ** 2 - target) / (r0**4 - target) == pytest.approx(math.exp(-1), rel=0.01)


def test_weights_that_are_not_scale_invariant_break_the_law() -> None:
    """Negative control: for (x·θ − y)² the norm law misses 2ηθ·g."""
    rng = np.random.default_rng(1)
    theta, x, y = rng.normal(size=4), rng.normal(size=4), 2.0
    g = 2 * (x @ theta - y) * x
    n2 = float(theta @ theta)
    after = theta - 0.1 * g
    law = si.norm2_step(n2, float(g @ g) * n2, eta=0.1)
    assert law - after @ after == pytest.approx(2 * 0.1 * theta @ g)
    assert abs(law - after @ after) > 0.1


def test_limits_and_errors() -> None:
    assert si.equilibrium_radius(1.0, eta=0.1, weight_decay=0.0) == math.inf
    assert si.relaxation_steps(eta=0.1, weight_decay=0.0) == math.inf
    with pytest.raises(ValueError, match="no equilibrium"):
        si.angular_step(eta=1.0, weight_decay=1.0)
    tiny = si.angular_step(eta=1e-12, weight_decay=1e-6)  # 1 − ηw is 1 to rounding
    assert tiny == pytest.approx(math.sqrt(2e-18))
    with pytest.raises(ValueError, match="momentum"):
        si.equilibrium_radius(1.0, eta=0.1, weight_decay=0.1, momentum=1.0)
