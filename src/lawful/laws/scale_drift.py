"""Scale drift: weights before a normalisation have no length of their own.

If ℓ(cθ) = ℓ(θ), then ⟨w, g⟩ = 0 for every batch and g = ĝ/r, ĝ the gradient at r = ‖w‖ = 1.

`radial_gradient`. |⟨w, g⟩|/(‖w‖‖g‖) is zero, whatever the optimiser; below 1e-3 here, or ten times
the violation where the ε of the norm breaks the symmetry.
`norm_growth`. Under SGD  r⁴(k) follows  d(r⁴)/dk = −4ηλ r⁴ + 2η²E‖ĝ‖²: without decay the norm only
grows; with it r → r* = (ηE‖ĝ‖²/2λ)^¼. Test: the change of r⁴ over that of the closed form,
integrated from the measured E‖ĝ‖² and η, lies within 1 ± 0.1. Near r* nothing changes, and the
error of E‖ĝ‖² is larger than what there is to see: undetermined.
`angular_step`. At r* a step turns w by arccos(1 − ηλ/(1+μ)) ≈ √(2ηλ/(1+μ)), whatever the loss.
Test: the angle in the last quarter of the run over that is 1 ± 0.1. Regime: SGD, λ > 0, one η in
that quarter, and before it time for r⁴ to forget where it was when η last changed:
4ηλ·steps/(1−μ) ≥ 3, and ln(r⁴ then/r⁴ at the end) more if it came from above.

Sources: van Laarhoven, arXiv 1706.05350; Kunin et al., arXiv 2012.04728; Wan et al., arXiv
2006.08419; discrete forms in `theory.scale_invariance`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..theory import scale_invariance as theory
from . import bibliography
from .agreement import weigh
from .charges import sgd
from .evidence import Estimate, last, number, show
from .formation import Finding
from .law import Condition, Prediction, barred, status_of
from .regime import decay, decayed, groups, plain_sgd, show_count
from .registry import declare
from .relaxation import LATE, RELAXED, late, learning_rate, rates
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

Array = NDArray[np.float64]
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
    status, why = _within((low, high), barred(_growth(run, layer)))
    found = Finding(status, why, max(ratio.step, 0), ratio.value, (low, high), 0.0, math.nan)
    sentence = (
        f"r⁴ changed by {show(ratio.value)} [{show(low)}, {show(high)}] of the predicted: {why}."
    )
    return found.verdict("norm_growth", layer, sentence)


def growth_ratio(run: Run, layer: str) -> Estimate:
    """(r⁴_end − r⁴_0)/(prediction), with ‖ĝ‖² and η interpolated between measurements.

    charge is the norm ‖C‖ of the r² of all rows and unit_gradient2 their mean ‖ĝ‖², so with n
    rows r⁴ is ‖C‖²/n. The prediction is linear in the measured ‖ĝ‖², and so is its error; in units
    of the predicted change it is that of the ratio.
    """
    table = run.series("unit_gradient2", layer).astype(float)
    table["r4"] = run.series("charge", layer)["value"].astype(float) ** 2 / _rows(run, layer)
    diverged = len(table) > 0 and not np.isfinite(table[["value", "r4"]].iloc[-1]).all()
    table = table.dropna(subset=["value", "r4"])
    if len(table) < 2 or diverged:
        return Estimate()
    unit, r4, steps = (x.to_numpy(float) for x in (table["value"], table["r4"], table.index))
    kept, weights = _passage(steps, rates(run, steps), decay(run))
    predicted, seen = kept * r4[0] + weights @ unit - r4[0], r4[-1] - r4[0]
    spread = float((table["stderr"] / table["value"]).mean())
    error = float(np.linalg.norm(weights * unit)) * spread
    if not predicted:
        return Estimate(int(steps[-1]))
    return Estimate(int(steps[-1]), seen / predicted, error / abs(predicted), len(table))


def _passage(steps: Array, eta: Array, rate: float) -> tuple[float, Array]:
    """What is left of r⁴ at the last step, and ∂r⁴/∂‖ĝ‖² there for each measurement (n,)."""
    spans, eta = np.diff(steps), (eta[1:] + eta[:-1]) / 2
    rate = 0.0 if math.isnan(rate) else rate
    kept = np.exp(-4 * eta * rate * spans)
    grown = np.array([
        theory.norm2_path(0.0, 1.0, span, eta=h, weight_decay=rate) ** 2
        for span, h in zip(spans, eta, strict=True)
    ])  # fmt: skip
    left = grown * np.append(np.cumprod(kept[:0:-1])[::-1], 1.0)
    return float(kept.prod()), (np.append(left, 0.0) + np.append(0.0, left)) / 2


def _rows(run: Run, layer: str) -> int:
    """How many scale-free vectors the charge is made of; one where no array was kept."""
    steps = run.array_steps("charges", layer)
    return len(run.array("charges", layer=layer, step=steps[-1])) if steps else 1


# The angle ---------------------------------------------------------------------------------------


def momentum(run: Run) -> float:
    """μ of the optimiser, 0 where it has none."""
    return max((float(g.get("momentum") or 0) for g in groups(run)), default=0.0)


def _settled(run: Run, layer: str) -> tuple[Condition, ...]:
    end, changed = last(run, "angular_step", layer).step, _last_change(run, layer)
    text = f"the learning rate still changed at step {show_count(changed)}, in the last quarter"
    constant = Condition("learning_rate", changed <= LATE * end, changed, text, "out of regime")
    times = 4 * learning_rate(run) * decay(run) * (LATE * end - changed) / (1 - momentum(run))
    needed = RELAXED + _way_down(run, layer, changed)
    text = (
        f"not relaxed: before the last quarter 4ηλ·steps/(1−μ) = {show(times)} times that in which"
        f" r⁴ forgets its start, {show(needed)} needed"
    )
    met = None if math.isnan(times) else times >= needed
    relaxed = Condition("relaxation", met, times, text)
    return sgd(run, layer), decayed(run, layer), constant, relaxed


def _way_down(run: Run, layer: str, since: float) -> float:
    """ln(r⁴/r⁴ at the end) at the first measurement from a step on, 0 where it grew."""
    r2 = run.series("charge", layer)["value"].astype(float)
    r2 = r2[(r2.index >= since) & (r2 > 0) & (r2 < math.inf)]
    return max(0.0, 2 * math.log(r2.iloc[0] / r2.iloc[-1])) if len(r2) else 0.0


def _last_change(run: Run, layer: str) -> float:
    """The last measured step at which η was not yet its last value, to 2 %; 0 if there is none."""
    steps = run.series("angular_step", layer).index.to_numpy(float)
    eta = rates(run, steps)
    others = steps[np.abs(eta - eta[-1:]) > 0.02 * eta[-1:]]
    return float(others[-1]) if len(others) else 0.0


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
    needs=("angular_step", "charge", "learning_rate"),
    regime=_settled,
    predict=lambda run, layer: Prediction(foreseen_angle(run, layer), "radians a step"),
    everywhere=False,
)
def angular_step(run: Run, layer: str) -> Verdict:
    """Effect: the measured angle over the predicted one."""
    angle, foreseen = late(run, "angular_step", layer), foreseen_angle(run, layer)
    ratio = Estimate(angle.step, angle.value / foreseen, angle.stderr / foreseen, angle.n)
    low, high = ratio.interval()
    status, why = _within((low, high), barred(_settled(run, layer)))
    found = Finding(status, why, max(ratio.step, 0), ratio.value, (low, high), math.nan, math.nan)
    sentence = (
        f"A step turns w by {show(angle.value)}, predicted {show(foreseen)}:"
        f" ratio {show(ratio.value)} [{show(low)}, {show(high)}], {why}."
    )
    return found.verdict("angular_step", layer, sentence)


def _within(bounds: tuple[float, float], unmet: Condition | None) -> tuple[str, str]:
    """Status and reason of a ratio that should be 1 ± BAND."""
    if unmet is not None:
        return status_of(unmet), unmet.sentence
    return weigh(bounds, 1.0, BAND)
