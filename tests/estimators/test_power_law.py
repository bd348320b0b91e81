"""Slopes over a window; what is no power law is told with a number."""

import numpy as np
import pytest

from lawful.estimators.power_law import PowerLawWarning, power_law

RANKS = np.arange(1, 1001)


def test_the_window_is_what_is_fitted():
    y = RANKS**-0.8
    y[:2], y[500:] = 5.0, 1e-9
    found = power_law(RANKS, y, (3, 400))
    assert found.exponent == pytest.approx(0.8)
    assert (found.points, round(found.decades, 2)) == (398, 2.12)
    assert abs(found.bend) < 1e-9


def test_points_weigh_equally_in_the_logarithm():
    """Noise on the many last ranks must not drown the few first: a bent curve shows which."""
    y = np.where(RANKS < 32, RANKS**-1.0, 32.0**-1 * (RANKS / 32) ** -2.0)
    with pytest.warns(PowerLawWarning):
        assert power_law(RANKS, y, (1, 1000)).exponent == pytest.approx(1.5, abs=0.05)


def test_an_exponential_is_told():
    with pytest.warns(PowerLawWarning, match="changes by -"):
        assert power_law(RANKS, np.exp(-RANKS / 100), (2, 800)).bend < -2


def test_a_half_with_one_point_has_no_bend():
    x = np.array([1.0, 60, 70, 80, 90, 100])
    with pytest.raises(ValueError, match="one x alone"):
        power_law(x, np.ones(6), (1, 100))
    with pytest.raises(ValueError, match="window above 0"):
        power_law(RANKS - 1.0, RANKS**-1.0, (0, 100))


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match="5 positive points"):
        power_law(RANKS, RANKS**-1.0, (1, 5))


def test_points_without_a_logarithm_are_counted():
    y = np.where(RANKS % 10 == 0, -1.0, RANKS**-1.0)
    with pytest.warns(PowerLawWarning, match="10 of 100 points"):
        assert power_law(RANKS, y, (1, 100)).points == 90
