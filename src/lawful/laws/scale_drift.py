"""Scale drift: weights before a normalisation have no length of their own.

If ℓ(cθ) = ℓ(θ), then ⟨w, g⟩ = 0 for every batch and g = ĝ/r, ĝ the gradient at r = ‖w‖ = 1.

`radial_gradient`. |⟨w, g⟩|/(‖w‖‖g‖) is zero, whatever the optimiser; below 1e-3 here, or ten times
the violation where the ε of the norm breaks the symmetry.
`norm_growth`. Under SGD  r⁴(k) follows  d(r⁴)/dk = −4ηλ r⁴ + 2η²E‖ĝ‖²: without decay the norm only
grows; with it r → r* = (ηE‖ĝ‖²/2λ)^¼. Test: r⁴ at the end over the closed form, integrated between
measurements from the measured E‖ĝ‖², lies within 1 ± 0.1 of the predicted change.
`angular_step`. At r* a step turns w by arccos(1 − ηλ/(1+μ)) ≈ √(2ηλ/(1+μ)), whatever the loss.
Test: the angle in the last quarter of the run over that is 1 ± 0.1. Regime: SGD, λ > 0, and
4ηλ·steps/(1−μ) ≥ 3, the time in which r⁴ forgets its start.

Sources: van Laarhoven, arXiv 1706.05350; Kunin et al., arXiv 2012.04728; Wan et al., arXiv
2006.08419; discrete forms in `theory.scale_invariance`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..theory import scale_invariance as theory
from . import bibliography
from .charges import sgd
from .evidence import Estimate, last, number, show
from .formation import Finding
from .law import Condition, Prediction, barred, status_of
from .regime import decay, decayed, groups, plain_sgd, show_count
from .registry import declare
from .relaxation import RELAXED, late, learning_rate
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

ORTHOGONAL = 1e-3
BAND = 0.1
SOURCE = "van Laarhoven, arXiv 1706.05350; Kunin et al., arXiv 2012.04728"


# The gradient ----------------------------------------------------------------------------------


def _always(run: Run, layer: str) -> tuple[Condition, ...]:
    return ()


@declare(
    name="radial_gradient",
    family="symmetry",
    statement="The gradient of weights before a normalisation is orthogonal to them.",
    equation="⟨w, g⟩ = 0",
    source=SOURCE,
    bibtex=bibliography.NEURAL_MECHANICS,
    needs=("radial_gradient", "symmetry_violation"),
    regime=_always,
    predict=lambda run, layer: Prediction(0.0, "the product vanishes"),
    everywhere=False,
)
def radial_gradient(run: Run, layer: str) -> Verdict:
    """Effect: the largest |⟨w, g⟩|/(‖w‖‖g‖) of all measured windows."""
    table = run.series("radial_gradient", layer)["value"].astype(float).dropna()
    worst = float(table.max()) if len(table) else math.nan
    bar = max(ORTHOGONAL, 10 * number(run, "symmetry_violation", layer))
    status = "undetermined" if math.isnan(worst) else "holds" if worst <= bar else "violated"
    step = int(table.index[-1]) if len(table) else 0
    found = Finding(status, "", step, worst, (worst, worst), math.nan, math.nan)
    sentence = f"Largest cosine of w and g: {worst:.1e}, {bar:.1e} allowed."
    return found.verdict("radial_gradient", layer, sentence)


# The norm ----------------------------------------------------------------------------------------


def _growth(run: Run, layer: str) -> tuple[Condition, ...]:
    seen = len(run.series("unit_gradient2", layer))
    text = f"{seen} measurements of ‖ĝ‖², 3 needed to follow it"
    return plain_sgd(run, layer), Condition("measurements", seen >= 3, seen, text)


@declare(
    name="norm_growth",
    family="symmetry",
    statement="Noise grows the norm of scale-free weights, decay shrinks it: r⁴ follows both.",
    equation="d(r⁴)/dk = −4ηλ r⁴ + 2η²E‖ĝ‖²",
    source=SOURCE + "; closed form derived",
    bibtex=bibliography.NEURAL_MECHANICS,
    needs=("unit_gradient2", "charge", "learning_rate"),
    regime=_growth,
    predict=lambda run, layer: Prediction(1.0, "r⁴ changes by what the gradients foresee"),
    everywhere=False,
)
def norm_growth(run: Run, layer: str) -> Verdict:
    """Effect: change of r⁴ over the predicted change."""
    ratio = growth_ratio(run, layer)
    low, high = ratio.interval()
    unmet = barred(_growth(run, layer))
    status, why = _within(low, high, unmet)
    found = Finding(status, why, max(ratio.step, 0), ratio.value, (low, high), 0.0, math.nan)
    sentence = (
        f"r⁴ changed by {show(ratio.value)} [{show(low)}, {show(high)}] of the predicted: {why}."
    )
    return found.verdict("norm_growth", layer, sentence)


def growth_ratio(run: Run, layer: str) -> Estimate:
    """(r⁴_end − r⁴_0)/(prediction), with ‖ĝ‖² interpolated between measurements.

    charge is the norm ‖C‖ of the r² of all rows and unit_gradient2 their mean ‖ĝ‖², so with n
    rows r⁴ is ‖C‖²/n.
    """
    charges = run.series("charge", layer)["value"].astype(float).dropna()
    table = run.series("unit_gradient2", layer)
    unit = table["value"].astype(float).reindex(charges.index).interpolate().bfill()
    if len(charges) < 2 or unit.isna().any():
        return Estimate()
    eta, rate = learning_rate(run), decay(run)
    rate = 0.0 if math.isnan(rate) else rate
    rows = _rows(run, layer)
    steps = charges.index.to_numpy(float)
    r4 = start = float(charges.iloc[0]) ** 2 / rows
    for i, span in enumerate(np.diff(steps)):
        mean = float(unit.iloc[i] + unit.iloc[i + 1]) / 2
        path = theory.norm2_path(math.sqrt(r4), mean, np.array([span]), eta=eta, weight_decay=rate)
        r4 = float(path[0]) ** 2
    predicted, seen = r4 - start, float(charges.iloc[-1]) ** 2 / rows - start
    spread = float((table["stderr"] / table["value"]).astype(float).mean())
    error = spread / math.sqrt(len(table)) if math.isfinite(spread) else math.nan
    ratio = seen / predicted if predicted else math.nan
    return Estimate(int(steps[-1]), ratio, abs(ratio) * error, len(table))


def _rows(run: Run, layer: str) -> int:
    """How many scale-free vectors the charge is made of; one where no array was kept."""
    steps = run.array_steps("charges", layer)
    return len(run.array("charges", layer=layer, step=steps[-1])) if steps else 1


# The angle ---------------------------------------------------------------------------------------


def momentum(run: Run) -> float:
    """μ of the optimiser, 0 where it has none."""
    return max((float(g.get("momentum") or 0) for g in groups(run)), default=0.0)


def _settled(run: Run, layer: str) -> tuple[Condition, ...]:
    eta, rate, mu = learning_rate(run), decay(run), momentum(run)
    steps = last(run, "angular_step", layer).step
    times = 4 * eta * rate * steps / (1 - mu)
    text = (
        f"not relaxed: {show_count(steps)} steps are 4ηλ·steps/(1−μ) = {show(times)} times that in"
        f" which r⁴ forgets its start, {RELAXED:.0f} needed"
    )
    met = None if math.isnan(times) else times >= RELAXED
    return sgd(run, layer), decayed(run, layer), Condition("relaxation", met, times, text)


def foreseen_angle(run: Run, layer: str) -> float:
    """arccos(1 − ηλ/(1+μ)); NaN where η or λ is not known."""
    eta, rate = learning_rate(run), decay(run)
    if not 0 < eta * rate < 1:
        return math.nan
    return theory.angular_step(eta=eta, weight_decay=rate, momentum=momentum(run))


@declare(
    name="angular_step",
    family="symmetry",
    statement="At the equilibrium radius each step turns scale-free weights by a universal angle.",
    equation="cos ∠(w, w') = 1 − ηλ/(1+μ)",
    source=SOURCE + "; Wan et al., arXiv 2006.08419",
    bibtex=bibliography.NEURAL_MECHANICS,
    needs=("angular_step", "learning_rate"),
    regime=_settled,
    predict=lambda run, layer: Prediction(foreseen_angle(run, layer), "radians a step"),
    everywhere=False,
)
def angular_step(run: Run, layer: str) -> Verdict:
    """Effect: the measured angle over the predicted one."""
    angle, foreseen = late(run, "angular_step", layer), foreseen_angle(run, layer)
    ratio = Estimate(angle.step, angle.value / foreseen, angle.stderr / foreseen, angle.n)
    low, high = ratio.interval()
    status, why = _within(low, high, barred(_settled(run, layer)))
    found = Finding(status, why, max(ratio.step, 0), ratio.value, (low, high), math.nan, math.nan)
    sentence = (
        f"A step turns w by {show(angle.value)}, predicted {show(foreseen)}:"
        f" ratio {show(ratio.value)} [{show(low)}, {show(high)}], {why}."
    )
    return found.verdict("angular_step", layer, sentence)


def _within(low: float, high: float, unmet: Condition | None) -> tuple[str, str]:
    """Status and reason of a ratio that should be 1 ± BAND."""
    if unmet is not None:
        return status_of(unmet), unmet.sentence
    if math.isnan(low):
        return "undetermined", "its error is not known"
    if low >= 1 - BAND and high <= 1 + BAND:
        return "holds", f"within {BAND:.0%}"
    if high < 1 - BAND or low > 1 + BAND:
        return "violated", f"not within {BAND:.0%}"
    return "undetermined", f"the interval straddles 1 ± {BAND}"
