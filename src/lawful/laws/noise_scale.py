"""Noise scale and critical batch size: how many samples a step is worth.

Noise scale. ‖∇L‖² and trΣ follow from squared gradient norms at any two batch sizes. The noise
scale trΣ/‖∇L‖² must not depend on which two: one sample and the batch (per-sample norms from layer
inputs and output gradients), or the micro-batches that are accumulated and their mean. They share
nothing but the weights, so their agreement says that samples are independent, that the loss is the
mean it is taken for, and that the number can be trusted.

    Test: ratios of sums over the second half of the run; effect = their quotient, jackknifed over
    measurements; within 0.9 … 1.1. Regime: gradients are accumulated; the signal is resolved from
    zero (where it is not, there is no noise scale, only a bound).

Critical batch. Runs at several batch sizes, each with its tuned learning rate, need
S = S_min(1 + B_c/B) steps to the same loss, and B_c is the noise scale of the quadratic model,
tr(HΣ)/(∇LᵀH∇L), averaged along the way.

    Test: root mean square of ln(S/fit) at most 0.1, and B_c, by its interval, within a factor 2 of
    its prediction where there is one. Regime: at least four batch sizes, below and above B_c.

Source: McCandlish, Kaplan, Amodei et al., arXiv 1812.06162; `theory/critical_batch.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..estimators.uncertainty import delete_block_jackknife, interval
from ..theory.critical_batch import Hyperbola, fit
from . import bibliography, tail
from .evidence import number, show
from .law import Condition, Prediction, barred, status_of
from .registry import declare
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

TOLERANCE = 0.1
RESIDUAL = 0.1
FACTOR = 2.0
SIZES = 4
PARTS = "noise_trace", "signal_norm2", "noise_trace_micro", "signal_norm2_micro"


# -- two estimators of one number ----------------------------------------------------------------


def _table(run: Run) -> np.ndarray:
    """(measurements, 4) of the second half; empty when one of the four was not recorded."""
    columns = [tail.points(run, name, "") for name in PARTS]
    common = sorted(set.intersection(*({*steps} for steps, _ in columns)))
    if len(common) < tail.LEAST:
        return np.zeros((0, 4))
    at = [dict(zip(steps, values, strict=True)) for steps, values in columns]
    return np.array([[values[step] for values in at] for step in common])


def _agreement(run: Run, layer: str) -> tuple[Condition, ...]:
    table = _table(run)
    have = float(len(table))
    missing = (
        f"{tail.LEAST} measurements of both estimators are needed in the second half of the run: "
        "accumulate gradients over micro-batches"
    )
    signal = tail.mean(run, "signal_norm2", "")
    least = signal.interval()[0]
    faint = f"the signal is not resolved: ‖∇L‖² = {show(signal.value)} ± {show(signal.stderr)}"
    return (
        Condition("two sizes", have > 0 or None, have, missing),
        Condition("signal", None if math.isnan(least) else least > 0, signal.value, faint),
    )


def _scale(blocks: np.ndarray, of: int) -> float:
    trace, signal = np.sum(blocks, axis=0)[of : of + 2]
    return float(trace / signal) if signal > 0 else math.nan


def _log_quotient(rows: Sequence[np.ndarray]) -> float:
    """ln of per-sample over micro-batch noise scale; NaN where they differ in sign."""
    table = np.array(rows)
    quotient = _scale(table, 0) / (_scale(table, 2) or math.nan)
    return math.log(quotient) if quotient > 0 else math.nan


@declare(
    name="noise_scale",
    family="noise",
    statement="The gradient-noise scale does not depend on the batch sizes it is read from.",
    equation="trΣ/‖∇L‖² from (1, B) = trΣ/‖∇L‖² from (b, B)",
    source="McCandlish, Kaplan, Amodei et al., arXiv 1812.06162, appendix A",
    bibtex=bibliography.NOISE_SCALE,
    estimators=bibliography.JACKKNIFE,
    needs=("noise_scale_micro", "noise_scale", "batch_size", *PARTS),
    regime=_agreement,
    predict=lambda run, layer: Prediction(1.0, "the two estimates agree"),
    everywhere=False,
)
def noise_scale(run: Run, layer: str) -> Verdict:
    """Effect: per-sample over micro-batch noise scale of the whole run."""
    table, unmet = _table(run), barred(_agreement(run, layer))
    one, other = _scale(table, 0), _scale(table, 2)
    effect = one / (other or math.nan) if len(table) else math.nan
    low = high = math.nan
    if math.isfinite(effect) and effect > 0:
        error, _ = delete_block_jackknife(_log_quotient, list(table))
        low, high = (math.exp(x) for x in interval(math.log(effect), error, len(table) - 1))
    status, why = tail.weigh(
        (low, high), 1.0, TOLERANCE, unmet,
        holds="is the same from both", fails="depends on how it is read",
    )  # fmt: skip
    batch = number(run, "batch_size", "")
    sentence = (
        f"Noise scale {why}: {show(one)} from single samples, {show(other)} from micro-batches, "
        f"at B = {show(batch)}."
    )
    step = int(run.manifest.get("steps") or 0)
    return Verdict(
        "noise_scale", layer, step, status, effect, (low, high), math.nan, math.nan, sentence
    )


# -- runs at several batch sizes -------------------------------------------------------------------


def _runs(run: Run) -> tuple[list[float], list[float]]:
    """Batch sizes and steps to the target of every case where both are recorded."""
    pairs = [
        (number(run, "batch_size", case), number(run, "steps_to_target", case))
        for case in run.layers
    ]
    known = sorted((b, s) for b, s in pairs if b > 0 and s > 0 and math.isfinite(b + s))
    return [b for b, _ in known], [s for _, s in known]


def _hyperbola(run: Run) -> Hyperbola | None:
    batches, steps = _runs(run)
    return fit(batches, steps) if len(set(batches)) >= SIZES else None


def _paired(run: Run, layer: str) -> tuple[Condition, ...]:
    sizes, found = len(set(_runs(run)[0])), _hyperbola(run)
    few = f"{sizes} batch sizes with the steps they need to the target, {SIZES} needed"
    arm = "the batch sizes do not reach both below and above the critical one"
    return (
        Condition("batch sizes", sizes >= SIZES, float(sizes), few),
        Condition("both arms", found.resolved if found else None, math.nan, arm),
    )


def _foretold(run: Run) -> float:
    """B_c as predicted before the runs."""
    names = [number(run, "critical_batch_predicted", case) for case in ("", *run.layers)]
    return next((x for x in names if math.isfinite(x)), math.nan)


@declare(
    name="critical_batch",
    family="noise",
    statement="Steps to a target fall with the batch size up to the noise scale, and no further.",
    equation="S = S_min(1 + B_c/B)",
    source="McCandlish, Kaplan, Amodei et al., arXiv 1812.06162",
    bibtex=bibliography.NOISE_SCALE,
    needs=("critical_batch", "critical_batch_predicted", "steps_to_target", "batch_size"),
    regime=_paired,
    predict=lambda run, layer: Prediction(_foretold(run), "noise scale averaged along the way"),
    everywhere=False,
)
def critical_batch(run: Run, layer: str) -> Verdict:
    """Effect: fitted B_c; the fit must leave at most 0.1 in ln S, and B_c agree within 2×."""
    found, unmet = _hyperbola(run), barred(_paired(run, layer))
    steps, expected = int(run.manifest.get("steps") or 0), _foretold(run)
    effect = found.critical_batch if found else math.nan
    low = high = math.nan
    if found is not None and math.isfinite(found.log_error):
        dof = len(_runs(run)[0]) - 2
        low, high = (math.exp(x) for x in interval(math.log(effect), found.log_error, dof))
    least, most = (expected / FACTOR, FACTOR * expected) if expected > 0 else (0.0, math.inf)
    if unmet is not None or found is None:
        why = unmet.sentence if unmet is not None else "no fit"
        status, why = status_of(unmet) if unmet is not None else "undetermined", f"({why})"
    elif math.isnan(low):
        status, why = "undetermined", "has no error bar"
    elif found.residual > RESIDUAL:
        status, why = "violated", f"leaves {show(found.residual)} in ln S"
    elif low > most or high < least:
        status, why = "violated", f"is a hyperbola, but not at the noise scale {show(expected)}"
    elif low < least or high > most:
        why = (
            f"is a hyperbola, and its place beside the noise scale {show(expected)} is not resolved"
        )
        status = "undetermined"
    else:
        told = f", noise scale {show(expected)}" if math.isfinite(expected) else ""
        status, why = "holds", f"is a hyperbola to {show(found.residual)} in ln S{told}"
    sentence = f"Steps against batch size {why}: B_c = {show(effect)} [{show(low)}, {show(high)}]."
    return Verdict(
        "critical_batch", layer, steps, status, effect, (low, high), expected, math.nan, sentence
    )
