"""Two batch sizes: exact on enumerations, unbiased on draws, ratios of sums."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from lawful.estimators.gradient_noise import mean, ratio, two_batch_sizes


def split(g, picks, small=1):
    """Signal and trace of every batch of `picks` (m, B), the smaller batches its chunks."""
    B = picks.shape[1]
    parts = g[picks].reshape(len(picks), B // small, small, -1).mean(2)
    return two_batch_sizes(
        np.square(parts).sum(2).mean(1),
        np.square(parts.mean(1)).sum(1),
        inverse_small=np.full(len(picks), 1 / small),
        inverse_large=np.full(len(picks), 1 / B),
    )


@pytest.fixture
def g():
    return np.random.default_rng(0).normal(size=(6, 4)) * [3, 2, 1, 1] + 0.5


@pytest.mark.parametrize("small", [1, 2])
def test_unbiased_over_all_batches(g, small):
    """All 6⁴ batches with replacement: the population's ‖∇L‖² and trΣ (divided by N), exactly."""
    picks = np.array(list(itertools.product(range(6), repeat=4)))
    signal, trace = split(g, picks, small)
    assert trace.mean() == pytest.approx(g.var(0).sum(), rel=1e-12)
    assert signal.mean() == pytest.approx(np.square(g.mean(0)).sum(), rel=1e-12)


def test_without_replacement_the_population_behind_the_set_is_meant(g):
    picks = np.array(list(itertools.permutations(range(6), 4)))
    signal, trace = split(g, picks)
    assert trace.mean() == pytest.approx(g.var(0, ddof=1).sum(), rel=1e-12)
    wanted = np.square(g.mean(0)).sum() - g.var(0, ddof=1).sum() / 6
    assert signal.mean() == pytest.approx(wanted, rel=1e-12)


def test_bias_is_below_two_standard_errors_as_often_as_it_should():
    """40 times 500 batches of 8 from 300 skewed samples: 95 % of the means within 2 errors."""
    rng = np.random.default_rng(1)
    g = rng.normal(size=(300, 20)) * rng.exponential(size=(300, 1)) + 0.2
    truth = np.square(g.mean(0)).sum(), g.var(0).sum()
    scores = []
    for _ in range(40):
        both = split(g, rng.integers(300, size=(500, 8)))
        for values, wanted in zip(both, truth, strict=True):
            value, stderr = mean(values)
            scores.append((value - wanted) / stderr)
    assert (np.abs(scores) < 2).mean() > 0.88
    assert abs(np.mean(scores)) < 0.4


def test_ratio_of_sums_and_not_the_mean_of_ratios():
    """Noise scale 20.8 from 300 small batches: sums within 3 errors, the mean of ratios far off."""
    rng = np.random.default_rng(2)
    g = rng.normal(size=(5000, 30))
    g += math.sqrt(1 / 20.8) - g.mean(0)
    signal, trace = split(g, rng.integers(5000, size=(300, 16)))
    truth = g.var(0).sum() / np.square(g.mean(0)).sum()
    value, stderr = ratio(trace, signal)
    assert truth == pytest.approx(20.8, rel=0.05)
    assert value == pytest.approx(truth, abs=3 * stderr)
    assert stderr < 0.15 * truth
    assert abs(np.mean(trace / signal) / truth - 1) > 0.3


def test_the_error_of_the_ratio_is_that_of_repeated_draws():
    rng = np.random.default_rng(3)
    a, b = 5 + rng.normal(size=(400, 64)), 2 + 0.3 * rng.normal(size=(400, 64))
    found = [ratio(x, y) for x, y in zip(a, b, strict=True)]
    spread = np.std([value for value, _ in found])
    assert np.mean([stderr for _, stderr in found]) == pytest.approx(spread, rel=0.1)


def test_what_cannot_be_told_is_not_a_number():
    assert np.isnan(two_batch_sizes(1.0, 1.0, inverse_small=1.0, inverse_large=1.0)[1])
    assert np.isnan(ratio([1.0, 2.0], [-1.0, 0.5])[0])
    assert np.isnan(ratio([1.0], [-1.0])[0])
    assert np.isnan(mean([])[0])
    assert np.isnan(mean([1.0])[1])
