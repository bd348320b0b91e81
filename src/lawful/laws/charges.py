"""Charges: what gradient flow conserves, and the exact account of what SGD changes.

A symmetry ℓ(e^{λA}θ) = ℓ(θ) of every sample loss, A symmetric, has the charge C = θᵀAθ.

`charge_conservation`. Gradient flow keeps C: Ċ = −2θᵀA∇L = 0. A step of size η adds η²gᵀAg, so
over a fixed time ηk the charge moves by O(η). Test: ‖C − C₀‖ ends below 5 % of the ‖θ‖² whose
parts it compares, and below half of what that ‖θ‖² itself has moved: a run in which nothing moves
conserves everything.
Regime. SGD, with or without momentum, without weight decay (which multiplies C by (1−ηλ)² a
step). Adam does not conserve charges at any η: |ΔC| stays the same as η → 0.

`charge_budget`. For SGD the change is known exactly, at any η, batch and λ:

    C' = (1−ηλ)² C + η² gᵀAg        (momentum: a linear recurrence, `theory.momentum_charge`)

Test: what the account leaves, summed over all measured steps, is below 1e-5 of ‖θ‖²: round-off of
float32 weights. Regime. SGD, heavy-ball momentum, a symmetry that holds to 1e-8 (with the ε of a
norm the account is off by that much), gradients not clipped by value.

Sources: Kunin et al., arXiv 2012.04728; Ziyin et al., arXiv 2402.07193; Marcotte et al., arXiv
2307.00144; the discrete account and the O(η) drift derived in `theory.noise_equilibrium`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import bibliography
from .evidence import last, number, show
from .formation import Finding
from .law import Condition, Prediction, barred, status_of
from .regime import decay, groups
from .registry import declare
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

KEPT, BESIDE = 0.05, 0.5
ROUND_OFF = 1e-5
EXACT = 1e-8
SOURCE = "Kunin et al., arXiv 2012.04728; Ziyin et al., arXiv 2402.07193"


def sgd(run: Run, layer: str) -> Condition:
    """SGD or heavy-ball momentum; not Adam, not Nesterov."""
    name = (run.manifest.get("optimizer") or {}).get("class")
    text = f"charges are kept by SGD and its flow; {name} changes them at any learning rate"
    if name == "SGD" and any(g.get("nesterov") for g in groups(run)):
        text = "derived for heavy-ball momentum, and this is Nesterov's"
        return Condition("optimizer", False, math.nan, text, "out of regime")
    if name is None:
        return Condition("optimizer", None, math.nan, "the optimiser is not known")
    return Condition("optimizer", name == "SGD", math.nan, text, "out of regime")


def exact(run: Run, layer: str) -> Condition:
    """The symmetry itself holds to round-off."""
    violation = number(run, "symmetry_violation", layer)
    text = f"the symmetry itself holds to {show(violation)} only"
    met = None if math.isnan(violation) else violation <= EXACT
    return Condition("symmetry", met, violation, text, "out of regime")


def undecayed(run: Run, layer: str) -> Condition:
    """λ = 0."""
    rate = decay(run)
    text = f"weight decay λ = {show(rate)} multiplies the charge by (1−ηλ)² in each step"
    met = None if math.isnan(rate) else rate == 0
    return Condition("weight_decay", met, rate, text, "out of regime")


def moved(run: Run, layer: str) -> float:
    """How far ‖θ‖² of the parts has moved, relative to what it is; NaN without two measurements."""
    sizes = run.series("charge_size", layer)["value"].astype(float).dropna()
    if len(sizes) < 2 or not (sizes.iloc[0] > 0 and sizes.iloc[-1] < math.inf):
        return math.nan
    return abs(float(sizes.iloc[-1] / sizes.iloc[0]) - 1)


def _flow(run: Run, layer: str) -> tuple[Condition, ...]:
    distance = moved(run, layer)
    met = None if math.isnan(distance) else distance > 1e-3
    text = f"‖θ‖² has moved by {show(distance)} of itself: whatever stands still is conserved"
    return sgd(run, layer), undecayed(run, layer), Condition("moved", met, distance, text)


@declare(
    name="charge_conservation",
    family="symmetry",
    statement="Gradient flow conserves the charge of every symmetric generator; SGD nearly.",
    equation="C = θᵀAθ,  Ċ = 0 as η → 0",
    source=SOURCE,
    bibtex=bibliography.NEURAL_MECHANICS + bibliography.NOISE_EQUILIBRIUM + bibliography.MARCOTTE,
    needs=("charge_change", "charge_size", "charge"),
    regime=_flow,
    predict=lambda run, layer: Prediction(0.0, "the charge stays where it began"),
    everywhere=False,
)
def charge_conservation(run: Run, layer: str) -> Verdict:
    """Effect: ‖C − C₀‖/‖θ‖²;  null: half the relative move of ‖θ‖² itself."""
    change, null = last(run, "charge_change", layer), BESIDE * moved(run, layer)
    unmet = barred(_flow(run, layer))
    if unmet is not None:
        status, why = status_of(unmet), unmet.sentence
    elif not math.isfinite(change.value + null):
        status, why = "undetermined", "the run has diverged"
    elif change.value <= min(KEPT, null):
        status, why = "holds", "kept"
    elif change.value <= KEPT:
        status, why = "undetermined", f"‖θ‖² moved only twice {show(null)}, so this says little"
    else:
        status, why = "violated", "the noise of SGD has moved it: η is not small for this run"
    found = Finding(status, why, max(change.step, 0), change.value, _bare(change.value), null, 0.0)
    sentence = f"Charge changed by {show(change.value)} of ‖θ‖² (null {show(null)}): {why}."
    return found.verdict("charge_conservation", layer, sentence)


def _budget(run: Run, layer: str) -> tuple[Condition, ...]:
    return sgd(run, layer), exact(run, layer)


@declare(
    name="charge_budget",
    family="symmetry",
    statement="Weight decay and gradient noise change a charge by exactly what the account says.",
    equation="C' = (1−ηλ)² C + η² gᵀAg",
    source=SOURCE + "; discrete form derived",
    bibtex=bibliography.NEURAL_MECHANICS + bibliography.NOISE_EQUILIBRIUM,
    needs=("charge_closure", "charge_residual", "symmetry_violation", "charge_change"),
    regime=_budget,
    predict=lambda run, layer: Prediction(0.0, "nothing is left over but round-off"),
    everywhere=False,
)
def charge_budget(run: Run, layer: str) -> Verdict:
    """Effect: |Σ (C' − account)|/‖θ‖²;  null: the change that had to be accounted for."""
    left, change = last(run, "charge_closure", layer), number(run, "charge_change", layer)
    unmet = barred(_budget(run, layer))
    if unmet is not None:
        status, why = status_of(unmet), unmet.sentence
    elif not math.isfinite(left.value):
        status = "undetermined"
        why = "no two consecutive steps were measured under momentum, or the run has diverged"
    elif left.value <= ROUND_OFF:
        status, why = "holds", "round-off"
    else:
        status, why = "violated", "more than round-off: the gradient is not the loss's own"
    found = Finding(status, why, max(left.step, 0), left.value, _bare(left.value), change, math.nan)
    sentence = (
        f"The account leaves {_tiny(left.value)} of ‖θ‖² over all measured steps: {why}."
        f" The charge has changed by {_tiny(change)}."
    )
    return found.verdict("charge_budget", layer, sentence)


def _bare(x: float) -> tuple[float, float]:
    """An exact identity has no sampling error."""
    return x, x


def _tiny(x: float) -> str:
    return f"{x:.1e}" if math.isfinite(x) else "unknown"
