"""Deep linear modes: how each singular mode of the data is learned, foreseen from the start.

Dynamics. The path u_k(t) of a mode is that of `theory.deep_linear_modes`, up to what finite steps
do: max_t |u − u_theory|/s is at most 1.5 times the first-order error of the strongest mode, whose
order is ηs_maxL/2.

Half-time. From small random weights (σ ≤ 0.01) a mode has half of its strength when theory says,
within 2.5 %.

Stages. As many neighbouring modes are learned one after the other as predicted.

What was followed. The measured or the foreseen mode must come to half of its strength: before that
both lie near the start, wherever the law leads.

Regime: whitened inputs (condition number ≤ 1.1: at 2 the path is off by 12 %, at 10 by 30 %), full
batches, small or balanced weights. The record of a world tells condition number and scale.

Source: A. Saxe, J. McClelland, S. Ganguli, arXiv 1312.6120; bounds as measured with the derivation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import bibliography
from .agreement import BY_DIFFERENCE, BY_RATIO, agreement, at_most
from .evidence import last, number, show
from .law import Condition, Prediction, barred, status_of
from .registry import declare, register
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

WHITE, SMALL, STEPS, LEARNED = 1.1, 0.01, 1.5, 0.5
SOURCE = "Saxe, McClelland, Ganguli, arXiv 1312.6120"


def _white(run: Run, layer: str) -> tuple[Condition, ...]:
    text = "inputs are not white (condition number {value}): modes do not decouple"
    return (at_most(run, "input_condition", layer, WHITE, text),)


def _white_and_learned(run: Run, layer: str) -> tuple[Condition, ...]:
    reached = number(run, "mode_reached", layer)
    text = f"neither it nor its path has come further than {show(reached)} of its strength"
    return (
        *_white(run, layer),
        Condition("mode_reached", bool(reached >= LEARNED), reached, text),
    )


def _white_and_small(run: Run, layer: str) -> tuple[Condition, ...]:
    text = "weights start at σ = {value}: the mode does not grow from alignment alone"
    return (*_white(run, layer), at_most(run, "start_scale", layer, SMALL, text))


@declare(
    name="mode_dynamics",
    family="solvable",
    statement="Each singular mode of a deep linear network follows its own sigmoid.",
    equation="max|u − u_theory|/s ≤ 1.5·(what steps of this size do)",
    source=SOURCE,
    bibtex=bibliography.DEEP_LINEAR_MODES,
    needs=("mode_error", "mode_error_bound", "mode_reached", "input_condition"),
    regime=_white_and_learned,
    predict=lambda run, layer: Prediction(
        STEPS * number(run, "mode_error_bound", layer), "the path, to what finite steps do"
    ),
    everywhere=False,
)
def mode_dynamics(run: Run, layer: str) -> Verdict:
    """Effect: the largest departure from the path; null: 1, a mode that is not learned at all."""
    end, bound = last(run, "mode_error", layer), number(run, "mode_error_bound", layer)
    unmet, limit = barred(_white_and_learned(run, layer)), STEPS * bound
    if unmet is not None:
        status, why = status_of(unmet), unmet.sentence
    elif not math.isfinite(end.value) or math.isnan(bound):
        status, why = "undetermined", "the error or its bound was not recorded"
    elif end.value <= limit:
        status, why = "holds", f"within {show(limit)}, what steps of this size do"
    else:
        status, why = "violated", f"more than {show(limit)}, what steps of this size do"
    sentence = f"The mode departs from its path by {show(end.value)} of its strength: {why}."
    step, bounds = max(end.step, 0), (end.value, end.value)
    return Verdict("mode_dynamics", layer, step, status, end.value, bounds, 1.0, math.nan, sentence)


register(
    agreement(
        "mode_half_time", "half_time", BY_RATIO, 0.025, _white_and_small,
        statement="Small random weights fix when a mode has half of its strength.",
        equation="t_½ = ln(s/u_0 − 1)/2s, u_0 = ‖W_1v + W_2ᵀu‖²/4",
        source=SOURCE, bibtex=bibliography.DEEP_LINEAR_MODES,
    )
)  # fmt: skip
register(
    agreement(
        "sequential_stages", "separate_stages", BY_DIFFERENCE, 0.0, _white,
        statement="Modes are learned in separate stages when their times say so.",
        equation="#{k : t_10%(k+1) > t_90%(k)}",
        source=SOURCE, bibtex=bibliography.DEEP_LINEAR_MODES,
    )
)  # fmt: skip
