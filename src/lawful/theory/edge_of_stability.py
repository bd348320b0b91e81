"""Edge of stability: the sharpness at which an optimiser stops being stable.

On a quadratic of curvature h an optimiser is a linear recursion in time. Its multiplier leaves the
unit circle at −1 when h passes

    gradient descent        θ ← θ − η g                              2/η
    heavy ball              m ← β m + (1−d) g,  θ ← θ − η m          2(1+β)/((1−d)η)
    Nesterov                m ← β m + g,  θ ← θ − η (g + β m)        2(1+β)/((1+2β)η)
    averaged momentum       m ← β m + (1−β) g,  θ ← θ − η m          2(1+β)/((1−β)η)

An adaptive method divides by P, so h is an eigenvalue of P^{−1/2} H P^{−1/2}: RMSProp (P = √ν) has
the threshold of gradient descent, Adam (P = √ν̂) that of averaged momentum, 38/η at β = 0.9. Weight
decay λ added to the gradient is curvature like any other; applied apart (AdamW) it lowers the
threshold by the factor 1 − ηλ/2. Full-batch training brings λ_1 there and stays.

Mini-batches. What settles is the curvature along the mini-batch's own gradient, the batch
sharpness E_B[g_BᵀH_B g_B/‖g_B‖²], at 2/η, while λ_1(H) stays below; with momentum at 2(1−β)/η for
small and 2(1+β)/η for large batches.

Regime: past the crossing, constant η; a quadratic neglects how the curvature itself turns back
(`theory.central_flow`).

Sources: J. Cohen et al., arXiv 2103.00065 (gradient descent, heavy ball, Nesterov) and 2207.14484
(adaptive); A. Andreyev and P. Beneventano, arXiv 2412.20553, and arXiv 2604.14108 (mini-batches).
The recursions, hence dampening and AdamW, are elementary.
"""

from __future__ import annotations

import numpy as np


def gradient_descent(eta: float) -> float:
    """2/η; also RMSProp's, for the curvature divided by √ν.

    >>> gradient_descent(0.1)
    20.0
    """
    return 2 / eta


def heavy_ball(eta: float, beta: float, *, dampening: float = 0.0) -> float:
    """2(1+β)/((1−d)η).

    >>> round(heavy_ball(0.1, 0.9), 9)
    38.0
    """
    return 2 * (1 + beta) / ((1 - dampening) * eta)


def nesterov(eta: float, beta: float) -> float:
    """2(1+β)/((1+2β)η), as torch writes Nesterov's momentum."""
    return 2 * (1 + beta) / ((1 + 2 * beta) * eta)


def adam(eta: float, beta1: float, *, weight_decay: float = 0.0) -> float:
    """2(1+β₁)/((1−β₁)η) for P^{−1/2} H P^{−1/2}; weight_decay: the λ of AdamW.

    >>> round(adam(1e-3, 0.9))
    38000
    """
    return heavy_ball(eta, beta1, dampening=beta1) * (1 - eta * weight_decay / 2)


def batch_sharpness(eta: float, beta: float = 0.0, *, large: bool = False) -> float:
    """Where the batch sharpness settles; large: a batch so large that steps hardly differ.

    >>> batch_sharpness(0.1)
    20.0
    """
    return 2 * (1 + beta if large else 1 - beta) / eta


def multiplier(recursion: np.ndarray) -> float:
    """Largest |eigenvalue| of a one-step map: above 1 the optimiser is unstable.

    recursion: (m, m) in the coordinates of `momentum_step`.
    """
    return float(np.abs(np.linalg.eigvals(recursion)).max())


def momentum_step(
    h: float, eta: float, beta: float, *, dampening: float = 0.0, nesterov: bool = False,
    decay: float = 0.0,
) -> np.ndarray:  # fmt: skip
    """(θ, m) → (θ, m) on ½hθ², as torch does it; decay: λ applied apart from the gradient.

    >>> round(multiplier(momentum_step(38.0, 0.1, 0.9)), 6)
    1.0
    """
    m = np.array([(1 - dampening) * h, beta])
    update = np.array([h, 0.0]) + beta * m if nesterov else m
    return np.array([np.array([1 - eta * decay, 0.0]) - eta * update, m])
