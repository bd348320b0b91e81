"""Neural scaling: the loss of a larger run is on the line that smaller ones drew.

L(N, D) = E + A N^−α + B D^−β is fitted to the runs of a sweep up to some size; the runs beyond it
are the test. Holds if the 95 % interval of measured/predicted lies within 2 %, violated if it lies
outside, undetermined if it straddles; the error is that of both losses, the larger run's and the
fit's.

Regime: the runs fitted span a factor of 8 or more in what is extrapolated, and scatter about the
fit by 2 % at most (more: they were not tuned, or follow no such law). A fit without the floor E
extrapolates too low; a loss that falls faster than a power, too high: either violates.

Source: Hoffmann et al., arXiv 2203.15556; its fit, arXiv 2404.10102. The 2 % are ours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..theory.scaling_law import SCATTER
from . import bibliography
from .entropic import weigh
from .evidence import Estimate, at_initialisation, last, number, show
from .law import Condition, Prediction, barred
from .registry import declare
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

TOLERANCE, SPAN = 0.02, 8.0


def spanned(run: Run, layer: str) -> Condition:
    """The sweep covers a factor of 8: less is no evidence of a limit or a power."""
    span = number(run, "sweep_span", layer)
    text = f"the sizes span a factor of {show(span)}, {SPAN:g} is the least evidence of a trend"
    met = None if math.isnan(span) else span >= SPAN
    return Condition("sweep_span", met, span, text, "out of regime")


def _regime(run: Run, layer: str) -> tuple[Condition, ...]:
    scatter = number(run, "fit_residual", layer)
    text = f"the fitted runs scatter about the fit by {show(scatter)}, {SCATTER} is allowed"
    met = None if math.isnan(scatter) else scatter <= SCATTER
    return spanned(run, layer), Condition("fit_residual", met, scatter, text, "out of regime")


@declare(
    name="neural_scaling",
    family="empirical",
    statement="Loss falls with size as a power law onto a floor, and foretells larger runs.",
    equation="L(N, D) = E + A N^−α + B D^−β",
    source="Hoffmann et al., arXiv 2203.15556; Besiroglu et al., arXiv 2404.10102",
    bibtex=bibliography.CHINCHILLA,
    needs=("scaling_loss", "scaling_loss_predicted", "sweep_span", "fit_residual"),
    regime=_regime,
    predict=lambda run, layer: Prediction(
        number(run, "scaling_loss_predicted", layer), "the fit to smaller runs, extrapolated"
    ),
    everywhere=False,
)
def neural_scaling(run: Run, layer: str) -> Verdict:
    """Effect: measured over predicted loss; null: 1."""
    found, said = last(run, "scaling_loss", layer), last(run, "scaling_loss_predicted", layer)
    effect = found.value / said.value if said.value else math.nan
    both = Estimate(found.step, found.value, math.hypot(found.stderr, said.stderr), found.n)
    low, high = (b / said.value if said.value else math.nan for b in both.interval())
    unmet = barred(_regime(run, layer))
    status, why = weigh(both, said.value, (low, high), TOLERANCE, unmet)
    sentence = f"Loss {show(found.value)}, foreseen {show(said.value)} from smaller runs: {why}."
    start, step = at_initialisation(run, "scaling_loss", layer).value, max(found.step, 0)
    return Verdict("neural_scaling", layer, step, status, effect, (low, high), 1.0, start, sentence)
