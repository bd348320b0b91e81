"""A step lands whole or not at all, whatever happens to the process or the disk."""

import contextlib
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from lawful.record import Measurement, RecordError, RunWriter, open_run
from lawful.record.folder import ARRAYS, DATABASE, LOCK, array_file
from lawful.record.manifest import MANIFEST

CURVES = [(layer, name) for layer in ("fc1", "fc2") for name in ("rga_a", "rga_b", "samples")]


def rows(step, value=1.0):
    return [Measurement(step, layer, name, value, 0.1, 7) for layer, name in CURVES]


def write_on(writer, landed):
    """Write steps after the last of `landed` and note each that was acknowledged."""
    for step in range(landed[-1] + 1, 2000):
        writer.write(step, rows(step))
        landed.append(step)


def test_a_second_write_of_a_step_replaces_numbers_and_merges_arrays(tmp_path):
    with RunWriter.create(tmp_path / "run", {}) as writer:
        writer.write(5, rows(5), {("fc1", "H_a"): np.eye(2), ("fc1", "W"): np.ones((3, 2))})
        writer.write(5, [Measurement(5, "fc1", "rga_a", 2.0)], {("fc1", "H_a"): 2 * np.eye(2)})
    run = open_run(tmp_path / "run")
    assert len(run.table()) == len(CURVES)
    assert run.at("rga_a", "fc1").value == 2.0
    np.testing.assert_array_equal(run.array("H_a", layer="fc1"), 2 * np.eye(2))
    np.testing.assert_array_equal(run.array("W", layer="fc1"), np.ones((3, 2)))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "bool", ">f4"])
def test_arrays_keep_dtype_and_shape(tmp_path, dtype):
    wide = np.arange(24).reshape(4, 6).astype(dtype)
    given = {"W": wide.T[::2], "view": wide[:0], "agop": wide[1, 1]}
    with RunWriter.create(tmp_path, {}) as writer:
        writer.write(0, [], {("fc", name): array for name, array in given.items()})
    for name, array in given.items():
        read = open_run(tmp_path).array(name, layer="fc")
        assert read.dtype == np.dtype(dtype).newbyteorder("=")
        np.testing.assert_array_equal(read, array)


def test_all_files_of_a_run_are_for_those_whom_the_umask_lets_in(tmp_path):
    before = os.umask(0o027)
    try:
        with RunWriter.create(tmp_path / "run", {}) as writer:
            writer.write(0, [], {("fc", "W"): np.eye(2)})
            writer.write(0, [], {("fc", "H_a"): np.eye(2)})
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == {
        path.name: "0o640" for path in files
    }


def test_writing_refuses_what_does_not_belong(tmp_path):
    with RunWriter.create(tmp_path, {}) as writer:
        with pytest.raises(ValueError, match="step 2"):
            writer.write(1, [Measurement(2, "fc", "rga_a", 0.0)])
        with pytest.raises(ValueError, match="step=-1"):
            writer.write(-1, [])
        with pytest.raises(ValueError, match="is a scalar"):
            writer.write(1, [], {("fc", "rga_a"): np.eye(2)})
        with pytest.raises(KeyError, match="H_a"):
            writer.write(1, [], {("fc", "H_aa"): np.eye(2)})
        with pytest.raises(ValueError, match="dtype object"):
            writer.write(1, [], {("fc", "H_a"): np.array([object()])})
        with pytest.raises(ValueError, match="info, warning, error"):
            writer.event(1, "fc", "shout", "!")
    assert open_run(tmp_path).steps == []
    assert list((tmp_path / ARRAYS).iterdir()) == []


def test_numpy_scalars_are_numbers(tmp_path):
    with RunWriter.create(tmp_path, {}) as writer:
        step = np.int64(3)
        writer.write(step, [Measurement(step, "fc", "rga_a", np.float32(0.5), n=np.int32(4))])
    read = open_run(tmp_path).at("rga_a", "fc")
    assert (read.step, read.value, read.n) == (3, 0.5, 4)


def test_events_come_from_any_thread(tmp_path):
    with RunWriter.create(tmp_path, {}) as writer, ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda i: writer.event(i, "fc", "warning", f"loss {i}"), range(40)))
        writer.write(0, rows(0))
    events = open_run(tmp_path).events()
    assert sorted(events.step) == list(range(40))
    assert list(events.columns) == ["step", "layer", "kind", "message"]


