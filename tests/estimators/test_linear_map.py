"""Both sides of a map from one set of moments: identities against the samples themselves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lawful.estimators.alignment import G, H, Side, Z
from lawful.estimators.linear_map import canonical, output_side, part
from lawful.estimators.moments import Moments, moments


def draw(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def same(first: Side, second: Side) -> None:
    """Two sides describe the same samples."""
    for field in ("M", "means", "x", "y"):
        torch.testing.assert_close(getattr(first, field), getattr(second, field))
    assert (first.clusters, first.positions) == (second.clusters, second.positions)


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.integers(1, 3), st.booleans(),
    st.integers(0, 1000),
)  # fmt: skip
def test_both_sides_equal_the_moments_of_the_mapped_samples(
    d_a: int, d_b: int, n: int, T: int, biased: bool, seed: int
) -> None:
    h, g, W = draw(n, T, d_a, seed=seed), draw(n, T, d_b, seed=seed + 1), draw(d_b, d_a, seed=2)
    bias = draw(d_b, seed=3) if biased else None
    c = canonical(moments(h, g), W, bias)
    h_b, g_a = h @ W.T + (0.0 if bias is None else bias), g @ W
    same(c.a, output_side(moments(h, g_a), W.T @ W))
    same(c.b, output_side(moments(h_b, g), W @ W.T))


def test_order_of_the_matrices_and_their_means() -> None:
    h, g, W = draw(5, 3, seed=4), draw(5, 2, seed=5), draw(2, 3, seed=6)
    c = canonical(moments(h, g), W)
    torch.testing.assert_close(c.a.M[H], h.T @ h / 5)
    torch.testing.assert_close(c.b.M[H], W @ (h.T @ h / 5) @ W.T)
    torch.testing.assert_close(c.a.M[G], W.T @ (g.T @ g / 5) @ W)
    torch.testing.assert_close(c.b.M[G], g.T @ g / 5)
    torch.testing.assert_close(c.a.M[Z], W.T @ W)
    torch.testing.assert_close(c.b.M[Z], W @ W.T)
    torch.testing.assert_close(c.b.means[:2], torch.stack([W @ h.mean(0), g.mean(0)]))
    assert not c.b.means[Z].any()


def test_sides_come_one_after_the_other() -> None:
    c = canonical(moments(draw(5, 3, seed=4), draw(5, 2, seed=5)), draw(2, 3, seed=6))
    (name_a, a), (name_b, b) = c.sides()
    assert (name_a, name_b) == ("a", "b")
    same(a, c.a)
    same(b, c.b)


def test_reading_a_side_leaves_the_moments_alone() -> None:
    """The sides are made in place, but not in the place of the sums."""
    m = moments(draw(5, 3, seed=4), draw(5, 2, seed=5))
    before = [t.clone() for t in (m.H, m.G, m.h_sum, m.g_sum, m.kept_h, m.kept_g)]
    W, bias = draw(2, 3, seed=6), draw(2, seed=7)
    kept = W.clone(), bias.clone()
    c = canonical(m, W, bias)
    first = c.a, c.b
    same(first[0], c.a)
    same(first[1], c.b)
    after = (m.H, m.G, m.h_sum, m.g_sum, m.kept_h, m.kept_g)
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))
    assert torch.equal(W, kept[0])
    assert torch.equal(bias, kept[1])


def test_bias_moves_the_mean_only() -> None:
    m = moments(draw(6, 3, seed=7), draw(6, 2, seed=8))
    W, bias = draw(2, 3, seed=9), draw(2, seed=10)
    plain, biased = canonical(m, W).b, canonical(m, W, bias).b

    def centred(side: Side) -> torch.Tensor:
        return side.M[H] - torch.outer(side.means[H], side.means[H])

    assert not torch.allclose(plain.M[H], biased.M[H])
    torch.testing.assert_close(centred(plain), centred(biased))


@pytest.mark.parametrize("head", [0, 1, 2])
def test_a_head_of_rows_is_its_own_smaller_map(head: int) -> None:
    """The query of one head: rows of a fused qkv and of its bias."""
    h, g, W, bias = (draw(*s, seed=11) for s in ((8, 4, 5), (8, 4, 6), (6, 5), (6,)))
    rows = torch.arange(2 * head, 2 * head + 2)
    sliced = canonical(part(moments(h, g), rows=rows), W[rows], bias[rows])
    direct = canonical(moments(h, g[..., rows]), W[rows], bias[rows])
    same(sliced.a, direct.a)
    same(sliced.b, direct.b)
    same(sliced.b, output_side(moments((h @ W.T + bias)[..., rows], g[..., rows]), Z_b(W[rows])))


def test_a_head_of_columns_is_its_own_smaller_map() -> None:
    """The output projection of one head: columns, which see a slice of h only."""
    h, g, W = draw(8, 4, 6, seed=12), draw(8, 4, 5, seed=13), draw(5, 6, seed=14)
    columns = torch.tensor([4, 1])
    sliced = canonical(part(moments(h, g), columns=columns), W[:, columns])
    direct = canonical(moments(h[..., columns], g), W[:, columns])
    same(sliced.a, direct.a)
    same(sliced.b, direct.b)


def test_the_whole_map_is_a_part_of_itself() -> None:
    m = moments(draw(4, 3, seed=15), draw(4, 2, seed=16))
    whole = part(m)
    for field in Moments.__dataclass_fields__:
        assert torch.equal(
            torch.as_tensor(getattr(whole, field)), torch.as_tensor(getattr(m, field))
        )


def test_weights_of_another_precision_follow_the_moments() -> None:
    m = moments(draw(4, 3, seed=17).float(), draw(4, 2, seed=18).float())
    c = canonical(m, draw(2, 3, seed=19).bfloat16(), draw(2, seed=20).bfloat16())
    assert c.W.dtype == c.a.M.dtype == c.b.M.dtype == torch.float32
    square = part(m, columns=torch.arange(2))
    assert output_side(square, torch.eye(2).double()).M.dtype == torch.float32


def Z_b(W: torch.Tensor) -> torch.Tensor:
    return W @ W.T
