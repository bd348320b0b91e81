"""Evidence: numbers read from a run, each with its error and its step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..estimators.uncertainty import interval

if TYPE_CHECKING:
    from ..record import Run


@dataclass(frozen=True)
class Estimate:
    """A measured number.

    step:   optimiser steps completed; −1 when the number was never measured.
    value:  NaN when it was not measured or could not be estimated.
    stderr: its standard error, NaN when not known.
    n:      independent samples behind it; 0 when not known.
    """

    step: int = -1
    value: float = math.nan
    stderr: float = math.nan
    n: int = 0

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Student interval with n − 1 degrees of freedom (normal when n is not known)."""
        return interval(self.value, self.stderr, self.n - 1 if self.n > 1 else math.inf, level)


def last(run: Run, quantity: str, layer: str) -> Estimate:
    """The latest row, finite or not: a run that ended in NaN must not be judged before it."""
    table = run.series(quantity, layer)
    if not len(table):
        return Estimate()
    row = table.iloc[-1]
    return Estimate(int(table.index[-1]), float(row.value), float(row.stderr), int(row.n))


def at_initialisation(run: Run, quantity: str, layer: str) -> Estimate:
    """The row at step 0; empty when the first measurement came later."""
    row = run.at(quantity, layer, 0)
    if row is None:
        return Estimate()
    return Estimate(0, float(row.value), float(row.stderr), int(row.n))


def number(run: Run, quantity: str, layer: str, step: int | None = None) -> float:
    """The bare value at a step (None: the last finite one); NaN when there is none."""
    row = run.at(quantity, layer, step)
    return math.nan if row is None else float(row.value)


def show(x: float) -> str:
    """A number as sentences print it.

    >>> show(0.9634), show(-35.21), show(-7.94e-6), show(float("nan"))
    ('0.96', '−35.21', '−7.9e-6', 'unknown')
    """
    if not math.isfinite(x):
        return "unknown"
    text = f"{x:.2f}" if x == 0 or 0.01 <= abs(x) < 1000 else f"{x:.2g}"
    mantissa, e, exponent = text.partition("e")
    return mantissa.replace("-", "−") + (f"e{int(exponent)}" if e else "")
