"""Seeded loaders: plain index batches, one epoch = one random permutation of the train set.

Batch t of size B out of N samples is rows π_e[iB : (i+1)B], with e = t ÷ ⌊N/B⌋, i the
remainder, and π_e the permutation that (seed, e) draws. Batch t depends on t alone: a loader
may start anywhere. The last N mod B samples of an epoch are left out, so all batches are equal.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .stream import stream


def batches(
    x: Tensor, y: Tensor, size: int, *, steps: int, seed: int = 0, start: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches `start` … `steps − 1` as (x, y) pairs of `size` rows.

    Raises `ValueError` when a batch is larger than the data.

    >>> x = torch.arange(6.0)
    >>> whole = [b.tolist() for b, _ in batches(x, x, 2, steps=5)]
    >>> whole[3:] == [b.tolist() for b, _ in batches(x, x, 2, steps=5, start=3)]
    True
    """
    if not 1 <= size <= len(x):
        raise ValueError(f"batch={size}: the data have {len(x)} samples; use 1 to {len(x)}")
    return _batches(x, y, size, range(start, steps), seed)


def _batches(
    x: Tensor, y: Tensor, size: int, steps: range, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    per_epoch = len(x) // size
    current = -1
    for step in steps:
        epoch, i = divmod(step, per_epoch)
        if epoch != current:
            order = torch.randperm(len(x), generator=stream(seed, "epoch", epoch)).to(x.device)
            current = epoch
        rows = order[i * size : (i + 1) * size]
        yield x[rows], y[rows]
