"""Double descent: the risk of least squares of minimum norm, at any ratio of parameters to samples.

    p < n    σ² p/(n − p − 1)                       p > n    r²(1 − n/p) + σ² n/(p − n − 1)

Test: the mean over draws within 3 % of it. Regime: away from p = n (|p/n − 1| ≥ 0.2; nearer, rare
draws carry the mean); features of one scale. With unequal scales it is violated, and the
eigenframework with ridge 0 takes over.

Source: T. Hastie et al., arXiv 1903.08560; M. Belkin et al., arXiv 1812.11118.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import bibliography
from .agreement import BY_RATIO, agreement
from .evidence import number, show
from .law import Condition
from .registry import register

if TYPE_CHECKING:
    from ..record import Run

AWAY = 0.2


def _away(run: Run, layer: str) -> tuple[Condition, ...]:
    g = number(run, "parameter_ratio", layer)
    text = f"p/n = {show(g)} is too near 1: the mean is carried by rare draws"
    met = None if math.isnan(g) else abs(g - 1) >= AWAY
    return (Condition("parameter_ratio", met, g, text, "out of regime"),)


register(
    agreement(
        "double_descent", "excess_risk", BY_RATIO, 0.03, _away,
        statement="Risk falls, explodes where parameters equal samples, and falls again.",
        equation="risk = σ²p/(n−p−1), or r²(1−n/p) + σ²n/(p−n−1)",
        source="Hastie et al., arXiv 1903.08560", bibtex=bibliography.DOUBLE_DESCENT,
    )
)  # fmt: skip
