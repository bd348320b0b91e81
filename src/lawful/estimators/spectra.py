"""Spectra: effective ranks, and the powers (p, q) of H_a and G_b along the singular basis of W.

Ranks of a positive semi-definite H with eigenvalues λ, π = λ/Σλ:

    participation ratio  (Σλ)²/Σλ²       entropy rank  exp(−Σ π log π)
    numerical rank       #{λ_i > t λ_1}

Exponents. With W = Σ s_i u_i v_iᵀ, the law H_a ~ s^p, G_b ~ s^q is read off the diagonal,

    P_i = v_iᵀ H_a v_i,   Q_i = u_iᵀ G_b u_i,
    p = slope of log P_i against log s_i,   q = slope of log Q_i against log s_i.

Never from sorted spectra: pairing the i-th eigenvalue of one matrix with the i-th of another
makes any two falling spectra a power law (independent bases with i⁻³ and i⁻¹ read 3.00).

**Sampling floor.** P̂_i is a mean of n squares (h·v_i)² along a direction that does not depend
on the samples, hence unbiased: there is no floor of the kind tr(H)/n, which belongs to
eigenvalues of a sampled H. What it has is an error, √(Var (h·v_i)²/n), equal to P_i √(2/n) for
Gaussian rows. A direction is kept when s_i > 0.03 s_1 and P̂_i and Q̂_i each exceed two of
their standard errors and the rounding of a float32 sum, 2⁻²² of the largest power.

Source: Ziyin, Chuang, Galanti, Poggio, arXiv 2410.03006, polynomial alignment; the pairing, the
cut-offs and the error are ours (the paper shows scatters only). Entropy rank: Roy & Vetterli,
"The effective rank", EUSIPCO 2007.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .stream import ROWS_AT_ONCE

NAN = math.nan


@dataclass(frozen=True)
class ExponentFit:
    """Exponents of H_a and G_b in the singular values of W, with error and support.

    p, q:        least-squares slopes; NaN when fewer than two directions are usable.
    *_stderr:    bootstrap standard deviation, over samples when squared projections were
                 given (error of the moments at fixed W), otherwise over directions (how well
                 one straight line describes the directions: scatter and curvature).
    *_interval:  95 % interval of the same bootstrap.
    directions:  singular directions used; 0 when no slope could be fitted.
    decades:     decades of s² they span.
    """

    p: float
    q: float
    p_stderr: float
    q_stderr: float
    p_interval: tuple[float, float]
    q_interval: tuple[float, float]
    directions: int
    decades: float


NO_FIT = ExponentFit(NAN, NAN, NAN, NAN, (NAN, NAN), (NAN, NAN), 0, 0.0)


def participation_ratio(H: Tensor) -> Tensor:
    """(tr H)²/‖H‖²: between 1 (rank one) and d (isotropic), no decomposition needed.

    Plug-in: sampling noise adds (tr H)²/n to ‖H‖², so from n rows it reads at most n.

    H: (..., d, d) symmetric.  Returns (...); NaN for H = 0.

    >>> participation_ratio(torch.eye(5)).item()
    5.0
    """
    trace = H.diagonal(dim1=-2, dim2=-1).sum(-1)
    return trace**2 / (H**2).sum((-2, -1))


def entropy_rank(eigenvalues: Tensor) -> Tensor:
    """exp of the entropy of the normalised spectrum: the number of directions in use.

    Plug-in: too low from few samples (from n rows it is at most n). Rounding can leave tiny
    negative eigenvalues; they carry no weight and are left out.

    eigenvalues: (..., d).  Returns (...); NaN for a zero spectrum.

    >>> round(entropy_rank(torch.tensor([1.0, 1.0, 0.0])).item(), 6)
    2.0
    """
    share = eigenvalues.clamp_min(0)
    share = share / share.sum(-1, keepdim=True)
    return torch.exp(-torch.special.xlogy(share, share).sum(-1))


def numerical_rank(values: Tensor, threshold: float) -> Tensor:
    """How many values exceed `threshold` times the largest one; 0 for an all-zero spectrum.

    values: (..., d), singular values or eigenvalues.  Returns (...) integers. The record's
    `rank_W` uses singular values at 0.01, `rank_H_b` eigenvalues at 1e-4: the same cut.

    >>> numerical_rank(torch.tensor([1.0, 0.5, 0.001]), 0.01).item()
    2
    """
    top = values.amax(-1, keepdim=True)
    return ((values > threshold * top) & (top > 0)).sum(-1)


def singular_basis(W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Economy singular basis U, s, V of W from the eigenvectors of its smaller Gram matrix.

    Squaring W costs half the digits. At s = 0.03 s_1, where fits stop, s is good to 6e-6 from
    a float32 W and to 1e-14 from a float64 one (measured at d = 800), in half and two thirds
    of the time of an SVD. Columns whose s_i is below √ε s_1 (3e-4, 1e-8) span the null space
    of W as far as can be told; there the vector obtained by division by s_i is NaN.

    W: (d_b, d_a).  Returns U (d_b, k), s (k,) falling, V (d_a, k), k = min(d_a, d_b), in the
    dtype of W (float32 for narrower ones); all NaN when W holds a number that is not finite.
    """
    W = W if W.dtype == torch.float64 else W.float()
    if not bool(W.isfinite().all()):
        d_b, d_a, k = *W.shape, min(W.shape)
        return W.new_full((d_b, k), NAN), W.new_full((k,), NAN), W.new_full((d_a, k), NAN)
    if W.shape[0] < W.shape[1]:
        V, s, U = singular_basis(W.mT)
        return U, s, V
    squared, V = torch.linalg.eigh(W.mT @ W)
    s, V = squared.flip(0).clamp_min(0).sqrt(), V.flip(1)
    known = torch.where(s > math.sqrt(torch.finfo(W.dtype).eps) * s[0], s, NAN)
    return (W @ V).div_(known), s, V


