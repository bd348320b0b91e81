"""Randomness as a function of (seed, purpose): no hidden state, so no state to lose.

A generator made from the same seed and the same address always draws the same numbers, on any
machine and in any order of calls. Batch order, augmentation and label permutation take theirs
from here; a resumed run therefore sees the very batches it would have seen.
"""

from __future__ import annotations

import hashlib

import torch


def stream(seed: int, *address: str | int) -> torch.Generator:
    """A torch generator (CPU) for one purpose of one run.

    >>> a, b = stream(0, "batches", 3), stream(0, "batches", 3)
    >>> torch.equal(torch.rand(4, generator=a), torch.rand(4, generator=b))
    True
    >>> a, b = stream(0, "batches", 3), stream(0, "batches", 4)
    >>> torch.equal(torch.rand(4, generator=a), torch.rand(4, generator=b))
    False
    """
    digest = hashlib.sha256("/".join(map(str, (seed, *address))).encode()).digest()
    # 63 bits: manual_seed takes signed and unsigned numbers alike below this.
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
