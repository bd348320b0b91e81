"""Rank against alignment within a layer."""

import numpy as np
import pytest
from scipy import stats

from lawful.laws.compactness import kendall

STEPS = tuple(range(0, 2000, 50))
TIME = np.linspace(0, 1, len(STEPS))


def layer(world, alignment, participation):
    world.record("rga_b", list(alignment), steps=STEPS)
    return world.record("rank_H_b", list(participation), steps=STEPS)


@pytest.fixture
def noise():
    return 0.02 * np.random.default_rng(0).normal(size=len(STEPS))


def test_rank_falls_as_alignment_rises(empty, noise):
    found = layer(empty, 0.2 + 0.7 * TIME + noise, 30 - 20 * TIME + 20 * noise).verdict(
        "compactness"
    )
    assert found.status == "holds"
    assert found.effect < -0.8
    assert found.interval[1] < 0


def test_rank_that_rises_with_alignment_violates(empty, noise):
    found = layer(empty, 0.2 + 0.7 * TIME + noise, 10 + 20 * TIME + noise).verdict("compactness")
    assert found.status == "violated"


def test_rank_that_never_changes_while_the_layer_aligns_violates(empty, noise):
    found = layer(empty, 0.2 + 0.7 * TIME + noise, np.full(len(STEPS), 30.0)).verdict("compactness")
    assert found.status == "violated"
    assert "lost no rank" in found.sentence


def test_unrelated_noise_is_not_compaction(empty, noise):
    rank = 20 + np.random.default_rng(1).normal(size=len(STEPS))
    found = layer(empty, 0.2 + 0.7 * TIME + noise, rank).verdict("compactness")
    assert found.status in ("undetermined", "violated")


def test_without_alignment_there_is_nothing_to_compare(empty, noise):
    found = layer(empty, 0.3 + noise, 30 - 20 * TIME).verdict("compactness")
    assert found.status == "out of regime"


def test_few_points_are_undetermined(empty):
    empty.record("rga_b", [0.2, 0.95]).record("rank_H_b", [30, 8])
    found = empty.verdict("compactness")
    assert found.status == "undetermined"
    assert "2 measurements" in found.sentence


def test_kendall_agrees_with_scipy_ties_included():
    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 6, 30).astype(float), rng.integers(0, 6, 30).astype(float)
    tau, low, high = kendall(x, y)
    assert tau == pytest.approx(stats.kendalltau(x, y).statistic)
    assert low < tau < high
    assert np.isnan(kendall(x, np.ones(30))).all()
