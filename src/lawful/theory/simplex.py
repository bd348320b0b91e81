"""The simplex equiangular tight frame, and why neural collapse implies the canonical relations.

K unit vectors with the largest possible equal angles: m_k·m_l = −1/(K−1) for k ≠ l, Σ_k m_k = 0.
With P = I_K − 𝟏𝟏ᵀ/K and M the d × K matrix of the m_k,  MᵀM = K/(K−1) P,  and  Π = (K−1)/K M Mᵀ
is the projector on their span.

Neural collapse ⇒ CRH. Let every feature be its class mean, h_a = m_k, classes balanced, and the
classifier self-dual, W = c Mᵀ. The logits W m_k are symmetric between the wrong classes, so
the softmax (or squared) loss has g_b = −κ P e_k. Then

    H_a ∝ Π,   Z_a = c² M Mᵀ ∝ Π,   G_a = Wᵀ G_b W ∝ Π;   G_b ∝ P,   Z_b ∝ P,   H_b ∝ P:

all six matrices of the last layer are projectors of rank K−1, two by two equal, and all six
relations hold. The converse needs more assumptions and is not used here.

Sources: Papyan, Han, Donoho, "Prevalence of neural collapse", PNAS 117 (2020); the implication in
Ziyin, Chuang, Galanti, Poggio, arXiv 2410.03006.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def simplex_etf(classes: int, dimension: int, generator: torch.Generator) -> Tensor:
    """K unit vectors at equal angles in a random (K−1)-plane of R^d.

    Returns (d, K) float64 columns m_k. Needs d ≥ K.

    >>> M = simplex_etf(3, 5, torch.Generator().manual_seed(0))
    >>> (M.T @ M).round(decimals=6).tolist()[0]
    [1.0, -0.5, -0.5]
    """
    if dimension < classes or classes < 2:
        raise ValueError(f"classes={classes}, dimension={dimension}: need d ≥ K ≥ 2")
    gaussian = torch.randn(
        dimension, classes, generator=generator, device=generator.device, dtype=torch.float64
    )
    Q, _ = torch.linalg.qr(gaussian)
    centred = Q - Q.mean(1, keepdim=True)
    return centred * math.sqrt(classes / (classes - 1))


def collapsed_layer(
    classes: int, dimension: int, generator: torch.Generator, *, scale: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The last layer of a collapsed network, one sample a class (a balanced data set).

    Returns h (K, d) features, W (K, d) = scale · Mᵀ, g (K, K) = ∂(cross-entropy)/∂(logits).
    """
    h = simplex_etf(classes, dimension, generator).mT
    W = scale * h
    g = torch.softmax(h @ W.mT, dim=1) - torch.eye(classes, dtype=h.dtype, device=h.device)
    return h, W, g
