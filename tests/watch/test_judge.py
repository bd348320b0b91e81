"""Testing the laws in a process of its own."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from synthetic_run import synthetic_run

from lawful.watch import judge


def test_what_the_other_process_says_is_what_this_one_would(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "r", ["fc"], [0, 1, 10], laws=["rga_b"])
    other = judge.Judge(threading.Event())
    try:
        verdicts, knobs, note = other(run.path)
    finally:
        other.end()
    assert repr((verdicts, knobs, note)) == repr(judge.judged(run.path))
    assert [v.law for v in verdicts] == ["rga_b"]


def test_a_record_that_cannot_be_judged_is_a_sentence(tmp_path: Path) -> None:
    assert "could not be tested: RecordError" in judge.judged(tmp_path)[2]


def test_a_test_without_end_costs_its_process_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge, "PATIENCE", 0.0)
    other = judge.Judge(threading.Event())
    assert "more than 0 seconds" in other(tmp_path)[2]
    assert other._process is None
