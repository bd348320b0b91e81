"""A sweep: each run done once, whatever happens on the way."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lawful.lab import experiment as lab
from lawful.lab.experiment import Experiment, Settings, setting
from lawful.lab.job import Job
from lawful.lab.sweep import claimed, folder_name, planned, sweep
from lawful.record import Measurement, RecordError, Run, open_run
from lawful.record.sweep import Sweep, read_sweep

STARTED: Counter[str] = Counter()
TROUBLE: dict[str, Exception | BaseException] = {}  # run -> what its next attempt ends with


@dataclass(frozen=True)
class ToySettings(Settings):
    a: float = setting(1.0, "A number.")
    b: tuple[float, ...] = setting((0.0, 1.0), "Several numbers.")
    name: str = setting("x", "A word.")


def train(settings: ToySettings, job: Job) -> Run:
    STARTED[job.out.name] += 1
    print("a word on stdout")
    if job.out.name in TROUBLE:
        raise TROUBLE.pop(job.out.name)
    with job.world() as writer:
        writer.write(0, [Measurement(0, "", "loss", settings.a)])
    return open_run(job.out)


TOY = Experiment("toy", "A toy.", ToySettings, train, (), sweep="b")


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab, "experiments", lambda: {"toy": TOY})
    STARTED.clear()
    TROUBLE.clear()


def threads() -> AbstractContextManager[ThreadPoolExecutor]:
    return ThreadPoolExecutor(4)


def made(out: Path, grid: tuple[str, ...] = ("a=1,2,3",), **more: Any) -> Sweep:
    fields: dict[str, Any] = {"settings": ("b=0",), "engine": threads, "progress": False}
    return sweep("toy", out, grid, **(fields | more))


# --- the plan -------------------------------------------------------------------------------------


def test_the_runs_are_the_grid_times_the_seeds(tmp_path: Path) -> None:
    plan = planned(TOY, tmp_path, ("a=0,1e-3", "name=x,y"), range(3), ("b=0",))
    assert len(plan.runs) == 12
    assert plan.runs[0].name == "a-0_name-x_seed-0"
    assert plan.runs[-1].point == {"a": 0.001, "name": "y"}
    assert plan.grid == {"a": (0.0, 0.001), "name": ("x", "y")}


def test_what_the_experiment_sweeps_is_a_part_of_the_grid(tmp_path: Path) -> None:
    plan = planned(TOY, tmp_path, ("a=1",), range(1))
    assert plan.grid == {"a": (1.0,), "b": (0.0, 1.0)}
    assert [r.name for r in plan.runs] == ["a-1_b-0_seed-0", "a-1_b-1_seed-0"]


def test_the_same_value_twice_is_one_point(tmp_path: Path) -> None:
    assert len(planned(TOY, tmp_path, ("a=1e-3,0.001",), range(1), ("b=0",)).runs) == 1


def test_names_stay_in_the_folder_and_apart() -> None:
    names = {folder_name({"name": t}, 0) for t in ("../x", "..%2Fx", "a/b", "a_b", "")}
    assert len(names) == 5
    assert not any("/" in name for name in names)


@pytest.mark.parametrize("grid", [("a",), ("a=",), ("a=1", "a=2"), ("b=1",), ("c=1",), ("a=x",)])
def test_a_grid_that_is_none_is_one_sentence(tmp_path: Path, grid: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"grid|unknown|needed"):
        planned(TOY, tmp_path, grid, range(1), ("b=0",))


# --- done once ------------------------------------------------------------------------------------


def test_every_run_is_made_once_and_written_down(tmp_path: Path) -> None:
    done = made(tmp_path, seeds=2)
    assert set(STARTED.values()) == {1}
    assert len(STARTED) == 6
    assert done == read_sweep(tmp_path)
    assert {(r.status, r.attempts, r.message) for r in done.runs} == {("finished", 1, "")}
    assert open_run(tmp_path / "a-2_seed-1").manifest["experiment"]["settings"]["a"] == 2.0
    assert "a word on stdout" in (tmp_path / "logs" / "a-2_seed-1.log").read_text()


def test_a_second_sweep_is_refused_and_a_resumed_one_does_nothing(tmp_path: Path) -> None:
    made(tmp_path)
    with pytest.raises(RecordError, match="--resume"):
        made(tmp_path)
    made(tmp_path, resume=True)
    assert set(STARTED.values()) == {1}


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RecordError, match=r"not empty and not a sweep \(thesis\.tex\)"):
        made(tmp_path)
    with pytest.raises(RecordError, match="cannot write to the sweep folder"):
        made(tmp_path / "thesis.tex")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_grown_grid_makes_the_new_runs_only(tmp_path: Path) -> None:
    made(tmp_path)
    made(tmp_path, ("a=1,2,3,4",), seeds=2, resume=True)
    assert len(STARTED) == 8
    assert set(STARTED.values()) == {1}
    with pytest.raises(ValueError, match="not on this grid"):
        made(tmp_path, ("a=1,2",), resume=True)
    with pytest.raises(ValueError, match="choose another folder"):
        made(tmp_path, settings=("b=1",), resume=True)


def test_a_run_that_was_lost_from_the_folder_is_made_again(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "a-2_seed-0" / "manifest.json").unlink()
    (tmp_path / "a-2_seed-0" / "measurements.sqlite").unlink()
    made(tmp_path, resume=True)
    assert STARTED == {"a-1_seed-0": 1, "a-2_seed-0": 2, "a-3_seed-0": 1}


def test_two_sweepers_do_not_share_a_folder(tmp_path: Path) -> None:
    made(tmp_path)
    with (
        claimed(tmp_path / "logs" / "sweep.lock", wait=0),
        pytest.raises(RecordError, match="another process"),
    ):
        made(tmp_path, resume=True)


def test_a_run_under_way_elsewhere_is_waited_for_and_not_made_beside(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    lock = tmp_path / "logs" / "a-1_seed-0.lock"
    held, free = threading.Event(), threading.Event()

    def elsewhere() -> None:
        with claimed(lock, wait=0):
            held.set()
            free.wait(30)
            TOY.run(TOY.configure(["a=1", "b=0"]), tmp_path / "a-1_seed-0", 0, progress=False)

    other = threading.Thread(target=elsewhere)
    other.start()
    held.wait(30)
    with pytest.raises(sqlite3.OperationalError), claimed(lock, wait=0.01):
        pass
    threading.Timer(0.3, free.set).start()
    made(tmp_path, ("a=1",))
    other.join()
    assert STARTED["a-1_seed-0"] == 1


# --- what goes wrong ------------------------------------------------------------------------------


def test_a_failure_is_written_down_and_tried_once_more(tmp_path: Path) -> None:
    TROUBLE["a-2_seed-0"] = ArithmeticError("the loss is nan")
    runs = {r.name: r for r in made(tmp_path).runs}
    again = runs["a-2_seed-0"]
    assert (again.status, again.attempts) == ("finished", 2)
    assert again.message == "ArithmeticError: the loss is nan"
    assert "Traceback" in (tmp_path / "logs" / "a-2_seed-0.log").read_text()


def test_a_run_that_always_fails_is_failed_and_the_others_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(settings: ToySettings, job: Job) -> Run:
        if settings.a == 2:
            raise RuntimeError("never")
        return train(settings, job)

    bad = Experiment("toy", "A toy.", ToySettings, broken, (), sweep="b")
    monkeypatch.setattr(lab, "experiments", lambda: {"toy": bad})
    runs = {r.name: r for r in made(tmp_path).runs}
    assert (runs["a-2_seed-0"].status, runs["a-2_seed-0"].attempts) == ("failed", 2)
    assert runs["a-2_seed-0"].message == "RuntimeError: never"
    assert [r.status for r in runs.values()].count("finished") == 2
    monkeypatch.setattr(lab, "experiments", lambda: {"toy": TOY})
    assert {r.status for r in made(tmp_path, resume=True).runs} == {"finished"}


def test_a_run_that_kills_its_process_takes_no_other_with_it(tmp_path: Path) -> None:
    class Pool:
        """Breaks with all in its hands when the deadly run starts; else makes runs on asking."""

        broken = False

        def submit(self, fn: Any, /, *task: Any) -> Any:
            return Ticket(self, fn, task)

    class Ticket:
        def __init__(self, pool: Pool, fn: Any, task: Any) -> None:
            self.pool, self.fn, self.task = pool, fn, task

        def done(self) -> bool:
            return True

        def result(self) -> Any:
            self.pool.broken |= self.task[2].endswith("a-3_seed-0")
            if self.pool.broken:
                raise BrokenProcessPool("a process died")
            return self.fn(*self.task)

        def cancel(self) -> None:
            pass

    @contextmanager
    def opened() -> Iterator[Any]:
        yield Pool()

    runs = {r.name: r for r in made(tmp_path, ("a=3,1,2",), engine=opened).runs}
    assert (runs["a-3_seed-0"].status, runs["a-3_seed-0"].attempts) == ("failed", 2)
    assert "its process died" in runs["a-3_seed-0"].message
    assert runs["a-1_seed-0"].status == runs["a-2_seed-0"].status == "finished"


def test_ctrl_c_leaves_a_sweep_that_goes_on(tmp_path: Path) -> None:
    class Pool:
        def submit(self, fn: Any, /, *task: Any) -> Any:
            if len(STARTED) == 1:
                raise KeyboardInterrupt
            future: Future[Any] = Future()
            future.set_result(fn(*task))
            return future

    @contextmanager
    def opened() -> Iterator[Any]:
        yield Pool()

    with pytest.raises(KeyboardInterrupt):
        made(tmp_path, engine=opened, at_once=2)
    states = Counter(r.status for r in read_sweep(tmp_path).runs)
    assert states["finished"] == 1
    assert states["running"] == 0
    made(tmp_path, resume=True)
    assert set(STARTED.values()) == {1}


# --- real processes -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_sweep_killed_half_way_finishes_with_each_run_done_once(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    command = [
        sys.executable, "-m", "lawful", "sweep", "canonical-digits", "--out", str(out),
        "--grid", "weight_decay=0,1e-3,1e-2,3e-2", "--grid", "width=8,16", "--seeds", "3",
        "--set", "steps=150", "--set", "depth=2", "--set", "measurements=3", "--workers", "2",
    ]  # fmt: skip

    def states() -> Counter[str]:
        if not (out / "sweep.json").exists():
            return Counter()
        return Counter(r.status for r in read_sweep(out).runs)

    first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while states()["finished"] < 10:
        assert first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(1)
    finished = [r.name for r in read_sweep(out).runs if r.status == "finished"]
    written = {name: (out / name / "manifest.json").stat().st_mtime_ns for name in finished}
    done = subprocess.run([*command, "--resume", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["runs"]) == 24
    assert states() == {"finished": 24}
    for name, when in written.items():
        assert (out / name / "manifest.json").stat().st_mtime_ns == when
    logs = [(out / "logs" / f"{r.name}.log").read_text() for r in read_sweep(out).runs]
    assert {log.count(" finished\n") for log in logs} == {1}
