"""Second moments of paired samples, and what is kept beside them to know their error.

For a linear map h_b = W h_a the whole canonical picture follows from two streamed matrices,

    H_a = E[h_a h_aᵀ]        G_b = E[g_b g_bᵀ],

because H_b = W H_a Wᵀ and G_a = Wᵀ G_b W hold exactly at fixed W.

A sample is a *cluster*: one independent draw of the data, with one row (an MLP) or many (the
tokens of a sequence, the patches of an image). Rows of one cluster are not independent, so
every error bar below counts clusters and every unbiased inner product drops the pairs of rows
that share a cluster.

What removes the bias and gives the error are sums over single clusters: Σ‖h‖⁴, Σ(h·g)², and
the pull of each cluster on each inner product. All of them are functions of the rows, so some
clusters are *kept* beside the sums. With every cluster kept the corrections are exact; with a
random share kept they are unbiased estimates of a term that is itself of relative size PR/n.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Sums over `clusters` samples of `rows` rows in all, and the kept clusters.

    H:      (d_a, d_a) Σ h hᵀ          G:      (d_b, d_b) Σ g gᵀ
    h_sum:  (d_a,)     Σ h             g_sum:  (d_b,)     Σ g
    kept_h: (k, m, d_a) and kept_g: (k, m, d_b): m rows of each of k kept clusters, paired.
    """

    H: Tensor
    G: Tensor
    h_sum: Tensor
    g_sum: Tensor
    rows: int
    clusters: int
    kept_h: Tensor
    kept_g: Tensor

    @property
    def positions(self) -> float:
        """Mean rows in a cluster, T."""
        return self.rows / max(self.clusters, 1)


def moments(h: Tensor, g: Tensor) -> Moments:
    """Moments of paired samples, every cluster kept (so every correction is exact).

    h: (n, d_a) or (n, T, d_a) inputs of the map; g: (n, d_b) or (n, T, d_b) gradients of the
    per-sample loss at its output. float64 is kept, anything narrower is summed in float32.

    Raises `ValueError` when the two do not pair up row by row.

    >>> m = moments(torch.eye(3), torch.ones(3, 2))
    >>> m.clusters, m.positions, m.H.trace().item(), m.G[0, 1].item()
    (3, 1.0, 3.0, 3.0)
    """
    h, g = as_clusters(h), as_clusters(g)
    if h.shape[:2] != g.shape[:2]:
        raise ValueError(
            f"h and g must pair row by row, got h of shape {tuple(h.shape)} and g of shape "
            f"{tuple(g.shape)}: the leading (samples, rows) must be equal"
        )
    x, y = h.flatten(0, 1), g.flatten(0, 1)
    return Moments(
        H=x.T @ x,
        G=y.T @ y,
        h_sum=x.sum(0),
        g_sum=y.sum(0),
        rows=len(x),
        clusters=len(h),
        kept_h=h,
        kept_g=g,
    )


def merge(first: Moments, second: Moments) -> Moments:
    """Moments of the union of two disjoint sets of samples: exact, associative, commutative.

    Raises `ValueError` when the layers differ, or when a different number of rows was kept for
    each cluster.
    """
    for one, other in ((first.kept_h, second.kept_h), (first.kept_g, second.kept_g)):
        if one.shape[1:] != other.shape[1:]:
            raise ValueError(
                "cannot merge moments of different layers or rows kept per cluster: "
                f"(rows, d) is {tuple(one.shape[1:])} in one and {tuple(other.shape[1:])} in the "
                "other"
            )
    return Moments(
        H=first.H + second.H,
        G=first.G + second.G,
        h_sum=first.h_sum + second.h_sum,
        g_sum=first.g_sum + second.g_sum,
        rows=first.rows + second.rows,
        clusters=first.clusters + second.clusters,
        kept_h=torch.cat([first.kept_h, second.kept_h]),
        kept_g=torch.cat([first.kept_g, second.kept_g]),
    )


def normalised(x: Tensor) -> Tensor:
    """Each row divided by its own norm, rows of zeros left as they are.

    The published experiments compare moments of samples normalised this way and then centred,
    to tame outliers.

    >>> normalised(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    norm = x.norm(dim=-1, keepdim=True)
    return torch.where(norm > 0, x / torch.where(norm > 0, norm, 1.0), x)


def as_clusters(x: Tensor) -> Tensor:
    """(n, d) → (n, 1, d); (n, *positions, d) → (n, T, d); at least float32."""
    if x.dim() < 2:
        raise ValueError(f"samples must be (n, d) or (n, T, d), got shape {tuple(x.shape)}")
    wide = x if x.dtype == torch.float64 else x.float()
    return wide.unsqueeze(1) if wide.dim() == 2 else wide.flatten(1, -2)
