"""Collapse of a representation: how many modes survive, and how strong, before training.

Statements. A mode of the data lives iff what it offers exceeds what it costs.

    contrastive learning   linear encoder, InfoNCE + γ‖W‖²: direction i of the data covariance A₀
                           survives iff eig_i(A₀) > γ; the augmentation decides how large, never
                           how many (`dimensional_collapse`)
    variational encoding   linear β-VAE: latent i keeps its posterior apart from the prior iff
                           ζ_i² > βη_d², ζ_i the singular values of E[yxᵀ]Σ_x^{−½}
                           (`posterior_collapse`)

and the strength of each survivor follows in closed form (`mode_strength`).

Test. The number of modes that live at the end against the number predicted. The stderr of the
prediction is the number of modes that lie within sampling error of the threshold: only a larger
difference violates the law, and a smaller one that is not zero is undetermined. Strengths: within
5 %, of a dead mode within 1 % of the strongest; the 95 % interval decides.

Regime. Linear maps trained to rest (the count has not changed over the last quarter), Gaussian
data and many negatives for the contrastive case, decay (β > 0) at all: γ = 0 collapses nothing.
A threshold recorded for the case says that its theory speaks of it.

Source: Ziyin, Lubana, Ueda, Tanaka, arXiv 2210.00638; Wang, Ziyin, arXiv 2205.04009; constants
derived in `lawful.theory.linear_ssl` and `lawful.theory.linear_vae`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import bibliography
from .agreement import weigh
from .evidence import at_initialisation, last, number, show
from .formation import Finding
from .law import Condition, Law, Prediction, barred, status_of
from .regime import show_count
from .registry import declare, register
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

STRENGTH, DEAD = 0.05, 0.01

# law -> (threshold, statement, equation, source, bibtex)
_THEORIES = {
    "dimensional_collapse": (
        "ssl_threshold",
        "A contrastive encoder keeps the data's directions with more variance than decay costs.",
        "rank W = #{eig_i(A₀) > γ}",
        "Ziyin, Lubana, Ueda, Tanaka, arXiv 2210.00638",
        bibliography.SSL_LANDSCAPE,
    ),
    "posterior_collapse": (
        "vae_threshold",
        "A linear VAE keeps the modes whose signal exceeds β times the decoder's variance.",
        "active latents = #{ζ_i² > βη_d²}",
        "Wang, Ziyin, arXiv 2205.04009",
        bibliography.POSTERIOR_COLLAPSE,
    ),
}


def _regime(run: Run, layer: str, threshold: str) -> tuple[Condition, ...]:
    cost = number(run, threshold, layer)
    priced = None if math.isnan(cost) else cost > 0
    text = (
        f"{threshold} was not recorded: no theory speaks of this case"
        if priced is None
        else "no mode costs anything (threshold 0): nothing to collapse"
    )
    counts = run.series("active_modes", layer)["value"].astype(float)
    late = counts[counts.index >= 0.75 * counts.index[-1]] if len(counts) else counts
    spread = float(late.max() - late.min()) if len(late) else math.nan
    moving = f"the number of modes still changed by {show_count(spread)} over the last quarter"
    rest = None if math.isnan(spread) else spread == 0
    return (
        Condition("threshold", priced, cost, text, "out of regime"),
        Condition("rest", rest, spread, moving),
    )


def collapse_law(name: str) -> Law:
    """The count of modes under one of the two theories."""
    threshold, statement, equation, source, bibtex = _THEORIES[name]

    def test(run: Run, layer: str) -> Verdict:
        end, theory = (last(run, q, layer) for q in ("active_modes", "active_modes_predicted"))
        unmet = barred(_regime(run, layer, threshold))
        doubt = theory.stderr if theory.stderr > 0 else 0.0
        gap = abs(end.value - theory.value)
        if end.step < 0 or theory.step < 0:
            status, why = "undetermined", "measured or predicted modes were never recorded here"
        elif unmet is not None:
            status, why = status_of(unmet), unmet.sentence
        elif gap == 0:
            status, why = "holds", f"{show_count(end.value)} modes live, as predicted"
        elif gap > doubt:
            told = f"{show_count(end.value)} modes live, {show_count(theory.value)} predicted"
            status, why = "violated", told
        else:
            near = f"{show_count(doubt)} modes lie within sampling error of the threshold"
            status, why = "undetermined", near
        start = at_initialisation(run, "active_modes", layer).value
        bounds = (end.value, end.value)
        found = Finding(status, why, max(end.step, 0), end.value, bounds, theory.value, start)
        limit = show(number(run, threshold, layer))
        sentence = f"{why[0].upper()}{why[1:]} (threshold {limit})."
        return found.verdict(name, layer, sentence)

    return Law(
        name=name,
        family="representation_collapse",
        statement=statement,
        equation=equation,
        source=source,
        bibtex=bibtex,
        needs=(threshold, "active_modes", "active_modes_predicted"),
        regime=lambda run, layer: _regime(run, layer, threshold),
        predict=lambda run, layer: Prediction(
            number(run, "active_modes_predicted", layer), equation
        ),
        test=test,
        everywhere=False,
    )


for _name in _THEORIES:
    register(collapse_law(_name))


def _strongest(run: Run) -> float:
    """The largest predicted strength of the run: what "dead" is measured against."""
    known = (number(run, "mode_strength_predicted", layer) for layer in run.layers)
    return max((x for x in known if not math.isnan(x)), default=math.nan)


def _told(run: Run, layer: str) -> tuple[Condition, ...]:
    theory = number(run, "mode_strength_predicted", layer)
    met = None if math.isnan(theory) else True
    return (Condition("prediction", met, theory, "no strength was predicted for this mode"),)


@declare(
    name="mode_strength",
    family="representation_collapse",
    statement="Surviving modes have the strength that theory gives; collapsed ones have none.",
    equation="mode_strength = mode_strength_predicted",
    source="Ziyin et al., arXiv 2210.00638; Wang, Ziyin, arXiv 2205.04009",
    bibtex=bibliography.SSL_LANDSCAPE + bibliography.POSTERIOR_COLLAPSE,
    needs=("mode_strength", "mode_strength_predicted"),
    regime=_told,
    predict=lambda run, layer: Prediction(
        number(run, "mode_strength_predicted", layer), "the closed form"
    ),
    everywhere=False,
)
def mode_strength(run: Run, layer: str) -> Verdict:
    """Effect: the measured strength; null: the predicted one."""
    end, theory = last(run, "mode_strength", layer), number(run, "mode_strength_predicted", layer)
    unmet = barred(_told(run, layer))
    error = 1.96 * end.stderr if end.stderr > 0 else 0.0
    slack = STRENGTH * theory if theory > 0 else DEAD * _strongest(run)
    bounds = (end.value - error, end.value + error)
    if end.step < 0:
        status, why = "undetermined", "never recorded here"
    elif unmet is not None:
        status, why = status_of(unmet), unmet.sentence
    else:
        status, why = weigh(bounds, theory, slack)
    start = at_initialisation(run, "mode_strength", layer).value
    found = Finding(status, why, max(end.step, 0), end.value, bounds, theory, start)
    sentence = f"Strength {show(end.value)}, predicted {show(theory)}: {why}."
    return found.verdict("mode_strength", layer, sentence)
