"""Schedules: which steps they open, and what they refuse."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lawful import schedule
from lawful.schedule import Schedule, at, budget, every, log_spaced


def opened(s: Schedule, stop: int, start: int = 0) -> list[int]:
    return [t for t in range(start, stop) if s.opens(t)]


def test_every() -> None:
    s = every(7)
    assert opened(s, 30) == [0, 7, 14, 21, 28]
    assert (s.name, s.consecutive, s.share) == ("every(7)", False, None)
    assert s.rows > log_spaced().rows  # spread over time, a window may take more of them
    assert opened(every(1), 4) == [0, 1, 2, 3]


@pytest.mark.parametrize("k", [0, -3, 2.5, "10"])
def test_every_refuses(k: object) -> None:
    with pytest.raises(ValueError, match=r"whole number of steps ≥ 1, got k="):
        every(k)  # type: ignore[arg-type]


def test_at_sorts_and_forgets_duplicates() -> None:
    s = at([40, 3, 3, 11])
    assert s.name == "at([3, 11, 40])"
    assert s.next_open() == 3
    assert opened(s, 100) == [3, 11, 40]
    assert s.next_open() == math.inf
    assert s.consecutive


def test_at_takes_any_iterable_and_names_it_briefly() -> None:
    assert at(range(0, 90)).name == "at([0..89])"
    assert at(iter([1, 2])).name == "at([1, 2])"
    assert at(range(0, 90, 10)).name == "at([0, 10, 20, 30, 40, 50, 60, 70, …])"


@pytest.mark.parametrize("steps", [[], [-1, 5]])
def test_at_refuses(steps: list[int]) -> None:
    with pytest.raises(ValueError, match="at least one step, none negative"):
        at(steps)


@pytest.mark.parametrize("steps", [3, "0,10", [1.5, 3], [math.inf], [None]])
def test_at_takes_whole_numbers(steps: object) -> None:
    with pytest.raises(ValueError, match=r"at\(steps\) needs whole numbers"):
        at(steps)  # type: ignore[arg-type]


def test_whole_numbers_of_any_kind_are_steps() -> None:
    assert every(np.int64(3)).name == "every(3)"
    assert opened(at([1e1, np.int64(2), torch.tensor(5)]), 20) == [2, 5, 10]


def test_log_spaced_defaults() -> None:
    """40 windows to step 10,000, of which three coincide; the ratio goes on beyond."""
    steps = opened(log_spaced(), 17_000)
    assert [t for t in steps if t <= 10_000][-1] == 10_000
    assert sum(t <= 10_000 for t in steps) == 37
    assert steps[:6] == [0, 1, 2, 3, 4, 5]
    assert steps[-1] == round(10_000 ** (40 / 38))
    assert log_spaced().name == "log_spaced(40, last=10000)"


@pytest.mark.parametrize(("n", "expected"), [(2, [0, 100]), (3, [0, 1, 100]), (4, [0, 1, 10, 100])])
def test_log_spaced_by_hand(n: int, expected: list[int]) -> None:
    assert opened(log_spaced(n, last=100), 101) == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 60), st.integers(2, 3000))
def test_log_spaced_rises_from_zero_and_hits_the_last_step(n: int, last: int) -> None:
    steps = opened(log_spaced(n, last), last + 1)
    assert steps[0] == 0
    assert steps[-1] == last
    assert steps == sorted(set(steps))
    assert len(steps) <= n
    gaps = [b - a for a, b in pairwise(steps)]
    assert all(later >= earlier - 1 for earlier, later in pairwise(gaps))


@pytest.mark.parametrize(("n", "last"), [(1, 100), (5, 1), (0, 0)])
def test_log_spaced_refuses(n: int, last: int) -> None:
    with pytest.raises(ValueError, match=f"got n={n}, last={last}"):
        log_spaced(n, last)


def test_share_is_kept_in_the_name() -> None:
    s = log_spaced(10, last=500, share=0.02)
    assert (s.share, s.timed, s.name) == (0.02, False, "log_spaced(10, last=500, share=0.02)")


def test_budget() -> None:
    s = budget()
    assert (s.name, s.share, s.timed, s.consecutive) == ("budget(0.02)", 0.02, True, True)
    assert opened(s, 4) == [0, 1, 2, 3]
    assert s.opens(9)  # the clock decides: a step passed over is made up for at the next


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 2.0])
def test_share_refuses(share: float) -> None:
    for make in (budget, lambda s: log_spaced(share=s)):
        with pytest.raises(ValueError, match="share must lie between 0 and 1"):
            make(share)


def test_steps_passed_over_are_not_made_up_for() -> None:
    """A window that is still open at a scheduled step, or a run that resumes later."""
    assert opened(every(10), 40, start=15) == [20, 30]
    assert opened(every(10), 40, start=20) == [20, 30]
    assert opened(at([2, 5, 8]), 20, start=6) == [8]
    assert opened(at([2, 5]), 20, start=6) == []
    assert opened(log_spaced(5, last=1000), 2000, start=50) == [100, 1000]
    s = at([2, 5, 8])
    assert not s.opens(6)
    assert s.next_open() == 8
    assert not s.opens(6)  # asking twice changes nothing
    assert s.opens(8)
    assert not s.opens(8)  # a window opens once


def test_next_open_is_ahead_of_the_step() -> None:
    s = log_spaced(5, last=1000)
    assert s.next_open() == 0
    for step in range(1001):
        s.opens(step)
        assert s.next_open() > step


def test_a_hand_made_schedule() -> None:
    s = schedule.Schedule("primes", lambda: iter([2, 3, 5]))
    assert opened(s, 9) == [2, 3, 5]
