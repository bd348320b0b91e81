"""Streaming second moments: two rank updates a batch, in place, on the batch's own device.

    H ← H + Σ h hᵀ,      G ← G + Σ g gᵀ

Both matrices are symmetric, so only the upper triangle of 64-wide blocks is multiplied and
the lower half is filled in when the moments are read: 9/16 of the work at d = 512. The sums are
float32 (float64 for float64 rows): a bfloat16 sum of ones stands still at 256.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .moments import Moments

BLOCK = 64
ROWS_AT_ONCE = 128  # of a matrix that is read a block of rows at a time
KEEP_CLUSTERS = 64
KEEP_ROWS = 4


class MomentStream:
    """Running `Moments` of one layer: `update` per batch, `moments` to read, `reset` to restart.

    d_a, d_b: dimensions of the rows of h and g. Memory: d_a² + d_b² numbers, and the latest
    `KEEP_CLUSTERS` clusters with at most `KEEP_ROWS` rows each, all in places of their own: what
    is made anew with every batch would scatter among its activations and split the heap.
    seed: of the private generator that draws which rows of a cluster are kept; no global
    random state is touched.
    """

    def __init__(self, d_a: int, d_b: int, *, seed: int = 0) -> None:
        self.d_a, self.d_b = d_a, d_b
        self.keep = KEEP_CLUSTERS  # less where several processes keep them together
        self._generator = torch.Generator().manual_seed(seed)
        self._sums: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
        self._kept = _Latest()
        self.reset()

    def reset(self) -> None:
        """Forget every sample; buffers are kept."""
        for total in self._sums or ():
            total.zero_()
        self.rows = self.clusters = 0
        self._kept.clear()
        self._replaced: tuple[Tensor, Tensor] | None = None  # the kept clusters of `replace`

    def update(self, h: Tensor, g: Tensor, *, again: bool = False) -> None:
        """Add a batch: h (n, T, d_a) and g (n, T, d_b), paired by row.

        again: these are further rows of the very samples of the last update.
        """
        clusters, T = h.shape[:2]
        if clusters * T == 0:
            return
        H, G, h_sum, g_sum = self._buffers(h)
        x, y = h.reshape(-1, self.d_a).to(H.dtype), g.reshape(-1, self.d_b).to(H.dtype)
        rank_update(H, x)
        rank_update(G, y)
        h_sum += x.sum(0)
        g_sum += y.sum(0)
        self.rows += clusters * T
        x, y = x.view(clusters, T, self.d_a), y.view(clusters, T, self.d_b)
        if again:
            self._join(x, y)
        else:
            self.clusters += clusters
            self._seen = T
            self._kept.add(*self._few(x, y), room=self.keep)

    def moments(self) -> Moments | None:
        """The moments so far, or None before the first sample.

        H and G are the running sums themselves, not copies: they move with the next `update`.
        """
        if not self.rows or self._sums is None:
            return None
        H, G, h_sum, g_sum = self._sums
        kept_h, kept_g = self._replaced or self._kept.rows()
        return Moments(
            H=symmetrise(H),
            G=symmetrise(G),
            h_sum=h_sum.clone(),
            g_sum=g_sum.clone(),
            rows=self.rows,
            clusters=self.clusters,
            kept_h=kept_h,
            kept_g=kept_g,
        )

    def ages(self) -> list[int]:
        """How many batches ago each kept cluster of `moments` was taken in, the oldest first."""
        return self._kept.ages()

    def replace(self, m: Moments) -> None:
        """Hold these moments instead of one's own, until the next `reset`."""
        for total, value in zip(self._buffers(m.H), (m.H, m.G, m.h_sum, m.g_sum), strict=True):
            total.copy_(value)
        self.rows, self.clusters = m.rows, m.clusters
        self._replaced = m.kept_h, m.kept_g

    def _buffers(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        if self._sums is None or self._sums[0].device != like.device:
            shapes = ((self.d_a, self.d_a), (self.d_b, self.d_b), (self.d_a,), (self.d_b,))
            H, G, h, g = (torch.zeros(s, dtype=dtype, device=like.device) for s in shapes)
            self._sums = H, G, h, g
        return self._sums

    def _few(self, h: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The clusters of a batch that are kept, with up to KEEP_ROWS random rows of each."""
        k, T = h.shape[:2]
        if T > KEEP_ROWS:
            rows = torch.randperm(T, generator=self._generator)[:KEEP_ROWS].to(h.device)
            h, g = h[:, rows], g[:, rows]
        stride = -(-k // self.keep)  # a batch may be shuffled or sorted: thin it evenly
        return h[::stride], g[::stride]

    def _join(self, h: Tensor, g: Tensor) -> None:
        """Further rows of the clusters kept last: KEEP_ROWS of all their rows, drawn evenly."""
        T = h.shape[1]
        self._seen += T
        drawn = torch.randperm(self._seen, generator=self._generator)[:KEEP_ROWS]
        fresh = int((drawn < T).sum())
        (old_h, old_g), (h, g) = self._kept.take_back(), self._few(h, g)
        old = torch.randperm(old_h.shape[1], generator=self._generator)[: len(drawn) - fresh]
        new = torch.randperm(h.shape[1], generator=self._generator)[:fresh]
        old, new = old.to(h.device), new.to(h.device)
        self._kept.add(
            torch.cat([old_h[:, old], h[:, new]], dim=1),
            torch.cat([old_g[:, old], g[:, new]], dim=1),
            room=self.keep,
        )


class _Latest:
    """The clusters kept last, in fixed places: of whole batches, as many as make `room` clusters.

    There is a place for one batch more than that. Only clusters with as many rows as those of the
    latest batch are told.
    """

    def __init__(self) -> None:
        self._h = self._g = torch.empty(0, 0, 0, 0)
        self.clear()

    def clear(self) -> None:
        """Forget the clusters; their places stay."""
        self._batches: list[tuple[int, int, int]] = []  # place, clusters, rows; the oldest first

    def add(self, h: Tensor, g: Tensor, *, room: int) -> None:
        """Copy a batch's clusters in: h (k, m, d_a) and g (k, m, d_b)."""
        k, m = h.shape[:2]
        places, widest, most = self._h.shape[:3]
        if k > widest or m > most or self._h.device != h.device:
            self._move(h, g, -(-room // k) + 1, k, max(m, most))
            places = len(self._h)
        if len(self._batches) == places:
            self._batches.pop(0)
        place = next(i for i in range(places) if i not in {b[0] for b in self._batches})
        self._h[place, :k, :m], self._g[place, :k, :m] = h, g
        self._batches.append((place, k, m))
        while sum(b[1] for b in self._batches[1:]) >= room:
            self._batches.pop(0)

    def take_back(self) -> tuple[Tensor, Tensor]:
        """The clusters of the latest batch, which are forgotten here."""
        place, k, m = self._batches.pop()
        return self._h[place, :k, :m], self._g[place, :k, :m]

    def rows(self) -> tuple[Tensor, Tensor]:
        """Copies of h (k, m, d_a) and g (k, m, d_b), the oldest cluster first."""
        alike = self._alike()
        h, g = (torch.cat([t[p, :k, :m] for p, k, m in alike]) for t in (self._h, self._g))
        return h, g

    def ages(self) -> list[int]:
        """How many batches ago each cluster of `rows` was put in."""
        alike = self._alike()
        return [len(alike) - 1 - i for i, (_, k, _) in enumerate(alike) for _ in range(k)]

    def _alike(self) -> list[tuple[int, int, int]]:
        return [b for b in self._batches if b[2] == self._batches[-1][2]]

    def _move(self, h: Tensor, g: Tensor, places: int, k: int, m: int) -> None:
        """To wider places: the batches that are here come along where they have room."""
        old_h, old_g, here = self._h, self._g, self._batches[-places:]
        self._h, self._g = (t.new_empty(places, k, m, t.shape[2]) for t in (h, g))
        self._batches = [(i, *b[1:]) for i, b in enumerate(here)]
        for i, (p, n, r) in enumerate(here):
            self._h[i, :n, :r], self._g[i, :n, :r] = old_h[p, :n, :r], old_g[p, :n, :r]


def rank_update(total: Tensor, rows: Tensor) -> None:
    """total += rowsᵀ rows, upper triangle of blocks only; `symmetrise` completes it.

    total: (d, d), rows: (n, d), same dtype and device.
    """
    for i in range(0, total.shape[0], BLOCK):
        total[i : i + BLOCK, i:].addmm_(rows[:, i : i + BLOCK].T, rows[:, i:])


def symmetric_product(X: Tensor, Y: Tensor, out: Tensor) -> Tensor:
    """out = Xᵀ Y where that is known to be symmetric: the same share of the work.

    X, Y: (n, d); out: (d, d), overwritten and returned.
    """
    for i in range(0, out.shape[0], BLOCK):
        torch.matmul(X[:, i : i + BLOCK].T, Y[:, i:], out=out[i : i + BLOCK, i:])
    return symmetrise(out)


def symmetrise(total: Tensor) -> Tensor:
    """Fill the lower triangle from the upper one, in place; later rank updates may go on.

    >>> symmetrise(torch.tensor([[1.0, 2.0], [9.0, 3.0]]))
    tensor([[1., 2.],
            [2., 3.]])
    """
    for i in range(0, total.shape[0], BLOCK):
        own, right = total[i : i + BLOCK, i : i + BLOCK], total[i : i + BLOCK, i + BLOCK :]
        own.triu_().add_(own.triu(1).T)
        total[i + BLOCK :, i : i + BLOCK] = right.T
    return total
