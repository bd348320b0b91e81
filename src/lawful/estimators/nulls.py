"""Null distributions of an alignment: what α(A, B) is when A and B have nothing in common.

α(A, B) is the Pearson correlation over matrix entries. Two positive semi-definite matrices
are never orthogonal, so α has a floor well above zero, and four nulls tell what it is:

    sampling     two second moments of n isotropic samples:        n/(n+d)
    Haar mean    one eigenbasis rotated at random, closed form:    √(PR_A PR_B)/d
    Haar sample  the same, sampled:                                α(A, Q B Qᵀ)
    permutation  neurons relabelled at random:                     α(A, P B Pᵀ)

The Haar null keeps the two spectra only. The permutation null keeps the diagonal's and the
entries' distribution too, so it is the stricter one where neurons differ in scale, and it is
the null of a metric that depends on the neuron basis.

Sources: n/(n+d) and √(PR PR)/d derived below; Mantel, "The detection of disease clustering
and a generalized regression approach", Cancer Research 27 (1967), for the permutation moments.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .stream import ROWS_AT_ONCE

NUMBERS_AT_ONCE = 2**15


def sampling_null(n: float, d: int) -> float:
    """α of two independent isotropic second moments of n samples in d dimensions: n/(n+d).

    For Gaussian samples E⟨A,B⟩ = d and E‖A‖² = d + d(d+1)/n, so the ratio of expectations is
    n/(n+d+1) for the plain cosine and, with the grand mean removed, n/(n+d+2) for Pearson.
    The form n/(n+d) is their leading term, off by less than 2/(n+d).

    >>> sampling_null(100, 100)
    0.5
    """
    if n < 0 or d < 1:
        raise ValueError(f"n={n}, d={d}: need n ≥ 0 samples in d ≥ 1 dimensions")
    return n / (n + d)


def haar_mean(A: Tensor, B: Tensor) -> Tensor:
    """Mean alignment under a random relative rotation: √(PR_A PR_B)/d = tr A tr B/(d‖A‖‖B‖).

    Exact for the plain cosine, because E[Q B Qᵀ] = (tr B/d) I. For Pearson over entries it
    is an approximation: removing the grand means takes off the part of A and B along the
    all-ones vector u, which is one of d equal parts when A and B have no mean along u (the
    error is then O(1/d) relative), and most of it when they do. Use `haar_null` there.

    A, B: (..., d, d) symmetric.  Returns (...); NaN where a matrix is zero.
    """
    d = A.shape[-1]
    return _trace(A) * _trace(B) / (d * _norm(A) * _norm(B))


def haar_std(A: Tensor, B: Tensor) -> Tensor:
    """Standard deviation of the plain cosine under a random relative rotation, exact.

    Var⟨A, QBQᵀ⟩ = 2‖A₀‖²‖B₀‖²/((d−1)(d+2)) with A₀, B₀ the trace-free parts; hence the
    trace-free cosine has null 0 ± √(2/((d−1)(d+2))), about √2/d.

    A, B: (..., d, d) symmetric, d ≥ 2.  Returns (...).
    """
    d = A.shape[-1]
    spread = _norm(_trace_free(A)) * _norm(_trace_free(B)) / (_norm(A) * _norm(B))
    return spread * math.sqrt(2 / ((d - 1) * (d + 2)))


def haar_null(A: Tensor, B: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """A sample of α(A, Q B Qᵀ) (Pearson over entries) with Q uniform on the orthogonal group.

    With A = V Λ Vᵀ and B = V′ M V′ᵀ, R = Vᵀ Q V′ is uniform too, so one draw costs one QR:
    ⟨A, QBQᵀ⟩ = Σ λ_i μ_j R_ij², and the grand mean of QBQᵀ is Σ_j μ_j (Vᵀu·r_j)²/d with
    u = 1/√d. The two eigendecompositions are shared by all draws.

    A, B: (d, d) symmetric.  Returns (draws,) in the dtype and on the device of A.
    """
    d = _check(A, B)
    if A.dim() != 2:
        raise ValueError(f"A has shape {tuple(A.shape)}: haar_null takes one pair of matrices")
    lam, V = torch.linalg.eigh(A.double())
    mu = torch.linalg.eigvalsh(B.double())
    w = V.sum(0) / math.sqrt(d)
    mean_A, norm_A = (lam * w**2).sum(), (lam**2).sum()
    out = torch.empty(draws, dtype=torch.float64, device=A.device)
    for k in range(draws):
        R = _haar(d, generator).to(A.device)
        mean_B = ((w @ R) ** 2 * mu).sum()
        product = lam @ R**2 @ mu - mean_A * mean_B
        out[k] = product / torch.sqrt((norm_A - mean_A**2) * ((mu**2).sum() - mean_B**2))
    return out.to(A.dtype)


def permutation_null(
    M: Tensor, pairs: Sequence[tuple[int, int]], draws: int, generator: torch.Generator
) -> Tensor:
    """A sample of α(M_i, P M_j Pᵀ) (Pearson over entries), P uniform, for every pair (i, j).

    Draws come d at a time. Relabel both matrices at random, then shift one of them cyclically:
    each of the d shifts C^k is a uniform relabelling, and the products of all of them,

        ⟨A, C^k B C^-k⟩ = Σ_δ Σ_l A[l, l+δ] B[l+k, l+k+δ]        (indices modulo d),

    are a circular correlation along every wrapped diagonal δ, which Fourier transforms give in
    d² log d. Among the shifts every neuron meets every other once, so that they are a steadier
    sample than as many independent draws.

    M: (m, d, d) symmetric.  Returns (pairs, N) with N the first multiple of d from `draws` on;
    NaN where a matrix is constant.
    """
    d = _check(M, M)
    rounds, flat, mean, norm = -(-draws // d), M.flatten(1), M.mean((1, 2)), _centred_norm(M)
    norm = torch.where(norm > 0, norm, math.nan)
    labels = torch.stack([torch.randperm(d, generator=generator, device=generator.device)
                          for _ in range(len(M) * rounds)])  # fmt: skip
    labels = labels.view(len(M), rounds, d).to(M.device)
    here, spectra = torch.arange(d, device=M.device), M.new_zeros(())
    # Of the diagonals δ and d − δ, which hold the same numbers, one is taken and counts twice.
    for some in here[: d // 2 + 1].split(max(1, NUMBERS_AT_ONCE // (rounds * d))):
        there = ((here + some[:, None]) % d).view(-1)
        waves = []
        for matrix, order, shift in zip(flat, labels, mean, strict=True):
            at = order.index_select(1, there).view(rounds, -1, d).add_(d * order[:, None])
            diagonals = matrix.index_select(0, at.view(-1)).view(at.shape).sub_(shift)
            waves.append(torch.fft.rfft(diagonals))
        twice = torch.where((some == 0) | (2 * some == d), 1.0, 2.0).to(waves[0].dtype)
        shares = [torch.einsum("rdk,rdk,d->rk", waves[i].conj(), waves[j], twice) for i, j in pairs]
        spectra = spectra + torch.stack(shares)
    products = torch.fft.irfft(spectra, n=d).flatten(1)  # of round 0 all shifts, of round 1, …
    return products / torch.stack([norm[i] * norm[j] for i, j in pairs])[:, None]


def permutation_moments(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Exact mean and standard deviation of α(A, P B Pᵀ) over all d! permutations, in O(d²).

    ⟨A, PBPᵀ⟩ = D + O, diagonal and off-diagonal part. E and Var follow by counting how often
    index pairs coincide (Mantel 1967, extended here by the diagonal): with a, b the
    diagonals, r the off-diagonal row sums, S = Σr, Q = Σ_{i≠j} A_ij², T = Σr² − Q (pairs that
    share one index) and X = S² − 4T − 2Q (disjoint pairs),

        E D = Σa Σb/d,   E O = S_A S_B/d₂,   Var D = Σ(a−ā)² Σ(b−b̄)²/(d−1),
        E O² = 2 Q_A Q_B/d₂ + 4 T_A T_B/d₃ + X_A X_B/d₄,
        E DO = 2 (a·r)_A (a·r)_B/d₂ + (ΣaS − 2a·r)_A (ΣaS − 2a·r)_B/d₃,

    d_k = d(d−1)…(d−k+1). The tail is not Gaussian where neurons differ in scale: for diagonal A, B
    of 512 neurons with log-normal scales (σ = 1) the 99th percentile is .25, where mean + 2.33 std
    is .17. Take percentiles from `permutation_null`.

    A, B: (..., d, d) symmetric, d ≥ 2.  Returns two tensors (...).
    """
    d = _check(A, B)
    a, b = _pair_sums(_standardise(A.double())), _pair_sums(_standardise(B.double()))
    d2 = d * (d - 1)
    # With fewer than 3 (4) neurons no two pairs are distinct (disjoint): their sums are 0.
    d3, d4 = max(d2 * (d - 2), 1), max(d2 * (d - 2) * (d - 3), 1)
    mean_D, mean_O = a["diagonal"] * b["diagonal"] / d, a["S"] * b["S"] / d2
    var_D = a["spread"] * b["spread"] / (d - 1)
    square_O = 2 * a["Q"] * b["Q"] / d2 + 4 * a["T"] * b["T"] / d3 + a["X"] * b["X"] / d4
    cross = 2 * a["touch"] * b["touch"] / d2 + a["apart"] * b["apart"] / d3
    variance = var_D + square_O - mean_O**2 + 2 * (cross - mean_D * mean_O)
    return (mean_D + mean_O).to(A.dtype), variance.clamp_min(0).sqrt().to(A.dtype)


