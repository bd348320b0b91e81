"""Noise scale and critical batch: enumeration, one best step, and the hyperbola of whole runs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from lawful.theory import critical_batch as cb


@pytest.mark.parametrize("batch", [1, 2, 3, 5, 6])
def test_kappa_by_enumeration_of_all_batches(batch):
    """E_B‖g_B‖² = ‖∇L‖² + κ_B trΣ, with and without replacement, over every possible batch."""
    g = np.random.default_rng(0).normal(size=(6, 4)) + 0.3
    signal, trace = np.square(g.mean(0)).sum(), np.square(g - g.mean(0)).sum() / 6
    subsets = [g[list(s)].mean(0) for s in itertools.combinations(range(6), batch)]
    found = cb.gradient_power(signal, trace, cb.kappa(batch, 6, replacement=False))
    assert found == pytest.approx(np.square(subsets).sum(1).mean(), rel=1e-12)
    if batch <= 3:
        every = [g[list(s)].mean(0) for s in itertools.product(range(6), repeat=batch)]
        found = cb.gradient_power(signal, trace, cb.kappa(batch))
        assert found == pytest.approx(np.square(every).sum(1).mean(), rel=1e-12)


@pytest.mark.parametrize("bad", [{"batch": 0}, {"batch": 4, "replacement": False}])
def test_kappa_asks_for_what_it_needs(bad):
    with pytest.raises(ValueError, match="batch"):
        cb.kappa(**bad)


def test_the_best_step_is_best_and_gains_what_it_says():
    rng = np.random.default_rng(1)
    g, root = rng.normal(size=5), rng.normal(size=(5, 5))
    H, Sigma, batch = np.diag([3.0, 1.0, 0.5, 0.3, 0.1]), root @ root.T, 7
    step = cb.best_step(g, H, Sigma, batch)

    def gain(eta: float) -> float:
        return eta * g @ g - eta**2 / 2 * (g @ H @ g + np.trace(H @ Sigma) / batch)

    assert step.gain == pytest.approx(gain(step.eta))
    assert step.gain > max(gain(0.99 * step.eta), gain(1.01 * step.eta))
    endless = cb.best_step(g, H, Sigma, 1e12)
    assert step.gain / endless.gain == pytest.approx(cb.efficiency(batch, step.noise_scale))
    assert step.eta / endless.eta == pytest.approx(cb.efficiency(batch, step.noise_scale))
    with pytest.raises(ValueError, match="curvature"):
        cb.best_step(g, -H, Sigma, batch)


def greedy(batch: float, Sigma: np.ndarray, h: np.ndarray, target: float) -> tuple[float, float]:
    """Steps to the target with the best η at every step, and the mean of B_noise on the way.

    The second moments m of x are followed exactly: x' = (1 − ηh) x + η noise.
    """
    m, steps, scales = np.ones_like(h), 0, []
    loss = 0.5 * (h * m).sum()
    while loss > target:
        signal, curvature = (h**2 * m).sum(), (h**3 * m).sum()
        noise = (h * Sigma).sum()
        eta = signal / (curvature + noise / batch)
        m = (1 - eta * h) ** 2 * m + eta**2 * Sigma / batch
        scales.append(noise / curvature)
        before, loss, steps = loss, 0.5 * (h * m).sum(), steps + 1
    part = (np.log(before) - np.log(target)) / (np.log(before) - np.log(loss))
    return steps - 1 + part, float(np.mean(scales))


def test_runs_follow_the_hyperbola_where_noise_follows_curvature():
    """H_ii = 1/i: B_c is the average of B_noise along the noiseless path; Σ ∝ I breaks the form."""
    h = 1 / np.arange(1, 31)
    batches = [2.0**k for k in range(0, 13, 2)]
    residual, ratio = {}, {}
    for name, Sigma in (("H", h), ("I", np.ones_like(h))):
        steps = [greedy(b, Sigma, h, 0.05 * 0.5 * h.sum())[0] for b in batches]
        found = cb.fit(batches, steps)
        along = greedy(1e9, Sigma, h, 0.05 * 0.5 * h.sum())[1]
        residual[name], ratio[name] = found.residual, found.critical_batch / along
        assert found.resolved
    assert residual["H"] < 0.02
    assert ratio["H"] == pytest.approx(1, abs=0.25)
    assert residual["I"] > 4 * residual["H"]
    assert ratio["I"] > 2


def test_fit_recovers_a_noisy_hyperbola_and_says_how_well():
    rng, batches = np.random.default_rng(0), [2.0**k for k in range(10)]
    inside = 0
    for _ in range(200):
        clean = [cb.steps_needed(b, least_steps=30, critical_batch=20) for b in batches]
        found = cb.fit(batches, clean * np.exp(0.05 * rng.normal(size=10)))
        inside += abs(np.log(found.critical_batch / 20)) < 2.306 * found.log_error  # t, 8 dof
    assert 180 <= inside <= 199
    assert not cb.fit([100, 200, 400, 800], [50, 50, 50, 50]).resolved
    for batches, steps in (([1, 2], [1, 2]), ([1, 2, 3], [1, 2, np.nan]), ([1, 2, 3], [1, 0, 3])):
        with pytest.raises(ValueError, match="at least three"):
            cb.fit(batches, steps)
