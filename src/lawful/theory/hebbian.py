"""When learning by gradients looks Hebbian, when anti-Hebbian, and how much of it shows in a batch.

For h_b = W h_a the learning signal is what training adds to W before decay, Δ = −E[(∂ℓ/∂h_b) h_aᵀ],
and the Hebbian one is E[h_b h_aᵀ]. Two balances decide the sign of ⟨Δ, E[h_b h_aᵀ]⟩.

Decay makes it positive. Where W has come to rest, Δ = γW: the signal restores what decay removes.
Noise makes it negative. With noise ε on the weights, w = v + ε, the signal pulls w back.
Ridge regression, ½(wᵀx − y)², x ~ N(0, I_d), y = w*ᵀx, v = w*/(1 + γ), ε ~ N(0, σ²I), has both:

    E[Δ·Hebb] = (d + 2) (γ‖w*‖²/(1 + γ)² − dσ²),        σ_c² = γ‖w*‖²/(d(1 + γ)²).

In any network E⟨Δ, Hebb⟩ = ⟨EΔ, E Hebb⟩ + Tr Cov(Δ, Hebb), and EΔ = γW at rest. Noise of variance
σ² on all weights moves both, by δΔ and δHebb to first order in ε, so that up to σ⁴

    E⟨Δ, Hebb⟩ = γ⟨W, Hebb⟩ − cσ²,    c = −E⟨δΔ, δHebb⟩/σ²,        σ_c² = γ⟨W, Hebb⟩/c.

For one linear map of inputs with Σ_a = E[h_a h_aᵀ], c = d_b‖Σ_a‖², which no decay changes: the
regression again, σ_c² ∝ γ. A hidden layer shrinks under decay, c with it, and σ_c² grows faster.

Virial. For W ← W + ηU, U = Δ − γW + ξ, at stationarity of E‖W‖², for any network and batch,

    E⟨W, Δ⟩ = γ E‖W‖² − (η/2) E‖U‖² (− E⟨W, ξ⟩ = 0),

so the sign of ⟨W, Δ⟩ = −E[(∂ℓ/∂h_b)·h_b] flips where (η/2)E‖U‖² exceeds γE‖W‖².

Batch size. A batch sees Δ through the noise of its samples, κ_B Tr Σ, and the cosine of Δ with the
Hebbian update is

    cos_B ≈ ρ γ‖W‖ / √(γ²‖W‖² + κ_B Tr Σ),        ρ = cos(W, WΣ_a), Σ_a = E[h_a h_aᵀ],

ρ alone for infinite batches, whatever γ. An alignment without its B says nothing.

Range. Stationary weights (a short run is not, at small γ); the first formula also needs isotropic
Gaussian inputs.

Source: Koplow, Poggio, Ziyin, arXiv 2505.18069 (Δ = γW, the regression under weight noise); mean,
both σ_c², virial and batch-size law derived here.
"""

from __future__ import annotations

import math


def mean_product(norm2: float, dim: int, *, gamma: float, noise: float) -> float:
    """E[Δ·Hebb] of the ridge regression; norm2: ‖w*‖², noise: σ² of every weight.

    >>> mean_product(1.0, 8, gamma=0.0, noise=0.01)
    -0.8
    """
    return (dim + 2) * (gamma * norm2 / (1 + gamma) ** 2 - dim * noise)


def critical_noise(norm2: float, dim: int, *, gamma: float) -> float:
    """σ_c²: with more noise on the weights than this, ridge regression looks anti-Hebbian.

    >>> critical_noise(8.0, 8, gamma=1.0)
    0.25
    """
    if not gamma >= 0:
        raise ValueError(f"gamma={gamma}: weight decay cannot be negative")
    return gamma * norm2 / (dim * (1 + gamma) ** 2)


def flipping_noise(restoring: float, response: float) -> float:
    """σ_c² = γ⟨W, Hebb⟩/c; infinite where noise does not turn the sign, c ≤ 0.

    >>> flipping_noise(0.2, 50.0)
    0.004
    """
    return restoring / response if response > 0 else math.inf


def virial(weight_norm2: float, update_norm2: float, *, gamma: float, eta: float) -> float:
    """E⟨W, Δ⟩ at stationarity, from E‖W‖² and E‖U‖²; U is the whole increment over η.

    >>> virial(10.0, 4.0, gamma=0.5, eta=0.1)
    4.8
    """
    return gamma * weight_norm2 - eta / 2 * update_norm2


def batch_cosine(
    rho: float, weight_norm2: float, noise_trace: float, *, gamma: float, kappa: float
) -> float:
    """cos_B from ρ, ‖W‖², Tr Σ of the per-sample signal and κ_B (0 for the full batch).

    >>> batch_cosine(0.8, 4.0, 3.0, gamma=0.5, kappa=1.0)
    0.4
    """
    restoring = gamma**2 * weight_norm2
    if not restoring + kappa * noise_trace > 0:
        raise ValueError("γ‖W‖ and the noise are both zero: there is no signal to have a direction")
    return rho * math.sqrt(restoring / (restoring + kappa * noise_trace))