def percentile(sample: Tensor, percent: float) -> Tensor:
    """The percentile of a null sample along its last axis; 99 is the usual bar for "holds".

    With N draws the 99th percentile rests on the N/100 largest: take at least 200.

    >>> percentile(torch.arange(101.0), 99).item()
    99.0
    """
    if not 0 <= percent <= 100:
        raise ValueError(f"percent={percent} is not in [0, 100]")
    return torch.quantile(sample, percent / 100, dim=-1)


def p_value(sample: Tensor, observed: Tensor | float) -> Tensor:
    """Share of null draws at or above the observed value, counting the observed one itself.

    (1 + #{null ≥ observed})/(1 + N) is valid at any N and never zero.
    """
    threshold = torch.as_tensor(observed, dtype=sample.dtype, device=sample.device)
    above = (sample >= threshold.unsqueeze(-1)).sum(-1)
    return (1 + above).to(sample.dtype) / (1 + sample.shape[-1])


def _check(A: Tensor, B: Tensor) -> int:
    fits = B.shape == A.shape or B.shape == A.shape[-2:]
    if not fits or A.dim() < 2 or A.shape[-1] != A.shape[-2] or A.shape[-1] < 2:
        raise ValueError(
            f"A and B must be square matrices of one size d ≥ 2: got {tuple(A.shape)} and "
            f"{tuple(B.shape)}"
        )
    return A.shape[-1]


