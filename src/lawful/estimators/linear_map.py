"""Both sides of a linear map h_b = W h_a + b from one set of moments.

With μ = E[h_a] and g_a = Wᵀ g_b (the gradient through this map only),

    H_b = W H_a Wᵀ + Wμ bᵀ + b(Wμ)ᵀ + b bᵀ       G_a = Wᵀ G_b W
    Z_a = Wᵀ W                                   Z_b = W Wᵀ

are identities at fixed W, for the sums and for every kept row. The bias moves the mean of h_b
only, so the centred H_b does not know it. (Ziyin et al., arXiv:2410.03006, §3, for b = 0.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .alignment import Side
from .moments import Moments


@dataclass(frozen=True)
class Canonical:
    """W (d_b, d_a) and the six matrices: a holds H_a, G_a, Z_a and b holds H_b, G_b, Z_b."""

    W: Tensor
    a: Side
    b: Side


def canonical(m: Moments, W: Tensor, bias: Tensor | None = None) -> Canonical:
    """The six matrices as means over rows, with their kept rows.

    W: (d_b, d_a); bias: (d_b,) or None; all in the dtype of the moments.

    >>> from lawful.estimators.moments import moments
    >>> W = torch.tensor([[2.0, 0.0]])
    >>> c = canonical(moments(torch.eye(2), torch.ones(2, 1)), W)
    >>> c.b.M[0], c.a.M[1].diagonal()       # H_b = W H_a Wᵀ and the diagonal of G_a = Wᵀ G_b W
    (tensor([[2.]]), tensor([4., 0.]))
    """
    W = W.to(m.H.dtype)
    H_a, G_b = m.H / m.rows, m.G / m.rows
    mu, nu = m.h_sum / m.rows, m.g_sum / m.rows
    H_b, mu_b, h_b = W @ H_a @ W.T, W @ mu, m.kept_h @ W.T
    if bias is not None:
        bias = bias.to(W.dtype)
        cross = torch.outer(mu_b, bias)
        H_b = H_b + cross + cross.T + torch.outer(bias, bias)
        mu_b, h_b = mu_b + bias, h_b + bias
    G_a = W.T @ G_b @ W
    return Canonical(
        W=W,
        a=_side(H_a, G_a, W.T @ W, mu, W.T @ nu, m.kept_h, m.kept_g @ W, m),
        b=_side(H_b, G_b, W @ W.T, mu_b, nu, h_b, m.kept_g, m),
    )


def output_side(m: Moments, Z_b: Tensor) -> Side:
    """The output side alone, when m holds the moments of h_b itself (an embedding's output)."""
    H_b, G_b = m.H / m.rows, m.G / m.rows
    mu, nu = m.h_sum / m.rows, m.g_sum / m.rows
    return _side(H_b, G_b, Z_b.to(H_b.dtype), mu, nu, m.kept_h, m.kept_g, m)


def part(m: Moments, rows: Tensor | None = None, columns: Tensor | None = None) -> Moments:
    """Moments of a slice of the map: output neurons `rows`, input neurons `columns` (indices).

    The query of one head is a block of rows of a fused qkv; the output projection of one head
    is a block of columns. Nothing has to be accumulated anew.
    """
    a = slice(None) if columns is None else columns
    b = slice(None) if rows is None else rows
    return Moments(
        H=m.H[a][:, a],
        G=m.G[b][:, b],
        h_sum=m.h_sum[a],
        g_sum=m.g_sum[b],
        rows=m.rows,
        clusters=m.clusters,
        kept_h=m.kept_h[..., a],
        kept_g=m.kept_g[..., b],
    )


def _side(
    H: Tensor, G: Tensor, Z: Tensor, mu: Tensor, nu: Tensor, x: Tensor, y: Tensor, m: Moments
) -> Side:
    return Side(
        M=torch.stack([H, G, Z]),
        means=torch.stack([mu, nu, torch.zeros_like(mu)]),
        x=x,
        y=y,
        clusters=m.clusters,
        positions=m.positions,
    )
