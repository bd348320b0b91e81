"""Gradients of single samples, summarised without a whole batch of them ever being formed.

A linear map h_b = W h_a at T positions of sample s has the weight gradient

    G_s = Σ_t g_t h_tᵀ        (d_b × d_a),

so what one wants to know of it follows from the rows h (n, T, d_a) and g (n, T, d_b) alone:

    ‖G_s‖²          = Σ_tt' (h_t·h_t')(g_t·g_t')
    ‖row i of G_s‖² = Σ_tt' (h_t·h_t') g_ti g_t'i
    Σ_s G_s G_sᵀ    = Σ_s Σ_tt' (h_t·h_t') g_t g_t'ᵀ

With T = 1 these are products of norms. For more positions there are two ways, and the cheaper
one (in multiplications) is taken: the Gram form above costs T²(d_a + d_b) a sample, forming G_s
a few samples at a time T d_a d_b. A convolution comes as unfolded rows, with T the positions of
its output.

Rows may be float32; sums of squares, which cancel between positions, are added up in float64.

Source: Goodfellow, arXiv 1510.01799 (T = 1); Rochette, Manoel, Tramel, arXiv 1912.06015 (unfolded
rows); Gray et al., "Efficient and Approximate Per-Example Gradient Norms", 2023 (both forms).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

AT_ONCE = 2**21  # numbers held by the gradients formed at one time: 8 MiB of float32


def norm2(h: Tensor, g: Tensor) -> Tensor:
    """‖G_s‖² of every sample: h (n, T, d_a), g (n, T, d_b) → (n,) float64.

    >>> h, g = torch.ones(1, 2, 3), torch.ones(1, 2, 5)
    >>> norm2(h, g).round(decimals=4).tolist()  # G_s is 5 × 3, every entry 2
    [60.0]

    Raises `ValueError` when the two do not pair up, as all functions here do.
    """
    h, g = _paired(h, g)
    if h.shape[1] == 1:
        return _squares(h) * _squares(g)
    if _gram_is_cheaper(h, g):
        return ((h @ h.mT) * (g @ g.mT)).sum((1, 2), dtype=torch.float64)
    return torch.cat([_squares(G) for G in _formed(h, g)])


def row_norm2(h: Tensor, g: Tensor) -> Tensor:
    """‖row i of G_s‖², the incoming weights of output neuron i: (n, d_b) float64."""
    h, g = _paired(h, g)
    if h.shape[1] == 1:
        return _squares(h)[:, None] * g[:, 0].double().square()
    if _gram_is_cheaper(h, g):
        return ((h @ h.mT @ g) * g).sum(1, dtype=torch.float64)
    return torch.cat([G.double().square_().sum(2) for G in _formed(h, g)])


def column_norm2(h: Tensor, g: Tensor) -> Tensor:
    """‖column j of G_s‖², the outgoing weights of input neuron j: (n, d_a) float64."""
    return row_norm2(g, h)


def left(h: Tensor, g: Tensor) -> Tensor:
    """Σ_s G_s G_sᵀ: (d_b, d_b), in the dtype of the rows.

    >>> left(torch.ones(1, 2, 3), torch.ones(1, 2, 1)).tolist()  # G_s = (2, 2, 2)
    [[12.0]]
    """
    h, g = _paired(h, g)
    T, d_a, d_b = h.shape[1], h.shape[2], g.shape[2]
    if T == 1:
        weighted = _squares(h)[:, None].to(g.dtype) * g[:, 0]
        return weighted.T @ g[:, 0]
    if T * (T * (d_a + d_b) + d_b**2) <= d_a * d_b * (T + d_b):
        return (h @ h.mT @ g).flatten(0, 1).T @ g.flatten(0, 1)
    total = g.new_zeros(d_b, d_b)
    for G in _formed(h, g):
        side_by_side = G.transpose(0, 1).flatten(1)
        total.addmm_(side_by_side, side_by_side.T)
    return total


def right(h: Tensor, g: Tensor) -> Tensor:
    """Σ_s G_sᵀ G_s: (d_a, d_a), in the dtype of the rows."""
    return left(g, h)


def _paired(h: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    if h.dim() != 3 or g.dim() != 3 or h.shape[:2] != g.shape[:2]:
        raise ValueError(
            f"h and g must be (n, T, d_a) and (n, T, d_b), got {tuple(h.shape)} and "
            f"{tuple(g.shape)}: the leading (samples, positions) must be equal"
        )
    wide = torch.promote_types(torch.promote_types(h.dtype, g.dtype), torch.float32)
    return h.to(wide), g.to(wide)


def _gram_is_cheaper(h: Tensor, g: Tensor) -> bool:
    """T²(d_a + d_b) ≤ T d_a d_b."""
    T, d_a, d_b = h.shape[1], h.shape[2], g.shape[2]
    return T * (d_a + d_b) <= d_a * d_b


def _formed(h: Tensor, g: Tensor) -> Iterator[Tensor]:
    """The gradients (k, d_b, d_a) themselves, a few samples at a time."""
    some = max(1, AT_ONCE // (h.shape[2] * g.shape[2]))
    for x, y in zip(h.split(some), g.split(some), strict=True):
        yield y.mT @ x


def _squares(x: Tensor) -> Tensor:
    """Σ x² over all but the leading dimension: nothing cancels, so only the result is float64."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1).double().square()
