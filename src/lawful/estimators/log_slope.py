"""Slope of ln y against ln x over a sweep repeated with several seeds, with its error.

    each seed: least squares over the sweep;     slope = mean over seeds, error = sd/√seeds

Seeds are independent and points of one sweep need not be. One seed: the error is that of the
residuals of its line. A slope is evidence for a power law only over a wide enough sweep: `span` is
max x/min x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LogSlope:
    """slope ± stderr; n − 1 degrees of freedom: n seeds, or one less than the points of one seed.

    span: max x/min x.
    """

    slope: float
    stderr: float
    n: int
    span: float


def log_slope(x: Array, y: Array) -> LogSlope:
    """x (p,) > 0; y (seeds, p) or (p,) > 0.

    >>> log_slope(np.array([1.0, 2, 4]), np.array([[8.0, 4, 2], [4.0, 2, 1]]))
    LogSlope(slope=-1.0, stderr=0.0, n=2, span=4.0)
    """
    x, y = np.asarray(x, float), np.atleast_2d(np.asarray(y, float))
    if y.shape[1] != len(x) or len(x) < 3:
        raise ValueError(f"x {x.shape}, y {y.shape}: give at least three points, one x for each")
    for name, values in (("x", x), ("y", y)):
        if bad := int(np.sum(~(values > 0))):
            raise ValueError(f"{bad} of {values.size} values of {name} are not > 0: no logarithm")
    if x.max() == x.min():
        raise ValueError(f"x={x[0]:g} at all points: sweep it to see a slope")
    u = np.log(x) - np.log(x).mean()
    v = np.log(y) - np.log(y).mean(1, keepdims=True)
    slopes = v @ u / (u @ u)
    span = float(x.max() / x.min())
    if len(y) > 1:
        error = float(slopes.std(ddof=1)) / math.sqrt(len(y))
        return LogSlope(round(float(slopes.mean()), 12), round(error, 12), len(y), span)
    rest = v[0] - slopes[0] * u
    error = math.sqrt(float(rest @ rest) / (len(x) - 2) / float(u @ u))
    return LogSlope(float(slopes[0]), error, len(x) - 1, span)
