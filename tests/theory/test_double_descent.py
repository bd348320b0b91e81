"""The exact mean risk against least squares, on both sides of p = n."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lawful.theory.double_descent import best_ratio, excess_risk


@pytest.mark.parametrize("p", [15, 60, 120])
def test_against_least_squares(p: int) -> None:
    rng, n, r2, s2, found = np.random.default_rng(0), 30, 1.0, 0.25, []
    for _ in range(600):
        x, beta = rng.normal(size=(n, p)), rng.normal(size=p)
        beta *= math.sqrt(r2) / np.linalg.norm(beta)
        fit = np.linalg.lstsq(x, x @ beta + math.sqrt(s2) * rng.normal(size=n), rcond=None)[0]
        found.append(np.sum((fit - beta) ** 2))
    error = np.std(found) / math.sqrt(len(found))
    assert np.mean(found) == pytest.approx(excess_risk(n, p, signal=r2, noise=s2), abs=3 * error)


def test_explodes_at_the_threshold_and_descends_again() -> None:
    risk = [excess_risk(100, p, signal=4.0, noise=1.0) for p in (50, 99, 100, 101, 200)]
    assert risk[1:4] == [math.inf] * 3
    g = best_ratio(4.0, 1.0)
    around = [
        excess_risk(10**6, int(f * g * 10**6), signal=4.0, noise=1.0) for f in (0.95, 1, 1.05)
    ]
    assert around[1] == min(around)
    assert math.isinf(best_ratio(0.5, 1.0))


@pytest.mark.parametrize(
    "bad", [{"n": 0, "p": 1}, {"n": 1, "p": 0}, {"n": 9, "p": 3, "noise": math.nan}]
)
def test_bad_input(bad: dict) -> None:
    with pytest.raises(ValueError, match="≥ 1"):
        excess_risk(**{"signal": 1.0, "noise": 1.0, **bad})
