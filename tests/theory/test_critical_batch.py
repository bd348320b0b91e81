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


H = 1 / np.arange(1, 501)
PUBLISHED = {0.3: (37.4, 34.5), 0.1: (236, 237)}
"""Fitted B_c and averaged B_noise of the quadratic, by share of the first loss."""


@pytest.mark.parametrize("share", PUBLISHED)
def test_runs_follow_the_hyperbola_where_noise_follows_curvature(share):
    """H_ii = 1/i, Σ = H: published numbers to 2 %, with a largest residual of 0.03."""
    batches = [2.0**k for k in range(13)]
    found = cb.fit(batches, [cb.greedy_descent(H, H, b, share=share)[0] for b in batches])
    along = cb.greedy_descent(H, H, np.inf, share=share)[1]
    assert (found.critical_batch, along) == pytest.approx(PUBLISHED[share], rel=0.02)
    assert found.worst == pytest.approx(0.03, abs=0.005)
    assert found.residual < found.worst


@pytest.mark.parametrize("share", PUBLISHED)
def test_noise_that_does_not_follow_curvature_breaks_the_form(share):
    """Σ = I: a largest residual of 0.3 to 0.45 was published; B_c is not the average of B_noise."""
    Sigma, batches = np.ones_like(H), [4.0**k for k in range(1, 8)]
    found = cb.fit(batches, [cb.greedy_descent(H, Sigma, b, share=share)[0] for b in batches])
    assert found.resolved
    assert 0.25 < found.worst < 0.5
    assert found.critical_batch > 2 * cb.greedy_descent(H, Sigma, np.inf, share=share)[1]


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
