"""Scaling rules: what to do with the learning rate when the batch grows, tested by paired runs.

Two runs see the same number of samples, the second in batches k times as large, with a rate that
the rule gives. The error of the rule is |ln L_k − ln L_1|, the mean along the run.

    linear rule        SGD     η → kη                                   error at most 0.02
    square-root rule   Adam    η → √k η,  1 − β → k(1 − β)              error at most 0.1

0.02 is what theory has for kηλ₁ = 0.4 on a quadratic loss. For Adam no theory says how small: in
published runs the root erred by 0.05 where chance alone made 0.04, and the nearest other rule by
0.15; 0.1 lies between.

Test. Chance alone gives |ln L_k − ln L_1| a floor, the error of two halves of the same runs; what
the rule itself has of the error lies between error − floor and error. Inside the tolerance it
holds, outside it is violated. Runs without chance have no floor.

Regime. The batch was changed, and the rate as the rule says: other rates are controls, of which the
law does not speak. Steps stay small, rate × λ₁ ≤ 0.4 (λ₁ of the Hessian; of P^{−1/2}HP^{−1/2} for
Adam). For Adam, noise dominates the gradient of the larger batch: ‖∇L‖² ≤ trΣ/(kB).

Source: Goyal et al., arXiv 1706.02677 (SGD); Malladi, Lyu, Panigrahi, Arora, arXiv 2205.10287
(Adam); `theory/scaling_rules.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..theory.scaling_rules import SMALL
from . import bibliography
from .agreement import at_most
from .evidence import last, number
from .law import Condition, Law, Prediction, barred, status_of
from .registry import register
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run


def _followed(run: Run, layer: str, power: float) -> tuple[Condition, Condition]:
    """k ≠ 1, and a rate of k^power times the other's."""
    k, rate = number(run, "batch_ratio", layer), number(run, "rate_ratio", layer)
    known = math.isfinite(k) and math.isfinite(rate)
    alone = "no run at another batch size was recorded beside it"
    right = k**power if known else math.nan
    same = "both runs have the same batch size: there is no rule to test" if known else alone
    other = (
        f"a control: the rate was multiplied by {rate:.3g} for a batch {k:g} times as large, "
        f"and the rule says {right:.3g}"
    )
    follows = abs(rate / right - 1) < 0.01 if known else None
    return (
        Condition("batch", k != 1 if known else None, k, same, "out of regime"),
        Condition("rate", follows, rate, other, "out of regime"),
    )


def _small(run: Run, layer: str, quantity: str) -> Condition:
    return at_most(
        run, quantity, layer, SMALL,
        f"rate × λ₁ = {{value}}, at most {SMALL}: too large a step for the rule",
    )  # fmt: skip


def linear_regime(run: Run, layer: str) -> tuple[Condition, ...]:
    return (*_followed(run, layer, 1.0), _small(run, layer, "rate_curvature"))


def root_regime(run: Run, layer: str) -> tuple[Condition, ...]:
    paired = _followed(run, layer, 0.5)
    if paired[0].met is None:
        return paired
    faint = "signal over noise = {value}, at most 1: the gradient is not mostly noise"
    return (
        *paired,
        at_most(run, "signal_to_noise", layer, 1.0, faint),
        _small(run, layer, "rate_curvature_adam"),
    )


def rule_law(name: str, tolerance: float, rule: str, **fields: object) -> Law:
    """The law that losses at batch 1 and k agree within `tolerance`; needs[0] says where it is."""

    def test(run: Run, layer: str) -> Verdict:
        error = last(run, "scaling_error", layer)
        floor = number(run, "scaling_error_floor", layer)
        low, high = max(0.0, error.value - floor), error.value
        unmet = barred(law.regime(run, layer))
        if unmet is not None:
            status, why = status_of(unmet), unmet.sentence
        elif not (math.isfinite(error.value) and math.isfinite(floor)):
            status, why = "undetermined", "the error of the rule, or its floor, is not known"
        elif high <= tolerance:
            status, why = "holds", f"at most {tolerance:g}"
        elif low > tolerance:
            status, why = "violated", f"more than {tolerance:g}"
        else:
            status, why = "undetermined", f"chance alone could make it pass {tolerance:g}"
        sentence = f"{rule}: {why}."
        if math.isfinite(error.value):
            sentence = (
                f"{rule}, k = {number(run, 'batch_ratio', layer):g}: losses differ by "
                f"{error.value:.2g} in ln L, {floor:.2g} by chance: {why}."
            )
        step = max(error.step, 0)
        return Verdict(
            name, layer, step, status, error.value, (low, high), floor, math.nan, sentence
        )

    law = Law(
        name=name, family="noise", test=test, everywhere=False,
        predict=lambda run, layer: Prediction(0.0, "the loss at equal samples does not change"),
        **fields,  # type: ignore[arg-type]
    )  # fmt: skip
    return law


register(
    rule_law(
        "linear_scaling", 0.02, "Linear rule",
        statement="SGD at k times the batch and k times the rate learns the same from a sample.",
        equation="L(B, η) = L(kB, kη) at equal samples",
        source="Goyal et al., arXiv 1706.02677", bibtex=bibliography.LINEAR_SCALING,
        needs=(
            "rate_curvature", "scaling_error", "scaling_error_floor", "batch_ratio", "rate_ratio",
        ),
        regime=linear_regime,
    )
)  # fmt: skip
register(
    rule_law(
        "root_scaling", 0.1, "Square-root rule",
        statement="Adam at k times the batch and √k times the rate learns the same from a sample.",
        equation="L(B, η, 1 − β) = L(kB, √k η, k(1 − β)) at equal samples",
        source="Malladi, Lyu, Panigrahi, Arora, arXiv 2205.10287",
        bibtex=bibliography.ROOT_SCALING,
        needs=(
            "rate_curvature_adam", "scaling_error", "scaling_error_floor", "batch_ratio",
            "rate_ratio", "signal_to_noise",
        ),
        regime=root_regime,
    )
)  # fmt: skip