def test_an_existing_run_is_not_overwritten(tmp_path):
    RunWriter.create(tmp_path, {}).close()
    with pytest.raises(RecordError, match="resume=True"):
        RunWriter.create(tmp_path, {})


def test_a_foreign_folder_is_not_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("chapter one")
    for resume in (False, True):
        with pytest.raises(RecordError, match=r"thesis\.tex"):
            RunWriter.create(tmp_path, {}, resume=resume)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_foreign_database_is_not_touched(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as foreign:
        foreign.execute("CREATE TABLE step (recipe TEXT)")
    before = (tmp_path / DATABASE).read_bytes()
    with pytest.raises(RecordError, match="not written by lawful"):
        RunWriter.create(tmp_path, {})
    assert (tmp_path / DATABASE).read_bytes() == before


def test_resume_appends_and_keeps(tmp_path):
    with RunWriter.create(tmp_path, {"created": "then", "steps": 1, "seed": 1}) as writer:
        writer.write(0, rows(0))
        writer.write(1, rows(1))
    (tmp_path / ARRAYS / "step-00000009.safetensors.tmp").write_bytes(b"half")
    again = {"created": "now", "steps": 0, "seed": 2}
    with RunWriter.create(tmp_path, again, resume=True) as writer:
        writer.write(1, rows(1, 5.0))
        writer.write(2, rows(2))
    run = open_run(tmp_path)
    assert run.steps == [0, 1, 2]
    assert run.series("rga_a", "fc1").value.tolist() == [1.0, 5.0, 1.0]
    assert [run.manifest[key] for key in ("created", "steps", "seed")] == ["then", 1, 2]
    assert list((tmp_path / ARRAYS).iterdir()) == []


def test_two_writers_do_not_share_a_folder(tmp_path):
    with RunWriter.create(tmp_path, {"seed": 1}) as writer:
        writer.write(0, rows(0))
        draft = tmp_path / ARRAYS / "step-00000001.safetensors.tmp"
        draft.write_bytes(b"half")  # of the one that writes
        with pytest.raises(RecordError, match="is being written: two runs cannot share"):
            RunWriter.create(tmp_path, {"seed": 2}, resume=True)
        assert draft.exists()
        assert open_run(tmp_path).steps == [0]  # who reads is never in the way
        assert {p.name for p in tmp_path.glob("*.lock*")} == {LOCK}
        writer.write(1, rows(1))
    with RunWriter.create(tmp_path, {"seed": 2}, resume=True) as writer:
        writer.write(2, rows(2))
    assert open_run(tmp_path).steps == [0, 1, 2]


def test_resume_refuses_another_model(tmp_path):
    RunWriter.create(tmp_path, {"model": {"class": "MLP", "parameters": 10}}).close()
    with pytest.raises(RecordError, match="parameters 10, now 11"):
        RunWriter.create(tmp_path, {"model": {"class": "MLP", "parameters": 11}}, resume=True)


def test_an_interrupted_creation_can_be_taken_up(tmp_path):
    RunWriter.create(tmp_path, {}).close()
    (tmp_path / MANIFEST).unlink()
    with RunWriter.create(tmp_path, {}) as writer:
        writer.write(0, rows(0))
    (tmp_path / MANIFEST).unlink()
    with pytest.raises(RecordError, match="no manifest"):
        RunWriter.create(tmp_path, {})


def test_the_manifest_is_updated_whole(tmp_path):
    with RunWriter.create(tmp_path, {"status": "running"}) as writer:
        writer.update_manifest(status="finished", data={"path": tmp_path, "scale": float("nan")})
        with pytest.raises(RecordError, match=r"manifest\.steps should be int, found str"):
            writer.update_manifest(steps="many")
    assert open_run(tmp_path).manifest == {
        "format": 1,
        "status": "finished",
        "data": {"path": str(tmp_path), "scale": "nan"},
    }


def test_a_closed_run_is_one_plain_folder(tmp_path):
    writer = RunWriter.create(tmp_path, {})
    writer.write(0, rows(0))
    writer.close()
    writer.close()
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([ARRAYS, MANIFEST, DATABASE, LOCK])
    assert (tmp_path / LOCK).stat().st_size == 0
    with pytest.raises(RecordError, match="closed"):
        writer.write(1, rows(1))


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_a_path_that_cannot_be_a_folder_is_one_sentence(tmp_path, out):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RecordError, match="cannot write to the run folder"):
        RunWriter.create(tmp_path / out, {})


