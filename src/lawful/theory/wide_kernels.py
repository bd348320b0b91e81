"""Infinite width: the kernels of a ReLU network, training in closed form, and how fast it comes.

Network, h hidden layers of width n, all weights N(0, 1) (NTK parametrisation), no biases:

    z_1 = W_1x/√d,     z_{l+1} = √(2/n) W_{l+1} relu(z_l),     f = z_{h+1}.

Statement. As n → ∞, f is Gaussian with covariance S (NNGP) and trains with the fixed kernel Θ
(NTK): S_1 = Θ_1 = xᵀx′/d and, ρ the cosine that belongs to S,

    S ← √(qq′) k_1(ρ),   Θ ← S + Θ k_0(ρ),     q = S(x, x), q′ = S(x′, x′)
    k_0 = (π − arccos ρ)/π,       k_1 = (√(1−ρ²) + (π − arccos ρ)ρ)/π.

Training on ½‖f − y‖² for a time t = η·steps (Θ on the training set X)

    f_t(x) = f_0(x) + Θ(x, X)Θ⁻¹(1 − e^{−Θt})(y − f_0(X)).

Finite n: relative standard deviation of the NTK ~ n^−½, its drift in training ~ n⁻¹, change of
features ~ n^−½, |network − kernel regression| ~ n^−½. Fluctuations grow with depth/width.

Source: Y. Cho, L. Saul 2009 (k_0, k_1); A. Jacot et al., arXiv 1806.07572; J. Lee et al., arXiv
1902.06720; drift, E. Dyer, G. Gur-Ari, arXiv 1909.11304.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

SLOPES = {
    "ntk_deviation": -0.5,
    "ntk_change": -1.0,
    "feature_change": -0.5,
    "kernel_distance": -0.5,
}
"""d ln/d ln n of each measure, n the width."""


def relu_kernels(x: Array, z: Array, hidden: int) -> tuple[Array, Array]:
    """(S, Θ), each (n, m), of the output, for x (n, d), z (m, d) and `hidden` ReLU layers.

    >>> S, T = relu_kernels(np.eye(2), np.eye(2), 1)
    >>> float(T[0, 0]), round(float(S[0, 1]), 4)  # 2·|x|²/d; |x|²/(πd)
    (1.0, 0.1592)
    """
    if hidden < 0 or x.shape[1] != z.shape[1]:
        raise ValueError(f"x {x.shape}, z {z.shape}, hidden={hidden}: equal columns, hidden ≥ 0")
    for name, rows in (("x", x), ("z", z)):
        bad = int(np.sum(~np.isfinite(rows)))
        if bad:
            raise ValueError(f"{name} has {bad} entries that are not finite")
    d = x.shape[1]
    S = T = x @ z.T / d
    q = np.sqrt(np.outer(np.sum(x**2, 1), np.sum(z**2, 1))) / d  # ReLU keeps q
    safe = np.where(q > 0, q, 1.0)
    for _ in range(hidden):
        rho = np.clip(S / safe, -1.0, 1.0)
        angle = np.arccos(rho)
        S = q * (np.sqrt(1 - rho**2) + (math.pi - angle) * rho) / math.pi
        T = S + T * (math.pi - angle) / math.pi
    return S, T


def linearised(
    train: Array, cross: Array, gap: Array, time: float = math.inf, ridge: float = 0.0
) -> Array:
    """f_t(x) − f_0(x): train Θ(X, X) (n, n), cross Θ(x, X) (m, n), gap y − f_0(X) (n,) or (n, k).

    time: η·steps of gradient descent on ½‖f − y‖² (not its mean); ∞: trained to the end.
    Warns with the condition number where the end is decided by round-off.
    """
    for name, part in (("train", train), ("cross", cross), ("gap", gap)):
        bad = int(np.sum(~np.isfinite(part)))
        if bad:
            raise ValueError(f"{name} has {bad} entries that are not finite")
    values, vectors = np.linalg.eigh(train + ridge * np.eye(len(train)))
    floor = len(values) * np.finfo(float).eps * values[-1]
    if math.isinf(time) and values[0] <= floor:
        lost = int(np.sum(values <= floor))
        warnings.warn(
            f"the kernel is singular ({lost} of {len(values)} eigenvalues below {floor:.1e}): "
            "their directions are left untrained",
            RuntimeWarning,
            stacklevel=2,
        )
    decay = np.zeros_like(values) if math.isinf(time) else np.exp(-values * time)
    gain = np.where(values > floor, (1 - decay) / np.maximum(values, floor), 0.0)
    if math.isfinite(time):  # (1 − e^{−λt})/λ → t
        gain = np.where(values > floor, gain, time)
    weighted = (vectors.T @ gap).T * gain
    return np.asarray(cross @ (vectors @ weighted.T))
