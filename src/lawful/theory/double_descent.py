"""Double descent: the risk of least squares as parameters pass the number of samples.

Statement. y = xᵀβ + ε, x ~ N(0, I_p), ‖β‖² = r², Var ε = σ²; least squares of minimum norm on n
samples. The excess risk E(xᵀ(β̂ − β))² is exactly

    p < n − 1     σ² p/(n − p − 1)
    p > n + 1     r²(1 − n/p) + σ² n/(p − n − 1)

and infinite (its mean; not its median) for |p − n| ≤ 1: it falls, explodes at p = n, falls again.
For p, n → ∞ at p/n = g this is σ²g/(1 − g), and r²(1 − 1/g) + σ²/(g − 1). Other covariances: the
eigenframework with ridge 0 (`theory.kernel_eigenframework`).

Regime: Gaussian (or independent) features of one scale, minimum norm, no ridge.

Source: T. Hastie et al., arXiv 1903.08560; finite n by the inverse Wishart mean.
"""

from __future__ import annotations

import math


def excess_risk(n: int, p: int, *, signal: float, noise: float) -> float:
    """Mean excess risk; signal r², noise σ².

    >>> excess_risk(100, 50, signal=1.0, noise=0.25), excess_risk(100, 100, signal=1.0, noise=0.25)
    (0.25510204081632654, inf)
    """
    if n < 1 or p < 1 or not (signal >= 0 and noise >= 0):
        raise ValueError(f"n={n}, p={p}, signal={signal}, noise={noise}: n, p ≥ 1, the rest ≥ 0")
    if abs(p - n) <= 1:
        return math.inf
    if p < n:
        return noise * p / (n - p - 1)
    return signal * (1 - n / p) + noise * n / (p - n - 1)


def best_ratio(signal: float, noise: float) -> float:
    """p/n > 1 of least risk at given ‖β‖²; ∞ where the second descent never turns.

    d/dg [r²(1 − 1/g) + σ²/(g − 1)] = 0 at √(SNR)·(g − 1) = g, SNR = r²/σ².

    >>> best_ratio(4.0, 1.0)
    2.0
    """
    ratio = math.sqrt(signal / noise) if noise > 0 else math.inf
    if ratio <= 1:
        return math.inf
    return 1.0 if math.isinf(ratio) else ratio / (ratio - 1)
