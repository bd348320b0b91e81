"""Linear mode connectivity: between two solutions lies a hill of numbering, not of function.

The share of the barrier that is left once the neurons of one network are put in the order of the
other's is at most a tenth.

Regime: there is a barrier to begin with (above 0.01 nats and above two of its standard errors);
between networks that are joined anyway matching has nothing to show. Networks that learned random
labels by heart violate the law, and narrow ones: with few neurons the two solutions do not use the
same ones.

Source: Ainsworth, Hayase, Srinivasa, arXiv 2209.04836; the tenth is ours.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import bibliography
from .bounds import bounded, predicts
from .evidence import last, show
from .law import Condition
from .registry import declare

if TYPE_CHECKING:
    from ..record import Run

LEFT, LEAST = 0.1, 0.01


def _hill(run: Run, layer: str) -> tuple[Condition, ...]:
    found = last(run, "barrier", layer)
    text = f"the barrier is {show(found.value)} ± {show(found.stderr)} nats: nothing to remove"
    known = math.isfinite(found.value) and math.isfinite(found.stderr)
    met = found.value > max(LEAST, 2 * found.stderr) if known else None
    return (Condition("barrier", met, found.value, text, "out of regime"),)


mode_connectivity = declare(
    name="mode_connectivity",
    family="empirical",
    statement="Up to the numbering of neurons, two trained networks are joined by a straight line.",
    equation="barrier(A, P(B)) ≤ 0.1 · barrier(A, B)",
    source="Ainsworth, Hayase, Srinivasa, arXiv 2209.04836",
    bibtex=bibliography.CONNECTIVITY,
    needs=("barrier_left", "barrier"),
    regime=_hill,
    predict=predicts(0.0, "no barrier is left"),
    everywhere=False,
)(bounded("mode_connectivity", "barrier_left", 0.0, LEFT, _hill))
