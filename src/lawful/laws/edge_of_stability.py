"""Edge of stability: curvature rises until the optimiser is about to become unstable, and stays.

Progressive sharpening. Below the edge the sharpness S = λ_1(H) grows. Effect: S at the crossing (or
at the end) over S after a tenth of the time until then (an initial drop is common); holds above
1.1, violated below 1/1.1. No theory says how much.

Edge of stability. The curvature that the optimiser feels, λ_1(P^{−1/2}(H+λ)P^{−1/2}), reaches its
threshold (gradient descent 2/η, heavy ball, Nesterov, RMSProp, Adam: `theory.edge_of_stability`)
and hovers there. Effect: the mean of curvature/threshold since, over the last 40 % of training at
most; holds within 0.95–1.10. Mini-batches: the same of the batch sharpness and 2/η.

Self-stabilisation. What holds it there is the oscillation along the top eigenvector u: its square
x² = (uᵀ∇L/S)² averages to σ² = 2α/‖∇S‖², α the rate at which S would grow. Effect: mean x²/mean σ²;
holds within a factor of two. The formula is for one unstable direction: where λ_2 has reached the
edge too, which is common later, it is out of regime (`theory.central_flow` has the general form).

Regime. The edge must have been reached, from below (0.95 of the threshold): a run whose flow
flattens before it is a correct negative, told as out of regime, and a start above it, from which
the first steps throw the net down, is no arrival. One threshold: constant η. The full-batch laws
speak of the loss that is descended, so the probe must be the training set; under mini-batch noise
λ_1 stays below 2/η and the regime is not reached. The batch law needs a probe cut into batches of
the training size. The bounds of the eigenvalues must be small.

Sources: J. Cohen, S. Kaur, Y. Li, J. Z. Kolter, A. Talwalkar, arXiv 2103.00065; J. Cohen et al.,
arXiv 2207.14484 (adaptive); A. Damian, E. Nichani, J. D. Lee, arXiv 2209.15594 (stabilisation);
A. Andreyev, P. Beneventano, arXiv 2412.20553 (mini-batches).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..estimators.uncertainty import interval
from ..record.vocabulary import PREDICTED
from . import bibliography
from .bounds import place
from .evidence import show
from .law import Condition, Law, Prediction, barred, status_of
from .registry import register
from .verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

    from ..record import Run

AT_EDGE = (0.95, 1.10)
REACHED = 0.95
TAIL = 0.4
LEAST_POINTS = 8
RISE = 1.1
FACTOR = 2.0
LOOSE = 0.1
COVERED = ("SGD", "RMSprop", "Adam", "AdamW")  # optimisers with a known threshold


# What the record says -----------------------------------------------------------------------


def _finite(run: Run, quantity: str, layer: str) -> pd.Series:
    values = run.series(quantity, layer)["value"].astype(float)
    return values[np.isfinite(values)]


def ratio(run: Run, quantity: str, layer: str) -> pd.Series:
    """quantity/threshold at every step where both were recorded."""
    measured, edge = (_finite(run, q, layer) for q in (quantity, quantity + PREDICTED))
    return (measured / edge).dropna()


def risen(ratios: pd.Series) -> pd.Series:
    """From the first step below 0.95 of the threshold on; all of it when it never was below."""
    below = ratios.index[ratios < REACHED]
    return ratios[ratios.index >= below[0]] if len(below) else ratios


def crossing(ratios: pd.Series) -> int | None:
    """The first step at which 0.95 of the threshold was reached from below; None without one."""
    rise = risen(ratios)
    reached = rise.index[rise >= REACHED]
    return int(reached[0]) if len(reached) else None


def since_crossing(ratios: pd.Series) -> pd.Series:
    """The measurements after the crossing that lie in the last 40 % of training."""
    start = crossing(ratios)
    if start is None:
        return ratios.iloc[:0]
    last = int(ratios.index[-1])
    return ratios[(ratios.index > start) & (ratios.index >= (1 - TAIL) * last)]


def mean(values: pd.Series) -> tuple[float, float, float]:
    """(mean, low, high): the 95 % interval allows for correlation between neighbours."""
    x = values.to_numpy(float)
    if len(x) < LEAST_POINTS:
        return float(x.mean()) if len(x) else math.nan, math.nan, math.nan
    rest = x - x.mean()
    power = float(rest @ rest)
    lag = min(max(float(rest[1:] @ rest[:-1]) / power, 0.0), 0.9) if power > 0 else 0.0
    stderr = math.sqrt(power / (len(x) - 1) / len(x) * (1 + lag) / (1 - lag))
    low, high = interval(float(x.mean()), stderr, len(x) - 1, 0.95)
    return float(x.mean()), low, high


# Conditions ---------------------------------------------------------------------------------


def _reached(run: Run, quantity: str, layer: str) -> Condition:
    ratios = risen(ratio(run, quantity, layer))
    top = float(ratios.max()) if len(ratios) else math.nan
    name = (run.manifest.get("optimizer") or {}).get("class")
    if math.isnan(top) and name in COVERED and not len(_finite(run, quantity, layer)):
        return Condition("edge", None, math.nan, "this curvature was not measured")
    if math.isnan(top):
        text = f"no threshold was recorded: theory has none for this quantity under {name}"
        return Condition("edge", None if name is None else False, math.nan, text, "out of regime")
    text = f"the edge was not reached: the curvature came to {show(top)} of the threshold"
    return Condition("edge", top >= REACHED, top, text, "out of regime")


def _constant(run: Run, quantity: str, layer: str) -> Condition:
    since = since_crossing(ratio(run, quantity, layer))
    edges = _finite(run, quantity + PREDICTED, layer)
    edges = edges[edges.index.isin(since.index)]
    spread = float(edges.max() / edges.min() - 1) if len(edges) else 0.0
    text = f"the threshold itself moved by {show(spread)}: the learning rate was not constant"
    return Condition("learning_rate", spread < 0.02, spread, text, "out of regime")


def _sharp(run: Run, layer: str) -> Condition:
    """The bound of the eigenvalue, as a share of it, typically below 0.1."""
    name = "sharpness_preconditioned"
    bounds = (_finite(run, f"{name}_bound", layer) / _finite(run, name, layer)).dropna()
    loose = float(bounds.median()) if len(bounds) else math.nan
    met = None if math.isnan(loose) else loose <= LOOSE
    text = f"the eigenvalues are known to {show(loose)} of themselves only, {LOOSE} allowed"
    return Condition("bound", met, loose, text)


def _batches(run: Run, layer: str) -> Condition:
    count = float(run.series("batch_sharpness", layer)["n"].astype(float).max())
    met = None if math.isnan(count) else count > 1
    text = "the probe is a single batch: that is the full-batch law"
    return Condition("batches", met, count, text, "out of regime")


def _single(run: Run, layer: str) -> Condition:
    """The second eigenvalue of H is below the edge."""
    since = since_crossing(ratio(run, "sharpness_preconditioned", layer))
    second = _finite(run, "sharpness_second", layer)
    second = second / _finite(run, "sharpness_preconditioned" + PREDICTED, layer)
    near = float(second[second.index.isin(since.index)].median())
    met = None if math.isnan(near) else near < REACHED
    text = f"a second direction is at the edge ({show(near)}): the formula is for one"
    return Condition("directions", met, near, text, "out of regime")


# Verdicts -----------------------------------------------------------------------------------


def judge(
    law: str, layer: str, step: int, conditions: tuple[Condition, ...],
    found: tuple[float, float, float], band: tuple[float, float], what: str, null: float = math.nan,
) -> Verdict:  # fmt: skip
    """Inside the band, outside it, or unable to tell."""
    value, low, high = found
    unmet = barred(conditions)
    if unmet is not None:
        status, why = status_of(unmet), unmet.sentence
    elif math.isnan(low):
        status, why = "undetermined", f"fewer than {LEAST_POINTS} measurements to average"
    else:
        status = place((low, high), *band)
        clauses = {"holds": "inside", "violated": "outside"}
        why = clauses.get(status, "the interval straddles the border of")
        why = f"{why} {show(band[0])}–{show(band[1])}"
    sentence = f"{what} {show(value)}"
    if math.isfinite(low):
        sentence += f" (95 %: {show(low)} to {show(high)})"
    return Verdict(
        law, layer, step, status, value, (low, high), null, math.nan, f"{sentence}: {why}."
    )


def edge_law(name: str, quantity: str, statement: str, equation: str, bibtex: str) -> Law:
    """One curvature at one threshold."""

    def regime(run: Run, layer: str) -> tuple[Condition, ...]:
        own = _batches if quantity == "batch_sharpness" else _sharp
        return _reached(run, quantity, layer), _constant(run, quantity, layer), own(run, layer)

    def test(run: Run, layer: str) -> Verdict:
        ratios = ratio(run, quantity, layer)
        since = since_crossing(ratios)
        step = int(ratios.index[-1]) if len(ratios) else 0
        # A run that never came near tells how near: its last 40 %.
        shown = since if len(since) else ratios[ratios.index >= (1 - TAIL) * step]
        what = "Curvature over its threshold:"
        return judge(name, layer, step, regime(run, layer), mean(shown), AT_EDGE, what)

    bound = () if quantity == "batch_sharpness" else (f"{quantity}_bound",)
    return Law(
        name=name, family="curvature", statement=statement, equation=equation,
        source="Cohen et al., arXiv 2103.00065, 2207.14484; Andreyev, Beneventano, 2412.20553",
        bibtex=bibtex, needs=(quantity, *bound), regime=regime,
        predict=lambda run, layer: Prediction(1.0, "the curvature stays at its threshold"),
        test=test, everywhere=False,
    )  # fmt: skip


register(
    edge_law(
        "edge_of_stability",
        "sharpness_preconditioned",
        "Full-batch training brings the curvature that the optimiser feels to its stability "
        "threshold, and keeps it there.",
        "λ₁(P^{−1/2}(H+λ)P^{−1/2}) = 2/η (GD, RMSProp), 2(1+β)/η (heavy ball), "
        "2(1+β)/((1+2β)η) (Nesterov), 2(1+β₁)/((1−β₁)η) (Adam)",
        bibliography.EDGE,
    )
)
register(
    edge_law(
        "batch_edge_of_stability",
        "batch_sharpness",
        "Mini-batch training brings the curvature along its own gradients to 2/η.",
        "E_B[g_BᵀH_B g_B/‖g_B‖²] = 2/η,  with momentum 2(1−β)/η",
        bibliography.BATCH_EDGE,
    )
)


def _sharpening_regime(run: Run, layer: str) -> tuple[Condition, ...]:
    before = _below(run, layer)
    text = f"{len(before)} measurements below the edge, 3 needed"
    return (Condition("before", len(before) >= 3, len(before), text),)


def _below(run: Run, layer: str) -> pd.Series:
    """The sharpness up to the crossing, without the first tenth of that time."""
    sharpness = _finite(run, "sharpness", layer)
    met = crossing(ratio(run, "sharpness_preconditioned", layer))
    before = sharpness if met is None else sharpness[sharpness.index <= met]
    return before[before.index >= 0.1 * before.index[-1]] if len(before) else before


def _sharpening(run: Run, layer: str) -> Verdict:
    before = _below(run, layer)
    errors = run.series("sharpness", layer)["stderr"].astype(float)
    if len(before) < 2 or not before.iloc[0] > 0:
        rise, low, high, step = math.nan, math.nan, math.nan, 0
    else:
        step = int(before.index[-1])
        rise = float(before.iloc[-1] / before.iloc[0])
        relative = [float(errors[s]) / float(before[s]) for s in (before.index[0], step)]
        spread = 2 * rise * math.hypot(*(e if math.isfinite(e) else 0.0 for e in relative))
        low, high = rise - spread, rise + spread
    conditions = _sharpening_regime(run, layer)
    sentence_of = "Sharpness below the edge rose by a factor of"
    unmet = barred(conditions)
    if unmet is not None or not math.isfinite(rise):
        return judge(
            "progressive_sharpening", layer, step, conditions, (rise, low, high),
            (RISE, math.inf), sentence_of, 1.0,
        )  # fmt: skip
    status = "holds" if low > RISE else "violated" if high < 1 / RISE else "undetermined"
    told = {"holds": "it rises", "violated": "it falls", "undetermined": "it hardly changes"}
    sentence = f"{sentence_of} {show(rise)} until step {step}: {told[status]}."
    return Verdict(
        "progressive_sharpening", layer, step, status, rise, (low, high), 1.0, math.nan, sentence
    )


register(
    Law(
        name="progressive_sharpening", family="curvature",
        statement="Until it meets the edge of stability, sharpness rises.",
        equation="dλ₁/dt = η⟨−∇L, ∇λ₁⟩ > 0",
        source="Cohen et al., arXiv 2103.00065", bibtex=bibliography.EDGE,
        needs=("sharpness", "sharpness_preconditioned"), regime=_sharpening_regime,
        predict=lambda run, layer: Prediction(math.inf, "the sharpness rises; no theory how much"),
        test=_sharpening, everywhere=False,
    )
)  # fmt: skip


def _stabilised_regime(run: Run, layer: str) -> tuple[Condition, ...]:
    name = (run.manifest.get("optimizer") or {}).get("class")
    groups = (run.manifest.get("optimizer") or {}).get("groups") or [{}]
    plain = name == "SGD" and not any(g.get("momentum") for g in groups)
    text = "the oscillation is known for gradient descent without momentum only"
    met = None if name is None else plain
    descent = Condition("optimizer", met, math.nan, text, "out of regime")
    quantity = "sharpness_preconditioned"
    edge = _reached(run, quantity, layer), _constant(run, quantity, layer)
    return descent, *edge, _single(run, layer)


def _stabilised(run: Run, layer: str) -> Verdict:
    since = since_crossing(ratio(run, "sharpness_preconditioned", layer))
    x2, sigma2 = (_finite(run, q, layer) for q in ("oscillation2", "oscillation2_predicted"))
    x2, sigma2 = (s[s.index.isin(since.index)] for s in (x2, sigma2))
    scale = float(sigma2.mean()) if len(sigma2) else math.nan
    found = mean(x2 / scale) if scale > 0 else (math.nan, math.nan, math.nan)
    step = int(since.index[-1]) if len(since) else 0
    return judge(
        "self_stabilisation", layer, step, _stabilised_regime(run, layer), found,
        (1 / FACTOR, FACTOR), "Oscillation along the top eigenvector over its prediction:", 0.0,
    )  # fmt: skip


register(
    Law(
        name="self_stabilisation", family="curvature",
        statement="At the edge the oscillation is as large as stops the sharpness from rising.",
        equation="⟨x²⟩ = 2⟨−∇L, ∇λ₁⟩/‖∇λ₁‖²",
        source="Damian, Nichani, Lee, arXiv 2209.15594; Cohen et al., arXiv 2410.24206",
        bibtex=bibliography.STABILISATION,
        needs=("oscillation2", "sharpening_rate", "sharpness_second", "sharpness_preconditioned"),
        regime=_stabilised_regime,
        predict=lambda run, layer: Prediction(1.0, "the oscillation that holds the sharpness"),
        test=_stabilised, everywhere=False,
    )
)  # fmt: skip
