"""Power laws in data: spectrum, word frequencies, correlations fall with one exponent.

Any falling curve has a slope in log–log. The claim is that it is straight: the slope of the upper
half of a stated window differs from that of the lower half by 30 % of the slope at most.

Regime: a window of a decade or more, inside the data (its first ranks are few, its last noise).

Source: Zipf 1949; Stringer et al., Nature 571 (2019); the 30 % are ours (an exponential: 150).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import bibliography
from .bounds import bounded, predicts
from .evidence import number, show
from .law import Condition
from .registry import declare

if TYPE_CHECKING:
    from ..record import Run

STRAIGHT, DECADE = 0.3, 1.0


def _wide(run: Run, layer: str) -> tuple[Condition, ...]:
    seen = number(run, "window_decades", layer)
    text = f"the window is {show(seen)} decades wide, {DECADE:g} is needed to tell a power"
    met = None if math.isnan(seen) else seen >= DECADE
    return (Condition("window_decades", met, seen, text, "out of regime"),)


power_law_data = declare(
    name="power_law_data",
    family="empirical",
    statement="Over the stated window the data fall as a power law: one slope in log–log.",
    equation="|slope(upper half) − slope(lower half)| ≤ 0.3 |slope|",
    source="Zipf 1949; Stringer et al., Nature 571, 2019",
    bibtex=bibliography.DATA_SPECTRA,
    needs=("power_bend", "power_exponent", "window_decades"),
    regime=_wide,
    predict=predicts(0.0, "a straight line in log–log"),
    everywhere=False,
)(bounded("power_law_data", "power_bend", -STRAIGHT, STRAIGHT, _wide))
