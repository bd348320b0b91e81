"""The knobs panel: what a run's noise and curvature say about its learning rate and batch size.

    edge       λ_1(P⁻¹H) over the optimiser's threshold (SGD: sharpness × η/2), now and its trend
    batch      noise scale trΣ/‖∇L‖² over the batch size
    balance    layers that traded scale long enough and are still out of balance

Each with its interval and one sentence of advice that names the law it rests on. A knob of which
the record cannot tell, or whose law does not speak of this run, is not shown.

Sources: J. Cohen et al., arXiv 2103.00065; S. McCandlish et al., arXiv 1812.06162;
L. Ziyin et al., arXiv 2505.12387.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from .wording import Z95, interval, number

if TYPE_CHECKING:
    from ..laws.verdict import Verdict
    from ..record.run import Run


LOOSE = 0.1  # relative bound beyond which a curvature is not known well enough to advise


@dataclass(frozen=True)
class Knob:
    """One reading of the panel.

    value, bounds: the ratio and its 95 % interval.  trend: per factor e of steps, NaN if unknown.
    """

    name: str
    layer: str
    value: float
    bounds: tuple[float, float]
    trend: float
    advice: str
    law: str


def knobs(run: Run, verdicts: Sequence[Verdict]) -> list[Knob]:
    """The panel of a run."""
    return [*_edge(run), *_batch(run), *_balance(verdicts)]


def _edge(run: Run) -> Iterator[Knob]:
    found = run.at("edge_ratio", "")
    if found is None or not 0 <= found.stderr <= LOOSE * found.value:
        return
    low, high = _bounds(found.value, found.stderr)
    if low > 1:
        advice = "At the edge of stability: the loss oscillates along the sharpest direction; "
        advice += "a lower learning rate, or warm-up, would calm it."
    elif high < 0.5:
        advice = "Far below the edge: curvature would let the learning rate be at least doubled."
    elif high < 0.95:
        advice = (
            "Below the edge of stability: the learning rate could grow by the inverse of this, "
        )
        advice += "no further."
    else:
        advice = "Near the edge of stability: curvature holds a larger learning rate back."
    bounds, trend = (low, high), _trend(run, "edge_ratio", "")
    yield Knob("curvature × η / threshold", "", found.value, bounds, trend, advice,
               "edge_of_stability")  # fmt: skip


def _batch(run: Run) -> Iterator[Knob]:
    scale, size = run.at("noise_scale", ""), run.at("batch_size", "")
    if (
        scale is None
        or size is None
        or not (size.value > 0 and 0 <= scale.stderr < scale.value / 2)
    ):
        return
    ratio, error = scale.value / size.value, scale.stderr / size.value
    low, high = _bounds(ratio, error)
    if low > 1:
        advice = "Noise dominates a step: up to this factor a larger batch saves steps nearly in "
        advice += "proportion."
    elif high < 1:
        advice = "The gradient dominates a step: a smaller batch would cost few more steps."
    else:
        advice = "Batch size and noise scale agree: near the critical batch."
    trend = _trend(run, "noise_scale", "") / size.value
    yield Knob("noise scale / batch", "", ratio, (low, high), trend, advice, "noise_scale")


def _balance(verdicts: Sequence[Verdict]) -> Iterator[Knob]:
    for v in verdicts:
        if v.law == "gradient_balance" and v.status == "violated":
            advice = "Out of gradient balance with the layer it trades scale with, though relaxed: "
            advice += "something other than noise and decay sets their scales."
            yield Knob("gradient balance", v.layer, v.effect, v.interval, math.nan, advice, v.law)


def _bounds(value: float, stderr: float) -> tuple[float, float]:
    return value - Z95 * stderr, value + Z95 * stderr


def _trend(run: Run, quantity: str, layer: str) -> float:
    """Slope against ln step over the second half of the steps; NaN with fewer than three."""
    series = run.series(quantity, layer)["value"].astype(float).dropna()
    series = series[(series.index > 0) & (series.index >= series.index.max() / 2)]
    if len(series) < 3:
        return math.nan
    x = [math.log(s) for s in series.index]
    mean_x, mean_y = sum(x) / len(x), float(series.mean())
    power = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, series, strict=True)) / power


def trend_word(trend: float, value: float) -> str:
    """
    >>> trend_word(0.5, 1.0), trend_word(-0.001, 1.0), trend_word(float("nan"), 1.0)
    ('rising', 'steady', '')
    """
    if not math.isfinite(trend):
        return ""
    if abs(trend) < 0.05 * abs(value):
        return "steady"
    return "rising" if trend > 0 else "falling"


def knob_table(panel: Sequence[Knob]) -> RenderableType:
    """A row a knob: the number with its interval and trend, the advice, the law behind it."""
    if not panel:
        how = 'Not measured: observe with laws="curvature" (and a probe) or laws="noise".'
        return Text(how, style="dim")
    table = Table.grid(padding=(0, 2, 1, 0))
    table.add_column(overflow="fold", max_width=26)
    table.add_column(overflow="fold", ratio=1)
    for knob in panel:
        name = Text(knob.name, style="bold")
        if knob.layer:
            name.append(f"\n{knob.layer}", style="not bold dim")
        told = Text(f"{number(knob.value)} {interval(knob.bounds)} ")
        told.append(trend_word(knob.trend, knob.value), style="dim")
        told.append(f"\n{knob.advice} ").append(f"[{knob.law}]", style="dim")
        table.add_row(name, told)
    return table
