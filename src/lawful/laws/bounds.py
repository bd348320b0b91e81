"""A claim that a number lies in an interval: the commonest shape of an empirical law.

holds         the 95 % interval of the number lies inside
violated      it lies outside
undetermined  it straddles an end, or its error is not known
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from .evidence import Estimate, at_initialisation, last, show
from .law import Condition, Prediction, barred, status_of
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

Regime = Callable[["Run", str], tuple[Condition, ...]]


def place(bounds: tuple[float, float], low: float, high: float) -> str:
    """Status of an interval against [low, high]; one that is not known is undetermined.

    >>> place((0.1, 0.2), 0.0, 1.0), place((1.1, 1.2), 0.0, 1.0), place((0.9, 1.1), 0.0, 1.0)
    ('holds', 'violated', 'undetermined')
    """
    least, most = bounds
    if low <= least and most <= high:
        return "holds"
    return "violated" if most < low or least > high else "undetermined"


def within(found: Estimate, low: float, high: float) -> tuple[str, str]:
    """Status and clause of an estimate against [low, high].

    >>> within(Estimate(9, 0.1, 0.01), -0.2, 0.2)
    ('holds', 'inside [−0.20, 0.20]')
    >>> within(Estimate(9, 0.2, 0.05), -0.2, 0.2)[0], within(Estimate(9, 0.9, 0.05), -0.2, 0.2)[0]
    ('undetermined', 'violated')
    """
    bounds, ends = found.interval(), f"[{_end(low)}, {_end(high)}]"
    if math.isnan(bounds[0]):
        return "undetermined", "its error is not known"
    status = place(bounds, low, high)
    clauses = {"holds": "inside", "violated": "outside"}
    return status, f"{clauses.get(status, 'its interval straddles an end of')} {ends}"


def bounded(
    name: str, quantity: str, low: float, high: float, regime: Regime
) -> Callable[[Run, str], Verdict]:
    """The test of law `name` that `quantity` ends inside [low, high], in its regime."""

    def test(run: Run, layer: str) -> Verdict:
        found, bounds = last(run, quantity, layer), last(run, quantity, layer).interval()
        unmet = barred(regime(run, layer))
        if found.step < 0:
            status, why = "undetermined", f"{quantity} was never recorded here"
        elif unmet is not None:
            status, why = status_of(unmet), unmet.sentence
        else:
            status, why = within(found, low, high)
        sentence = (
            f"{quantity} = {show(found.value)} [{show(bounds[0])}, {show(bounds[1])}]: {why}."
        )
        start, step = at_initialisation(run, quantity, layer).value, max(found.step, 0)
        return Verdict(name, layer, step, status, found.value, bounds, math.nan, start, sentence)

    return test


def predicts(value: float, sentence: str) -> Callable[[Run, str], Prediction]:
    """The same prediction for every run and layer."""
    return lambda run, layer: Prediction(value, sentence)


def _end(x: float) -> str:
    return show(x) if math.isfinite(x) else ("−∞" if x < 0 else "∞")
