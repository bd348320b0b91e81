"""The neural feature ansatz: weights learn the directions the function is sensitive to.

Statement. With M = E[Σ_o ∇f_o ∇f_oᵀ] the average gradient outer product (AGOP) of the network's
outputs f at the input of a layer,

    NFA        WᵀW ∝ M^s          s = 1 (`nfa`) or s = 1/2 (`nfa_sqrt`), both published
    gradient   WᵀW ∝ G_a          the loss gradient in place of ∇f (`enfa`)

G_a = E[Jᵀ B J] with B the second moment of the loss gradient at the output, so B ∝ I turns the
second into the first; the second is the canonical relation GWA_a and does not depend on how
the output is parametrised, the first does.

Test. As for the six canonical relations: Pearson correlation over entries, above 0.7 and
above its null, risen by more than 0.1 since initialisation. Null of s = 1: the mean under a
random rotation. That of s = 1/2 is larger, as a root spreads a spectrum; its upper bound
√(PR(Z)/d) stands in. Regime: at least 4·max(d) rows, 8 independent samples, still weights.

Source: Radhakrishnan, Beaglehole, Pandit, Belkin, Science 383 (2024), arXiv 2212.13881; the
gradient form: arXiv 2410.03006 and arXiv 2507.05644.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import bibliography
from .canonical import ALIGNED, ESTIMATORS, EVIDENCE, examine, regime
from .evidence import number
from .formation import Finding, tell, weigh
from .law import Condition, Law, Prediction
from .registry import register
from .verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..record import Run

_SOURCE = "Radhakrishnan, Beaglehole, Pandit, Belkin, Science 383 (2024), arXiv 2212.13881"


def _regime(run: Run, layer: str) -> tuple[Condition, ...]:
    return regime(run, layer, "a")


def _rotated(run: Run, layer: str) -> float:
    return number(run, "nfa_haar", layer)


def _rotated_root(run: Run, layer: str) -> float:
    share = number(run, "participation_Z", layer) / number(run, "width_a", layer)
    return math.sqrt(share) if share >= 0 else math.nan


def _against(quantity: str, null: Callable[[Run, str], float]) -> Callable[[Run, str], Finding]:
    def weighed(run: Run, layer: str) -> Finding:
        found = weigh(
            run, layer, quantity, ALIGNED,
            null=null(run, layer), conditions=_regime(run, layer),
        )  # fmt: skip
        if found.status == "holds" and math.isnan(found.null):
            why = "no null was recorded to compare with"
            return Finding(
                "undetermined", why, found.step, found.effect, found.interval, math.nan,
                found.initial,
            )  # fmt: skip
        return found

    return weighed


def ansatz_law(
    name: str, equation: str, needs: tuple[str, ...], weighed: Callable[[Run, str], Finding]
) -> Law:
    """One form of the ansatz, from the function that weighs its alignment."""

    def test(run: Run, layer: str) -> Verdict:
        found = weighed(run, layer)
        return found.verdict(name, layer, tell(equation, "α", found))

    gradient = name == "enfa"
    return Law(
        name=name,
        family="feature_ansatz",
        statement="The weights of a layer align with the average "
        + ("loss gradient" if gradient else "gradient of the network")
        + " outer product at its input.",
        equation=equation,
        source=_SOURCE + ("; arXiv 2410.03006, arXiv 2507.05644" if gradient else ""),
        bibtex=bibliography.FEATURES + (bibliography.CONVERGENCE if gradient else ""),
        estimators=ESTIMATORS,
        needs=(*needs, *EVIDENCE),
        regime=_regime,
        predict=lambda run, layer: Prediction(1.0, "α → 1"),
        test=test,
        everywhere=False,
    )


register(ansatz_law("nfa", "WᵀW ∝ AGOP", ("nfa", "nfa_haar"), _against("nfa", _rotated)))
register(
    ansatz_law(
        "nfa_sqrt", "WᵀW ∝ AGOP^½", ("nfa_sqrt", "participation_Z"),
        _against("nfa_sqrt", _rotated_root),
    )
)  # fmt: skip
register(
    ansatz_law(
        "enfa", "WᵀW ∝ G_a", ("gwa_a", "gwa_a_haar", "gwa_a_permutation"),
        lambda run, layer: examine(run, layer, "gwa_a"),
    )
)  # fmt: skip
