"""The sweep folder: what is written is read, and what is not ours is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lawful.record import RecordError
from lawful.record.sweep import SWEEP, Sweep, SweepRun, is_sweep, read_sweep, write_sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    runs = (
        SweepRun("a-0_seed-0", {"a": 0.0}, 0, "finished", 1),
        SweepRun("a-1_seed-0", {"a": 1.0}, 0, "failed", 2, "NonFiniteLoss: <b>"),
    )
    return Sweep(tmp_path, "toy", {"steps": "3"}, {"a": (0.0, 1.0)}, (0,), runs)


def test_a_sweep_is_read_as_it_was_written(sweep: Sweep) -> None:
    assert not is_sweep(sweep.path)
    write_sweep(sweep)
    assert is_sweep(sweep.path)
    assert read_sweep(sweep.path) == sweep
    assert [p.name for p in sweep.path.iterdir()] == [SWEEP]


def test_a_folder_without_one_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="is not a sweep"):
        read_sweep(tmp_path)


@pytest.mark.parametrize("change", [
    {"format": 2}, {"runs": [1]}, {"runs": "x"}, {"grid": []}, {"experiment": 3}, {"seeds": ["x"]},
])  # fmt: skip
def test_a_damaged_one_is_one_sentence(sweep: Sweep, change: dict[str, Any]) -> None:
    write_sweep(sweep)
    file = sweep.path / SWEEP
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(RecordError, match="damaged"):
        read_sweep(sweep.path)


@pytest.mark.parametrize("name", ["../other", "/etc", "..", "", "a\\b", "a\0b"])
def test_a_run_outside_of_the_folder_is_refused(sweep: Sweep, name: str) -> None:
    write_sweep(sweep)
    file = sweep.path / SWEEP
    document = json.loads(file.read_text())
    document["runs"][0]["name"] = name
    file.write_text(json.dumps(document))
    with pytest.raises(RecordError, match="damaged"):
        read_sweep(sweep.path)