def _trace(A: Tensor) -> Tensor:
    return A.diagonal(dim1=-2, dim2=-1).sum(-1)


def _norm(A: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(A)


def _trace_free(A: Tensor) -> Tensor:
    eye = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    return A - (_trace(A) / A.shape[-1])[..., None, None] * eye


def _standardise(A: Tensor) -> Tensor:
    """Grand mean 0 and Frobenius norm 1, so that α is an inner product."""
    A = A - A.mean((-2, -1), keepdim=True)
    return A.div_(_norm(A)[..., None, None])


def _centred_norm(A: Tensor) -> Tensor:
    """‖A − Ā‖, a block of rows at a time: no second A is held."""
    mean = A.mean((-2, -1), keepdim=True)
    blocks = A.split(ROWS_AT_ONCE, dim=-2)
    return torch.stack([(block - mean).square().sum((-2, -1)) for block in blocks]).sum(0).sqrt()


def _haar(d: int, generator: torch.Generator) -> Tensor:
    """A uniform orthogonal matrix: QR of a Gaussian one, signs fixed by diag R > 0."""
    gaussian = torch.randn(d, d, generator=generator, device=generator.device, dtype=torch.float64)
    Q, R = torch.linalg.qr(gaussian)
    return Q * R.diagonal().sign()


def _pair_sums(A: Tensor) -> dict[str, Tensor]:
    """Sums over the diagonal and over pairs of entries, by the indices they share."""
    a = A.diagonal(dim1=-2, dim2=-1)
    r = A.sum(-1) - a
    S = r.sum(-1)
    Q = (A**2).sum((-2, -1)) - (a**2).sum(-1)
    T = (r**2).sum(-1) - Q
    touch = (a * r).sum(-1)
    diagonal = a.sum(-1)
    return {
        "diagonal": diagonal,
        "spread": ((a - a.mean(-1, keepdim=True)) ** 2).sum(-1),
        "S": S,
        "Q": Q,
        "T": T,
        "X": S**2 - 4 * T - 2 * Q,
        "touch": touch,
        "apart": diagonal * S - 2 * touch,
    }
