"""Noise equilibrium of a GL(k) orbit: k channels between two maps that may be mixed at will.

Statement. Let ℓ be unchanged under  U → MU, W → WM⁻¹  (U (k, p) makes k channels, W (q, k) reads
them: two linear layers, value and output, query and key, LoRA). Gradient flow conserves the
symmetric matrix  Q = UUᵀ − WᵀW. With N₊ = E[ΔG_U ΔG_Uᵀ], N₋ = E[ΔG_Wᵀ ΔG_W] of the per-sample
gradient (k, k) and κ = 2w − ηw², one step of SGD changes it in the mean by

    E[ΔQ] = −ηκQ + (η²/S)(N₊ − N₋)                             (on a valley of minima: ḡ = 0).

Along the orbit G_U → M⁻ᵀG_U and G_W → G_WMᵀ, so that with P = MᵀM, UUᵀ = C₊, WᵀW = C₋ and T = η/S
everything stands still where

    P B P = A,     A = T N₊ + κ C₋,     B = T N₋ + κ C₊.

For A, B ≻ 0 the one positive solution is the geometric mean of A and B⁻¹,

    P = B^{−½} (B^{½} A B^{½})^{½} B^{−½},

the minimum of the function Tr AP⁻¹ + Tr BP, which is convex along geodesics: the equilibrium is
unique. k = 1 is the rescaling, P = e^{2λ*}, of `noise_equilibrium`. Only P is determined: the
rotations of the channels have no charge and stay where they are.

Relaxation. A small symmetric move δ from the equilibrium, M = 1 + δ, dies as

    {δ̇, C} = −η (T{δ, N} + κ{δ, C}),     N = N₊ + N₋,  C = C₊ + C₋,  {X, Y} = XY + YX   (per step)

so with N v = νCv the mode vvᵀ has the rate η(Tν + κ), and those that mix two v one in between. The
slowest may be many times slower than the mean, Tr N/Tr C.

Range. As in `noise_equilibrium`: SGD, small η, gradients that transform as those of a symmetry.
Without decay N₊ and N₋ must have full rank k: channels without noise do not come to rest.

Source: GL of two linear layers in Ziyin et al., arXiv 2402.07193 (law of matrix balance);
the equilibrium as a geometric mean derived here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GLPoint:
    """A point of the orbit: moments (k, k) of the two sides and of their gradient noise.

    into = UUᵀ, out = WᵀW; noise_in = N₊, noise_out = N₋ (per sample).
    """

    into: Array
    out: Array
    noise_in: Array
    noise_out: Array

    @property
    def charge(self) -> Array:
        """Q = UUᵀ − WᵀW."""
        return np.asarray(self.into - self.out)

    def moved(self, P: Array) -> GLPoint:
        """The same orbit at M = P^{½}."""
        M = _power(P, 0.5)
        inverse = np.linalg.inv(M)
        return GLPoint(
            M @ self.into @ M,
            inverse @ self.out @ inverse,
            inverse @ self.noise_in @ inverse,
            M @ self.noise_out @ M,
        )


def gl_change(point: GLPoint, *, eta: float, batch: int, weight_decay: float = 0.0) -> Array:
    """E[ΔQ] of one step on a valley of minima."""
    forgotten = 2 * eta * weight_decay - (eta * weight_decay) ** 2
    push = eta**2 / batch * (point.noise_in - point.noise_out)
    return np.asarray(push - forgotten * point.charge)


def gl_equilibrium(
    point: GLPoint, *, eta: float = 1.0, batch: int = 1, weight_decay: float = 0.0
) -> Array:
    """P = MᵀM (k, k) that takes the point to its equilibrium.

    Raises ValueError where a channel has neither noise nor decay on one side: it has none.

    >>> one = np.eye(1)
    >>> gl_equilibrium(GLPoint(one, one, 16 * one, one)).tolist()  # e^{2λ*}, λ* = ¼ ln 16
    [[4.0]]
    """
    T, kappa = eta / batch, 2 * weight_decay - eta * weight_decay**2
    A = T * point.noise_in + kappa * point.out
    B = T * point.noise_out + kappa * point.into
    for name, side in (("in", A), ("out", B)):
        values = np.linalg.eigvalsh(side)
        if not values[0] > 1e-9 * values[-1]:
            rank = int(np.sum(values > 1e-9 * max(values[-1], 1e-300)))
            raise ValueError(
                f"on side '{name}' neither noise nor decay acts on {len(side) - rank} of "
                f"{len(side)} channels: they have no equilibrium"
            )
    root = _power(B, 0.5)
    inverse = np.linalg.inv(root)
    P = inverse @ _power(root @ A @ root, 0.5) @ inverse
    return np.asarray((P + P.T) / 2)


def gl_relaxation(
    point: GLPoint, *, eta: float, batch: int, weight_decay: float = 0.0
) -> tuple[Array, Array]:
    """Steps (k,) in which the modes of a small move from the equilibrium `point` shrink by e.

    And the size vᵀCv/‖v‖² of each. Longest first; infinite where neither noise nor decay pulls.

    >>> noise = np.diag([1.0, 0.01])
    >>> steps, size = gl_relaxation(GLPoint(np.eye(2), np.eye(2), noise, noise), eta=0.1, batch=1)
    >>> steps.round(6).tolist(), size.round(6).tolist()
    ([10000.0, 100.0], [2.0, 2.0])
    """
    C = point.into + point.out
    floor = 1e-12 * np.trace(C) * np.eye(len(C))  # a channel without weights has no rate
    ratio, modes = scipy.linalg.eigh(point.noise_in + point.noise_out, C + floor)
    kappa = 2 * weight_decay - eta * weight_decay**2
    rate = eta * (eta / batch * ratio.clip(0) + kappa)
    with np.errstate(divide="ignore"):
        return 1 / rate, 1 / np.square(modes).sum(0)


def _power(A: Array, exponent: float) -> Array:
    values, Q = np.linalg.eigh((A + A.T) / 2)
    return np.asarray((Q * np.clip(values, 0, None) ** exponent) @ Q.T)
