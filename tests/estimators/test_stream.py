"""The stream: the same moments as all at once, in any batches, touching no global state."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lawful.estimators.moments import Moments, moments
from lawful.estimators.stream import (
    KEEP_CLUSTERS,
    KEEP_ROWS,
    MomentStream,
    rank_update,
    symmetrise,
)


def draw(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def same_sums(first: Moments | None, second: Moments | None, rtol: float = 1e-12) -> None:
    assert first is not None
    assert second is not None
    for field in ("H", "G", "h_sum", "g_sum"):
        torch.testing.assert_close(
            getattr(first, field), getattr(second, field), rtol=rtol, atol=1e3 * rtol
        )
    assert (first.rows, first.clusters) == (second.rows, second.clusters)


@pytest.mark.parametrize("d", [1, 127, 128, 129, 300])
def test_blocks_of_the_upper_triangle_make_the_whole_product(d: int) -> None:
    x = draw(40, d, seed=d)
    total = torch.zeros(d, d, dtype=torch.float64)
    rank_update(total, x[:15])
    rank_update(total, x[15:])
    torch.testing.assert_close(symmetrise(total), x.T @ x)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 7), st.integers(0, 99))
def test_batches_equal_all_at_once(sizes: list[int], T: int, seed: int) -> None:
    n = sum(sizes)
    h, g = draw(n, T, 5, seed=seed), draw(n, T, 3, seed=seed + 1)
    stream = MomentStream(5, 3)
    for x, y in zip(h.split(sizes), g.split(sizes), strict=True):
        stream.update(x, y)
    m = stream.moments()
    if n == 0:
        assert m is None
        return
    same_sums(m, moments(h, g))
    assert m is not None
    assert torch.equal(m.H, m.H.T)
    if T <= KEEP_ROWS:  # few rows, few clusters: all of them are kept, in order
        assert torch.equal(m.kept_h, h)
        assert torch.equal(m.kept_g, g)


def test_thousand_bfloat16_batches_are_summed_in_float32() -> None:
    h, g = draw(1000, 4, 1, 6, seed=0).bfloat16() + 1, draw(1000, 4, 1, 4, seed=1).bfloat16()
    stream = MomentStream(6, 4)
    for x, y in zip(h, g, strict=True):
        stream.update(x, y)
    m, exact = stream.moments(), moments(h.flatten(0, 1).double(), g.flatten(0, 1).double())
    assert m is not None
    assert m.H.dtype == torch.float32
    assert float((m.H - exact.H).norm() / exact.H.norm()) < 1e-5
    assert float((m.G - exact.G).norm() / exact.G.norm()) < 1e-5
    assert float((m.h_sum - exact.h_sum).norm() / exact.h_sum.norm()) < 1e-5


@pytest.mark.parametrize("size", [1, 50, 127, 128, 129, 500])
def test_kept_clusters_are_bounded_and_paired(size: int) -> None:
    """g carries the number of its sample and row, and so does h."""
    stream, seen = MomentStream(2, 1), 0
    for _ in range(1 + 600 // size):
        sample = torch.arange(seen, seen + size, dtype=torch.float64)
        number = (sample[:, None] * 10 + torch.arange(9)).unsqueeze(2)
        stream.update(torch.cat([number, -number], 2), number)
        seen += size
    m = stream.moments()
    assert m is not None
    k, rows = m.kept_h.shape[:2]
    assert rows == KEEP_ROWS
    assert KEEP_CLUSTERS // 2 <= k < 2 * KEEP_CLUSTERS
    assert torch.equal(m.kept_h[..., :1], m.kept_g)
    assert torch.equal(m.kept_h[..., 1:], -m.kept_g)
    clusters = (m.kept_g / 10).floor()
    assert bool((clusters == clusters[:, :1]).all())  # rows of one cluster stay together
    assert len(clusters[:, 0].unique()) == k  # no cluster twice
    assert len((m.kept_g[0] % 10).unique()) == KEEP_ROWS  # no row twice
    assert int(clusters.max()) >= seen - (size + KEEP_CLUSTERS - 1) // KEEP_CLUSTERS


def test_a_small_last_batch_does_not_crowd_out_the_others() -> None:
    """256 and 141 samples: 64 and 47 of them are kept, not the last 47 alone."""
    stream = MomentStream(2, 2)
    for size in (256, 141):
        stream.update(draw(size, 1, 2, seed=size), draw(size, 1, 2, seed=size + 1))
    m = stream.moments()
    assert m is not None
    assert len(m.kept_h) == len(stream.ages()) == 64 + 47
    stream.update(draw(256, 1, 2, seed=1), draw(256, 1, 2, seed=2))
    m = stream.moments()
    assert m is not None
    assert len(m.kept_h) == 64


def test_kept_rows_do_not_follow_the_stream() -> None:
    """Kept rows are copies: a training loop may overwrite its batch."""
    stream, h = MomentStream(2, 2), torch.ones(3, 1, 2)
    stream.update(h, h)
    h.zero_()
    m = stream.moments()
    assert m is not None
    assert bool((m.kept_h == 1).all())
    assert m.H.tolist() == [[3.0, 3.0], [3.0, 3.0]]
    stream.update(h + 1, h + 1)
    assert (m.rows, m.h_sum.tolist()) == (3, [3.0, 3.0])


def test_reading_does_not_disturb_the_sums() -> None:
    """The triangle is filled in place; the next batch goes on from there."""
    h, g = draw(30, 1, 200, seed=17), draw(30, 1, 3, seed=18)
    stream = MomentStream(200, 3)
    for x, y in zip(h.split(10), g.split(10), strict=True):
        stream.update(x, y)
        stream.moments()
        stream.moments()
    same_sums(stream.moments(), moments(h, g))


def test_kept_rows_are_a_fair_draw() -> None:
    """Every position of a sequence is as likely as any other."""
    stream, counts = MomentStream(1, 1, seed=5), torch.zeros(10)
    position = torch.arange(10.0).view(1, 10, 1)
    for _ in range(1000):
        stream.reset()
        stream.update(position, position)
        m = stream.moments()
        assert m is not None
        counts[m.kept_h.flatten().long()] += 1
    expected = 1000 * KEEP_ROWS / 10
    assert float((counts - expected).abs().max()) < 4 * (expected * (1 - KEEP_ROWS / 10)) ** 0.5


def test_same_seed_same_rows_and_the_global_generator_rests() -> None:
    state = torch.get_rng_state()
    h, g = draw(4, 30, 2, seed=3), draw(4, 30, 2, seed=4)
    kept = []
    for seed in (7, 7, 8):
        stream = MomentStream(2, 2, seed=seed)
        stream.update(h, g)
        m = stream.moments()
        assert m is not None
        kept.append(m.kept_h)
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_reset_forgets_everything() -> None:
    h, g = draw(6, 2, 3, seed=9), draw(6, 2, 2, seed=10)
    stream = MomentStream(3, 2)
    stream.update(h, g)
    stream.reset()
    assert stream.moments() is None
    stream.update(h, g)
    same_sums(stream.moments(), moments(h, g))


def test_the_latest_rows_win_when_the_length_of_sequences_changes() -> None:
    stream = MomentStream(2, 2)
    stream.update(draw(5, 2, 2, seed=11), draw(5, 2, 2, seed=12))
    stream.update(draw(5, 9, 2, seed=13), draw(5, 9, 2, seed=14))
    m = stream.moments()
    assert m is not None
    assert m.kept_h.shape == (5, KEEP_ROWS, 2)
    assert (m.rows, m.clusters, m.positions) == (55, 10, 5.5)


def test_further_rows_of_the_same_clusters_are_kept_evenly() -> None:
    """Nine calls of one row: of the nine, each is among the four kept four times in nine."""
    stream, batches = MomentStream(1, 1, seed=3), 400
    times = torch.zeros(9)
    for _ in range(batches):
        stream.reset()
        for call in range(9):
            rows = torch.full((5, 1, 1), float(call))
            stream.update(rows, 2 * rows, again=call > 0)
        m = stream.moments()
        assert m is not None
        assert (m.rows, m.clusters, m.positions) == (45, 5, 9.0)
        assert torch.equal(m.kept_g, 2 * m.kept_h)
        assert len(m.kept_h[0].unique()) == KEEP_ROWS
        times[m.kept_h[0].flatten().long()] += 1
    spread = 4 * (4 / 9 * 5 / 9 / batches) ** 0.5
    assert (times / batches - 4 / 9).abs().max() < spread
