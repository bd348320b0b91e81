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

import torch
from torch import Tensor

ROWS_AT_ONCE = 128


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


def permutation_null(A: Tensor, B: Tensor, draws: int, generator: torch.Generator) -> Tensor:
    """A sample of α(A, P B Pᵀ) (Pearson over entries) with P a uniform permutation matrix.

    Relabelling keeps the grand mean and the norm of B, so each draw costs one gather and one
    inner product, of the upper triangle of blocks: d²/2. A batch shares its permutations, and a
    single B is relabelled once for every A.

    A: (..., d, d) symmetric, B: (d, d) or of A's shape.  Returns (..., draws); NaN where a matrix
    is constant.
    """
    d = _check(A, B)
    left, right = A.reshape(-1, d, d), B.reshape(-1, d, d)
    mean, norm = left.mean((1, 2), keepdim=True), _centred_norm(left)[:, None, None]
    out = A.new_zeros((draws, len(left)))
    orders = torch.stack([torch.randperm(d, generator=generator, device=generator.device)
                          for _ in range(draws)]).to(A.device)  # fmt: skip
    # A block of rows at a time in memory of its own: gathering rows and then columns of a plain
    # matrix moves memory in order and stays in the cache.
    for i in range(0, d, ROWS_AT_ONCE):
        standard = _block(left, i).sub(mean).div_(norm)
        standard[:, :, standard.shape[1] :] *= 2  # what lies right of the diagonal block
        fixed = standard.flatten(1).split(len(left) if len(right) == 1 else 1)
        m, n = min(ROWS_AT_ONCE, d - i), d - i
        rows, both = A.new_empty((m, d)), A.new_empty((m, n))
        for k, order in enumerate(orders):
            of_pairs = []
            for blocks, moved in zip(fixed, right, strict=True):
                torch.index_select(moved, 0, order[i : i + m], out=rows)
                torch.index_select(rows, 1, order[i:], out=both)
                of_pairs.append(blocks @ both.view(-1))
            out[k] += torch.cat(of_pairs)
    norm = _centred_norm(B)
    norm = torch.where(norm > 0, norm, math.nan)
    return out.T.reshape(*A.shape[:-2], draws) / norm[..., None]


def _block(A: Tensor, i: int) -> Tensor:
    """Rows i, i+1, … from column i on: (pairs, d, d) → (pairs, m, d − i)."""
    return A[:, i : i + ROWS_AT_ONCE, i:]


def permutation_moments(A: Tensor, B: Tensor) -> tuple[Tensor, Tensor]:
    """Exact mean and standard deviation of α(A, P B Pᵀ) over all d! permutations, in O(d²).

    ⟨A, PBPᵀ⟩ = D + O, diagonal and off-diagonal part. E and Var follow by counting how often
    index pairs coincide (Mantel 1967, extended here by the diagonal): with a, b the
    diagonals, r the off-diagonal row sums, S = Σr, Q = Σ_{i≠j} A_ij², T = Σr² − Q (pairs that
    share one index) and X = S² − 4T − 2Q (disjoint pairs),

        E D = Σa Σb/d,   E O = S_A S_B/d₂,   Var D = Σ(a−ā)² Σ(b−b̄)²/(d−1),
        E O² = 2 Q_A Q_B/d₂ + 4 T_A T_B/d₃ + X_A X_B/d₄,
        E DO = 2 (a·r)_A (a·r)_B/d₂ + (ΣaS − 2a·r)_A (ΣaS − 2a·r)_B/d₃,

    d_k = d(d−1)…(d−k+1). The tail is not Gaussian where neurons differ in
    scale: with log-normal scales of σ = 1 the 99th percentile at d = 512 is .124, not the .077
    of mean + 2.33 std. Take percentiles from `permutation_null` (0.5 ms a draw at d = 800).

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
