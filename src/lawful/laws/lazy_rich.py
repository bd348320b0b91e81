"""Lazy or rich: how far kernel and weights move, and whether training was linear.

Slopes. Over a sweep of the output scale α, at equal training loss, in the lazy range:

    ‖Δw‖ ~ α⁻¹,    ‖ΔΘ‖/‖Θ_0‖ ~ α⁻¹,    1 − cos(Θ_t, Θ_0) ~ α⁻²        each to ±0.1

(the last one to ±0.2, being the square of the others). Regime: a smooth activation (where ReLU
gates flip the kernel changes as α^−0.55 to α^−0.85) and a sweep over a factor of eight or more.

Linear. On any observed run: where the kernel has hardly moved (‖ΔΘ‖/‖Θ_0‖ ≤ 0.1) the outputs moved
as the network linearised at the start, ‖Δf − J_0Δw‖/‖Δf‖ ≤ 0.1. Regime: a kernel that stayed. It
fails where gradients turn and their inner products do not, as when noise moves weights far.

Source: L. Chizat, E. Oyallon, F. Bach, arXiv 1812.07956; slopes of Θ derived in
`lawful.theory.lazy_rich`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..theory.lazy_rich import LAZY
from . import bibliography
from .agreement import BY_DIFFERENCE, agreement, at_least, at_most
from .evidence import at_initialisation, last, show
from .law import Condition, Prediction, barred, status_of
from .registry import declare, register
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

SPAN = 8.0
SOURCE = "Chizat, Oyallon, Bach, arXiv 1812.07956"


def _swept(run: Run, layer: str) -> tuple[Condition, ...]:
    return (
        at_least(run, "smooth", layer, 1.0, "the activation has kinks: gates flip, slopes differ"),
        at_least(run, "sweep_span", layer, SPAN, "α varies by a factor of {value} only, 8 asked"),
    )


for _measure, _equation, _tolerance in (
    ("weight_change", "‖Δw‖ ~ α⁻¹", 0.1),
    ("ntk_change", "‖ΔΘ‖/‖Θ_0‖ ~ α⁻¹", 0.1),
    ("ntk_turn", "1 − cos(Θ_t, Θ_0) ~ α⁻²", 0.2),
):
    register(
        agreement(
            f"lazy_{_measure}", f"alpha_slope_{_measure}", BY_DIFFERENCE, _tolerance, _swept,
            statement="Scaling the output up makes training lazy, at a known rate.",
            equation=_equation, source=SOURCE, bibtex=bibliography.LAZY,
        )
    )  # fmt: skip


def _stayed(run: Run, layer: str) -> tuple[Condition, ...]:
    text = "the kernel moved by {value} of itself: this run is not lazy"
    return (at_most(run, "ntk_change", layer, LAZY, text),)


@declare(
    name="lazy_linear",
    family="solvable",
    statement="A network whose tangent kernel stayed has trained as its linearisation.",
    equation="‖ΔΘ‖/‖Θ_0‖ ≤ 0.1  ⇒  ‖Δf − J_0Δw‖/‖Δf‖ ≤ 0.1",
    source=SOURCE,
    bibtex=bibliography.LAZY,
    needs=("linearisation_distance", "ntk_change", "feature_change"),
    regime=_stayed,
    predict=lambda run, layer: Prediction(0.0, "outputs move as those of the linearised network"),
    everywhere=False,
)
def lazy_linear(run: Run, layer: str) -> Verdict:
    """Effect: the distance from linearisation at the end; null: 1, no use of J_0 at all."""
    end = last(run, "linearisation_distance", layer)
    unmet = barred(_stayed(run, layer))
    if unmet is not None:
        status, why = status_of(unmet), unmet.sentence
    elif not math.isfinite(end.value):
        status, why = "undetermined", "the distance from linearisation was not measured"
    elif end.value <= LAZY:
        status, why = "holds", f"within {LAZY}"
    else:
        status, why = "violated", f"more than {LAZY}, though the kernel stayed"
    sentence = f"Outputs are {show(end.value)} of their way off the linearised network's: {why}."
    begin = at_initialisation(run, "linearisation_distance", layer).value
    step, bounds = max(end.step, 0), (end.value, end.value)
    return Verdict("lazy_linear", layer, step, status, end.value, bounds, 1.0, begin, sentence)
