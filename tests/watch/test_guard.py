"""What is refused before it is opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lawful.record import RecordError, RunWriter
from lawful.watch import guard


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with RunWriter.create(tmp_path / "root" / "run", {"status": "running"}):
        pass
    return tmp_path / "root" / "run"


def test_a_signature_changes_when_the_run_does(run: Path) -> None:
    before = guard.signature(run)
    with RunWriter.create(run, {}, resume=True) as writer:
        writer.write(1, [])
    assert guard.signature(run) != before


@pytest.mark.parametrize(
    "name", ["manifest.json", "measurements.sqlite", "measurements.sqlite-wal"]
)
def test_a_link_out_of_the_folder_is_not_read(run: Path, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"format": 1, "experiment": {"name": "secret"}}')
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(secret)
    with pytest.raises(RecordError, match="is a link"):
        guard.signature(run)


def test_a_pipe_is_not_waited_for(run: Path) -> None:
    (run / "measurements.sqlite").unlink()
    os.mkfifo(run / "measurements.sqlite")
    with pytest.raises(RecordError, match="no file"):
        guard.signature(run)


def test_a_file_that_is_too_large_is_not_read(run: Path) -> None:
    with (run / "manifest.json").open("r+b") as file:
        file.truncate(guard.MANIFEST_BYTES + 1)
    with pytest.raises(RecordError, match="more than"):
        guard.signature(run)


def test_an_array_that_is_a_link_is_not_read(run: Path, tmp_path: Path) -> None:
    guard.arrays_inside(run)
    (run / "arrays").mkdir(exist_ok=True)
    (run / "arrays" / "step-00000001.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(RecordError, match="link"):
        guard.arrays_inside(run)


def test_runs_are_found_below_and_links_are_not_followed(run: Path, tmp_path: Path) -> None:
    with RunWriter.create(tmp_path / "elsewhere" / "run", {}):
        pass
    (run.parent / "away").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (run.parent / "loop").symlink_to(run.parent, target_is_directory=True)
    assert list(guard.runs_in(run.parent)) == [run]
    assert list(guard.runs_in(tmp_path / "nowhere")) == []
