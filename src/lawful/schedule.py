"""When to measure: a schedule says on which optimiser steps batches are pooled into a window.

A *window* is a run of measured batches pooled into one measurement, closed when it holds
enough rows. After `every(k)` it takes each k-th batch; after the others it takes consecutive
batches from the scheduled step on, and closes early when the next scheduled step comes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from numbers import Integral

OFTEN = 4  # strides below this measure so often that half of the samples have to do


@dataclass
class Schedule:
    """A schedule as `observe` consults it.

    name:        how it was asked for, kept in the manifest.
    consecutive: whether a window goes on with the very next batches.
    steps:       gives the steps at which a window opens, rising; asked anew by every run.
    share:       of the training work that measuring may take, or None for no limit.
    timed:       True when the share is kept by the clock, False when by counted work.
    rows:        rows pooled in a window, in units of the layer's larger dimension.
    half_positions: of sequences and images take half the positions, which tell less than as many
                 samples would: a window costs half as much and spans twice as many batches.
    half_samples: of plain samples take every other one, where nearly every step is measured.
    """

    name: str
    steps: Callable[[], Iterator[int]]
    consecutive: bool = True
    share: float | None = None
    timed: bool = False
    rows: float = 4.0
    half_positions: bool = False
    half_samples: bool = False
    _coming: Iterator[int] = field(init=False, repr=False)
    _next: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._coming = self.steps()
        self._next = next(self._coming, None)

    def opens(self, step: int) -> bool:
        """Whether a window opens at this step (steps passed over are not made up for)."""
        due = False
        while self._next is not None and self._next <= step:
            due = self._next == step or self.timed
            self._next = next(self._coming, None)
        return due

    def next_open(self) -> float:
        """The next scheduled step, infinite after the last."""
        return math.inf if self._next is None else self._next


def every(k: int) -> Schedule:
    """Measure every k-th batch; a window pools 32·d rows of them.

    Of sequences and images half the positions are taken, of plain samples every other one if k < 4.

    >>> [t for t in range(10) if every(3).opens(t)]
    [0, 3, 6, 9]
    """
    if not isinstance(k, Integral) or k < 1:
        raise ValueError(f"every(k) needs a whole number of steps ≥ 1, got k={k!r}")
    return Schedule(
        f"every({k})", partial(_multiples, int(k)), consecutive=False, rows=32.0,
        half_positions=True, half_samples=k < OFTEN,
    )  # fmt: skip


def log_spaced(n: int = 40, last: int = 10_000, *, share: float | None = None) -> Schedule:
    """n windows, at step 0 and then evenly in log step up to `last`, and on at the same pace.

    Steps are whole, so the first of them coincide and count once: 37 of the default 40 remain.

    share: keep the *counted* work of measuring under this share of the work of training by
    passing over windows: reproducible, because no clock is read.

    >>> s = log_spaced(5, last=1000)
    >>> [t for t in range(2000) if s.opens(t)]
    [0, 1, 10, 100, 1000]
    """
    if n < 2 or last < 2:
        raise ValueError(f"log_spaced(n, last) needs n ≥ 2 and last ≥ 2, got n={n}, last={last}")
    _check_share(share)
    name = f"log_spaced({n}, last={last}" + (f", share={share})" if share else ")")
    return Schedule(name, partial(_geometric, n, last), share=share)


def at(steps: Iterable[int]) -> Schedule:
    """Windows opening at the given steps.

    >>> s = at([5, 2, 2])
    >>> [t for t in range(9) if s.opens(t)]
    [2, 5]
    """
    try:
        chosen = sorted({_whole(step) for step in steps})
    except (TypeError, ValueError, OverflowError):
        raise ValueError(
            f"at(steps) needs whole numbers, as in at([0, 100]), got {steps!r}"
        ) from None
    if not chosen or chosen[0] < 0:
        raise ValueError(f"at(steps) needs at least one step, none negative, got {chosen!r}")
    gap = all(b - a == 1 for a, b in pairwise(chosen)) and len(chosen) > 3
    shown = f"{chosen[0]}..{chosen[-1]}" if gap else ", ".join(map(str, chosen[:8]))
    more = ", …" if len(chosen) > 8 and not gap else ""
    return Schedule(f"at([{shown}{more}])", partial(iter, chosen))


def budget(share: float = 0.02) -> Schedule:
    """Measure as often as the clock allows: total time spent measuring ≤ share · elapsed.

    The stride follows the measured cost of earlier windows, so which steps are measured
    depends on the machine; training itself is untouched, as always.
    """
    _check_share(share)
    return Schedule(f"budget({share})", partial(_multiples, 1), share=share, timed=True)


def _check_share(share: float | None) -> None:
    if share is not None and not 0 < share < 1:
        raise ValueError(f"share must lie between 0 and 1 (0.02 is two per cent), got {share!r}")


def _whole(step: float) -> int:
    if int(step) != step:
        raise ValueError
    return int(step)


def _multiples(k: int) -> Iterator[int]:
    step = 0
    while True:
        yield step
        step += k


def _geometric(n: int, last: int) -> Iterator[int]:
    yield 0
    # Between 1 and `last` lie n − 2 equal ratios; two windows are step 0 and `last` alone.
    ratio, i = (last ** (1 / (n - 2)), 0) if n > 2 else (float(last), 1)
    previous = 0
    while True:
        step = round(ratio**i)
        if step > previous:
            yield step
            previous = step
        i += 1
