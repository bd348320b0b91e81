"""Posterior collapse in closed form: the linear β-VAE.

Model. Encoder z ~ N(Wᵀx, diag σ_i²), decoder y ≈ Uz (y = x for an auto-encoder), centred data,

    L = E‖y − Uz‖²/(2η_d²) + β/2 Σ_i [ (E(w_iᵀx)² + σ_i²)/η_e² − 1 − ln(σ_i²/η_e²) ]

with decoder variance η_d² and prior variance η_e². Let ζ_i be the singular values of
E[yxᵀ]Σ_x^{−1/2} (for y = x: roots of the eigenvalues of Σ_x), and w_i stand for √Σ_x W, whitened.

Learned encoder variance. With b = βη_d²,

    u_i = √(ζ_i² − b)₊/η_e,     w_i = η_e √(ζ_i² − b)₊/ζ_i,     σ_i² = η_e² b/max(ζ_i², b):

mode i is lost (u = w = 0, posterior = prior) iff ζ_i² ≤ βη_d². η_e never matters for collapse.

Fixed encoder variance σ²:

    u_i² = (ζ_i√b/(η_eσ) − b/η_e²)₊,    w_i = u_iζ_i/(u_i² + b/η_e²),    lost iff ζ_i² ≤ bσ²/η_e².

Derivation. The modes decouple; at fixed u both w and σ² are explicit, and the remaining condition
on D = u² + b/η_e² reads D = ζ²/η_e² (learned σ) or D² = ζ²b/(η_e²σ²) (fixed).

Range. Exact for the linear model; with d_z latents only the d_z largest modes are kept. Losses that
average instead of summing over output coordinates or use ‖·‖² without 1/(2η_d²) rescale β.

Source: Wang, Ziyin, "Posterior Collapse of a Linear Latent Variable Model", NeurIPS 2022,
arXiv 2205.04009; constants derived here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Modes:
    """A global minimum, one entry a mode (k,).

    u:      singular values of the decoder;  w: of the whitened encoder √Σ_x W.
    sigma2: posterior variance of each latent.
    """

    u: Array
    w: Array
    sigma2: Array

    @property
    def active(self) -> int:
        """How many modes have not collapsed."""
        return int(np.sum(self.u > 0))


def data_modes(cross: Array, Sigma_x: Array) -> Array:
    """ζ: singular values of E[yxᵀ]Σ_x^{−1/2}, descending; cross = E[yxᵀ] (d_y, d_x).

    >>> data_modes(np.diag([4.0, 1.0]), np.diag([4.0, 1.0])).tolist()
    [2.0, 1.0]
    """
    values, Q = np.linalg.eigh(Sigma_x)
    if not values[0] > 1e-12 * values[-1]:
        raise ValueError("Sigma_x is singular: drop the input directions without variance")
    return np.asarray(np.linalg.svd(cross @ (Q / np.sqrt(values)), compute_uv=False))


def critical_beta(zeta: Array, decoder_variance: float = 1.0) -> Array:
    """β at which each mode collapses, ζ²/η_d² (learned encoder variance).

    >>> critical_beta(np.array([2.0, 1.0])).tolist()
    [4.0, 1.0]
    """
    return np.asarray(zeta**2 / decoder_variance)


def learned_variance(
    zeta: Array, beta: float, *, decoder_variance: float = 1.0, prior_variance: float = 1.0
) -> Modes:
    """The minimum when the encoder's variance is trained; pass at most d_z values of ζ.

    >>> learned_variance(np.array([2.0, 1.0]), 3.0).active
    1
    """
    b = beta * decoder_variance
    left = np.sqrt(np.clip(zeta**2 - b, 0, None))
    spread = prior_variance**0.5
    w = spread * left / np.where(zeta > 0, zeta, 1.0)
    # Without decay and signal any σ² will do: the prior's.
    kept = np.divide(b, np.maximum(zeta**2, b), out=np.ones(len(zeta)), where=(zeta > 0) | (b > 0))
    return Modes(left / spread, w, prior_variance * kept)


def fixed_variance(
    zeta: Array, beta: float, encoder_variance: float, *,
    decoder_variance: float = 1.0, prior_variance: float = 1.0,
) -> Modes:  # fmt: skip
    """The minimum when the encoder's variance σ² is given."""
    b = beta * decoder_variance
    reach = zeta * (b / (prior_variance * encoder_variance)) ** 0.5
    u2 = np.clip(reach - b / prior_variance, 0, None)
    # D = u² + b/η_e² is 0 only without decay (b = 0), where the encoder may diverge.
    D = u2 + b / prior_variance
    u = np.sqrt(u2)
    w = u * zeta / np.where(D > 0, D, 1.0)
    return Modes(u, w, np.full(len(zeta), encoder_variance))
