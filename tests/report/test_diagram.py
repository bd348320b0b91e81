"""The phase diagram: majorities, shares, and who has no vote."""

from __future__ import annotations

import math
from pathlib import Path

from lawful.laws.verdict import Verdict
from lawful.record.sweep import Sweep, SweepRun
from lawful.report.diagram import SPLIT, cell, diagram

NAN = math.nan


def vote(status: str, effect: float = 0.5, law: str = "rga_b", layer: str = "fc") -> Verdict:
    return Verdict(law, layer, 9, status, effect, (NAN, NAN), NAN, NAN, "A sentence.")


def test_the_majority_of_those_who_voted_and_its_share_of_the_planned() -> None:
    found = cell([vote("holds", 0.8), vote("holds", 0.9), vote("violated", 0.1)], 5)
    assert (found.status, found.share) == ("holds", 0.4)
    assert found.counts == {"holds": 2, "violated": 1}
    assert (round(found.effect, 9), found.low, found.high) == (0.6, 0.1, 0.9)


def test_half_is_no_majority() -> None:
    assert cell([vote("holds"), vote("violated")], 2).status == SPLIT
    assert cell([vote("holds"), vote("violated"), vote("undetermined")], 3).status == SPLIT


def test_no_vote_is_no_status() -> None:
    found = cell([], 3)
    assert (found.status, found.share) == ("", 0.0)
    assert math.isnan(found.effect)


def test_each_point_gathers_its_seeds(tmp_path: Path) -> None:
    points = [{"a": a, "b": b} for a in (0.0, 1.0) for b in (1, 2)]
    runs = [SweepRun(f"{i}-{s}", p, s) for i, p in enumerate(points) for s in (0, 1)]
    sweep = Sweep(tmp_path, "toy", {}, {"a": (0.0, 1.0), "b": (1, 2)}, (0, 1), tuple(runs))
    said = {run.name: [vote("holds" if run.point["a"] else "violated")] for run in runs[:-1]}
    found = diagram(sweep, said)
    assert found.points == tuple(points)
    assert found.claims == (("rga_b", "fc"),)
    assert [found.cells[0, j].status for j in range(4)] == ["violated"] * 2 + ["holds"] * 2
    assert [found.cells[0, j].share for j in range(4)] == [1.0, 1.0, 1.0, 0.5]
