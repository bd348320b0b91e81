"""Theorem 1: a fluctuation–dissipation relation between H, G and Z at the end of training.

Statement. If E[Δ(h_a h_aᵀ)] = E[Δ(g_b g_bᵀ)] = E[Δ(W Wᵀ)] = E[Δ(Wᵀ W)] = 0 and norms are
self-averaging, there are positive constants with

    Z_b + c₁ G_b = c₂ H_b,        Z_a + c₃ H_a = c₄ G_a.

Steps (batch 1, z_b = E‖h_a‖², S_b = −E[g_b h_bᵀ + h_b g_bᵀ]):
 1. ΔW = −η (g_b h_aᵀ + γ W).
 2. On the same sample Δh_b = −η‖h_a‖² g_b − ηγ h_b + W Δh_a.
 3. E[Δ(h_b h_bᵀ)] = 0 gives  z_b S_b − 2γ H_b + η z_b² G_b = 0: learning, contraction, expansion.
 4. First-order criticality E[g_b h_aᵀ] = −γ W gives S_b = 2γ Z_b, and S_b drops out.

What does not hold up, as far as we can reconstruct it:
 - Keeping the η² term of E[Δ(W Wᵀ)] = 0 as step 3 does cancels G_b and leaves H_b = z_b Z_b.
 - The constants (c₁ = η z_b/2γ, c₂ = 1/z_b, c₃ = η z_a/2γ, c₄ = 1/z_a with z_a = E‖g_b‖²) are
   unusable: tr H_b ≥ z_b ‖W‖² would follow, yet tr H_b ≤ z_b σ₁², so only rank one obeys.
   Step 2 forgets how other samples move h_b. Hence `fit` leaves the constants free and
   non-negative and reports the residual; their values test nothing.

Exact, without any of this, at every critical point of L + γ/2 ‖W‖² (E[g_b h_aᵀ] = ∂L/∂W):

    E[g_b h_bᵀ] = (∂L/∂W) Wᵀ = −γ Z_b,        E[h_a g_aᵀ]ᵀ = E[g_a h_aᵀ] = Wᵀ (∂L/∂W) = −γ Z_a.

Source: Ziyin, Chuang, Galanti, Poggio, arXiv 2410.03006, Theorem 1 (steps and objections ours);
the exact identity also in "FACT", arXiv 2507.05644.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..estimators.alignment import pearson


@dataclass(frozen=True)
class FluctuationFit:
    """H ≈ weight·Z + noise·G with both coefficients ≥ 0; residual ‖H − fit‖/‖H‖ in [0, 1]."""

    weight: float
    noise: float
    residual: float


@dataclass(frozen=True)
class CrossTerm:
    """How far a layer is from the exact identity, on both sides.

    residual_*:  ‖E[g hᵀ] + γZ‖/‖γZ‖; negative when the noise removed exceeds what was seen,
                 that is when nothing can be told from 0; NaN for γ = 0 or W = 0.
    alignment_*: Pearson correlation over entries of −E[g hᵀ] with Z.
    """

    residual_b: float
    residual_a: float
    alignment_b: float
    alignment_a: float


def fit_from_products(
    HH: float, HZ: float, HG: float, ZZ: float, ZG: float, GG: float
) -> FluctuationFit:
    """Non-negative least squares of H on (Z, G) from the six inner products alone.

    With two regressors the solution is the unconstrained one if both coefficients are
    positive there, else the better of the two single-regressor fits. Debiased products are
    welcome; a residual that debiasing carries below 0 gives 0: no misfit can be seen.

    For the b side pass (H_b, Z_b, G_b); for the a side the roles are (G_a, Z_a, H_a).
    Returns NaNs when a product is not finite or HH ≤ 0.

    >>> fit_from_products(HH=5, HZ=2, HG=1, ZZ=1, ZG=0, GG=1)
    FluctuationFit(weight=2.0, noise=1.0, residual=0.0)
    """
    if not (all(map(math.isfinite, (HH, HZ, HG, ZZ, ZG, GG))) and HH > 0):
        return FluctuationFit(math.nan, math.nan, math.nan)
    candidates = [(_alone(HZ, ZZ), 0.0), (0.0, _alone(HG, GG))]
    determinant = ZZ * GG - ZG * ZG
    if determinant > 1e-12 * ZZ * GG:
        both = (HZ * GG - HG * ZG) / determinant, (HG * ZZ - HZ * ZG) / determinant
        if min(both) >= 0:
            candidates.append(both)

    def misfit(c: tuple[float, float]) -> float:
        z, g = c
        return HH - 2 * (z * HZ + g * HG) + z * z * ZZ + 2 * z * g * ZG + g * g * GG

    weight, noise = min(candidates, key=misfit)
    return FluctuationFit(weight, noise, math.sqrt(max(misfit((weight, noise)), 0.0) / HH))


def fit(H_b: Tensor, Z_b: Tensor, G_b: Tensor) -> FluctuationFit:
    """`fit_from_products` of three (d, d) matrices, accumulated in float64."""
    H, Z, G = (M.double().flatten() for M in (H_b, Z_b, G_b))
    return fit_from_products(
        *(float(x @ y) for x, y in ((H, H), (H, Z), (H, G), (Z, Z), (Z, G), (G, G)))
    )


def cross_term(
    mean_gradient: Tensor, W: Tensor, gamma: float, *, noise_b: float = 0.0, noise_a: float = 0.0
) -> CrossTerm:
    """The exact critical-point identity, tested on the mean weight gradient ∂L/∂W.

    mean_gradient, W: (d_b, d_a); the gradient of the mean per-sample loss, without the decay
             term, averaged over the training data (not one mini-batch).
    gamma:   weight decay as in W ← W − η(∂L + γW).
    noise_b, noise_a: expected squared norm of what sampling adds to (∂L)Wᵀ and Wᵀ(∂L), from
             `mean_noise`; taken off the squared residuals.
    """
    gradient, W = mean_gradient.double(), W.double()
    residual_b, alignment_b = _against_decay(gradient @ W.mT, gamma, W @ W.mT, noise_b)
    residual_a, alignment_a = _against_decay(W.mT @ gradient, gamma, W.mT @ W, noise_a)
    return CrossTerm(residual_b, residual_a, alignment_b, alignment_a)


def _against_decay(cross: Tensor, gamma: float, Z: Tensor, noise: float) -> tuple[float, float]:
    """Signed ‖cross + γZ‖/‖γZ‖ with the noise taken off the square, and α(−cross, Z)."""
    scale = float(torch.linalg.matrix_norm(gamma * Z)) ** 2
    excess = float(torch.linalg.matrix_norm(cross + gamma * Z)) ** 2 - noise
    residual = math.copysign(math.sqrt(abs(excess) / scale), excess) if scale else math.nan
    return residual, pearson(-cross, Z)


def mean_noise(sum_of_squares: float, mean_square: float, count: int) -> float:
    """E‖X̄ − E X‖² of a mean of `count` independent matrices X_k.

    sum_of_squares: Σ_k ‖X_k‖²;  mean_square: ‖X̄‖².  NaN for fewer than two.

    >>> mean_noise(sum_of_squares=2.0, mean_square=0.0, count=2)  # X = ±1
    1.0
    """
    return (sum_of_squares / count - mean_square) / (count - 1) if count > 1 else math.nan


def rho(gamma: float, weight_norm2: float, trace_G: float, trace_H: float) -> float:
    """ρ = γ‖W‖²/√(tr G · tr H), with G and H of the same side (b or a).

    At a critical point |E[g·h]| = γ‖W‖², so ρ ≤ 1 by Cauchy–Schwarz, and ρ = 1 only if g = −κh
    on every sample, when G = κ²H exactly. Small ρ (.02–.24 in trained nets we measured)
    means the identity leaves G and H free of each other.
    """
    product = trace_G * trace_H
    return gamma * weight_norm2 / math.sqrt(product) if product > 0 else math.nan


def norm_balance(
    gradient_dot_weight: float, gradient_norm2: float, weight_norm2: float,
    *, eta: float, gamma: float,
) -> float:  # fmt: skip
    """(2⟨∇L,W⟩ + 2γ‖W‖² − η‖∇L+γW‖²)/(2γ‖W‖²): 0 when the weight norm is stationary.

    One step of plain SGD changes ‖W‖² by exactly −2ηγ‖W‖² times this. Average the three
    mini-batch numbers over steps first. With momentum m use η/(1−m) as an approximation;
    Adam has no such balance. NaN for γ = 0.

    gradient_dot_weight: ⟨∇L, W⟩;  gradient_norm2: ‖∇L‖²;  weight_norm2: ‖W‖² (no decay term).
    """
    scale = 2 * gamma * weight_norm2
    step = gradient_norm2 + 2 * gamma * gradient_dot_weight + gamma**2 * weight_norm2
    return (2 * gradient_dot_weight + scale - eta * step) / scale if scale else math.nan


def _alone(HX: float, XX: float) -> float:
    """Non-negative coefficient of a single regressor."""
    return max(HX / XX, 0.0) if XX > 0 else 0.0
