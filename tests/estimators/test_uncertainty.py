"""Errors: the jackknives agree, clusters are counted as clusters, intervals cover."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from lawful.estimators.uncertainty import (
    as_normal,
    delete_block_jackknife,
    infinitesimal_jackknife,
    interval,
    series_mean,
    series_slope,
    share_error,
)


def rows(clusters: int, T: int, rho: float, seed: int) -> NDArray[np.float64]:
    """(clusters, T) unit-variance rows with intra-cluster correlation rho."""
    rng = np.random.default_rng(seed)
    common, own = rng.standard_normal((clusters, 1)), rng.standard_normal((clusters, T))
    return math.sqrt(rho) * common + math.sqrt(1 - rho) * own


def test_of_a_mean_it_is_the_textbook_error() -> None:
    x = rows(40, 1, 0.0, 0)
    spread = infinitesimal_jackknife(x - x.mean(), clusters=40)
    assert spread.stderr == pytest.approx(x.std(ddof=1) / math.sqrt(40))
    assert (spread.dof, spread.effective) == (39, 40.0)
    jackknife, bias = delete_block_jackknife(lambda b: float(np.mean(b)), list(x[:, 0]))
    assert spread.stderr == pytest.approx(jackknife)
    assert bias == pytest.approx(0, abs=1e-12)


def test_jackknife_knows_the_bias_of_the_plugin_variance() -> None:
    """Σ(x−x̄)²/n is low by exactly s²/n, and one block left out finds that exactly."""
    x = list(rows(25, 1, 0.0, 1)[:, 0])
    _, bias = delete_block_jackknife(lambda b: float(np.var(b)), x)
    assert bias == pytest.approx(-np.var(x, ddof=1) / 25)


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("kept", [(4000, 8), (4000, 4), (1500, 3)])
def test_clusters_are_counted_as_clusters(rho: float, kept: tuple[int, int]) -> None:
    """n_eff = CT/(1 + (T−1)ρ) and the error of a mean, from all rows or from some of them."""
    C, T = 4000, 8
    psi = rows(C, T, rho, 2)[: kept[0], : kept[1]]
    spread = infinitesimal_jackknife(psi, clusters=C, positions=T)
    design = 1 + (T - 1) * rho
    assert spread.effective == pytest.approx(C * T / design, rel=0.15)
    assert spread.stderr == pytest.approx(math.sqrt(design / (C * T)), rel=0.08)


def test_error_from_some_rows_is_unbiased() -> None:
    """The square of the error over 500 repetitions, two rows of five kept."""
    squares = [
        infinitesimal_jackknife(rows(30, 5, 0.4, 100 + r)[:, :2], clusters=30, positions=5).stderr
        ** 2
        for r in range(500)
    ]
    expected = (0.4 + 0.6 / 5) / 30
    error = float(np.std(squares)) / math.sqrt(500)
    assert abs(np.mean(squares) - expected) < 3 * error


def test_one_row_a_cluster_cannot_see_inside_and_counts_clusters() -> None:
    spread = infinitesimal_jackknife(rows(50, 1, 0.0, 3), clusters=50, positions=8)
    assert spread.effective == 50


def test_nothing_is_said_where_nothing_is_known() -> None:
    for psi in (np.zeros((1, 3)), np.full((4, 1), math.nan), np.array([[1.0], [math.inf]])):
        spread = infinitesimal_jackknife(psi, clusters=9)
        assert math.isnan(spread.stderr)
        assert math.isnan(spread.effective)
        assert spread.dof == 0
    exact = infinitesimal_jackknife(np.zeros((4, 2)), clusters=4, positions=2)
    assert (exact.stderr, exact.effective) == (0.0, 8.0)
    with pytest.raises(ValueError, match="at least two blocks, got 1"):
        delete_block_jackknife(len, [1.0])


def test_intervals_cover() -> None:
    """Student's interval of a mean of five: 95 % of 2,000 repetitions, where ±1.96 covers 88 %."""
    inside = 0
    for r in range(2000):
        x = rows(5, 1, 0.0, r)
        spread = infinitesimal_jackknife(x - x.mean(), clusters=5)
        low, high = interval(float(x.mean()), spread.stderr, spread.dof)
        inside += low <= 0 <= high
    assert inside / 2000 == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("r", [0.0, 0.6])
