"""Scaling rules: exact recursion against simulation, and where each rule stops being one."""

from __future__ import annotations

import numpy as np
import pytest

from lawful.theory import scaling_rules as sr

LAMBDA = 1 / np.arange(1, 11)


def error(k: int, eta: float, rescaled: float, batch: int = 4, steps: int = 600) -> float:
    """Mean |ln L_k − ln L_1| at matched samples."""
    how = {"eigenvalues": LAMBDA, "start": np.ones(10), "noise": 0.05}
    one = sr.regression_losses(**how, eta=eta, batch=batch, steps=steps)
    other = sr.regression_losses(**how, eta=rescaled, batch=k * batch, steps=steps // k)
    return float(np.abs(np.log(other) - np.log(one[::k][: len(other)])).mean())


def test_the_recursion_is_the_mean_of_simulated_runs():
    rng, eta, batch, runs = np.random.default_rng(0), 0.1, 3, 20_000
    v = np.ones((runs, 10))
    for _ in range(12):
        x = rng.normal(size=(runs, batch, 10)) * np.sqrt(LAMBDA)
        residual = np.einsum("nbd,nd->nb", x, v) - 0.3 * rng.normal(size=(runs, batch))
        v -= eta * np.einsum("nbd,nb->nd", x, residual) / batch
    losses = 0.5 * ((v**2 * LAMBDA).sum(1) + 0.09)
    exact = sr.regression_losses(LAMBDA, np.ones(10), eta=eta, batch=batch, steps=12, noise=0.09)
    assert losses.mean() == pytest.approx(exact[-1], abs=4 * losses.std() / runs**0.5)


@pytest.mark.parametrize(
    ("step", "low", "high"), [(0.1, 0, 0.02), (0.4, 0.01, 0.03), (1.66, 0.1, 1)]
)
def test_linear_rule_is_as_good_as_its_step_is_small(step, low, high):
    """kηλ₁ of 0.1, 0.4 and 1.66."""
    k = 8
    assert low <= error(k, step / k, sr.linear_rule(step / k, k)) <= high
    assert sr.valid_linear(step / k, k, sharpness=1.0).valid == (step <= 0.4)


def test_for_sgd_other_rules_are_worse():
    k, eta = 8, 0.05
    linear = error(k, eta, sr.linear_rule(eta, k))
    assert error(k, eta, eta * k**0.5) > 10 * linear
    assert error(k, eta, eta) > 10 * linear


def test_square_root_rule_keeps_drift_and_memory_per_sample():
    """Noise-dominated sign-like steps: variance per sample η²/B and memory in samples stay put."""
    adam = sr.Adam(1e-3, 0.98, 0.996, 1e-8)
    big = sr.square_root_rule(adam, 4)
    assert big.eta**2 / 4 == pytest.approx(adam.eta**2)
    assert (1 - big.beta1) / 4 == pytest.approx(1 - adam.beta1)
    assert (1 - big.beta2) / 4 == pytest.approx(1 - adam.beta2)
    with pytest.raises(ValueError, match="exceeds 1"):
        sr.square_root_rule(sr.Adam(1e-3, 0.9), 16)
    with pytest.raises(ValueError, match="positive"):
        sr.linear_rule(0.1, 0)


def test_square_root_rule_knows_its_limits():
    adam = sr.Adam(1e-3, 0.98)
    assert sr.valid_square_root(adam, 4, sharpness=50, signal_to_noise=0.01).valid
    assert not sr.valid_square_root(adam, 4, sharpness=500, signal_to_noise=0.01).valid
    assert not sr.valid_square_root(adam, 4, sharpness=50, signal_to_noise=1.0).valid
    assert not sr.valid_square_root(adam, 64, sharpness=1, signal_to_noise=0.0).valid
