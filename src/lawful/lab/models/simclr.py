"""SimCLR: representations from pictures without labels (T. Chen et al., arXiv:2002.05709).

Two random views of each of B pictures give z_1 … z_2B on the unit sphere. NT-Xent asks of every
view i to find its twin j(i) among all others:

    ℓ_i = −log [ exp(z_i·z_j(i)/τ) / Σ_{k≠i} exp(z_i·z_k/τ) ],   loss = (1/2B) Σ_i ℓ_i

The samples of a batch see each other, so a per-sample gradient here means 2B · ∂loss/∂h_i.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SimCLR(nn.Module):
    """An encoder and a projector of two linear maps.

    encoder: any module that takes pictures (N, …) to features (N, features); they are what is
             kept after training.
    """

    def __init__(self, encoder: nn.Module, features: int, *, projection: int = 32) -> None:
        super().__init__()
        self.encoder = encoder
        self.project1 = nn.Linear(features, features)
        self.project2 = nn.Linear(features, projection)

    def forward(self, views: Tensor) -> Tensor:
        """Both views, stacked (2B, …) → projections (2B, projection)."""
        return self.project2(torch.relu(self.project1(self.encoder(views))))


def nt_xent(z: Tensor, temperature: float = 0.5) -> Tensor:
    """The loss above, a scalar. z (2B, d): rows 0…B−1 one view, rows B…2B−1 the other."""
    n = len(z)
    z = nn.functional.normalize(z, dim=1)
    logits = z @ z.T / temperature
    logits = logits.masked_fill(torch.eye(n, dtype=torch.bool, device=z.device), -math.inf)
    twin = torch.arange(n, device=z.device).roll(n // 2)
    return nn.functional.cross_entropy(logits, twin)


def two_views(x: Tensor, generator: torch.Generator, *, strength: float = 1.0) -> Tensor:
    """Two augmented copies of each picture: (B, C, R, S) → (2B, C, R, S)."""
    return torch.cat([augment(x, generator, strength=strength) for _ in range(2)])


def augment(x: Tensor, generator: torch.Generator, *, strength: float = 1.0) -> Tensor:
    """One random view of each picture: crop and resize, contrast, brightness, pixel noise.

    A crop is an affine resampling grid with scale in [1 − 0.4·strength, 1] and a shift that
    stays inside the picture; contrast is 1 ± 0.4·strength, brightness ± 0.4·strength, noise
    0.1·strength, for standardised pictures. All draws come from `generator`.
    """
    B = len(x)
    scale, left, up, contrast, bright = (2 * torch.rand(5, B, generator=generator) - 1).to(x.device)
    scale = 1 - 0.2 * strength * (1 + scale)
    zero = torch.zeros_like(scale)
    rows = [[scale, zero, left * (1 - scale)], [zero, scale, up * (1 - scale)]]
    crop = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=1)  # (B, 2, 3)
    grid = nn.functional.affine_grid(crop, list(x.shape), align_corners=False)
    view = nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    contrast, bright = (v.view(B, 1, 1, 1) * 0.4 * strength for v in (contrast, bright))
    noise = torch.randn(x.shape, generator=generator).to(x.device)
    return view * (1 + contrast) + bright + 0.1 * strength * noise
