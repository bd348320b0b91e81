"""How few waves a weight row is made of: the inverse participation ratio of its Fourier power.

    p_k = |ŵ_k|² / Σ_{j≥1} |ŵ_j|²,   k = 1 … K,        IPR = Σ_k p_k²        (k = 0 dropped)

1 for one wave, 1/K for equal power everywhere. Gaussian rows have |ŵ_k|² exponentially distributed
(d odd), so p is uniform on the simplex and their expected IPR is 2/(K + 1): that is the null.

Source: Doshi, Das, He, Gromov, arXiv 2310.13061 (as a measure of grokking); the null is derived.
"""

from __future__ import annotations

import torch
from torch import Tensor


def fourier_power(W: Tensor) -> Tensor:
    """Shares p_k of rows (…, d) in frequencies 1 … d//2: (…, d//2); NaN for a constant row."""
    power = torch.fft.rfft(W, dim=-1).abs().square()
    waves = power[..., 1:].sum(-1, keepdim=True)
    # What the transform's round-off leaves of a constant is no wave.
    known = waves > (W.shape[-1] * torch.finfo(power.dtype).eps) ** 2 * power[..., :1]
    return power[..., 1:] / torch.where(known, waves, torch.nan)


def inverse_participation(W: Tensor) -> Tensor:
    """IPR of each row of (…, d): (…,).

    >>> wave = torch.cos(2 * torch.pi * 3 * torch.arange(31) / 31)
    >>> round(inverse_participation(wave).item(), 6)
    1.0
    """
    return fourier_power(W).square().sum(-1)


def null_participation(d: int) -> float:
    """Expected IPR of a Gaussian row of odd length d.

    >>> null_participation(31)
    0.125
    """
    if d < 3 or d % 2 == 0:
        raise ValueError(f"d={d}: the null is known for odd lengths of at least 3")
    return 2 / ((d - 1) // 2 + 1)
