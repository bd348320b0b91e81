"""Per-sample gradients: every summary against autograd, one sample at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lawful.estimators import per_sample

# (T, d_a, d_b): no positions; Gram form; formed gradients; formed on one side of `left` only
SHAPES = [(1, 5, 3), (2, 7, 6), (40, 3, 4), (6, 2, 9), (6, 9, 2)]


def rows(T: int, d_a: int, d_b: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(T + 100 * d_a)
    h, g = (torch.randn(11, T, d, generator=generator, dtype=torch.float64) for d in (d_a, d_b))
    return h.to(dtype), g.to(dtype)


def gradients(h: Tensor, g: Tensor) -> Tensor:
    """(n, d_b, d_a): the weight gradient of Σ_t g_t·(W h_t), sample by sample, by autograd."""
    W = torch.zeros(g.shape[2], h.shape[2], dtype=torch.float64, requires_grad=True)
    losses = [((x.double() @ W.T) * y.double()).sum() for x, y in zip(h, g, strict=True)]
    return torch.stack([torch.autograd.grad(loss, W)[0] for loss in losses])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("at_once", [1, 50, 10**9])
def test_every_summary_is_that_of_the_gradients(shape, at_once, monkeypatch):
    monkeypatch.setattr(per_sample, "AT_ONCE", at_once)
    h, g = rows(*shape)
    G = gradients(h, g)
    for found, wanted in (
        (per_sample.norm2(h, g), G.square().sum((1, 2))),
        (per_sample.row_norm2(h, g), G.square().sum(2)),
        (per_sample.column_norm2(h, g), G.square().sum(1)),
        (per_sample.left(h, g), (G @ G.mT).sum(0)),
        (per_sample.right(h, g), (G.mT @ G).sum(0)),
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_a_convolution_by_its_unfolded_rows():
    conv = nn.Conv2d(2, 3, 3, padding=1, dtype=torch.float64)
    x = torch.randn(4, 2, 5, 5, dtype=torch.float64)
    h = nn.functional.unfold(x, 3, padding=1).mT
    y = conv(x)
    g = torch.randn_like(y)
    G = torch.stack(
        [
            torch.autograd.grad((y[s] * g[s]).sum(), conv.weight, retain_graph=True)[0]
            for s in range(4)
        ]
    )
    found = per_sample.norm2(h, g.flatten(2).mT)
    torch.testing.assert_close(found, G.square().flatten(1).sum(1))


@pytest.mark.parametrize("shape", [(1, 64, 32), (8, 64, 32), (200, 16, 16)])
def test_float32_rows_are_enough(shape):
    h, g = rows(*shape, torch.float32)
    exact = per_sample.norm2(h.double(), g.double())
    torch.testing.assert_close(per_sample.norm2(h, g), exact, rtol=2e-6, atol=0)
    assert per_sample.left(h, g).dtype == torch.float32
    assert per_sample.norm2(h.half(), g.half()).isfinite().all()


def test_positions_that_cancel_leave_little():
    """g alternates in sign over equal rows: G_s = 0, and the sum of T² terms must see it."""
    h = torch.randn(3, 1, 20).expand(3, 64, 20)
    g = torch.randn(3, 1, 30) * torch.tensor([1.0, -1.0]).repeat(32)[None, :, None]
    size = (h.square().sum((1, 2)) * g.square().sum((1, 2))).double()
    assert (per_sample.norm2(h, g).abs() < 1e-6 * size).all()


@pytest.mark.parametrize(
    ("h", "g"), [((4, 3), (4, 2)), ((4, 2, 3), (4, 3, 3)), ((3, 1, 2), (4, 1, 2))]
)
def test_rows_that_do_not_pair_are_refused(h, g):
    with pytest.raises(ValueError, match="leading"):
        per_sample.norm2(torch.zeros(h), torch.zeros(g))
