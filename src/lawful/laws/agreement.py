"""Agreement: a measured number beside the one that theory gave, and how far apart they may be.

    by ratio        |measured/predicted − 1| ≤ tolerance
    by difference   |measured − predicted| ≤ tolerance         (slopes)

The 95 % interval decides: inside the tolerance the law holds, outside it is violated, across its
border nobody knows. A number without an error (a simulation without chance) has an interval of
length zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..record.vocabulary import PREDICTED
from .bounds import place
from .evidence import at_initialisation, last, number, show
from .law import Condition, Law, Prediction, barred, status_of
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

Regime = Callable[["Run", str], tuple[Condition, ...]]


@dataclass(frozen=True)
class Comparison:
    """of: (measured, predicted) -> effect; exact: the effect of perfect agreement."""

    of: Callable[[float, float], float]
    exact: float
    word: str


BY_RATIO = Comparison(lambda m, p: m / p if p else math.nan, 1.0, "over theory")
BY_DIFFERENCE = Comparison(lambda m, p: m - p, 0.0, "minus theory")


def agreement(
    name: str,
    quantity: str,
    comparison: Comparison,
    tolerance: float,
    regime: Regime,
    *,
    statement: str,
    equation: str,
    source: str,
    bibtex: str,
) -> Law:
    """The law that a quantity ends within `tolerance` of its prediction; family `solvable`."""

    def test(run: Run, layer: str) -> Verdict:
        measured = last(run, quantity, layer)
        said = number(run, quantity + PREDICTED, layer, measured.step)
        effect = comparison.of(measured.value, said)
        ends = [comparison.of(b, said) for b in measured.interval()]
        bounds = (min(ends), max(ends))
        unmet = barred(regime(run, layer))
        if unmet is not None:
            status, why = status_of(unmet), unmet.sentence
        else:
            status, why = weigh(bounds, comparison.exact, tolerance)
        sentence = (
            f"{equation}: measured {show(measured.value)} ± {show(measured.stderr)}, theory "
            f"{show(said)}, measured {comparison.word} {show(effect)}: {why}."
        )
        begin = comparison.of(
            at_initialisation(run, quantity, layer).value,
            at_initialisation(run, quantity + PREDICTED, layer).value,
        )
        step = measured.step if measured.step >= 0 else int(run.manifest.get("steps") or 0)
        return Verdict(name, layer, step, status, effect, bounds, math.nan, begin, sentence)

    return Law(
        name=name,
        family="solvable",
        statement=statement,
        equation=equation,
        source=source,
        bibtex=bibtex,
        needs=(quantity, quantity + PREDICTED),
        regime=regime,
        predict=lambda run, layer: Prediction(
            number(run, quantity + PREDICTED, layer), f"{equation}, within {tolerance:g}"
        ),
        test=test,
        everywhere=False,
    )


def weigh(bounds: tuple[float, float], exact: float, tolerance: float) -> tuple[str, str]:
    """Status of an interval against a tolerance, and the clause that says why.

    >>> weigh((0.98, 1.01), 1.0, 0.03), weigh((0.9, 1.1), 1.0, 0.03)[0]
    (('holds', 'as predicted, within 0.03'), 'undetermined')
    """
    if not all(map(math.isfinite, bounds)):
        return "undetermined", "a prediction, a measurement or its error is missing"
    status = place(bounds, exact - tolerance, exact + tolerance)
    clauses = {"holds": "as predicted, within ", "violated": "not as predicted, within "}
    return status, f"{clauses.get(status, 'its interval straddles ±')}{tolerance:.2g}"


def at_most(run: Run, quantity: str, layer: str, limit: float, sentence: str) -> Condition:
    """quantity ≤ limit, else out of regime; the sentence may use {value}. Unknown: undetermined."""
    value = number(run, quantity, layer)
    met = None if math.isnan(value) else value <= limit
    text = f"{quantity} was not recorded" if met is None else sentence.format(value=show(value))
    return Condition(quantity, met, value, text, "out of regime")


def at_least(run: Run, quantity: str, layer: str, limit: float, sentence: str) -> Condition:
    """quantity ≥ limit, else out of regime."""
    value = number(run, quantity, layer)
    met = None if math.isnan(value) else value >= limit
    text = f"{quantity} was not recorded" if met is None else sentence.format(value=show(value))
    return Condition(quantity, met, value, text, "out of regime")
