"""Fluctuation and dissipation: activations as a mixture of weights and gradient noise.

Statement. Where the second moments of a layer stand still under SGD, learning, decay and
noise of the gradient balance, and constants c, c′ ≥ 0 exist with

    H_b = c Z_b + c′ G_b            G_a = c Z_a + c′ H_a

Test. c and c′ are fitted (non-negative least squares) and never compared with a formula: the
published values make tr(W H_a Wᵀ) exceed what its largest singular value allows unless W has
rank one. The relative residual must end below 0.3 (a cosine of 0.95), below that of a multiple
of the identity (the null: no structure explained), and must have fallen by 0.1 since
initialisation. The residual of Z alone is quoted: where G adds nothing, this is only RWA or GWA.

Regime. SGD, γ > 0, the sampling conditions of the six relations.

Source: Ziyin, Chuang, Galanti, Poggio, ICLR 2025, arXiv 2410.03006, Theorem 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import bibliography
from .canonical import EVIDENCE, SOURCE
from .evidence import number, show
from .formation import Claim, tell, weigh
from .law import Condition, Law, Prediction
from .regime import decayed, sampling, wide
from .registry import register
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

EXPLAINED = Claim(threshold=0.3, change=0.1, rising=False)

# side -> (matrix explained, matrix of the noise, residual of Z alone)
_TERMS = {"b": ("H", "G", "rwa_b_residual"), "a": ("G", "H", "gwa_a_residual")}


def _sgd(run: Run, layer: str) -> Condition:
    name = (run.manifest.get("optimizer") or {}).get("class")
    met = None if name is None else name == "SGD"
    text = "the optimiser is not known" if name is None else f"derived for SGD, and this is {name}"
    return Condition("optimizer", met, math.nan, text, "out of regime")


def dissipation_law(side: str) -> Law:
    """The fluctuation–dissipation relation of one side."""
    name = f"fdt_{side}"
    whole, noise, alone = _TERMS[side]
    equation = f"{whole}_{side} = c Z_{side} + c′ {noise}_{side}, c, c′ ≥ 0"

    def regime(run: Run, layer: str) -> tuple[Condition, ...]:
        conditions = _sgd(run, layer), decayed(run, layer), wide(run, layer, side)
        return *conditions, *sampling(run, layer)

    def test(run: Run, layer: str) -> Verdict:
        width = number(run, f"width_{side}", layer)
        share = number(run, f"participation_{whole}_{side}", layer) / width
        identity = math.sqrt(max(0.0, 1 - share)) if math.isfinite(share) else math.nan
        conditions = regime(run, layer)
        found = weigh(
            run, layer, f"fdt_{side}_residual", EXPLAINED, null=identity, conditions=conditions
        )
        aside = (
            f" Z alone leaves {show(number(run, alone, layer))};"
            f" c = {show(number(run, f'fdt_{side}_weight', layer))},"
            f" c′ = {show(number(run, f'fdt_{side}_noise', layer))}."
        )
        sentence = tell(equation, "relative residual", found)
        return found.verdict(name, layer, sentence + (aside if math.isfinite(found.effect) else ""))

    return Law(
        name=name,
        family="canonical",
        statement="Where training stands still, "
        f"{whole}_{side} is a mixture of the weights and of {noise}_{side}.",
        equation=equation,
        source=SOURCE + ", Theorem 1",
        bibtex=bibliography.FORMATION,
        estimators=bibliography.JACKKNIFE,
        needs=(
            f"fdt_{side}_residual", f"fdt_{side}_weight", f"fdt_{side}_noise", alone,
            f"participation_{whole}_{side}", *EVIDENCE,
        ),
        regime=regime,
        predict=lambda run, layer: Prediction(0.0, "the residual vanishes"),
        test=test,
    )  # fmt: skip


for _side in ("b", "a"):
    register(dissipation_law(_side))
