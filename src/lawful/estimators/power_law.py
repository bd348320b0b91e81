"""The slope of a straight line in log–log, over a stated window, and whether it is straight.

    ln y = c − a ln x,         bend = slope over the upper half of the window − over the lower half

in ln x. Any falling curve has a slope; the bend says whether it is a power law: 0 for one, and of
the size of the slope itself for an exponential. Points are given equal weight in ln x, whatever
their spacing: of ranks 1 … 1000 all but ten lie in the last two decades.

Range. A window inside the data: the first ranks are few and the last are noise (a spectrum) or
words seen once (Zipf). State the window with the number. Each half of it, in ln x, needs two
different x, or there is no bend.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
STRAIGHT = 0.3


class PowerLawWarning(UserWarning):
    """A slope was fitted to something that is no power law over the window."""


@dataclass(frozen=True)
class PowerLaw:
    """y ≈ e^c x^−exponent over a window.

    exponent: a;  bend: see above, in units of a's slope (positive: falls ever more slowly).
    decades:  log₁₀ of the window's width.  points: how many lie in it.
    """

    exponent: float
    intercept: float
    bend: float
    decades: float
    points: int


def power_law(x: ArrayLike, y: ArrayLike, window: tuple[float, float]) -> PowerLaw:
    """Fit over window[0] ≤ x ≤ window[1].

    Raises ValueError when fewer than six points with y > 0 lie in the window; a `PowerLawWarning`
    tells a bend of more than 0.3 of the slope, and how many points had no logarithm.

    >>> ranks = np.arange(1, 101)
    >>> round(power_law(ranks, 3.0 * ranks**-1.5, (2, 50)).exponent, 6)
    1.5
    """
    if not window[0] > 0:
        raise ValueError(f"window={window}: a logarithm needs a window above 0")
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    inside = (x >= window[0]) & (x <= window[1]) & (y > 0) & np.isfinite(y)
    if inside.sum() < 6:
        raise ValueError(f"window={window}: {inside.sum()} positive points in it, 6 are needed")
    asked = int(((x >= window[0]) & (x <= window[1])).sum())
    if inside.sum() < asked:
        warnings.warn(
            f"{asked - inside.sum()} of {asked} points of the window are not > 0 and are left out: "
            "what remains is biased upwards",
            PowerLawWarning,
            stacklevel=2,
        )
    u, v = np.log(x[inside]), np.log(y[inside])
    order = np.argsort(u)
    u, v = u[order], v[order]
    weight = np.gradient(u)  # equal weight in ln x
    middle = 0.5 * (u[0] + u[-1])
    halves = u <= middle, u >= middle
    if min(np.ptp(u[h]) for h in halves) == 0:
        raise ValueError(f"window={window}: one x alone in half of it, so no bend; widen it")
    slope, intercept = _line(u, v, weight)
    lower, upper = (_line(u[h], v[h], weight[h])[0] for h in halves)
    found = PowerLaw(-slope, intercept, upper - lower, float(np.ptp(u) / math.log(10)), len(u))
    if abs(found.bend) > STRAIGHT * abs(slope):
        warnings.warn(
            f"not a power law over {window[0]:g} to {window[1]:g}: the slope changes by "
            f"{found.bend:.2g} between its halves and is {slope:.2g} overall",
            PowerLawWarning,
            stacklevel=2,
        )
    return found


def _line(u: Array, v: Array, weight: Array) -> tuple[float, float]:
    """Weighted least squares: slope and intercept."""
    mean_u, mean_v = np.average(u, weights=weight), np.average(v, weights=weight)
    spread = float((weight * (u - mean_u) ** 2).sum())
    slope = float((weight * (u - mean_u) * (v - mean_v)).sum()) / spread
    return slope, float(mean_v - slope * mean_u)
