"""Symmetry classes in time: what starts symmetric trains as a smaller model, until it breaks.

Statement. A mirror Pθ = θ is invariant: (I − P)g = 0 on it for every batch. Neurons that start
identical (opposite, off) receive the same gradients and stay so; the layer trains exactly as one
with as many neurons as there are classes, whatever the optimiser acts on each coordinate. Only
something that tells the neurons apart can break it: noise of each neuron (dropout), decay towards
a point off the mirror (syre), round-off amplified by an unstable mirror. Decay and gradient noise
act the other way: they may bring neurons together (restoration).

Test. Classes exact to round-off (1e-6) must not grow in number from a symmetric start. Holds when
they never exceed that of step 0, violated when they do. All jumps of the visible classes (1 %)
are listed either way: breaking, restoration, and neurons that go off or come back.

The classes of a GL(k) are its rank.

Regime. The layer starts symmetric, and it was looked at again. A generic start has nothing to
keep: out of regime, with the jumps. For a rank, plain SGD: Adam turns off its plane.

Source: Ziyin et al., "Parameter Symmetry Potentially Unifies Deep Learning Theory", arXiv
2502.05300; invariance: Ziyin, arXiv 2309.16932.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from . import bibliography
from .evidence import number
from .formation import Finding
from .law import Condition, Prediction, barred, status_of
from .mirror import plane_kept
from .regime import show_count
from .registry import declare
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

LISTED = 6


@dataclass(frozen=True)
class Jump:
    """Between two neighbouring looks at `before` and `step` the class of a layer changed.

    what:  "broke" or "restored" (neurons, or rank), "went off" or "came back" (neurons).
    start, end: the count before and after: of different neurons or rank, or of neurons off.
    """

    before: int
    step: int
    what: str
    start: int
    end: int

    def __str__(self) -> str:
        unit = {"broke": "different", "restored": "different"}.get(self.what, "")
        change = f"{self.start} → {self.end}" + (f" {unit}" if unit else "")
        return f"{self.what} at {self.step} ({change})"


_WORDS = {
    "symmetry_classes": ("broke", "restored"),
    "neurons_off": ("went off", "came back"),
}


def jumps(run: Run, layer: str) -> list[Jump]:
    """Every change of symmetry class of a layer, in order of time.

    When as many neurons go off as classes are lost, that is one jump, not a restoration too.
    """
    found: list[Jump] = []
    explained: dict[int, int] = {}  # step -> classes lost because neurons went off
    for quantity in ("neurons_off", "symmetry_classes"):
        table = run.series(quantity, layer)
        table = table[np.isfinite(table["value"].to_numpy(float))]
        steps, values = table.index.to_numpy(), table["value"].to_numpy(float)
        for i in np.flatnonzero(np.diff(values)):
            start, end, step = int(values[i]), int(values[i + 1]), int(steps[i + 1])
            if quantity == "neurons_off":
                explained[step] = end - start
            elif quantity == "symmetry_classes" and start - end == explained.get(step):
                continue
            what = _WORDS[quantity][0 if end > start else 1]
            found.append(Jump(int(steps[i]), step, what, start, end))
    return sorted(found, key=lambda j: j.step)


def _symmetric_start(run: Run, layer: str) -> tuple[Condition, ...]:
    table = run.series("symmetry_classes_exact", layer)
    width = number(run, "neurons", layer)
    start = float(table["value"].iloc[0]) if len(table) and table.index[0] == 0 else math.nan
    known = None if math.isnan(start + width) else start < width
    text = (
        f"all {show_count(width)} neurons differ at initialisation: nothing to keep"
        if known is False
        else "the symmetry class at initialisation (step 0) was not recorded"
    )
    again = f"{len(table)} look at the layer: two are needed"
    finite = not len(table) or math.isfinite(float(table["value"].iloc[-1]))
    return (
        plane_kept(run, layer),
        Condition("symmetric", known, start, text, "out of regime"),
        Condition("looks", len(table) > 1, len(table), again),
        Condition("finite", finite, math.nan, "the run has diverged"),
    )


@declare(
    name="symmetry_class",
    family="mirror",
    statement="A symmetric initialisation trains like a smaller model.",
    equation="Pθ₀ = θ₀  ⇒  Pθ_k = θ_k;  classes of neurons never grow in number",
    source="Ziyin et al., arXiv 2502.05300; Ziyin, arXiv 2309.16932",
    bibtex=bibliography.SYMMETRY_CLASSES + bibliography.MIRROR,
    needs=(
        "symmetry_classes_exact",
        "symmetry_classes",
        "neurons",
        "neurons_off",
        "rotation_distance",
    ),
    regime=_symmetric_start,
    predict=lambda run, layer: Prediction(
        number(run, "symmetry_classes_exact", layer, 0), "as many classes of neurons as at step 0"
    ),
    everywhere=False,
)
def symmetry_class(run: Run, layer: str) -> Verdict:
    """Effect: the most exact classes seen;  initial: those of step 0;  null: the width."""
    table, width = run.series("symmetry_classes_exact", layer), number(run, "neurons", layer)
    values = table["value"].to_numpy(float)
    start = float(values[0]) if len(values) else math.nan
    finite = values[np.isfinite(values)]
    most = float(finite.max()) if len(finite) else math.nan
    status, why = _judge(run, layer, values, start, width)
    step = int(table.index[-1]) if len(table) else int(run.manifest.get("steps") or 0)
    found = Finding(status, why, step, most, (most, most), width, start)
    return found.verdict("symmetry_class", layer, f"{why}.{_list(jumps(run, layer))}")


def _judge(run: Run, layer: str, values: np.ndarray, start: float, width: float) -> tuple[str, str]:
    unmet = barred(_symmetric_start(run, layer))
    if unmet is not None:
        return status_of(unmet), unmet.sentence[0].upper() + unmet.sentence[1:]
    if values.max() <= start:
        smaller = (
            f"Trains as a layer of {show_count(values.max())} neurons, not {show_count(width)}"
        )
        return "holds", smaller
    at = int(run.series("symmetry_classes_exact", layer).index[int(np.argmax(values > start))])
    grown = f"{show_count(start)} classes became {show_count(values.max())}"
    return "violated", f"The symmetric start broke by step {at}: {grown}"


def _list(events: list[Jump]) -> str:
    if not events:
        return ""
    shown = "; ".join(map(str, events[:LISTED]))
    more = f"; and {len(events) - LISTED} more" if len(events) > LISTED else ""
    return f" Jumps: {shown}{more}."
