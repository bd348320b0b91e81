"""Lazy or rich: whether a network trains as its linearisation or learns features.

Statement. Train f = α(h(w) − h(w_0)) on loss/α². To move f by a given amount w moves by ∝ 1/α, so

    ‖Δw‖ ~ α⁻¹,    ‖Θ_t − Θ_0‖/‖Θ_0‖ ~ α⁻¹,    1 − cos(Θ_t, Θ_0) ~ α⁻²       (α → ∞, smooth h)

and α → ∞ is kernel regression with Θ_0. The number that decides, before training, is how much the
second order adds where the linearised model would end:

    ρ = ‖f(w_0 + δ) − f(w_0) − Jδ‖/‖Jδ‖,     δ = Jᵀ(JJᵀ)⁻¹(y − f(w_0)),

the sharp form of |h − y||D²h|/|Dh|²; it, too, falls as 1/α. ρ ≪ 1: lazy; ρ ≳ 1: rich.

In units f = h/γ (γ = 1/α up to width) the best rate of SGD grows as γ² below γ = 1 and as γ^{2/L}
above.

Regime: smooth activations (where ReLU gates flip the kernel changes more slowly in α, α^−0.55 to
α^−0.85), equal training loss at all α. Strong feature learning is not good feature learning.

Source: L. Chizat, E. Oyallon, F. Bach, arXiv 1812.07956; best rates, A. Atanasov et al., arXiv
2410.04642; ρ derived here.
"""

from __future__ import annotations

SLOPES = {"weight_change": -1.0, "ntk_change": -1.0, "ntk_turn": -2.0}
"""d ln/d ln α of each measure, as α → ∞."""

LAZY, RICH = 0.1, 1.0
"""ρ below which training is called lazy, and above which rich."""


def regime(nonlinearity: float) -> str:
    """What ρ says; raises ValueError for a ρ that is not a number ≥ 0.

    >>> regime(0.02), regime(0.4), regime(3.0)
    ('lazy', 'between', 'rich')
    """
    if not nonlinearity >= 0:
        raise ValueError(f"nonlinearity={nonlinearity}: ρ is a ratio of norms, ≥ 0")
    return "lazy" if nonlinearity < LAZY else "rich" if nonlinearity > RICH else "between"


def scale_to_be_lazy(nonlinearity: float) -> float:
    """α, in units of the present one, at which ρ = 0.1."""
    return nonlinearity / LAZY


def rate_exponent(gamma: float, depth: int) -> float:
    """d ln η*/d ln γ of SGD for f = h/γ: 2 below γ = 1, 2/L above.

    >>> rate_exponent(0.1, 4), rate_exponent(10.0, 4)
    (2.0, 0.5)
    """
    return 2.0 if gamma < 1 else 2.0 / depth
