"""Dimensional collapse in closed form: InfoNCE with a linear encoder.

Model. f = Wx; views x + c, x + c′ with data covariance A₀ and augmentation covariance C, Gaussian;
similarity −½‖f − f′‖²; decay γ‖W‖² (torch weight_decay = 2γ); many negatives. With Σ = A₀ + C and
P = Σ^{½}WᵀWΣ^{½}, integrating the Gaussian negatives gives the loss exactly,

    L = Tr[(C+γ)WᵀW] − ½ ln det(I + P) − ½ Tr[P(I + P)⁻¹]
      ≈ −Tr[(A₀−γ)WᵀW] + ¾ Tr[(WᵀWΣ)²]         near W = 0.

Minimum. L is convex in P and, but for its linear term, depends on the eigenvalues of P only; so P
shares the eigenvectors of B = Σ^{−½}(C + γI)Σ^{−½}, and each eigenvalue p follows from that of B:

    y + y² = 2b,     y = (√(1 + 8b) − 1)/2,     p = (1/y − 1)₊.

Direction i is active iff b_i < 1. By Sylvester's law of inertia there are as many b_i < 1 as
eigenvalues of A₀ above γ: augmentation decides which directions and how large, never how many.
Near the threshold WᵀW ≈ ⅔ Σ^{−½}[Σ^{−½}(A₀−γ)Σ^{−½}]₊Σ^{−½}.

Range. Exact for Gaussian data and infinitely many negatives; N negatives change L by O(1/N). An
encoder of width k < active directions keeps the k smallest b. Full-rank Σ.

Source: Ziyin, Lubana, Ueda, Tanaka, "What Shapes the Loss Landscape of Self-Supervised Learning?",
arXiv 2210.00638 (model and quartic landscape); the exact loss and minimum derived here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def infonce_loss(W: Array, A0: Array, C: Array, *, gamma: float = 0.0) -> float:
    """The population loss + γ‖W‖² of an encoder W (k, d); A0, C (d, d). Zero at W = 0."""
    S = W @ (A0 + C) @ W.T
    I = np.eye(len(S))
    inverse = np.linalg.inv(I + S)
    pull = np.trace(W @ (C + gamma * np.eye(len(C))) @ W.T)
    return float(pull - np.linalg.slogdet(I + S)[1] / 2 - np.trace(S @ inverse) / 2)


def active_directions(A0: Array, gamma: float) -> int:
    """How many directions survive at γ: the eigenvalues of A₀ above γ.

    >>> active_directions(np.diag([1.0, 0.5, 0.05]), 0.1)
    2
    """
    return int(np.sum(np.linalg.eigvalsh(A0) > gamma))


def optimum(A0: Array, C: Array, gamma: float, *, width: int | None = None) -> Array:
    """WᵀW (d, d) of the global minimum; width: output dimension k of the encoder (default d).

    >>> optimum(np.diag([1.0, 0.2]), np.eye(2), gamma=0.5).round(6).tolist()
    [[0.107625, 0.0], [0.0, 0.0]]
    """
    inverse_root = _inverse_root(A0 + C)
    b, Q = np.linalg.eigh(inverse_root @ (C + gamma * np.eye(len(C))) @ inverse_root)
    if not b[0] > 0:
        raise ValueError("C + γI is singular: without augmentation or decay W grows without bound")
    y = (np.sqrt(1 + 8 * b) - 1) / 2
    p = np.clip(1 / y - 1, 0, None)
    if width is not None:
        p[width:] = 0.0  # eigenvalues b ascend: the smallest are worth the most
    root = inverse_root @ Q
    return np.asarray((root * p) @ root.T)


def optimum_near_threshold(A0: Array, C: Array, gamma: float) -> Array:
    """The quartic approximation ⅔ Σ^{−½}[Σ^{−½}(A₀−γ)Σ^{−½}]₊Σ^{−½} of `optimum`."""
    inverse_root = _inverse_root(A0 + C)
    values, Q = np.linalg.eigh(inverse_root @ (A0 - gamma * np.eye(len(A0))) @ inverse_root)
    root = inverse_root @ Q
    return np.asarray((root * (2 / 3 * np.clip(values, 0, None))) @ root.T)


def _inverse_root(Sigma: Array) -> Array:
    values, Q = np.linalg.eigh(Sigma)
    if not values[0] > 1e-12 * values[-1]:
        raise ValueError("A0 + C is singular: drop the input directions without variance")
    return np.asarray((Q / np.sqrt(values)) @ Q.T)
