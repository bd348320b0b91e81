"""Deep linear balance: among all factorisations of one map, SGD rests at the balanced one.

Statement. In y ≈ W_D … W_1 x the noise of SGD equalises, at every hidden layer, what flows in and
what flows back: with A_i = cov(h_i), B_i = cov(backpropagated residual at h_i),

    A_i / Tr A_{i−1} = B_i / Tr B_{i+1},  i = 1 … D−1            (`theory.linear_equilibrium`),

so all layers align, both ends carry the same spectrum, and every inner layer is ρ times an
isometry. In a live net the same is read without assuming anything of the noise: the noise
moments of the two sides of a GL(k) symmetry agree, N_U = N_V.

`deep_linear_balance`. ‖X − Y‖/max(‖X‖, ‖Y‖) of the two sides, averaged over the last quarter of the
run, ends below 0.1 and has fallen by 0.1. Null: the gap at the start, which gradient descent keeps.
`deep_linear_isometry`. A singular value of an inner layer is ρ, within 8 % (those that rank V uses;
in a layer wider than the rank the others keep what the initialisation gave them).

Regime. SGD without momentum and, where they are known, three relaxation times before that quarter.
Traces are essential: without them the balance is wrong unless they agree.

Source: Ziyin et al., arXiv 2402.07193; traces and D ≥ 3 derived in `theory.linear_equilibrium`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import bibliography
from .agreement import weigh
from .evidence import Estimate, at_initialisation, last, number, show
from .formation import Claim, Finding, compare, tell
from .law import Condition, Prediction, barred, status_of
from .regime import plain_sgd
from .registry import declare
from .relaxation import late, relaxed, simulated
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

BALANCED = Claim(threshold=0.1, change=0.1, rising=False)
ISOMETRY = 0.08
SOURCE = "Ziyin et al., arXiv 2402.07193"


def _regime(run: Run, layer: str) -> tuple[Condition, ...]:
    optimiser = () if simulated(run) else (plain_sgd(run, layer),)
    timed = len(run.series("relaxation_steps", layer)) > 0
    return (*optimiser, relaxed(run, layer)) if timed else optimiser


@declare(
    name="deep_linear_balance",
    family="symmetry",
    statement="SGD balances forward and backward signals between linear layers.",
    equation="A_i / Tr A_{i−1} = B_i / Tr B_{i+1}",
    source=SOURCE,
    bibtex=bibliography.NOISE_EQUILIBRIUM,
    needs=("balance_gap", "relaxation_steps"),
    regime=_regime,
    predict=lambda run, layer: Prediction(0.0, "the two sides agree"),
    everywhere=False,
)
def deep_linear_balance(run: Run, layer: str) -> Verdict:
    """Effect: the gap at the end;  initial: the gap at the start."""
    final, initial = late(run, "balance_gap", layer), at_initialisation(run, "balance_gap", layer)
    initial = Estimate(initial.step, initial.value, 0.0, 0)
    unmet = barred(_regime(run, layer))
    if unmet is not None:
        status, why = status_of(unmet), unmet.sentence
    else:
        status, why, _ = compare(final, initial, BALANCED)
    found = Finding(
        status, why, max(final.step, 0), final.value, final.interval(), math.nan, initial.value
    )
    return found.verdict("deep_linear_balance", layer, tell("Balance", "gap", found))


@declare(
    name="deep_linear_isometry",
    family="symmetry",
    statement="At the noise equilibrium the inner layers of a deep linear net are isometries.",
    equation="W_i = ρ Q_i Q_{i−1}ᵀ,  1 < i < D",
    source=SOURCE + "; D ≥ 3 derived",
    bibtex=bibliography.NOISE_EQUILIBRIUM,
    needs=("singular_value_predicted", "singular_value"),
    regime=_regime,
    predict=lambda run, layer: Prediction(
        number(run, "singular_value_predicted", layer), "the norm ρ of an inner layer"
    ),
    everywhere=False,
)
def deep_linear_isometry(run: Run, layer: str) -> Verdict:
    """Effect: the singular value over ρ."""
    seen, rho = last(run, "singular_value", layer), number(run, "singular_value_predicted", layer)
    start = at_initialisation(run, "singular_value", layer).value / rho
    ratio = Estimate(seen.step, seen.value / rho, seen.stderr / rho, seen.n)
    low, high = ratio.interval()
    unmet = barred(_regime(run, layer))
    if unmet is not None:
        status, why = status_of(unmet), unmet.sentence
    else:
        status, why = weigh((low, high), 1.0, ISOMETRY)
    found = Finding(status, why, max(seen.step, 0), ratio.value, (low, high), math.nan, start)
    sentence = (
        f"Singular value {show(seen.value)}, ρ = {show(rho)}: ratio {show(ratio.value)}, {why}."
    )
    return found.verdict("deep_linear_isometry", layer, sentence)