def test_series_know_that_neighbours_are_correlated(r: float) -> None:
    """Means and slopes of 40 AR(1) points cover; at r = 0.6 independent errors cover 70 %."""
    rng, inside, naive, trends = np.random.default_rng(0), 0, 0, 0
    for _ in range(1000):
        x = rng.standard_normal(40)
        for i in range(1, 40):
            x[i] = r * x[i - 1] + math.sqrt(1 - r**2) * x[i]
        mean, stderr = series_mean(x)
        inside += abs(mean) <= 2.02 * stderr
        naive += abs(mean) <= 2.02 * x.std(ddof=1) / math.sqrt(40)
        slope, stderr = series_slope(np.arange(40.0), x)
        trends += abs(slope) <= 2.02 * stderr
    assert min(inside, trends) / 1000 >= 0.87
    assert (naive / 1000 < 0.75) == (r > 0)


def test_series_too_short_for_an_error() -> None:
    assert math.isnan(series_mean(np.ones(1))[1])
    assert np.isnan(series_mean(np.zeros(0))).all()
    assert np.isnan(series_slope(np.arange(2.0), np.ones(2))).all()
    assert np.isnan(series_slope(np.ones(5), np.arange(5.0))).all()
    assert np.isnan(series_slope(np.zeros(0), np.zeros(0))).all()


def test_the_error_of_a_share_is_never_zero() -> None:
    """Share ± 1.96 errors covers at least 93 % where hits are rare, √(p(1 − p)/n) far less."""
    rng = np.random.default_rng(0)
    for p, n in ((0.01, 100), (0.03, 50), (0.3, 40)):
        shares = rng.binomial(n, p, size=4000) / n
        errors = np.array([share_error(s, n) for s in shares])
        assert (np.abs(shares - p) <= 1.96 * errors).mean() >= 0.93
    plain = np.sqrt(shares * (1 - shares) / n)
    assert errors.mean() == pytest.approx(plain.mean(), rel=0.1)
    assert share_error(0.0, 50) == pytest.approx(share_error(1.0, 50))
    assert math.isnan(share_error(0.0, 0))


@pytest.mark.parametrize("blocks", [2, 3, 10])
def test_an_error_of_few_blocks_covers_as_a_normal_one(blocks: int) -> None:
    """Means of few blocks: value ± 1.96 errors covers 95 %, the bare error far less."""
    inside = bare = 0
    for r in range(2000):
        x = list(rows(blocks, 1, 0.0, r)[:, 0])
        error, _ = delete_block_jackknife(lambda b: float(np.mean(b)), x)
        inside += abs(np.mean(x)) <= 1.96 * as_normal(error, blocks - 1)
        bare += abs(np.mean(x)) <= 1.96 * error
    assert inside / 2000 == pytest.approx(0.95, abs=0.015)
    assert bare < inside
    assert math.isnan(as_normal(1.0, 0))


def test_interval_by_hand() -> None:
    assert interval(1.0, 2.0, level=0.6827)[1] == pytest.approx(3.0, abs=1e-3)
    low, high = interval(0.0, 1.0, dof=1)
    assert (low, high) == (pytest.approx(-12.706, abs=1e-3), pytest.approx(12.706, abs=1e-3))
    assert interval(3.0, 0.0) == (3.0, 3.0)
    for bad in (interval(math.nan, 1.0), interval(0.0, math.nan), interval(0.0, 1.0, dof=0)):
        assert all(map(math.isnan, bad))
