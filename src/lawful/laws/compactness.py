"""Compactness: representations lose dimensions as they align.

Statement. Z ∝ H ∝ G ∝ P with P a projector leaves only the directions that the task needs, so
within a layer the rank of H_b falls while its alignment rises.

Test. Kendall's τ between α(H_b, G_b) and r, the eigenvalues of H_b above 1e-4 of the largest
(singular values of the activations above 1 %), over the measurements of one layer,

    τ = Σ_{i<j} sgn(α_i − α_j) sgn(r_i − r_j) / √(pairs untied in α · pairs untied in r),

with a moving-block bootstrap (neighbouring measurements are not independent). Holds when the
interval is below 0 and the rank ends at least a tenth below its start: two series with opposite
noise are not compaction. Violated when the interval is above 0, or when the layer aligned and
its rank did not end lower. A participation ratio would not do for r: it counts the few leading
directions of the data, which are there from the start, and not the many that die.

Regime. At least 12 measurements, the first at initialisation; α must have risen by 0.1, or
there is no alignment to compare with; the sampling conditions of the six relations. Two
monotone series always have |τ| = 1: the interval then speaks of this run, not of other seeds.

Source: Ziyin, Chuang, Galanti, Poggio, ICLR 2025, arXiv 2410.03006 (rank deficiency against
1 − α); Kendall, Biometrika 30 (1938); Künsch, Ann. Statist. 17 (1989).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from . import bibliography
from .canonical import EVIDENCE, SOURCE
from .evidence import at_initialisation, last, show
from .formation import Finding, tell
from .law import Condition, Prediction, barred, status_of
from .regime import more_than_a_line, sampling, show_count, wide
from .registry import declare
from .verdict import Verdict

if TYPE_CHECKING:
    import pandas as pd

    from ..record import Run

POINTS = 12
RISE = 0.1
FALL = 0.9
MOST_POINTS = 200


def history(run: Run, layer: str) -> pd.DataFrame:
    """Rows with both numbers, by step: alignment and rank (thinned to 200)."""
    alignment = run.series("rga_b", layer)["value"].astype(float)
    rank = run.series("rank_H_b", layer)["value"].astype(float)
    both = alignment.to_frame("alignment").join(rank.rename("rank")).dropna()
    if len(both) <= MOST_POINTS:
        return both
    return both.iloc[np.linspace(0, len(both) - 1, MOST_POINTS).round().astype(int)]


def _regime(run: Run, layer: str) -> tuple[Condition, ...]:
    both = history(run, layer)
    count = len(both)
    few = f"{show_count(count)} measurements of both alignment and rank, {POINTS} needed"
    begun = count > 0 and both.index[0] == 0
    return (
        wide(run, layer, "b"),
        Condition("measurements", count >= POINTS, count, few),
        Condition("initialisation", begun, math.nan, "no measurement at initialisation (step 0)"),
        _aligned(run, layer),
        *sampling(run, layer),
        more_than_a_line(run, layer),
    )


def _aligned(run: Run, layer: str) -> Condition:
    end, start = last(run, "rga_b", layer), at_initialisation(run, "rga_b", layer)
    rise = end.value - start.value
    error = 1.96 * math.hypot(end.stderr, start.stderr)
    name, text = "rise", f"alignment rose by {show(rise)}: with less than {RISE} nothing to compare"
    if not math.isfinite(rise + error) or rise - error <= RISE < rise + error:
        return Condition(name, None, rise, "the rise of alignment is not resolved")
    return Condition(name, rise - error > RISE, rise, text, "out of regime")


@declare(
    name="compactness",
    family="canonical",
    statement="Within a layer the rank of the representation falls as its alignment rises.",
    equation="τ(α(H_b, G_b), rank H_b) < 0",
    source=SOURCE,
    bibtex=bibliography.FORMATION,
    estimators=bibliography.RANK_CORRELATION + bibliography.BLOCK_BOOTSTRAP,
    needs=("rga_b", "rank_H_b", *EVIDENCE),
    regime=_regime,
    predict=lambda run, layer: Prediction(-1.0, "rank falls with every rise of alignment"),
)
def compactness(run: Run, layer: str) -> Verdict:
    """Effect: Kendall's τ; null: 0, no association; initial: none, τ belongs to the whole run."""
    both = history(run, layer)
    unmet = barred(_regime(run, layer))
    step = int(both.index[-1]) if len(both) else int(run.manifest.get("steps") or 0)
    if unmet is not None:
        nan = math.nan
        found = Finding(status_of(unmet), unmet.sentence, step, nan, (nan, nan), 0.0, nan)
        return found.verdict("compactness", layer, tell("Rank against alignment", "τ", found))
    tau, low, high = kendall(both["alignment"].to_numpy(), both["rank"].to_numpy())
    start, end = float(both["rank"].iloc[0]), float(both["rank"].iloc[-1])
    status, why = _judge(low, high, start, end)
    found = Finding(status, why, step, tau, (low, high), 0.0, math.nan)
    low_, high_ = show(low), show(high)
    sentence = (
        f"Rank against alignment: {why}; τ = {show(tau)} [{low_}, {high_}] over {len(both)}"
        f" measurements, rank of H_b {show(start)} → {show(end)}."
    )
    return found.verdict("compactness", layer, sentence)


def _judge(low: float, high: float, start: float, end: float) -> tuple[str, str]:
    if low > 0:
        return "violated", "rank rises with alignment"
    if end >= start:  # also where the rank never changed, which has no τ
        return "violated", "the layer aligned and lost no rank"
    if high < 0 and end <= FALL * start:
        return "holds", "rank falls as alignment rises"
    return "undetermined", "the fall of rank is not resolved"


def kendall(
    x: np.ndarray, y: np.ndarray, *, draws: int = 500, seed: int = 0
) -> tuple[float, float, float]:
    """Kendall's τ_b with the 95 % interval of a moving-block bootstrap (block length ∛n).

    x, y: (n,) series in the order of time.  Returns (τ, lower, upper); NaN when one is constant.

    >>> kendall(np.arange(20.0), -np.arange(20.0))
    (-1.0, -1.0, -1.0)
    """
    n = len(x)
    signs_x, signs_y = (np.sign(v[:, None] - v[None, :]) for v in (x, y))
    both, free_x, free_y = signs_x * signs_y, abs(signs_x), abs(signs_y)

    def tau(weight: np.ndarray) -> np.ndarray:
        pairs = [np.einsum("bi,ij,bj->b", weight, m, weight, optimize=True)
                 for m in (both, free_x, free_y)]  # fmt: skip
        with np.errstate(invalid="ignore"):
            return pairs[0] / np.sqrt(pairs[1] * pairs[2])

    length = max(1, round(n ** (1 / 3)))
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, n - length + 1, size=(draws, math.ceil(n / length)))
    rows = (starts[..., None] + np.arange(length)).reshape(draws, -1)[:, :n]
    weights = np.stack([np.bincount(row, minlength=n) for row in rows]).astype(float)
    whole = float(tau(np.ones((1, n)))[0])
    if math.isnan(whole):
        return math.nan, math.nan, math.nan
    low, high = np.nanquantile(tau(weights), [0.025, 0.975])
    return whole, float(low), float(high)
