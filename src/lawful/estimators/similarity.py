"""Similarity: how alike two representations X (n, d_x) and Y (n, d_y) show the same n samples.

Kernels. With K = XXᵀ, L = YYᵀ of centred columns,

    CKA = HSIC(K, L)/√(HSIC(K, K) HSIC(L, L)),     1 iff Y is X, rotated and scaled.

Printed is mostly the plug-in, HSIC = tr KL, in which every sample meets itself: by chance it reads
√(PR_x PR_y)/(n − 1), PR = (tr K)²/‖K‖², near 1 where layers are wider than samples are many. With
the diagonals set to zero (K̃, L̃),

    HSIC_u = [tr K̃L̃ + 1ᵀK̃1·1ᵀL̃1/((n−1)(n−2)) − 2·1ᵀK̃L̃1/(n−2)]/(n(n−3))

is unbiased and 0 by chance; the ratio of three keeps a bias of order 1/n.

Neighbours. The share of its k nearest samples, by cosine, that a sample has in common in X and Y.

Subspaces. Canonical correlations ρ_i, the cosines between the column spaces of X and Y: mean of ρ²
over the min(d_x, d_y) there are. They ignore how strongly a direction is used.

Chance. Over all ways to pair the samples of X with those of Y tr KL is tr K tr L/(n−1) on average,
whatever K and L. For projectors that is d_x d_y/(n−1); of k neighbours a share k/(n−1) is common.
Shares and ρ² are put on the scale (s − chance)/(1 − chance): 0 by chance, 1 for equals. Between the
ends ρ² is then low, for d equal correlations by ρ²(1 − ρ²)(d + 1)/n (from Lawley's expansion).

Error. Delete-block jackknife over samples, which have to be independent draws. Neighbours are not
smooth in the samples: there it is too wide, up to twice the spread over repetitions.

Source: Kornblith et al., arXiv 1905.00414 (CKA); Song et al., JMLR 13 (2012) 1393 (HSIC_u); Huh et
al., arXiv 2405.07987 (neighbours); Raghu et al., arXiv 1706.05806 (canonical correlations); Lawley,
Biometrika 46 (1959) 59 (their bias); the scale for ρ² and the searches' p are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .moments import normalised
from .uncertainty import delete_block_jackknife

BLOCKS = 20


@dataclass(frozen=True)
class Similarity:
    """How alike two representations are.

    value:  0 by chance, 1 for equals; a little below or above is noise.
    stderr: its standard error over samples.
    plugin: what is usually printed: nothing taken off.
    chance: what `plugin` reads when the samples are paired at random.
    """

    value: float
    stderr: float
    plugin: float
    chance: float


UNKNOWN = Similarity(math.nan, math.nan, math.nan, math.nan)


def cka(X: Tensor, Y: Tensor) -> Similarity:
    """Linear centred kernel alignment, debiased.

    X: (n, d_x), Y: (n, d_y), any float dtype, summed in float64. NaN for fewer than 4 samples,
    for a representation that is the same for all samples, and for numbers that are not finite.

    Raises `ValueError` when X and Y are not two matrices with equally many rows.

    >>> X = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    >>> round(cka(X, 3 * X.flip(1) + 1).value, 12)
    1.0
    """
    X, Y = _paired(X, Y)
    n = len(X)
    if n < 4 or not _speak(X, Y):
        return UNKNOWN
    K, L = X @ X.T, Y @ Y.T

    def score(keep: Tensor) -> float:
        return float(debiased_cka(*(_hollow(M[keep][:, keep])[None] for M in (K, L))))

    sizes = [(float(M.trace()), float(M.norm())) for M in (K, L)]
    (trace_x, norm_x), (trace_y, norm_y) = sizes
    plugin = float((K * L).sum()) / (norm_x * norm_y)
    chance = trace_x * trace_y / ((n - 1) * norm_x * norm_y)
    return Similarity(score(torch.arange(n)), _error(score, n), plugin, chance)


def mutual_neighbours(X: Tensor, Y: Tensor, k: int = 10) -> Similarity:
    """Share of the k nearest neighbours by cosine that X and Y have in common.

    X: (n, d_x), Y: (n, d_y). Rows are taken as they are: centre them if a common mean should not
    count. A row of zeros is equally far from all; of equal distances the order is arbitrary.

    Raises `ValueError` when k is not between 1 and n − 2.
    """
    X, Y = _paired(X, Y, centre=False)
    n = len(X)
    if not 1 <= k <= n - 2:
        raise ValueError(f"k={k!r} neighbours of {n} samples: give a k from 1 to {n - 2}")
    if not all(bool(M.isfinite().all()) for M in (X, Y)):
        return UNKNOWN
    cosines = [_hollow(M @ M.T, -math.inf) for M in map(normalised, (X, Y))]

    def share(keep: Tensor) -> float:
        first, second = (_nearest(C[keep][:, keep], k) for C in cosines)
        return float((first & second).sum()) / (k * len(keep))

    def score(keep: Tensor) -> float:
        return beyond(share(keep), k / (len(keep) - 1))

    everyone = torch.arange(n)
    # Leaving a twentieth out must leave k neighbours.
    stderr = _error(score, n) if n - -(-n // BLOCKS) > k + 1 else math.nan
    return Similarity(score(everyone), stderr, share(everyone), k / (n - 1))


def cca(X: Tensor, Y: Tensor) -> Similarity:
    """Mean squared canonical correlation of X (n, d_x) and Y (n, d_y).

    NaN where a representation spans all n − 1 directions that n samples have: it then contains
    every other one.
    """
    X, Y = _paired(X, Y)
    n = len(X)
    if n < 4 or not _speak(X, Y):
        return UNKNOWN

    def parts(keep: Tensor) -> tuple[float, float]:
        first, second = (_basis(M) for M in _paired(X[keep], Y[keep]))
        ranks = first.shape[1], second.shape[1]
        rho2 = float((first.T @ second).square().sum()) / min(ranks)
        return rho2, max(ranks) / (len(keep) - 1)

    plugin, chance = parts(torch.arange(n))
    if chance >= 1:
        return Similarity(math.nan, math.nan, plugin, chance)
    stderr = _error(lambda keep: beyond(*parts(keep)), n)
    return Similarity(beyond(plugin, chance), stderr, plugin, chance)


def canonical_correlations(X: Tensor, Y: Tensor) -> Tensor:
    """ρ_i, falling, min(rank X, rank Y) of them, of the centred columns: not debiased.

    >>> X = torch.eye(6, 2) + torch.arange(6.0)[:, None]
    >>> canonical_correlations(X, X @ torch.tensor([[1.0, 2.0], [0.0, 1.0]])).round(decimals=6)
    tensor([1., 1.], dtype=torch.float64)
    """
    first, second = (_basis(M) for M in _paired(X, Y))
    return torch.linalg.svdvals(first.T @ second).clamp(max=1.0)


@dataclass(frozen=True)
class MostAlike:
    """The most similar pair of layers, and whether a search by chance finds one as good.

    layers: (i, j) of X and Y; value: their debiased CKA.
    p:      share of random pairings of the samples whose best pair is at least as similar.
    level:  the value that random pairings pass with a chance of 5 %.
    """

    layers: tuple[int, int]
    value: float
    p: float
    level: float


def most_alike(
    X: Sequence[Tensor], Y: Sequence[Tensor], generator: torch.Generator, *, draws: int = 199
) -> MostAlike:
    """The best of all pairs of layers by debiased CKA, against the best of random pairings.

    Of the many pairs that a search tries, the best is above chance by chance: each draw pairs the
    samples of all layers anew, in one order, and searches as well. p is never below 1/(draws + 1),
    and at most α with a chance of at most α where there is nothing to find.

    X, Y: layers (n, d) of one network and of another, on the same samples.

    Raises `ValueError` without layers, for fewer than 4 samples, and for a layer that is the same
    for all of them or not finite.
    """
    pairs = [_paired(x, y) for x in X for y in Y]
    if not pairs or len(pairs[0][0]) < 4 or not all(_speak(*pair) for pair in pairs):
        raise ValueError(
            "most_alike needs at least one layer a side, 4 samples, and layers of finite numbers "
            f"that differ between samples: got {len(X)} and {len(Y)} layers"
        )
    rows, columns = pairs[:: len(Y)], pairs[: len(Y)]
    K = torch.stack([_hollow(x @ x.T) for x, _ in rows])
    L = torch.stack([_hollow(y @ y.T) for _, y in columns])
    seen = debiased_cka(K, L)
    best = int(seen.argmax())
    null = [float(seen.max())]
    for _ in range(draws):
        order = torch.randperm(K.shape[1], generator=generator).to(K.device)
        null.append(float(debiased_cka(K, L[:, order][:, :, order]).max()))
    found = torch.tensor(null, dtype=torch.float64)
    p = float((found >= found[0]).double().mean())
    level = float(found.sort().values[math.ceil(0.95 * len(found)) - 1])
    return MostAlike(divmod(best, len(Y)), float(seen.max()), p, level)


def debiased_cka(K: Tensor, L: Tensor) -> Tensor:
    """CKA by HSIC_u of every pair: kernels K (a, n, n), L (b, n, n) of zero diagonal → (a, b)."""
    norms = [torch.stack([hsic(M[None], M[None]).squeeze() for M in side]) for side in (K, L)]
    return hsic(K, L) / (norms[0][:, None] * norms[1]).sqrt()


def hsic(K: Tensor, L: Tensor) -> Tensor:
    """HSIC_u of every pair: kernels K (a, n, n), L (b, n, n) of zero diagonal → (a, b)."""
    n = K.shape[1]
    k, l = K.sum(2), L.sum(2)
    trace = K.flatten(1) @ L.flatten(1).T
    sums = torch.outer(k.sum(1), l.sum(1)) / ((n - 1) * (n - 2))
    return (trace + sums - 2 / (n - 2) * (k @ l.T)) / (n * (n - 3))


def beyond(share: float, chance: float) -> float:
    """(s − chance)/(1 − chance): 0 by chance, 1 at most."""
    return (share - chance) / (1 - chance) if chance < 1 else math.nan


def _error(score: Callable[[Tensor], float], n: int) -> float:
    """Delete-block jackknife: every sample belongs to one of 20 blocks, in turn."""
    count = min(BLOCKS, n)
    if n - -(-n // count) < 4:
        return math.nan
    blocks = [torch.arange(i, n, count) for i in range(count)]
    return delete_block_jackknife(lambda kept: score(torch.cat(list(kept)).sort().values), blocks)[
        0
    ]


def _paired(X: Tensor, Y: Tensor, *, centre: bool = True) -> tuple[Tensor, Tensor]:
    """Both in float64, columns centred; the same samples, row by row."""
    if X.dim() != 2 or Y.dim() != 2 or len(X) != len(Y):
        raise ValueError(
            f"X and Y must be (n, d_x) and (n, d_y) of the same n samples, got {tuple(X.shape)} "
            f"and {tuple(Y.shape)}: average the positions of a sample, or flatten them"
        )
    X, Y = X.detach().double(), Y.detach().double()
    return (_centred(X), _centred(Y)) if centre else (X, Y)


def _centred(X: Tensor) -> Tensor:
    """Columns without their mean; one that is constant becomes zero, not what rounding leaves."""
    rest, size = X - X.mean(0), X.abs().amax(0)
    rounding = 4 * len(X) * torch.finfo(X.dtype).eps * size
    return torch.where(rest.abs().amax(0) > rounding, rest, torch.where(size.isfinite(), 0.0, rest))


def _speak(X: Tensor, Y: Tensor) -> bool:
    """Whether both are finite and differ between samples."""
    return all(bool(M.isfinite().all()) and bool((M.abs() > 0).any()) for M in (X, Y))


def _hollow(M: Tensor, diagonal: float = 0.0) -> Tensor:
    return M.clone().fill_diagonal_(diagonal)


def _nearest(cosines: Tensor, k: int) -> Tensor:
    """(n, n) whether j is among the k nearest of i."""
    near = torch.zeros_like(cosines, dtype=torch.bool)
    return near.scatter_(1, cosines.topk(k, dim=1).indices, True)


def _basis(M: Tensor) -> Tensor:
    """(n, rank) orthonormal columns that span those of M."""
    U, s, _ = torch.linalg.svd(M, full_matrices=False)
    return U[:, s > s[0] * max(M.shape) * torch.finfo(M.dtype).eps]
