"""Perfect Platonic alignment: two linear networks, one representation; and when not.

Statement. Two deep linear networks of any width and depth, shown the same task through any
invertible transforms of their own, end under SGD with hidden layers that are all alike, across and
within the networks: their kernels are proportional.

Test. The least uncentred CKA over the pairs of hidden layers ends above 0.99, and has risen by 0.05
since initialisation. It is dominated by the largest directions: 0.5 to 0.8 is what unaligned
networks score, and descent, whose value stands as the null where it was recorded.

Regime. Label noise: without it the entropy is zero on all minima and selects none (this is what
separates SGD from descent). And weight_decay/η at most 0.3: decay competes with the entropic force
at this ratio, not by its own size, so annealing η at a fixed decay leads out of the regime.
Alignment fell to .998, .947, .824 at ratios 0.3, 3, 10. Labels transformed by anything but an
orthogonal matrix, a saddle of lower rank, and a rate near the edge break the law within the regime:
there it is found violated.

Source: Ziyin, Chuang, "Proof of a perfect platonic representation hypothesis", arXiv 2507.01098;
`theory/deep_linear_entropy.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import bibliography
from .evidence import number, show
from .formation import Claim, tell, weigh
from .law import Condition, Prediction
from .regime import plain_sgd
from .registry import declare
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

ALIGNED = Claim(threshold=0.99, change=0.05)
RATIO = 0.3


def _regime(run: Run, layer: str) -> tuple[Condition, ...]:
    noise, ratio = (number(run, name, layer) for name in ("label_noise", "decay_over_rate"))
    silent = "no label noise: the entropy is zero on all minima and selects none"
    heavy = f"weight_decay/η = {show(ratio)}, at most {RATIO}: decay outweighs the entropic force"
    return (
        plain_sgd(run, layer),
        Condition("label_noise", _known(noise > 0, noise), noise, silent, "out of regime"),
        Condition("decay_over_rate", _known(ratio <= RATIO, ratio), ratio, heavy, "out of regime"),
    )


@declare(
    name="platonic",
    family="noise",
    statement="Two linear networks trained by SGD on one task end with the same representation.",
    equation="h_A(x)ᵀh_A(x′) ∝ h_B(x)ᵀh_B(x′) for all hidden layers of A and B",
    source="Ziyin, Chuang, arXiv 2507.01098",
    bibtex=bibliography.PLATONIC,
    needs=("platonic_alignment", "decay_over_rate", "label_noise"),
    regime=_regime,
    predict=lambda run, layer: Prediction(1.0, "all kernels are proportional"),
    everywhere=False,
)
def platonic(run: Run, layer: str) -> Verdict:
    """Effect: the least CKA over pairs of layers; null: that of descent; initial: at step 0."""
    null = number(run, "platonic_alignment", "descent")
    found = weigh(
        run, layer, "platonic_alignment", ALIGNED, null=null, conditions=_regime(run, layer)
    )
    return found.verdict("platonic", layer, tell("Alignment of the two", "least CKA", found))


def _known(met: bool, value: float) -> bool | None:
    """`met`, or None when the number was not recorded."""
    return None if math.isnan(value) else bool(met)
