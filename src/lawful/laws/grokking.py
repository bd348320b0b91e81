"""Grokking: the representation is formed before the test accuracy shows it.

Three steps are read off the record: when the weights' inverse participation ratio has doubled over
its Gaussian null, when the tangent kernel has turned half as far as it will, and when the test
accuracy crosses half of what it gains. The law: the first two come before the third, by a
measurement or more.

Regime: it grokked. Train accuracy reached 99 %, at the end test accuracy is 90 % or more, and was
still below half of that when training was done. A run that never generalises (no decay, too few
samples), or does so at once, is out of regime.

Source: Nanda et al., arXiv 2301.05217 (progress measures); Kumar et al., arXiv 2310.06110 (lazy to
rich: the kernel moves first). Doubling and halves are ours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import bibliography
from .evidence import last, number, show
from .law import Condition, Prediction, barred, status_of
from .regime import show_count
from .registry import declare
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

FITTED, GENERAL = 0.99, 0.9


def crossing(run: Run, quantity: str, layer: str, level: float) -> float:
    """The first measured step at which the number is at `level` or above; NaN if never."""
    values = run.series(quantity, layer)["value"].astype(float)
    above = values.index[values >= level]
    return float(above[0]) if len(above) else math.nan


def learned(run: Run, layer: str) -> float:
    """The step at which test accuracy has half of what it gains; NaN when it gains nothing."""
    values = run.series("test_accuracy", layer)["value"].astype(float)
    if not len(values) or not values.iloc[-1] > values.iloc[0]:
        return math.nan
    return crossing(run, "test_accuracy", layer, (values.iloc[0] + values.iloc[-1]) / 2)


def _grokked(run: Run, layer: str) -> tuple[Condition, ...]:
    end = number(run, "test_accuracy", layer)
    fitted = crossing(run, "train_accuracy", layer, FITTED)
    known = len(run.series("test_accuracy", layer)) > 0
    late = (
        known
        and math.isfinite(fitted)
        and number(run, "test_accuracy", layer, int(fitted)) < end / 2
    )
    general = f"test accuracy ends at {show(end)}: it never generalised"
    memory = "the training set was never fitted, or generalised as it was fitted: no delay"
    watched = [len(run.series(q, layer)) for q in ("inverse_participation", "ntk_turn")]
    unseen = "waves and kernel were not both measured here"
    seen = math.isfinite(number(run, "participation_null", layer)) and min(watched) > 0
    return (
        Condition("generalised", end >= GENERAL if known else None, end, general, "out of regime"),
        Condition("memorised first", late if known else None, fitted, memory, "out of regime"),
        Condition("watched", seen, min(watched), unseen),
    )


@declare(
    name="grokking",
    family="empirical",
    statement="When a network groks, its representation forms before its test accuracy rises.",
    equation="t(IPR doubled), t(kernel half turned) < t(test accuracy half)",
    source="Nanda et al., arXiv 2301.05217; Kumar et al., arXiv 2310.06110",
    bibtex=bibliography.GROKKING,
    needs=(
        "inverse_participation", "participation_null", "ntk_turn", "train_accuracy",
        "test_accuracy",
    ),
    regime=_grokked,
    predict=lambda run, layer: Prediction(1.0, "less than one: formed earlier than it shows"),
    everywhere=False,
)  # fmt: skip
def grokking(run: Run, layer: str) -> Verdict:
    """Effect: the later of the two steps of formation over that of the test accuracy."""
    null = number(run, "participation_null", layer)
    waves = crossing(run, "inverse_participation", layer, 2 * null)
    turned = crossing(run, "ntk_turn", layer, number(run, "ntk_turn", layer) / 2)
    shown = learned(run, layer)
    effect = max(waves, turned) / shown if shown else math.nan
    told = ", ".join(map(show_count, (waves, turned, shown)))
    unmet = barred(_grokked(run, layer))
    if unmet is not None:
        status, why = status_of(unmet), unmet.sentence
    elif math.isnan(waves) or math.isnan(turned):
        status, why = "violated", "it generalised without waves in its weights"
    elif effect < 1:
        status, why = "holds", "the representation came first"
    else:
        status, why = "violated", "the representation did not come first"
    sentence = f"Steps of waves, kernel, test accuracy: {told}; {why}."
    step = max(last(run, "test_accuracy", layer).step, 0)
    none = (math.nan, math.nan)
    return Verdict("grokking", layer, step, status, effect, none, 1.0, math.nan, sentence)