def test_a_full_disk_leaves_earlier_steps_and_the_writer_usable(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    landed = [0]
    with RunWriter.create(tmp_path, {}) as writer:
        writer.write(0, rows(0), {("fc1", "W"): np.ones((4, 4))})
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
            with pytest.raises(RecordError, match=r"cannot write step 1 .* intact"):
                writer.write(1, rows(1), {("fc1", "W"): np.ones((100, 100))})
            with pytest.raises(RecordError, match="cannot write step") as full:
                write_on(writer, landed)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert "\n" not in str(full.value)
        assert len(landed) > 1
        assert open_run(tmp_path).steps == landed
        writer.write(3000, rows(3000))
    run = open_run(tmp_path)
    assert run.steps == [*landed, 3000]
    assert len(run.table()) == len(run.steps) * len(CURVES)
    assert [p.name for p in (tmp_path / ARRAYS).iterdir()] == [array_file(tmp_path, 0).name]


ENDLESS = textwrap.dedent(
    """
    import sys
    import numpy as np
    from lawful.record import Measurement, RunWriter, open_run

    path, places = sys.argv[1], [(l, q) for l in ("fc1", "fc2") for q in ("rga_a", "rga_b")]
    writer = RunWriter.create(path, {"layers": [{"name": "fc1"}, {"name": "fc2"}]}, resume=True)
    step = max(open_run(path).steps, default=-1) + 1
    print("ready", flush=True)
    while True:
        writer.write(
            step,
            [Measurement(step, *place, float(step), 0.0, 1) for place in places],
            {(layer, "W"): np.full((20, 20), float(step)) for layer in ("fc1", "fc2")},
        )
        print(step, flush=True)
        if step % 7 == 0:
            writer.update_manifest(steps=step)
        step += 1
    """
)


def killed_at_random(path, seconds):
    """Steps that an endless writer acknowledged before it was killed."""
    writer = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE, text=True
    )
    with writer:
        assert writer.stdout.readline() == "ready\n"
        time.sleep(seconds)
        questions = open_run(path).series("rga_a", "fc1")  # a reader, while it is written
        assert (questions.value == questions.index).all()
        with pytest.raises(RecordError, match="is being written"):
            RunWriter.create(path, {}, resume=True)
        os.kill(writer.pid, signal.SIGKILL)  # and nothing of its lock is left
        return [int(line) for line in writer.stdout.read().splitlines() if line.isdigit()]


@pytest.mark.parametrize("left", ["-journal", "-wal", "-shm"])
@pytest.mark.parametrize("content", [b"", b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(504)])
def test_a_run_killed_as_it_began_is_begun_anew(left, content, tmp_path):
    """Before its database is in WAL mode SQLite keeps a journal beside it."""
    path = tmp_path / "run"
    (path / ARRAYS).mkdir(parents=True)
    (path / (DATABASE + left)).write_bytes(content)
    with RunWriter.create(path, {}, resume=True) as writer:
        writer.write(0, rows(0))
    assert open_run(path).steps == [0]


def test_kill_9_loses_at_most_the_step_in_flight(tmp_path):
    chance = random.Random(0)
    acknowledged = []
    for _ in range(4):
        told = killed_at_random(tmp_path / "run", 0.05 + 0.3 * chance.random())
        acknowledged += told
        run = open_run(tmp_path / "run")
        assert set(acknowledged) <= set(run.steps)
        assert run.steps == list(range(len(run.steps)))
        table = run.table()
        assert (table.value == table.step).all()
        assert (table.groupby("step").size() == 4).all()
        for step in run.steps[-5:]:
            np.testing.assert_array_equal(
                run.array("W", layer="fc2", step=step), np.full((20, 20), float(step))
            )
    assert len(acknowledged) > 4
