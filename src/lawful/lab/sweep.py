"""A sweep: one experiment at every point of a grid, with several seeds, each run done once.

    grid × seeds  →  one run folder a (point, seed)  →  law status over the grid

A sweep hands its runs to an executor (PEP 3148: `submit` gives a future) and writes down what
becomes of each; what the executor is (processes here, Dask, Slurm) it does not know. Done once
means: a run whose manifest says `finished` is never started again, one that was interrupted goes
on from its checkpoint, and one that is being trained is locked, so that a second sweeper (or a
worker that outlived the first) waits for it instead of training it beside. The lock is a
transaction that SQLite ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import datetime
import itertools
import math
import os
import sqlite3
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, CancelledError
from contextlib import (
    AbstractContextManager,
    closing,
    contextmanager,
    redirect_stderr,
    redirect_stdout,
)
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from ..record import RecordError
from ..record.errors import explained
from ..record.manifest import read_manifest
from ..record.sweep import SWEEP, Sweep, SweepRun, is_sweep, read_sweep, write_sweep
from .experiment import Experiment, experiment, parse, spelled
from .training import bar

ATTEMPTS = 2
"""How often a failing run is tried in one sweep."""

OURS = {"logs", f"{SWEEP}.tmp"}
"""What may lie in the folder of a sweep that was stopped before it began."""

NO = math.nan  # the bar of a sweep has no loss to show

_ONE_AT_A_TIME = threading.Lock()  # PyTorch's random state is the process's, not the thread's


class Engine(Protocol):
    """Where runs are made: any `concurrent.futures.Executor`, or what looks like one."""

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Any:
        """A future: `done()`, `result()`, `cancel()`."""


def sweep(
    name: str,
    out: str | Path,
    grid: Iterable[str],
    *,
    seeds: int = 1,
    settings: Iterable[str] = (),
    engine: Callable[[], AbstractContextManager[Engine]],
    at_once: float = math.inf,
    resume: bool = False,
    progress: bool = True,
) -> Sweep:
    """Make every run of the grid that is not finished; returns what became of each.

    name:     of the experiment.  out: the sweep folder.
    grid:     `key=value,value,…`, one for each setting that varies.
    seeds:    how many, counted from 0.  settings: `key=value`, the same in every run.
    engine:   makes an executor (`engines.py`); called again when one breaks.
    at_once:  the most runs in the executor's hands at a time.
    resume:   finished runs are left as they are, all others are made; the grid may have grown.

    A run that fails is tried once more; its message is kept either way.
    Raises `KeyError` and `ValueError` for a name or a setting that there is not, `RecordError`
    when the folder cannot be used, and `KeyboardInterrupt` at Ctrl-C with everything written.
    """
    out = Path(out).resolve()
    wanted = planned(experiment(name), out, grid, range(seeds), settings)
    if is_sweep(out) and not resume:
        raise RecordError(f"{out} holds a sweep: go on with it (--resume) or choose another folder")
    there = {p.name for p in out.iterdir()} - OURS if out.is_dir() and not is_sweep(out) else ()
    if there:
        some = ", ".join(sorted(there)[:3])
        raise RecordError(f"{out} is not empty and not a sweep ({some}): choose another folder")
    with explained(f"cannot write to the sweep folder {out}"):
        out.joinpath("logs").mkdir(parents=True, exist_ok=True)
    with _sole_sweeper(out):
        ledger = Ledger(_merged(wanted, read_sweep(out)) if is_sweep(out) else wanted)
        todo = deque(run.name for run in ledger.sweep.runs if run.status != "finished")
        total = len(ledger.sweep.runs)
        queue = Queue(todo)
        with bar(total, total - len(todo), f"{name} sweep", progress) as advance:
            while queue.waiting:
                with ledger.interrupted_if_unfinished(), engine() as pool:
                    _hand_out(pool, ledger, queue, at_once, lambda left: advance(total - left, NO))
    return ledger.sweep


def planned(
    chosen: Experiment,
    out: Path,
    grid: Iterable[str],
    seeds: Iterable[int],
    settings: Iterable[str] = (),
) -> Sweep:
    """Which runs a grid stands for, all waiting; every combination is checked.

    A setting of which the experiment itself makes one run a value is a part of the grid.
    """
    pairs = dict(pair.partition("=")[::2] for pair in settings)
    axes: dict[str, dict[str, Any]] = {}
    for part in grid:
        key, equals, texts = part.partition("=")
        if not equals or not texts or key in axes or key in pairs:
            raise ValueError(f"{part!r}: a grid is key=value,value,… and names a setting once")
        axes[key] = {}
        for text in texts.split(","):
            value = parse(chosen.settings, f"{key}={text}")[1]
            # A setting of several numbers holds one of them at each point.
            axes[key].setdefault(text, value[0] if isinstance(value, tuple) else value)
    own = chosen.sweep
    if own and own not in axes:
        values = getattr(chosen.configure(f"{k}={v}" for k, v in pairs.items()), own)
        if len(values) > 1:
            axes[own] = {spelled(value): value for value in values}
            pairs.pop(own, None)
    axes = {key: {spelled(v): v for v in values.values()} for key, values in axes.items()}
    runs = []
    for corner in itertools.product(*axes.values()):
        place = dict(zip(axes, corner, strict=True))
        chosen.configure(f"{k}={v}" for k, v in {**pairs, **place}.items())
        point = {key: axes[key][text] for key, text in place.items()}
        runs += [SweepRun(folder_name(place, seed), point, seed) for seed in seeds]
    values = {key: tuple(found.values()) for key, found in axes.items()}
    return Sweep(out, chosen.name, pairs, values, tuple(seeds), tuple(runs))


def folder_name(place: Mapping[str, str], seed: int) -> str:
    """The run folder of a point and a seed; different ones never share a name.

    >>> folder_name({"weight_decay": "0.001", "data": "../x"}, 2)
    'weight_decay-0.001_data-..%2Fx_seed-2'
    """
    parts = [f"{key}-{quote(text, safe='')}" for key, text in place.items()]
    return "_".join([*parts, f"seed-{seed}"])


def train_one(name: str, pairs: Mapping[str, str], folder: str, seed: int) -> tuple[str, str]:
    """Make one run, in whatever process this is: (status, message).

    What it prints goes to the run's log. A run that is finished is left as it is.
    """
    run = Path(folder)
    logs = run.parent / "logs"
    with (
        _ONE_AT_A_TIME,
        claimed(logs / f"{run.name}.lock", wait=10 * 86400),
        open(logs / f"{run.name}.log", "a", encoding="utf-8", buffering=1) as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        if is_finished(run):
            return "finished", ""
        print(f"{_now()} started, process {os.getpid()}")
        try:
            chosen = experiment(name)
            given = chosen.configure(f"{key}={text}" for key, text in pairs.items())
            chosen.run(given, run, seed, progress=False, resume=True)
        except KeyboardInterrupt:
            print(f"{_now()} interrupted")
            return "interrupted", ""
        except Exception as error:
            traceback.print_exc()
            print(f"{_now()} failed")
            return "failed", f"{type(error).__name__}: {error}"
        print(f"{_now()} finished")
        return "finished", ""


def is_finished(run: Path) -> bool:
    """Whether a folder holds a finished run."""
    try:
        return read_manifest(run).get("status") == "finished"
    except RecordError:
        return False


@contextmanager
def claimed(lock: Path, *, wait: float) -> Iterator[None]:
    """Hold a lock that ends with this process; `sqlite3.OperationalError` after `wait` seconds."""
    with closing(sqlite3.connect(lock, timeout=wait, isolation_level=None)) as held:
        held.execute("BEGIN EXCLUSIVE")
        yield


class Ledger:
    """What has become of each run, written to `sweep.json` at every change."""

    def __init__(self, sweep: Sweep) -> None:
        self._runs = {run.name: run for run in sweep.runs}
        self._sweep = sweep
        write_sweep(sweep)

    @property
    def sweep(self) -> Sweep:
        """The sweep as it stands."""
        return replace(self._sweep, runs=tuple(self._runs.values()))

    def task(self, name: str) -> tuple[str, dict[str, str], str, int]:
        """What `train_one` is called with."""
        run = self._runs[name]
        place = {key: spelled(value) for key, value in run.point.items()}
        settings = {**self._sweep.settings, **place}
        return self._sweep.experiment, settings, str(self._sweep.path / name), run.seed

    def started(self, name: str) -> None:
        """Another attempt at a run."""
        run = self._runs[name]
        self._note(replace(run, status="running", attempts=run.attempts + 1))

    def ended(self, name: str, status: str, message: str) -> None:
        """How an attempt ended; a message once given is kept."""
        run = self._runs[name]
        self._note(replace(run, status=status, message=message or run.message))

    @contextmanager
    def interrupted_if_unfinished(self) -> Iterator[None]:
        """Runs still under way when the block is left by an error are `interrupted`."""
        try:
            yield
        except BaseException:
            for run in [r for r in self._runs.values() if r.status == "running"]:
                done = is_finished(self._sweep.path / run.name)
                self.ended(run.name, "finished" if done else "interrupted", "")
            raise

    def _note(self, run: SweepRun) -> None:
        self._runs[run.name] = run
        write_sweep(self.sweep)


@dataclass(frozen=True)
class Queue:
    """Runs to be made.

    waiting: their names, next first.  tries: attempts so far, in this sweep.
    lost:    those whose process died under them. They go first and alone: whichever of them it
             was that killed its process takes no other with it the second time.
    """

    waiting: deque[str]
    tries: Counter[str] = field(default_factory=Counter)
    lost: set[str] = field(default_factory=set)


def _hand_out(
    pool: Engine, ledger: Ledger, queue: Queue, at_once: float, left: Callable[[int], None]
) -> None:
    """Give out runs until none is left, or until the executor breaks and has nothing in hand."""
    flight: dict[Any, str] = {}
    whole = True
    try:
        while flight or (queue.waiting and whole):
            while whole and queue.waiting and len(flight) < (1 if queue.lost else at_once):
                name = queue.waiting.popleft()
                flight[pool.submit(train_one, *ledger.task(name))] = name
                ledger.started(name)
            done = [future for future in flight if future.done()]
            for future in done:
                whole = _settle(future, flight.pop(future), ledger, queue) and whole
                left(len(queue.waiting) + len(flight))
            if not done:
                time.sleep(0.1)
    finally:
        for future in flight:
            future.cancel()


def _settle(future: Any, name: str, ledger: Ledger, queue: Queue) -> bool:
    """Write down how an attempt ended; False when it took the executor with it."""
    whole = True
    try:
        status, message = future.result()
    except BrokenExecutor:
        whole = False
        status, message = "failed", "its process died: it was killed, or ran out of memory"
    except (Exception, CancelledError) as error:
        status, message = "failed", f"{type(error).__name__}: {error}"
    ledger.ended(name, status, message)
    queue.tries[name] += 1
    queue.lost.discard(name)
    if status != "finished" and queue.tries[name] < ATTEMPTS:
        if whole:
            queue.waiting.append(name)
        else:
            queue.waiting.appendleft(name)
            queue.lost.add(name)
    return whole


def _merged(wanted: Sweep, earlier: Sweep) -> Sweep:
    """The sweep as wanted, with what is known of its runs; refuses another sweep's folder."""
    if (wanted.experiment, wanted.settings) != (earlier.experiment, earlier.settings):
        raise ValueError(
            f"{wanted.path} sweeps {_called(earlier)}, not {_called(wanted)}: choose another folder"
        )
    before = {run.name: run for run in earlier.runs}
    gone = [name for name in before if name not in {run.name for run in wanted.runs}]
    if gone:
        raise ValueError(
            f"{wanted.path} holds {gone[0]}, which is not on this grid: name its values too"
        )
    known = [before.get(run.name, run) for run in wanted.runs]
    # Whether a run is whole its own folder says: this process may have died before it heard.
    states = ["finished" if is_finished(wanted.path / run.name) else "waiting" for run in known]
    runs = (replace(run, status=state) for run, state in zip(known, states, strict=True))
    return replace(wanted, runs=tuple(runs))


def _called(sweep: Sweep) -> str:
    settings = ", ".join(f"{key}={text}" for key, text in sweep.settings.items())
    return f"{sweep.experiment} with {settings or 'its own settings'}"


@contextmanager
def _sole_sweeper(out: Path) -> Iterator[None]:
    lock = out / "logs" / "sweep.lock"
    with closing(sqlite3.connect(lock, timeout=0, isolation_level=None)) as held:
        try:
            held.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError as error:
            raise RecordError(f"{out} is being swept by another process ({error})") from error
        yield


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
