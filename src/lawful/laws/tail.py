"""The end of training: means and trends over the second half of a run, and how long that was.

Laws of stationary states speak of averages. A mean over the last measurements has the error of
their spread, a trend that of a regression slope, both widened by the lag-one correlation of what
is left; and a quantity that relaxes at a rate r has had ∫ r dk relaxation times in that half.
`weigh` says in the same words of all of them what such a mean proves.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..estimators.uncertainty import series_mean, series_slope
from .bounds import place
from .evidence import Estimate, show
from .law import Condition, status_of
from .regime import groups

if TYPE_CHECKING:
    from ..record import Run

Array = NDArray[np.float64]
SHARE = 0.5
LEAST = 6  # measurements in the second half
RELAXATIONS = 3.0

slope = series_slope  # of what `points` gives: the trend and its error


def points(run: Run, quantity: str, layer: str) -> tuple[Array, Array]:
    """Steps and values of the second half; empty when fewer than six were measured there."""
    curve = run.series(quantity, layer)["value"].astype(float)
    steps, values = curve.index.to_numpy(float), curve.to_numpy(float)
    late = steps >= (1 - SHARE) * steps[-1] if len(steps) else np.zeros(0, dtype=bool)
    if late.sum() < LEAST or not np.isfinite(values[late]).all():
        return np.zeros(0), np.zeros(0)
    return steps[late], values[late]


def mean(run: Run, quantity: str, layer: str) -> Estimate:
    """Mean over the second half, with its error; empty when there is none."""
    steps, x = points(run, quantity, layer)
    if not len(x):
        return Estimate()
    return Estimate(int(steps[-1]), *series_mean(x), len(x))


def learning_rate(run: Run) -> float:
    """Mean η over the second half, the optimiser's own when it was not recorded; NaN for 0."""
    measured = mean(run, "learning_rate", "").value
    if math.isfinite(measured):
        return measured if measured > 0 else math.nan
    return next((float(g.get("lr") or math.nan) for g in groups(run)), math.nan)


def relaxed(run: Run, layer: str, rate: float, what: str) -> Condition:
    """At least three relaxation times in the second half; rate: 1/relaxation time, per step."""
    steps = run.series(what, layer).index.to_numpy(float)
    elapsed = rate * SHARE * float(steps[-1]) if len(steps) else math.nan
    text = f"{show(elapsed)} relaxation times in the second half of the run, {RELAXATIONS:g} needed"
    met = None if math.isnan(elapsed) else elapsed >= RELAXATIONS
    return Condition("relaxation", met, elapsed, text)


def weigh(
    bounds: tuple[float, float],
    exact: float,
    tolerance: float,
    unmet: Condition | None,
    *,
    holds: str = "holds",
    fails: str = "fails",
) -> tuple[str, str]:
    """Status of an interval against exact ± tolerance, and how the sentence goes on.

    >>> weigh((0.95, 1.02), 1.0, 0.1, None), weigh((0.8, 1.02), 1.0, 0.1, None)
    (('holds', 'holds'), ('undetermined', 'is not resolved to ±0.1'))
    """
    if unmet is not None:
        return status_of(unmet), f"is not judged ({unmet.sentence})"
    if math.isnan(bounds[0]):
        return "undetermined", "has no error bar"
    status = place(bounds, exact - tolerance, exact + tolerance)
    unresolved = f"is not resolved to ±{tolerance}"
    return status, {"holds": holds, "violated": fails}.get(status, unresolved)


def standing(drift: float, error: float, allowed: float, what: str) -> Condition:
    """A drift that is resolved to be smaller than allowed, all in units of the law's sides."""
    known = math.isfinite(drift) and math.isfinite(error) and allowed > 0
    worst = abs(drift) + 2 * error
    text = (
        f"not stationary: {what} still drifts, by {show(drift / allowed if known else math.nan)} "
        f"± {show(error / allowed if known else math.nan)} of what the law allows"
    )
    return Condition("stationarity", worst <= allowed if known else None, drift, text)
