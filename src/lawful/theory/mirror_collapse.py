"""Collapse into a mirror plane: the weight decay that makes a symmetric state inevitable.

Statement. Let ℓ((I − 2OOᵀ)θ) = ℓ(θ), OᵀO = I. The plane Oᵀθ = 0 holds the symmetric states: equal
neurons (permutation), a dead pair u = w = 0 (rescaling), a lost rank (rotation), a dead weight
(sign). With L_γ = ℓ + γ‖θ‖² (torch weight_decay = 2γ):

 1. on the plane Oᵀ∇L_γ = 0, so gradient descent with or without momentum never leaves it;
 2. there the Hessian has no block between im O and the plane;
 3. and for γ large enough the plane holds every global minimum.

Local threshold. Across the plane the curvature of L_γ is OᵀH₀O + 2γI, so the symmetric minimiser
θ_s(γ) is stable iff γ exceeds

    γ_c = −½ λ_min(OᵀH₀O),          H₀ = ∇²ℓ(θ_s(γ)),

a fixed point in γ because θ_s moves with it.

Pitchfork. On the unstable direction L_γ ≈ (γ − γ_c)s² + c₁s⁴: c₁ > 0 gives s* = √((γ_c−γ)₊/2c₁),
a continuous collapse; c₁ < 0 a jump. Decay towards θ₀ ≠ 0 (syre) adds −2γs₀s, the imperfect
pitchfork: no exact collapse, s ≈ γs₀/(γ−γ_c) well above the threshold.

Global threshold. γ_g = sup_θ [ℓ(Pθ) − ℓ(θ)]/‖Oᵀθ‖² ≥ γ_c with P = I − OOᵀ; from γ_g on no point
beats its projection. It can be infinite on an unbounded region.

Trap. A network has many mirrors: the state may have collapsed onto another one (swap∘sign instead
of swap), so measure the distance to the nearest mirror of the whole group.

Source: Ziyin, "Symmetry Induces Structure and Constraint of Learning", ICML 2024, arXiv 2309.16932
(items 1–3); thresholds and pitchforks derived here; removal by θ₀: Ziyin, Xu, Chuang, "Remove
Symmetries to Control Model Expressivity" (syre), arXiv 2408.15495.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]

_DENSE = 64  # up to so many mirror directions OᵀHO is formed column by column


def least_curvature(hessian: Array | Callable[[Array], Array], O: Array) -> float:
    """λ_min(OᵀHO): the least curvature across the mirror plane.

    hessian: H (D, D), or a function v (D,) ↦ Hv (a Hessian-vector product);  O (D, k) with
    orthonormal columns. Lanczos when k > 64.

    >>> least_curvature(np.diag([-3.0, 1.0]), np.array([[1.0], [0.0]]))
    -3.0
    """
    k = O.shape[1]
    if not np.allclose(O.T @ O, np.eye(k), atol=1e-8):
        raise ValueError("O: columns are not orthonormal; pass the Q factor of np.linalg.qr(O)")
    times = hessian if callable(hessian) else hessian.__matmul__
    if k <= _DENSE:
        projected = np.stack([O.T @ times(column) for column in O.T], axis=1)
        return float(np.linalg.eigvalsh((projected + projected.T) / 2)[0])
    from scipy.sparse.linalg import LinearOperator, eigsh  # here: it takes long to load

    operator = LinearOperator((k, k), matvec=lambda v: O.T @ times(O @ v), dtype=np.float64)
    start = np.random.default_rng(0).normal(size=k)
    return float(eigsh(operator, 1, which="SA", v0=start, return_eigenvectors=False)[0])


def critical_gamma(hessian: Array | Callable[[Array], Array], O: Array) -> float:
    """γ_c = −½ λ_min(OᵀH₀O) from the Hessian of ℓ (without decay) at a symmetric minimiser.

    Negative when the symmetric state is stable without any decay. It assumes that θ_s does not
    move with γ; see `critical_gamma_moving`.
    """
    return -least_curvature(hessian, O) / 2


def critical_gamma_moving(critical_at: Callable[[float], float], low: float, high: float) -> float:
    """The γ in [low, high] with γ = critical_at(γ), where the symmetric state turns stable.

    critical_at(γ) minimises L_γ within the plane and returns `critical_gamma` there.

    >>> round(critical_gamma_moving(lambda gamma: 1 - gamma, 0, 2), 9)
    0.5
    """
    ends = [gamma - critical_at(gamma) for gamma in (low, high)]
    if ends[0] * ends[1] > 0:
        state = "stable" if ends[0] > 0 else "unstable"
        raise ValueError(
            f"the symmetric state is {state} at both low={low} and high={high}: "
            f"{'lower low' if ends[0] > 0 else 'raise high'}"
        )
    return float(
        scipy.optimize.brentq(lambda gamma: gamma - critical_at(gamma), low, high, rtol=1e-10)
    )


def global_gamma(loss: Array, loss_projected: Array, distance2: Array) -> float:
    """γ_g over a set of points: max [ℓ(Pθ) − ℓ(θ)]/‖Oᵀθ‖², all of shape (n,).

    A lower bound on γ_g of the region that the points were drawn from.
    """
    off = distance2 > 0
    return float(np.max((loss_projected[off] - loss[off]) / distance2[off], initial=-math.inf))


def order_parameter(gamma: float, gamma_c: float, quartic: float, *, anchor: float = 0.0) -> float:
    """The s ≥ 0 that minimises (γ − γ_c)s² + c₁s⁴ − 2γ·anchor·s, c₁ = quartic > 0.

    anchor = s₀ ≥ 0: the point that decay pulls to; 0 for ordinary weight decay.

    >>> order_parameter(1.0, 3.0, 1.0), order_parameter(4.0, 3.0, 1.0)
    (1.0, 0.0)
    """
    if quartic <= 0 or anchor < 0:
        raise ValueError(f"quartic={quartic}, anchor={anchor}: need quartic > 0 and anchor ≥ 0")
    roots = np.roots([4 * quartic, 0.0, 2 * (gamma - gamma_c), -2 * gamma * anchor])
    real = roots[np.abs(roots.imag) < 1e-9 * (1 + np.abs(roots))].real
    return float(max(np.max(real, initial=0.0), 0.0))
