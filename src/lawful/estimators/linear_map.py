"""Both sides of a linear map h_b = W h_a + b from one set of moments.

With μ = E[h_a] and g_a = Wᵀ g_b (the gradient through this map only),

    H_b = W H_a Wᵀ + Wμ bᵀ + b(Wμ)ᵀ + b bᵀ       G_a = Wᵀ G_b W
    Z_a = Wᵀ W                                   Z_b = W Wᵀ

are identities at fixed W, for the sums and for every kept row. The bias moves the mean of h_b
only, so the centred H_b does not know it. (Ziyin et al., arXiv:2410.03006, §3, for b = 0.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .alignment import Side
from .moments import Moments
from .stream import symmetric_product


@dataclass(frozen=True)
class Canonical:
    """The map h_b = W h_a + bias and its moments; each side is formed when first asked for.

    m: moments of (h_a, g_b); W: (d_b, d_a); bias: (d_b,) or None; in the dtype of the moments.
    """

    m: Moments
    W: Tensor
    bias: Tensor | None = None

    @cached_property
    def a(self) -> Side:
        """The input side: H_a, G_a = Wᵀ G_b W, Z_a = WᵀW."""
        m, W = self.m, self.W
        M = W.new_empty((3, m.H.shape[0], m.H.shape[0]))
        torch.div(m.H, m.rows, out=M[0])
        symmetric_product(W, m.G @ W, out=M[1]).div_(m.rows)
        symmetric_product(W, W, out=M[2])
        mu, nu = m.h_sum / m.rows, m.g_sum @ W / m.rows
        return _side(M, mu, nu, m.kept_h, m.kept_g @ W, m)

    @cached_property
    def b(self) -> Side:
        """The output side: H_b = W H_a Wᵀ and what the bias adds, G_b, Z_b = W Wᵀ."""
        m, W, bias = self.m, self.W, self.bias
        M = W.new_empty((3, m.G.shape[0], m.G.shape[0]))
        symmetric_product(W.T, m.H @ W.T, out=M[0]).div_(m.rows)
        torch.div(m.G, m.rows, out=M[1])
        symmetric_product(W.T, W.T, out=M[2])
        mu, h_b = W @ m.h_sum / m.rows, m.kept_h @ W.T
        if bias is not None:
            M[0].addr_(mu, bias).addr_(bias, mu).addr_(bias, bias)
            mu, h_b = mu + bias, h_b + bias
        return _side(M, mu, m.g_sum / m.rows, h_b, m.kept_g, m)

    def sides(self) -> Iterator[tuple[str, Side]]:
        """("a", side a), then ("b", side b)."""
        yield "a", self.a
        yield "b", self.b


def canonical(m: Moments, W: Tensor, bias: Tensor | None = None) -> Canonical:
    """The six matrices as means over rows, with their kept rows.

    W: (d_b, d_a); bias: (d_b,) or None; brought to the dtype of the moments.

    >>> from lawful.estimators.moments import moments
    >>> W = torch.tensor([[2.0, 0.0]])
    >>> c = canonical(moments(torch.eye(2), torch.ones(2, 1)), W)
    >>> c.b.M[0], c.a.M[1].diagonal()       # H_b = W H_a Wᵀ and the diagonal of G_a = Wᵀ G_b W
    (tensor([[2.]]), tensor([4., 0.]))
    """
    dtype = m.H.dtype
    return Canonical(m, W.to(dtype), None if bias is None else bias.to(dtype))


def output_side(m: Moments, Z_b: Tensor) -> Side:
    """The output side alone, when m holds the moments of h_b itself (an embedding's output)."""
    M = torch.stack([m.H / m.rows, m.G / m.rows, Z_b.to(m.H.dtype)])
    return _side(M, m.h_sum / m.rows, m.g_sum / m.rows, m.kept_h, m.kept_g, m)


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


def _side(M: Tensor, mu: Tensor, nu: Tensor, x: Tensor, y: Tensor, m: Moments) -> Side:
    means = torch.stack([mu, nu, torch.zeros_like(mu)])
    return Side(M=M, means=means, x=x, y=y, clusters=m.clusters, positions=m.positions)
