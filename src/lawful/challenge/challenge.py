"""A challenge: an open question with a protocol, data, a score, and a theory to beat.

    cases()  →  what a theory is told    →  theory(case)  →  score(measured, predicted)
                the world is run         →  measured

A theory is any function of one case. It is called before the world is run and is told nothing of
what was measured. Your own, in your pyproject.toml:

    [project.entry-points."lawful.challenges"]
    mine = "mypackage.theory:entry"       # an Entry, or a list of them

    entry = Entry("exponent", "my theory", predict)

A score is a number of which less is better, and 0 is perfect.
"""

from __future__ import annotations

import copy
import importlib.metadata
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Theory = Callable[[Any], Any]
GROUP = "lawful.challenges"


@dataclass(frozen=True)
class Case:
    """One world: what a theory is told of it, and how to run it.

    name:    of the case.
    told:    the argument of the theory; the challenge says what is in it.
    measure: runs the world; returns numbers (k,) and their standard errors (k,; NaN if unknown).
    """

    name: str
    told: Any
    measure: Callable[[], tuple[Array, Array]]


@dataclass(frozen=True)
class Challenge:
    """An open direction made measurable.

    name, direction: address on the command line; its number among the open directions.
    question: one sentence.  told: what a theory gets.  wanted: what it must return.
    scored:   the score in words.
    cases:    seed -> the worlds; fixed data, fixed protocol.
    score:    (measured (k,), predicted (k,)) -> a number, less is better.
    baseline: name of the theory to beat, and it.
    """

    name: str
    direction: int
    question: str
    told: str
    wanted: str
    scored: str
    cases: Callable[[int], list[Case]]
    score: Callable[[Array, Array], float]
    baseline: tuple[str, Theory]


@dataclass(frozen=True)
class Entry:
    """A theory for one challenge, under a name."""

    challenge: str
    name: str
    theory: Theory


@dataclass(frozen=True)
class Result:
    """How one theory did on one case; score NaN when it failed, and why."""

    theory: str
    case: str
    measured: tuple[float, ...]
    stderr: tuple[float, ...]
    predicted: tuple[float, ...]
    score: float
    failure: str = ""


def run(challenge: Challenge, entries: Sequence[Entry] = (), *, seed: int = 0) -> list[Result]:
    """The baseline and the entries on every case: all predict first, then the world is run.

    Each theory is handed a copy of what it is told, so that none can change the world. One
    that raises, or returns the wrong number of values or one that is not finite, scores
    NaN and says why.
    """
    theories = [challenge.baseline, *((e.name, e.theory) for e in entries)]
    results = []
    for case in challenge.cases(seed):
        told = [_ask(theory, copy.deepcopy(case.told)) for _, theory in theories]
        measured, error = case.measure()
        for (name, _), (predicted, failure) in zip(theories, told, strict=True):
            if not failure and predicted.shape != measured.shape:
                failure = f"returned {predicted.size} numbers, {measured.size} are wanted"
            score = math.nan if failure else float(challenge.score(measured, predicted))
            m, e, p = (tuple(map(float, v)) for v in (measured, error, predicted))
            results.append(Result(name, case.name, m, e, p, score, failure))
    return results


def entries(challenge: str) -> list[Entry]:
    """The theories that installed packages bring for a challenge.

    A broken one, and one for a challenge that there is not, cost a warning.
    """
    from .board import challenges  # which is made of what stands here

    found: list[Entry] = []
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            loaded = point.load()
            brought = [loaded] if isinstance(loaded, Entry) else list(loaded)
            if not all(isinstance(e, Entry) for e in brought):
                raise TypeError(f"{loaded!r} is not a lawful.challenge.Entry or a list of them")
            stray = {e.challenge for e in brought} - set(challenges())
            if stray:
                raise LookupError(f"there is no challenge {', '.join(map(repr, sorted(stray)))}")
        except Exception as error:
            text = f"challenge plug-in {point.name!r} ({point.value}) is skipped: {error!r}"
            warnings.warn(text, stacklevel=2)
            continue
        found += [e for e in brought if e.challenge == challenge]
    return found


def log_rmse(measured: Array, predicted: Array) -> float:
    """Root mean square of ln(predicted/measured).

    >>> log_rmse(np.array([1.0, 2.0]), np.array([1.0, 2.0]))
    0.0
    """
    if not (predicted > 0).all():
        return math.inf
    return float(np.sqrt(np.mean(np.log(predicted / measured) ** 2)))


def distance(measured: Array, predicted: Array) -> float:
    """Root mean square of predicted − measured.

    >>> distance(np.array([1.0, 2.0]), np.array([1.0, 4.0]))
    1.4142135623730951
    """
    return float(np.sqrt(np.mean((predicted - measured) ** 2)))


def _ask(theory: Theory, told: Any) -> tuple[Array, str]:
    try:
        said = np.atleast_1d(np.asarray(theory(told), np.float64))
    except Exception as error:
        return np.array([]), f"raised {error!r}"
    bad = int(np.sum(~np.isfinite(said)))
    return said, f"returned {bad} numbers that are not finite" if bad else ""
