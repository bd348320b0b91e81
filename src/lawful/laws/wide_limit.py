"""The limit of infinite width: it is approached at known rates.

In NTK parametrisation, trained to equal loss, over widths n:

    ‖Θ_0 − E Θ_0‖/‖E Θ_0‖ ~ n^−½        fluctuation over seeds
    ‖Θ_t − Θ_0‖/‖Θ_0‖     ~ n⁻¹         drift in training
    ‖h_t − h_0‖/‖h_0‖     ~ n^−½        features
    ‖f − kernel regression‖ ~ n^−½      with the analytic kernel, f_0 taken off

each slope within ±0.15. Regime: widths over a factor of eight or more; depth ≪ width. A maximal
update (μP) network keeps all four constant and violates this law: it has another limit.

Source: A. Jacot et al., arXiv 1806.07572; J. Lee et al., arXiv 1902.06720; E. Dyer, G. Gur-Ari,
arXiv 1909.11304.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import bibliography
from .agreement import BY_DIFFERENCE, agreement, at_least
from .law import Condition
from .registry import register

if TYPE_CHECKING:
    from ..record import Run

SPAN = 8.0


def _swept(run: Run, layer: str) -> tuple[Condition, ...]:
    text = "widths vary by a factor of {value} only, 8 needed for a slope"
    return (at_least(run, "sweep_span", layer, SPAN, text),)


for _measure, _equation in (
    ("ntk_deviation", "‖Θ_0 − EΘ_0‖/‖EΘ_0‖ ~ n^−½"),
    ("ntk_change", "‖Θ_t − Θ_0‖/‖Θ_0‖ ~ n⁻¹"),
    ("feature_change", "‖h_t − h_0‖/‖h_0‖ ~ n^−½"),
    ("kernel_distance", "‖f − kernel regression‖ ~ n^−½"),
):
    register(
        agreement(
            f"wide_{_measure}", f"width_slope_{_measure}", BY_DIFFERENCE, 0.15, _swept,
            statement="Wide networks approach their kernel limit at a known rate.",
            equation=_equation,
            source="Jacot et al., arXiv 1806.07572; Lee et al., arXiv 1902.06720",
            bibtex=bibliography.WIDE,
        )
    )  # fmt: skip
