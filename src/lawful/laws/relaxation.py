"""Relaxation: has a run had the time to forget where it began, and where has it come to rest?

A noise equilibrium is approached at a rate 1/τ ∝ η² per step, so the time that counts is

    elapsed = ∫ dk/τ(k)        over the steps k of the run, τ as recorded along the way

and not the number of steps. Numbers at rest fluctuate: they are averaged over the last quarter of
the run, with an error that knows that neighbouring measurements are correlated. Before that quarter
three relaxation times must have passed, or nothing is said of the equilibrium: what is left of the
start is then at most e⁻³, a twentieth.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..estimators.uncertainty import series_mean
from .evidence import Estimate, number, show
from .law import Condition
from .regime import groups, show_count

if TYPE_CHECKING:
    from ..record import Run

Array = NDArray[np.float64]
RELAXED = 3.0
LATE = 0.75


def late(run: Run, quantity: str, layer: str) -> Estimate:
    """The mean over the last quarter of the run; its error from the scatter of measurements.

    NaN where the last measurement is: a run that diverged is not judged before it did.
    """
    table = run.series(quantity, layer)
    finite = np.isfinite(table["value"].to_numpy(float))
    if not len(table) or not finite[-1]:
        return Estimate(int(table.index[-1]) if len(table) else -1)
    table = table[finite]
    tail = table[table.index >= LATE * table.index[-1]]
    step, n = int(tail.index[-1]), len(tail)
    if n == 1:
        return Estimate(step, float(tail["value"].iloc[0]), float(tail["stderr"].iloc[0]))
    return Estimate(step, *series_mean(tail["value"].to_numpy(float)), n)


def elapsed(run: Run, layer: str, share: float = 1.0) -> float:
    """Relaxation times in this share of the run; NaN where τ is not known.

    Where τ is infinite nothing relaxes, and no time passes.
    """
    table = run.series("relaxation_steps", layer)["value"].astype(float)
    table = table[table > 0]
    if not len(table):
        return math.nan
    steps, end = table.index.to_numpy(float), share * float(table.index[-1])
    t = np.append(steps[steps < end], end)
    rate = np.interp(t, steps, 1 / table.to_numpy())
    return float(t[0] * rate[0] + np.sum(np.diff(t) * (rate[1:] + rate[:-1]) / 2))


def relaxed(run: Run, layer: str) -> Condition:
    """Three relaxation times before the last quarter; always with η²·steps and τ in numbers."""
    times = elapsed(run, layer, LATE)
    return Condition(
        "relaxation", None if math.isnan(times) else times >= RELAXED, times,
        f"not relaxed: {clock(run, layer)}, {RELAXED / LATE:.0f} needed",
    )  # fmt: skip


def clock(run: Run, layer: str) -> str:
    """The time that has passed, as sentences print it."""
    steps = float(run.manifest.get("steps") or 0)
    table = run.series("relaxation_steps", layer)
    steps = max(steps, float(table.index[-1])) if len(table) else steps
    eta, tau = learning_rate(run), number(run, "relaxation_steps", layer)
    return (
        f"η²·steps = {show(eta**2 * steps)}, {show_count(steps)} steps with τ = {show_count(tau)}"
        f" are {show(elapsed(run, layer))} relaxation times"
    )


def rates(run: Run, steps: Array) -> Array:
    """η at these steps: as recorded, interpolated between; else the optimiser's; else NaN."""
    known = run.series("learning_rate", "")["value"].astype(float)
    known = known[np.isfinite(known)]
    if len(known):
        return np.interp(steps, known.index.to_numpy(float), known.to_numpy())
    return np.full(len(steps), learning_rate(run))


def learning_rate(run: Run) -> float:
    """η as recorded last, else as the optimiser has it; NaN when neither is there."""
    found = number(run, "learning_rate", "")
    if math.isnan(found) and groups(run):
        return float(groups(run)[0].get("lr") or math.nan)
    return found


def simulated(run: Run) -> bool:
    """A world without a model has no optimiser to ask: its cases say what was done."""
    return not run.manifest.get("optimizer") and not run.manifest.get("model")
