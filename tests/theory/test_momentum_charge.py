"""Momentum: the recurrence against torch.optim.SGD, the oscillator against the recurrence."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lawful.theory import momentum_charge as mc
from lawful.theory.momentum_charge import Momentum


def sgd(p: list[torch.Tensor], s: Momentum) -> torch.optim.SGD:
    return torch.optim.SGD(
        p, s.eta, s.momentum, s.dampening, weight_decay=s.weight_decay, nesterov=s.nesterov
    )


@pytest.mark.parametrize(
    "s",
    [
        Momentum(0.1, 0.0, 0.0, 0.1),
        Momentum(0.1, 0.9, 0.0, 0.1),
        Momentum(0.1, 0.9, 0.5, 0.1),
        Momentum(0.1, 0.9, 0.0, 0.1, nesterov=True),
    ],
    ids=str,
)
def test_translation_charge_of_a_softmax_head_is_exact(s: Momentum) -> None:
    """Class columns of a softmax layer shift freely: 𝟏·θ over classes needs no gradient."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(5, 4, generator=generator, dtype=torch.float64).requires_grad_()
    start, optimiser, seen = W.detach().sum(0).clone(), sgd([W], s), []
    for _ in range(200):
        x = torch.randn(16, 4, generator=generator, dtype=torch.float64)
        y = torch.randint(0, 5, (16,), generator=generator)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(x @ W.T, y).backward()
        optimiser.step()
        seen.append(float(W.detach().sum(0)[0]))
    path = mc.translation_path(float(start[0]), 200, s)
    assert np.max(np.abs(path[1:] - seen)) < 1e-13
    # Negative control: the same run without momentum in the law misses it.
    if s.momentum:
        plain = mc.translation_path(float(start[0]), 200, Momentum(s.eta, weight_decay=0.1))
        assert np.max(np.abs(plain[1:] - seen)) > 0.05


@pytest.mark.parametrize("dampening", [0.0, 0.5])
def test_quadratic_charge_recurrence_is_exact(dampening: float) -> None:
    """Rescaling charge of a ReLU net under heavy-ball SGD with decay, 1 000 mini-batches."""
    s = Momentum(0.02, 0.9, dampening, 0.05)
    generator = torch.Generator().manual_seed(1)
    W = (torch.randn(6, 4, generator=generator, dtype=torch.float64) / 2).requires_grad_()
    V = (torch.randn(3, 6, generator=generator, dtype=torch.float64) / 2).requires_grad_()
    optimiser, m, worst = sgd([W, V], s), 0.0, 0.0

    def form(first: torch.Tensor, second: torch.Tensor) -> float:
        return float(first.detach().square().sum() - second.detach().square().sum())

    charge = form(W, V)
    for step in range(1000):
        x = torch.randn(8, 4, generator=generator, dtype=torch.float64)
        y = torch.randn(8, 3, generator=generator, dtype=torch.float64)
        optimiser.zero_grad()
        (torch.relu(x @ W.T) @ V.T - y).square().mean().backward()
        optimiser.step()
        kinetic = form(*(optimiser.state[p]["momentum_buffer"] for p in (W, V)))
        charge, m = mc.quadratic_step(charge, m, kinetic, s, first=step == 0)
        worst = max(worst, abs(charge - form(W, V)))
    assert worst < 1e-11


@pytest.mark.parametrize(
    ("s", "bound"),
    [
        (Momentum(0.1, 0.9, 0.0, 0.1), 5e-4),
        (Momentum(0.1, 0.9, 0.0, 0.005), 2e-5),
        (Momentum(0.1, 0.99, 0.0, 0.01), 2e-4),
    ],
    ids=str,
)
def test_oscillator_approximates_the_recurrence(s: Momentum, bound: float) -> None:
    exact, near = (f(1.0, 600, s) for f in (mc.translation_path, mc.oscillator_path))
    assert np.max(np.abs(exact - near)) < bound


def test_regimes() -> None:
    inertia = 0.1 * 1.9
    decay = (0.1 / inertia) ** 2 * inertia / 2
    for factor, regime in ((0.5, "overdamped"), (1.0, "critical"), (2.0, "underdamped")):
        s = Momentum(0.1, 0.9, 0.0, decay * factor)
        assert mc.oscillator(s).regime == regime
        path = mc.oscillator_path(1.0, 300, s)
        assert np.max(np.abs(path - mc.translation_path(1.0, 300, s))) < 0.01
        assert (np.min(path) < -1e-6) == (regime == "underdamped")
    assert mc.oscillator_path(2.0, 5000, Momentum(0.1, 0.9))[-1] == pytest.approx(2.0)


def test_quadratic_oscillator_with_its_kinetic_source() -> None:
    """C̈ + 2γ_o Ċ + ω²C = 2θ̇ᵀAθ̇ along a run: the residual vanishes with η."""

    def residual(eta: float) -> float:
        s, A = Momentum(eta, 1 - 2 * eta, 0.0, 0.3), np.array([1.0, -1.0])
        theta, v, rows = np.array([1.5, 0.4]), np.zeros(2), []
        for _ in range(round(4 / eta)):
            rows.append(theta)
            slope = 2 * (theta[0] * theta[1] - 1)
            v = s.momentum * v + slope * theta[::-1] + s.weight_decay * theta
            theta = theta - eta * v
        path = np.array(rows)
        C = path**2 @ A
        law = mc.oscillator(s, quadratic=True)
        second, first = np.diff(C, 2) / eta**2, (C[2:] - C[:-2]) / (2 * eta)
        source = 2 * ((path[2:] - path[:-2]) / (2 * eta)) ** 2 @ A
        terms = second, 2 * law.damping * first, law.frequency**2 * C[1:-1], -source
        late = slice(len(second) // 4, None)
        return float(np.max(np.abs(sum(terms)[late])) / np.max(np.abs(second[late])))

    coarse, fine = residual(0.01), residual(0.005)
    assert fine < 1e-3
    assert fine < 0.7 * coarse


@settings(max_examples=30, deadline=None)
@given(st.floats(0.001, 0.2), st.floats(0, 0.95), st.floats(0, 0.5))
def test_recurrence_is_linear_and_forgets(eta: float, momentum: float, decay: float) -> None:
    s = Momentum(eta, momentum, 0.0, decay)
    one, three = (mc.translation_path(start, 50, s) for start in (1.0, 3.0))
    assert three == pytest.approx(3 * one, rel=1e-12, abs=1e-12)
    if momentum == 0:
        assert one == pytest.approx((1 - eta * decay) ** np.arange(51))


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match=r"not in \[0, 1\)"):
        Momentum(0.1, 1.0)
    with pytest.raises(ValueError, match="dampening=0"):
        Momentum(0.1, 0.9, 0.1, nesterov=True)
    with pytest.raises(ValueError, match="heavy-ball"):
        mc.quadratic_step(1, 0, 0, Momentum(0.1, 0.9, nesterov=True))
