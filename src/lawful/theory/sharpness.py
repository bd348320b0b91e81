"""Stability of a factorisation: the trace of the Hessian, its minimum, and what SGD makes of it.

Stability metric. For L = E‖W_D … W_1 x − y‖² (no ½) the Hessian's trace is, at every point,

    S = Tr H = 2 Σ_i Tr A_{i−1} ‖W_D … W_{i+1}‖²_F,      A_i = cov(h_i);
    two layers:  S = 2 (Tr Σ_x ‖U‖² + d_y Tr W Σ_x Wᵀ).

Rescaling layers leaves the function alone and makes S arbitrarily large. Its minimum over all
factorisations of V with width ≥ rank V is

    S_flat = 2D (d_y Tr Σ_x)^{1/D} ‖V√Σ_x‖_*^{2−2/D}          (D = 2: 4 √(d_y Tr Σ_x) ‖V√Σ_x‖_*).

Proof. With b_i = ‖W_D … W_{i+1}‖², the mean of the D terms is at least their geometric mean, and
b_i Tr A_i ≥ ‖V√Σ_x‖_*² for each inner i (Hölder); b_D = d_y, Tr A_0 = Tr Σ_x remain. Equality: the
noise equilibrium with Σ_ε ∝ I.

So SGD under isotropic label noise finds the flattest minimum; under anisotropic noise it sits, for
two layers, between

    1 ≤ S_noise/S_flat ≤ ½ (√(λ̄/λ_min) + √(λ_max/λ̄)),     λ the eigenvalues of Σ_ε, λ̄ their mean

(Tr S′ ≤ √λ_max ‖V√Σ_x‖_* and ‖U‖² likewise), and even *sharpens* if started at the flattest.

Step size. SGD of batch 1 on h = 2JᵀJ (J the Jacobian of the d_y outputs, E h = H) is stable in
mean square if η E[h²] ⪯ 2H, which η ≤ 2/max 2‖JJᵀ‖ ensures. Since E 2Tr JJᵀ = S, the scale is 2/S,
set by the trace and not by the largest eigenvalue as for full-batch descent: nearly sharp for one
output (Gaussian x in d dimensions: 2d/((d+2)S)), up to d_y times too careful for d_y equal ones.

Source: Ziyin et al., arXiv 2402.07193 (stability metric, warm-up); the flattest value for Σ_x = I
(as we recall it) in Gatmiry et al., arXiv 2306.13239. Proof and bounds ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .linear_equilibrium import equilibrium, signals

Array = NDArray[np.float64]


def stability_metric(weights: Sequence[Array], Sigma_x: Array) -> float:
    """S = Tr H of E‖W_D … W_1 x − y‖² at any point; weights W_1 … W_D, Sigma_x (d_x, d_x).

    >>> stability_metric([np.eye(2), np.eye(2)], np.eye(2))  # 2 (2·2 + 2·2)
    16.0
    """
    identity = np.eye(len(weights[-1]))
    A, B = signals(weights, Sigma_x, identity)
    return 2 * float(sum(np.trace(a) * np.trace(b) for a, b in zip(A[:-1], B[1:], strict=True)))


def flattest(V: Array, Sigma_x: Array, *, depth: int = 2) -> float:
    """The least S over all factorisations of V (d_y, d_x) into `depth` layers.

    >>> round(flattest(np.eye(2), np.eye(2)), 9)
    16.0
    """
    # The singular values of V√Σ_x are the roots of the eigenvalues of V Σ_x Vᵀ.
    nuclear = np.sqrt(np.clip(np.linalg.eigvalsh(V @ Sigma_x @ V.T), 0, None)).sum()
    scale = (len(V) * np.trace(Sigma_x)) ** (1 / depth)
    return float(2 * depth * scale * nuclear ** (2 - 2 / depth))


def at_equilibrium(V: Array, Sigma_x: Array, Sigma_eps: Array, *, depth: int = 2) -> float:
    """S where SGD with label noise Σ_ε rests; equals `flattest` when Σ_ε ∝ I."""
    return stability_metric(equilibrium(V, Sigma_x, Sigma_eps, depth=depth).weights, Sigma_x)


def sharpening_bound(Sigma_eps: Array) -> float:
    """The most that `at_equilibrium`/`flattest` can be for two layers: 1 when Σ_ε ∝ I.

    >>> sharpening_bound(np.eye(3))
    1.0
    """
    values = np.linalg.eigvalsh(Sigma_eps)
    if not values[0] > 0:
        raise ValueError("Sigma_eps is not positive definite: SGD then sharpens without bound")
    mean = values.mean()
    return float((np.sqrt(mean / values[0]) + np.sqrt(values[-1] / mean)) / 2)


def largest_stable_eta(metric: float) -> float:
    """2/S: the scale of the learning rate at which batch-1 SGD leaves a minimum of trace S.

    >>> largest_stable_eta(250.0)
    0.008
    """
    return 2 / metric
