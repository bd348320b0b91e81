"""Greedy low rank: from a small start a linear network learns one mode, then the next.

Stages. The time at which mode k + 1 reaches 10 % of its strength over the time at which mode k
reached 90 % is above one: rank rises one by one, and early stopping is a rank penalty.

Regime: theory foretells a ratio above 1 (that is, the start is small enough: for strengths 4, 2.5,
1.5, .8 all stages separate at u_0 = 10⁻⁸, none at 10⁻²); modes then run together as they should.

Source: Saxe, McClelland, Ganguli, arXiv 1312.6120; quantile times derived from its sigmoid,
t_q = [ln(s/u_0 − 1) + logit q]/(2s) for two layers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import bibliography
from .bounds import bounded
from .evidence import number, show
from .law import Condition, Prediction
from .registry import declare

if TYPE_CHECKING:
    from ..record import Run


def _small(run: Run, layer: str) -> tuple[Condition, ...]:
    said = number(run, "stage_ratio_predicted", layer)
    text = f"theory foretells a ratio of {show(said)}: from this start the modes run together"
    met = None if math.isnan(said) else said > 1
    return (Condition("stage_ratio_predicted", met, said, text, "out of regime"),)


greedy_rank = declare(
    name="greedy_rank",
    family="empirical",
    statement="From a small start the modes of a linear map are learned one after the other.",
    equation="t_0.1(k + 1) > t_0.9(k)",
    source="Saxe, McClelland, Ganguli, arXiv 1312.6120",
    bibtex=bibliography.DEEP_LINEAR_MODES,
    needs=("stage_ratio", "stage_ratio_predicted"),
    regime=_small,
    predict=lambda run, layer: Prediction(
        number(run, "stage_ratio_predicted", layer), "the sigmoids' own times"
    ),
    everywhere=False,
)(bounded("greedy_rank", "stage_ratio", 1.0, math.inf, _small))