def directional_power(M: Tensor, basis: Tensor) -> Tensor:
    """The diagonal b_iᵀ M b_i of a symmetric M in a basis: (d, d), (d, k) → (k,) float64.

    Of M nothing below its diagonal blocks is read: what lies above them counts twice.
    """
    narrow = basis.to(M.dtype)  # rounding of float32: 2⁻²³ of the largest power, see the floor
    power = M.new_zeros(basis.shape[1], dtype=torch.float64)
    for i in range(0, len(M), ROWS_AT_ONCE):
        cut, right = slice(i, i + ROWS_AT_ONCE), slice(i + ROWS_AT_ONCE, None)
        Mb = torch.addmm(M[cut, cut] @ narrow[cut], M[cut, right], narrow[right], alpha=2)
        power += (narrow[cut] * Mb).sum(0, dtype=torch.float64)
    return power


def singular_basis_powers(W: Tensor, H_a: Tensor, G_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """s_i, v_iᵀ H_a v_i and u_iᵀ G_b u_i along the singular directions of W.

    Where singular values repeat, the basis inside their block is arbitrary and so is the split
    of the block's power; its sum is not.

    W: (d_b, d_a), H_a: (d_a, d_a), G_b: (d_b, d_b).  Returns three (k,) float64 tensors, s
    falling; NaN where the matrix they come from holds a number that is not finite.
    """
    if H_a.shape != (W.shape[1],) * 2 or G_b.shape != (W.shape[0],) * 2:
        raise ValueError(
            f"W is {tuple(W.shape)}, so H_a must be {(W.shape[1],) * 2} and G_b "
            f"{(W.shape[0],) * 2}: got {tuple(H_a.shape)} and {tuple(G_b.shape)}"
        )
    U, s, V = singular_basis(W)
    return s, directional_power(H_a, V), directional_power(G_b, U)


def kept_directions(
    s: Tensor, power: Tensor, relative_error: Tensor, *, cutoff: float = 0.03
) -> Tensor:
    """Which directions enter a fit: s above the cut-off, power above its floor (module top).

    relative_error: standard error of the power divided by it, (k,) or a scalar.
    """
    top = torch.nan_to_num(power, nan=0.0).amax()
    resolved = power > top * 2.0**-22
    return (s > cutoff * s.amax()) & resolved & (2 * relative_error < 1)


def fit_exponents(
    s: Tensor, power_h: Tensor, power_g: Tensor, *, samples: float = math.inf,
    squares_h: Tensor | None = None, squares_g: Tensor | None = None,
    generator: torch.Generator | None = None, draws: int = 200, cutoff: float = 0.03,
) -> ExponentFit:  # fmt: skip
    """(p, q) from the powers along the singular directions, with a bootstrap error.

    s, power_h, power_g: (k,) from `singular_basis_powers`.
    samples:   independent samples behind the powers; inf for exact ones.
    squares_h, squares_g: (m, k) squared projections (h·v_i)², (g·u_i)² of m of these samples
               (means over the rows of a cluster where rows are correlated). Given, the error
               is that of resampling samples, scaled by √(m/samples) if m < samples; else
               that of resampling directions, which needs three of them.
    generator: of the bootstrap; seed 0 on the CPU when left out.

    Unusable input (W = 0, rank one, NaN, too few samples) gives `NO_FIT`: NaN, 0 directions.
    """
    s, power_h, power_g = (t.detach().double().cpu() for t in (s, power_h, power_g))
    generator = generator or torch.Generator().manual_seed(0)
    rows = None
    if squares_h is not None and squares_g is not None:
        rows = torch.stack([squares_h, squares_g]).detach().double().cpu()  # (2, m, k)
    powers = torch.stack([power_h, power_g])  # (2, k)
    keep = _kept(s, powers, rows, samples, cutoff)
    x = s[keep].log()
    if keep.sum() < 2 or not bool(x.max() > x.min()):
        return NO_FIT
    powers = powers[:, keep]
    slopes = _slope(x, powers.log())
    if rows is not None:
        wobble = _resample_samples(x, rows[:, :, keep], samples, draws, generator)
    else:
        wobble = _resample_directions(x, powers.log(), draws, generator) - slopes
    low, high, stderr = _spread(wobble)
    decades = 2 * float(x.max() - x.min()) / math.log(10)
    (p, q), (p_stderr, q_stderr) = slopes.tolist(), stderr.tolist()
    (p_low, q_low), (p_high, q_high) = (slopes + low).tolist(), (slopes + high).tolist()
    return ExponentFit(
        p, q, p_stderr, q_stderr, (p_low, p_high), (q_low, q_high), int(keep.sum()), decades
    )


def _kept(s: Tensor, powers: Tensor, rows: Tensor | None, samples: float, cutoff: float) -> Tensor:
    if rows is None:
        # Gaussian rows: Var (h·v)² = 2 P².
        error = torch.full_like(powers, math.sqrt(2 / samples) if samples > 0 else math.inf)
    else:
        n = samples if math.isfinite(samples) else rows.shape[1]
        one = rows.shape[1] < 2  # a single sample says nothing about its error
        error = torch.full_like(powers, math.inf) if one else rows.std(1) / math.sqrt(n) / powers
    keep = [kept_directions(s, P, e, cutoff=cutoff) for P, e in zip(powers, error, strict=True)]
    return keep[0] & keep[1]


def _slope(x: Tensor, y: Tensor) -> Tensor:
    """Least-squares slopes of y on x along the last axis; NaN when x does not vary.

    x: (..., k), y: (..., k), broadcast.
    """
    x = x - x.mean(-1, keepdim=True)
    xy = y @ x if x.dim() == 1 else (x * y).sum(-1)
    return xy / (x * x).sum(-1)


def _resample_samples(
    x: Tensor, rows: Tensor, samples: float, draws: int, generator: torch.Generator
) -> Tensor:
    """(draws, 2) deviations of the slopes when the m samples are drawn anew with replacement."""
    m = rows.shape[1]
    picks = torch.randint(m, (draws, m), generator=generator)
    counts = torch.zeros(draws, m, dtype=torch.float64)
    counts.scatter_add_(1, picks, torch.ones(draws, m, dtype=torch.float64))
    logs = ((counts / m) @ rows).log_()  # (2, draws, k), the largest array of a reading: one copy
    shrink = math.sqrt(m / samples) if m < samples < math.inf else 1.0
    return shrink * (_slope(x, logs).T - _slope(x, rows.mean(1).log()))


def _resample_directions(x: Tensor, y: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """(draws, 2) slopes when the k directions are drawn anew with replacement.

    Fewer than three directions fit a line exactly, which is no evidence: NaN.
    """
    k = x.shape[0]
    if k < 3:
        return torch.full((draws, 2), NAN, dtype=torch.float64)
    picks = torch.randint(k, (draws, k), generator=generator)
    return _slope(x[picks].unsqueeze(1), y[:, picks].transpose(0, 1))


def _spread(wobble: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """2.5 % and 97.5 % quantiles and standard deviation of the finite draws of each column."""
    finite = wobble[wobble.isfinite().all(1)]
    if finite.shape[0] < 2:
        nothing = torch.full((2,), NAN, dtype=torch.float64)
        return nothing, nothing, nothing
    low, high = torch.quantile(finite, torch.tensor([0.025, 0.975], dtype=torch.float64), 0)
    return low, high, finite.std(0)
