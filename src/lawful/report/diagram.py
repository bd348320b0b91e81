"""A phase diagram: the status of a law over the settings that a sweep varied.

    cell (law, layer, point):   most frequent status of the runs at this point, and its share

A share is of the runs planned at the point, one a seed: a run that failed, or is not finished, has
no vote and is not passed over either. A status needs more than half of the votes cast to be that of
the point; without one the point is `split`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..laws.verdict import Verdict
    from ..record.sweep import Sweep, SweepRun

SPLIT = "split"
"""No status has more than half of the votes."""


@dataclass(frozen=True)
class Cell:
    """What the runs of one point say of one law in one layer.

    counts:  status -> number of runs.  planned: runs there are to be.
    status:  that of more than half of those judged; `split` without one, "" with no vote at all.
    share:   runs of that status over the runs planned.
    effect:  mean over the runs judged; low, high: the smallest and the largest.
    """

    counts: Mapping[str, int]
    planned: int
    status: str
    share: float
    effect: float
    low: float
    high: float


@dataclass(frozen=True)
class Diagram:
    """The cells of a sweep.

    axes:   setting -> its values.  points: setting -> value, one of each combination.
    claims: (law, layer) in the order met.  cells: (claim, point) by their places -> cell.
    """

    axes: Mapping[str, tuple[Any, ...]]
    points: tuple[Mapping[str, Any], ...]
    claims: tuple[tuple[str, str], ...]
    cells: Mapping[tuple[int, int], Cell]


def diagram(sweep: Sweep, verdicts: Mapping[str, Sequence[Verdict]]) -> Diagram:
    """Gather the verdicts of a sweep.

    verdicts: name of a run -> what `lawful.test` said of it; runs without verdicts left out.
    """
    points = list({_key(run): dict(run.point) for run in sweep.runs}.items())
    claims = list(dict.fromkeys((v.law, v.layer) for vs in verdicts.values() for v in vs))
    cells = {}
    for j, (key, _) in enumerate(points):
        here = [run.name for run in sweep.runs if _key(run) == key]
        said = [{(v.law, v.layer): v for v in verdicts.get(name, ())} for name in here]
        for i, claim in enumerate(claims):
            cells[i, j] = cell([one[claim] for one in said if claim in one], len(here))
    return Diagram(sweep.grid, tuple(point for _, point in points), tuple(claims), cells)


def cell(votes: Sequence[Verdict], planned: int) -> Cell:
    """The majority of some verdicts on the same claim."""
    counts = Counter(v.status for v in votes)
    status, most = max(counts.items(), key=lambda item: item[1], default=("", 0))
    if 2 * most <= len(votes) and votes:
        status = SPLIT
    effects = [v.effect for v in votes if math.isfinite(v.effect)] or [math.nan]
    mean = sum(effects) / len(effects)
    return Cell(
        dict(counts), planned, status, most / max(1, planned), mean, min(effects), max(effects)
    )


def _key(run: SweepRun) -> tuple[tuple[str, str], ...]:
    return tuple((key, repr(value)) for key, value in run.point.items())
