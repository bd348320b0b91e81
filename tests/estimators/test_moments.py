"""Moments: sums of outer products, exact under merging, paired row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lawful.estimators.moments import Moments, as_clusters, merge, moments, normalised

SUMS = ("H", "G", "h_sum", "g_sum", "rows", "clusters")


def samples(n: int, T: int, seed: int, *, whole: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """(n, T, 3) and (n, T, 2); whole numbers make every float sum exact."""
    generator = torch.Generator().manual_seed(seed)
    h, g = (torch.randn(n, T, d, generator=generator, dtype=torch.float64) for d in (3, 2))
    return ((8 * h).round(), (8 * g).round()) if whole else (h, g)


def identical(first: Moments, second: Moments) -> bool:
    """Equal to the last bit, up to the order of the kept clusters."""

    def kept(m: Moments) -> list[list[float]]:
        return sorted(torch.cat([m.kept_h, m.kept_g], 2).flatten(1).tolist())

    same = all(
        torch.equal(torch.as_tensor(getattr(first, k)), torch.as_tensor(getattr(second, k)))
        for k in SUMS
    )
    return same and kept(first) == kept(second)


@pytest.mark.parametrize("T", [1, 5])
def test_sums_are_the_loops_written_out(T: int) -> None:
    h, g = samples(7, T, 0)
    m = moments(h, g)
    H = sum(torch.outer(x, x) for sample in h for x in sample)
    G = sum(torch.outer(y, y) for sample in g for y in sample)
    torch.testing.assert_close(m.H, H)
    torch.testing.assert_close(m.G, G)
    torch.testing.assert_close(m.h_sum, h.sum((0, 1)))
    torch.testing.assert_close(m.g_sum, g.sum((0, 1)))
    assert (m.rows, m.clusters, m.positions) == (7 * T, 7, T)
    assert torch.equal(m.kept_h, h)
    assert torch.equal(m.kept_g, g)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=3, max_size=5), st.integers(0, 1000))
def test_merge_is_exact_associative_and_commutative(sizes: list[int], seed: int) -> None:
    h, g = samples(sum(sizes), 2, seed, whole=True)
    pieces = [moments(a, b) for a, b in zip(h.split(sizes), g.split(sizes), strict=True)]
    forward = pieces[0]
    for piece in pieces[1:]:
        forward = merge(forward, piece)
    backward = pieces[-1]
    for piece in reversed(pieces[:-1]):
        backward = merge(piece, backward)
    swapped = merge(merge(*reversed(pieces[:2])), pieces[2])
    assert identical(forward, moments(h, g))
    assert identical(forward, backward)
    assert identical(swapped, merge(merge(pieces[0], pieces[1]), pieces[2]))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 12), st.integers(0, 1000))
def test_order_of_samples_does_not_matter(n: int, seed: int) -> None:
    h, g = samples(n, 3, seed, whole=True)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert identical(moments(h, g), moments(h[order], g[order]))


def test_narrow_numbers_are_summed_in_float32_and_wide_ones_kept() -> None:
    h, g = samples(4, 1, 1)
    assert moments(h.bfloat16(), g.half()).H.dtype == torch.float32
    assert moments(h, g).H.dtype == torch.float64
    assert as_clusters(torch.ones(2, 3, dtype=torch.int64)).dtype == torch.float32


def test_positions_of_any_rank_are_rows_of_one_cluster() -> None:
    image = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    assert as_clusters(image).shape == (2, 12, 5)
    assert torch.equal(as_clusters(image)[1, 4], image[1, 1, 0])
    assert as_clusters(torch.ones(2, 5)).shape == (2, 1, 5)


def test_no_rows_yet() -> None:
    empty = moments(torch.zeros(0, 3), torch.zeros(0, 2))
    assert (empty.rows, empty.clusters, empty.positions) == (0, 0, 0.0)
    some = moments(torch.ones(2, 3), torch.ones(2, 2))
    assert identical(merge(empty, some), some)


def test_rows_normalised_one_by_one() -> None:
    x = samples(5, 2, 2)[0]
    x[0, 0] = 0.0
    unit = normalised(x)
    torch.testing.assert_close(unit.norm(dim=-1)[1:], torch.ones(4, 2, dtype=torch.float64))
    assert not unit[0, 0].any()
    torch.testing.assert_close(normalised(100 * x), unit)


def test_what_does_not_fit_is_refused() -> None:
    h, g = samples(4, 2, 3)
    with pytest.raises(ValueError, match="must pair row by row"):
        moments(h, g[:3])
    with pytest.raises(ValueError, match="must pair row by row"):
        moments(h, g[:, :1])
    with pytest.raises(ValueError, match=r"\(n, d\) or \(n, T, d\), got shape \(3,\)"):
        moments(torch.ones(3), torch.ones(3))
    m = moments(h, g)
    with pytest.raises(ValueError, match="rows kept per cluster"):
        merge(m, replace(m, kept_h=m.kept_h[:, :1], kept_g=m.kept_g[:, :1]))
    with pytest.raises(ValueError, match="different layers"):
        merge(m, moments(h, g[..., :1]))
