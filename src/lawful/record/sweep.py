"""The sweep folder: many runs of one experiment, over a grid of settings and several seeds.

    sweep.json                 what was asked for, and how far each run has come
    logs/NAME.log              what a run printed, and the traceback of one that failed
    weight_decay-0.001_seed-0/ one run folder a (point, seed)

`sweep.json` has one writer, the process that hands the runs out. It says what is known of every
run; whether a run is whole, its own manifest says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import RecordError, explained
from .folder import replacing

SWEEP = "sweep.json"
FORMAT = 1
STATES = ("waiting", "running", "finished", "failed", "interrupted")

_RUN = {
    "name": str, "point": dict, "seed": int, "status": str, "attempts": int, "message": str,
}  # fmt: skip
_FORM = {"experiment": str, "settings": dict, "grid": dict, "seeds": list, "runs": list}


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep.

    name:     of its folder.  point: its place on the grid, setting -> value.  seed: its seed.
    status:   one of `STATES`.  attempts: how often it was started.
    message:  why it failed, or failed before; empty when nothing went wrong.
    """

    name: str
    point: Mapping[str, Any]
    seed: int
    status: str = "waiting"
    attempts: int = 0
    message: str = ""


@dataclass(frozen=True)
class Sweep:
    """What a sweep folder says of itself.

    experiment: name of the experiment.  settings: those that are the same in every run, as
    they were typed.  grid: setting -> its values.  seeds: of every point.  runs: all of them.
    """

    path: Path
    experiment: str
    settings: Mapping[str, str]
    grid: Mapping[str, tuple[Any, ...]]
    seeds: tuple[int, ...]
    runs: tuple[SweepRun, ...]


def is_sweep(path: Path) -> bool:
    """Whether a folder holds a sweep."""
    return (path / SWEEP).is_file()


def read_sweep(path: Path) -> Sweep:
    """Read a sweep folder.

    Raises `RecordError` when `sweep.json` is missing, damaged, of a newer format, or names a run
    that would lie outside the folder.
    """
    file = path / SWEEP
    if not file.is_file():
        raise RecordError(f"{path} is not a sweep: it has no {SWEEP}")
    with explained(f"{file} is damaged or cut short", "put back a copy, or sweep again"):
        document = json.loads(file.read_text(encoding="utf-8"))
        _check(document, _FORM, "it")
        for run in document["runs"]:
            _check(run, _RUN, "a run")
            if run["status"] not in STATES or run["name"] in ("", ".", "..", "logs"):
                raise ValueError(f"run {run['name']!r} with status {run['status']!r}")
            if {"/", "\\", "\0"} & set(run["name"]):
                raise ValueError(f"run {run['name']!r} is not in this folder")
        if document.get("format") != FORMAT:
            raise ValueError(f"format {document.get('format')}, this lawful reads {FORMAT}")
        return Sweep(
            path,
            document["experiment"],
            document["settings"],
            {str(key): tuple(values) for key, values in document["grid"].items()},
            tuple(map(int, document["seeds"])),
            tuple(SweepRun(**{field: run[field] for field in _RUN}) for run in document["runs"]),
        )


def write_sweep(sweep: Sweep) -> None:
    """Replace `sweep.json` in one stroke."""
    document = {"format": FORMAT, **asdict(sweep)}
    del document["path"]
    file = sweep.path / SWEEP
    with explained(f"cannot write {file}"), replacing(file) as draft:
        draft.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")


def _check(value: Any, form: Mapping[str, type], what: str) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"{what} should be an object, found {type(value).__name__}")
    for field, kind in form.items():
        if not isinstance(value.get(field), kind):
            raise ValueError(f"{what} needs {field!r} of type {kind.__name__}")
