"""How to widen or deepen a network so that nothing has to be tuned again, as numbers.

A weight of fan-in n·m_a and fan-out n·m_b, (m_a, m_b) its growth from a base of width n (1 on a
side that does not grow: pixels, classes), in the form with no factor in the forward pass:

                       deviation of init       rate, Adam     rate, SGD       ε of Adam
    standard           σ/√m_a                  1              1               1
    maximal (μP)       σ √(min(1, m_b/m_a)/m_a)   1/m_a       m_b/m_a         1/m_b
    NTK                σ/√m_a                  see `ntk`      1/m_a           1

In μP every layer's output changes by Θ(1) in a step at every width; an update ΔW has spectral norm
√(fan-out/fan-in). A factor c in front of a weight is no freedom of its own: it is the same as an
init times c, a rate times c (Adam) or c² (SGD) without it. Attention logits q·k/√d become q·k/d,
a shared (tied) readout gets 1/m: those two need a factor.

Depth. Residual branches x + m_L^−α F(x), m_L the growth in depth; inside them Adam's rate is
× m_L^{α−1}, its ε × m_L^−α, SGD's rate × m_L^{2α−1}. α = ½: depth-μP; α = 1: CompleteP, which
keeps every block learning. At initialisation E‖h_L‖² = (1 + c L^−2α)^L ‖h_0‖².

Range. Widths that all grow together, depth held (or grown by the rule), steps few against the
width. The row of the NTK and SGD's depth rule are derived, the others as published.

Source: Yang & Hu, arXiv 2011.14522; Yang et al., arXiv 2203.03466 (tables 3, 8); Yang, Simon,
Bernstein, arXiv 2310.17813 (spectral form); Everett et al., arXiv 2407.05872 (ε); Dey et al.,
arXiv 2505.01618 (CompleteP).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Growth:
    """How a weight's two sides grew from the base model: 1 where a side is not a width.

    fan_in: m_a;  fan_out: m_b. A bias or a gain has fan_in 1.
    """

    fan_in: float
    fan_out: float

    def __post_init__(self) -> None:
        for name, value in (("fan_in", self.fan_in), ("fan_out", self.fan_out)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name}={value}: a growth is a ratio of widths, above 0")


@dataclass(frozen=True)
class Factors:
    """What multiplies the base model's numbers for this weight.

    init:  standard deviation of the initial weight.  rate: learning rate.
    eps:   Adam's ε.  decay: torch's weight_decay, so that rate × decay does not move with width.
    """

    init: float
    rate: float
    eps: float
    decay: float


def maximal(growth: Growth, optimizer: str, *, depth: float = 1.0, alpha: float = 1.0) -> Factors:
    """μP, in the form without a factor in the forward pass.

    optimizer: "adam" (and its kin, sign-like) or "sgd".
    depth:     m_L for a weight inside a residual branch that is scaled by m_L^−α; else 1.

    >>> maximal(Growth(8, 8), "adam").rate, maximal(Growth(8, 1), "sgd").rate
    (0.125, 0.125)
    >>> maximal(Growth(1, 8), "adam").rate, maximal(Growth(1, 8), "sgd").rate
    (1.0, 8.0)
    """
    a, b = growth.fan_in, growth.fan_out
    init = math.sqrt(min(1.0, b / a) / a)
    if optimizer == "adam":
        rate = depth ** (alpha - 1) / a
        return Factors(init, rate, depth**-alpha / b, a)
    if optimizer == "sgd":
        rate = depth ** (2 * alpha - 1) * b / a
        return Factors(init, rate, 1.0, 1 / rate)
    raise ValueError(f"optimizer={optimizer!r}: the rules are for 'adam' and 'sgd'")


def ntk(growth: Growth, optimizer: str) -> Factors:
    """The NTK parametrisation, forward factor 1/√fan-in absorbed: features freeze as n → ∞.

    Its own rates are constant under SGD and n^−½, n^−1, n^−½ (input, hidden, output) under Adam;
    the factor 1/√m_a absorbed, these are 1/m_a under SGD; under Adam 1/√m_b × 1/√m_a.

    >>> ntk(Growth(4, 4), "adam").rate, ntk(Growth(4, 4), "sgd").rate, ntk(Growth(1, 4), "sgd").rate
    (0.125, 0.25, 1.0)
    """
    a, b = growth.fan_in, growth.fan_out
    if optimizer not in ("adam", "sgd"):
        raise ValueError(f"optimizer={optimizer!r}: the rules are for 'adam' and 'sgd'")
    hidden = a > 1 and b > 1
    stable = 1 / a if hidden else 1 / math.sqrt(a * b)
    rate = 1 / a if optimizer == "sgd" else stable / math.sqrt(a)
    return Factors(1 / math.sqrt(a), rate, 1.0, 1 / rate)


def attention_factor(growth: float) -> float:
    """What multiplies queries whose head dimension grew by `growth`: q·k/√d becomes ∝ q·k/d.

    >>> attention_factor(4.0)
    0.5
    """
    return growth**-0.5


def branch_factor(depth: float, alpha: float = 1.0) -> float:
    """m_L^−α, in front of every residual branch of a network m_L times as deep as the base.

    >>> branch_factor(4.0, 0.5)
    0.5
    """
    return depth**-alpha


def depth_growth(layers: int, alpha: float, *, variance: float = 1.0) -> float:
    """E‖h_L‖²/‖h_0‖² at initialisation of h ← h + L^−α F(h), F independent, E‖F‖² = c‖h‖².

    >>> round(depth_growth(64, 0.5), 2), depth_growth(64, 0.0) > 1e19
    (2.7, True)
    """
    return (1 + variance * layers ** (-2 * alpha)) ** layers
