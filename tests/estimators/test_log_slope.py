"""Slopes of known power laws, and whether their intervals cover."""

from __future__ import annotations

import numpy as np
import pytest

from lawful.estimators.log_slope import log_slope
from lawful.estimators.uncertainty import interval


@pytest.mark.parametrize("seeds", [1, 4])
def test_intervals_cover(seeds: int) -> None:
    rng, x, hits = np.random.default_rng(0), 2.0 ** np.arange(6), 0
    for _ in range(400):
        found = log_slope(x, x**-0.5 * np.exp(0.1 * rng.normal(size=(seeds, 6))))
        freedom = found.n - 1
        low, high = interval(found.slope, found.stderr, freedom, 0.95)
        hits += low <= -0.5 <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_bad_input_is_told() -> None:
    with pytest.raises(ValueError, match="2 of 3 values"):
        log_slope(np.array([1.0, 2, 3]), np.array([1.0, -1.0, np.nan]))
    with pytest.raises(ValueError, match="three points"):
        log_slope(np.array([1.0, 2]), np.array([1.0, 2]))


def test_a_sweep_that_does_not_move_is_told() -> None:
    with pytest.raises(ValueError, match="1 of 3 values of x"):
        log_slope(np.array([0.0, 1, 2]), np.array([1.0, 2, 3]))
    with pytest.raises(ValueError, match="x=2 at all points"):
        log_slope(np.full(3, 2.0), np.array([1.0, 2, 3]))
