"""Entropic force: what a finite step does that the loss does not know, in three readings.

Averaged over batches, SGD follows F = L + (w/2)‖θ‖² + S, S = (η/4) E‖g_B‖², to second order.

Drift. The mean of an ensemble of reshuffled runs departs from gradient flow on L by what F says.
Regime: reshuffled epochs. For independent batches E[θ′|θ] = θ − η∇L exactly, and the variance part
of the force is not in the mean of θ at this order. And small steps, for F is only the first order:
where the curvature is h, ln(1 − ηh) = −ηh − (ηh)²/2 − (ηh)³/3 has two terms in F, and the third is
(2/3)ηh of the second. So the curvature of the sharpest batch times η must be at most 3/2 of the
tolerance.

Charge. A charge C = θᵀQθ of a continuous symmetry, which gradient flow keeps, drifts per step by
η²E[g_BᵀQg_B] − 2ηw(1 − ηw/2)C: under any sampling.

Curvature. On a valley of minima with label noise S is descended, and the trace of the Hessian goes
where that leads: down if the noise is isotropic, up from a flat minimum if it is not. Regime:
label noise; without it S is zero on the whole valley and nothing moves.

Test. Measured over predicted number at the last step, 95 % interval of the ensemble: within ±10 %
for the mean drift and the charge, ±4 % for the curvature. Undetermined if the interval straddles
the tolerance, or if the prediction is not resolved from zero by the error.

Source: Ziyin, Xu, Chuang, arXiv 2505.12387; the range of the first reading and the discrete charge
law as derived in `methods/entropic.py` and `theory/noise_equilibrium.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..record.vocabulary import PREDICTED
from . import bibliography
from .agreement import at_most
from .bounds import place
from .evidence import Estimate, at_initialisation, last, number, show
from .law import Condition, Law, Prediction, barred, status_of
from .regime import plain_sgd
from .registry import register
from .verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..record import Run


TOLERANCE = 0.1
SMALL = 1.5 * TOLERANCE  # ηλ₁ of the sharpest batch, whose next order is then the tolerance


def _reshuffled(run: Run, layer: str) -> tuple[Condition, ...]:
    seen = number(run, "reshuffled", layer)
    text = "batches are drawn independently: the force is not in the mean of θ at this order"
    met = None if math.isnan(seen) else seen == 1
    large = f"ηλ₁ = {{value}} of the sharpest batch, at most {SMALL:g}: F is the first order in η"
    return (
        plain_sgd(run, layer),
        Condition("reshuffled", met, seen, text, "out of regime"),
        at_most(run, "rate_curvature_batch", layer, SMALL, large),
    )


def _noisy(run: Run, layer: str) -> tuple[Condition, ...]:
    noise = number(run, "label_noise", layer)
    text = "no label noise: the entropy is zero on all minima and selects none"
    met = None if math.isnan(noise) else noise > 0
    return plain_sgd(run, layer), Condition("label_noise", met, noise, text, "out of regime")


def against_theory(
    name: str,
    quantity: str,
    tolerance: float,
    regime: Callable[[Run, str], tuple[Condition, ...]],
    statement: str,
    equation: str,
) -> Law:
    """The law that a quantity ends within `tolerance` (relative) of its prediction."""

    def test(run: Run, layer: str) -> Verdict:
        measured = last(run, quantity, layer)
        said = number(run, quantity + PREDICTED, layer, measured.step)
        effect = measured.value / said if said else math.nan
        low, high = sorted(b / said if said else math.nan for b in measured.interval())
        bounds = low, high
        status, why = weigh(measured, said, bounds, tolerance, barred(regime(run, layer)))
        sentence = (
            f"{equation}: {why}; measured {show(measured.value)} ± {show(measured.stderr)},"
            f" predicted {show(said)}."
        )
        begin = [at_initialisation(run, q, layer).value for q in (quantity, quantity + PREDICTED)]
        initial = begin[0] / begin[1] if begin[1] else math.nan
        step = measured.step if measured.step >= 0 else int(run.manifest.get("steps") or 0)
        return Verdict(name, layer, step, status, effect, bounds, math.nan, initial, sentence)

    return Law(
        name=name,
        family="noise",
        statement=statement,
        equation=equation,
        source="Ziyin, Xu, Chuang, NeurIPS 2025, arXiv 2505.12387",
        bibtex=bibliography.ENTROPIC,
        needs=(quantity, quantity + PREDICTED),
        regime=regime,
        predict=lambda run, layer: Prediction(1.0, "measured over predicted is one"),
        test=test,
        everywhere=False,
    )


def weigh(
    measured: Estimate,
    said: float,
    bounds: tuple[float, float],
    tolerance: float,
    unmet: Condition | None,
) -> tuple[str, str]:
    """Status of a ratio to a prediction, and the clause that says why."""
    if unmet is not None:
        return status_of(unmet), unmet.sentence
    if measured.step <= 0 or not math.isfinite(measured.value):
        return "undetermined", "not measured after the first step"
    if not math.isfinite(said) or math.isnan(bounds[0]):
        return "undetermined", "without a prediction, or without an error"
    if abs(said) <= 2 * measured.stderr:
        return "undetermined", "the predicted number is not resolved from zero"
    status = place(bounds, 1 - tolerance, 1 + tolerance)
    clauses = {"holds": "as predicted, to ", "violated": "not as predicted, to "}
    return status, f"{clauses.get(status, 'the interval straddles ±')}{tolerance:.0%}"


for _law in (
    against_theory(
        "entropic_drift",
        "entropic_drift",
        TOLERANCE,
        _reshuffled,
        "The mean of reshuffled SGD leaves gradient flow as the entropic loss says.",
        "⟨θ⟩ follows −∇(L + (η/4)E‖g_B‖²)",
    ),
    against_theory(
        "charge_drift",
        "charge_drift",
        TOLERANCE,
        lambda run, layer: (plain_sgd(run, layer),),
        "What gradient flow conserves drifts under SGD as the entropic force says.",
        "E[ΔC] = η²E[g_BᵀQg_B] − 2ηw(1 − ηw/2)C",
    ),
    against_theory(
        "noise_curvature",
        "sharpness_trace",
        0.04,
        _noisy,
        "The shape of the label noise decides whether SGD flattens or sharpens a minimum.",
        "Tr H follows the descent of S = Σ_i Tr(A_iᵀΣ_εA_i) Tr(B_iΣ_xB_iᵀ)",
    ),
):
    register(_law)
