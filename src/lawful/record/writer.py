"""Writing a run: each step lands whole or not at all.

A step is one file of arrays, moved into place when complete, then one SQLite transaction that
names the arrays and holds the numbers. The transaction is the acknowledgement: a process killed
anywhere leaves every acknowledged step and nothing of the one in flight. In WAL mode (D. R.
Hipp, sqlite.org/wal.html) readers in other processes go on reading meanwhile, and
synchronous=NORMAL spares the fsync per step that only a power cut would call for.

One process writes at a time: it holds a lock of the operating system, taken through SQLite on an
empty file beside the database. It dies with its process, however that ends, and no reader ever
asks for it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from .errors import RecordError, explained
from .folder import APPLICATION, ARRAYS, DATABASE, LOCK, SCHEMA, array_file, array_key, replacing
from .manifest import FORMAT, MANIFEST, read_manifest, write_manifest
from .measurement import Measurement
from .vocabulary import quantity

EVENTS = ("info", "warning", "error")
# A run killed as it began may leave any of them, the journal from before there is a WAL.
_BESIDE = {f"{DATABASE}-{end}" for end in ("wal", "shm", "journal")}
_OURS = {ARRAYS, DATABASE, *_BESIDE, f"{MANIFEST}.tmp", LOCK}


class RunWriter:
    """The one pen of a run folder; made by `RunWriter.create`, a context manager."""

    def __init__(
        self, path: Path, manifest: dict[str, Any], database: sqlite3.Connection,
        claim: sqlite3.Connection,
    ) -> None:  # fmt: skip
        self.path = path
        self.manifest = manifest
        self._database = database
        self._claim = claim
        self._lock = threading.Lock()  # backward hooks may report events from other threads

    @classmethod
    def create(
        cls, path: str | Path, manifest: Mapping[str, Any], *, resume: bool = False
    ) -> RunWriter:
        """Start a run at `path`, or with `resume` go on with the one that is there.

        path:     a folder that is new, empty, or (resume) a run of the same model.
        manifest: fields of `manifest.FORM`; on resume they update the earlier ones, except
                  `created` and `steps`.
        Raises `RecordError` when the folder holds something else, is written by somebody else
        at this moment, or cannot be written.
        """
        path = Path(path)
        fields = {"format": FORMAT, **manifest}
        if (path / MANIFEST).exists():
            _continued(path, fields, resume)
        elif path.is_dir() and (foreign := {p.name for p in path.iterdir()} - _OURS):
            some = ", ".join(sorted(foreign)[:3])
            raise RecordError(f"{path} is not empty and not a run ({some}): choose another folder")
        with explained(f"cannot write to the run folder {path}"):
            (path / ARRAYS).mkdir(parents=True, exist_ok=True)
            claim = _claimed(path)
        try:
            if (path / MANIFEST).exists():  # looked at again: another may have written till now
                fields = _continued(path, fields, resume)
            database = _begun(path, fields)
        except BaseException:
            claim.close()
            raise
        return cls(path, read_manifest(path), database, claim)

    def write(
        self,
        step: int,
        measurements: Iterable[Measurement],
        arrays: Mapping[tuple[str, str], np.ndarray] | None = None,
    ) -> None:
        """Record one step, whole; what the step already holds stays unless it is named again.

        step:         optimiser steps completed, ≥ 0; equal to that of every measurement.
        measurements: scalars; a repeated (layer, quantity) replaces the earlier one.
        arrays:       (layer, quantity) → real array of any shape.
        Raises `RecordError` when it cannot be written; earlier steps are intact and a later
        call may succeed.
        """
        if step < 0:
            raise ValueError(f"step={step}: steps count from 0, the initialisation")
        rows = [_row(m, step) for m in measurements]
        named = {place: _array(place, a) for place, a in (arrays or {}).items()}
        layers = dict.fromkeys([row[0] for row in rows] + [layer for layer, _ in named])
        with self._writing(f"step {step}") as database:
            if named:
                _merge(array_file(self.path, step), named)
            database.execute("INSERT OR IGNORE INTO step VALUES (?)", (int(step),))
            database.executemany(
                "INSERT OR IGNORE INTO layer (name) VALUES (?)", [(layer,) for layer in layers]
            )
            database.executemany("INSERT OR REPLACE INTO measurement VALUES (?,?,?,?,?,?)", rows)
            database.executemany(
                "INSERT OR REPLACE INTO array VALUES (?,?,?)", [(*p, int(step)) for p in named]
            )

    def event(self, step: int, layer: str, kind: str, message: str) -> None:
        """Record something worth telling; kind is "info", "warning" or "error"."""
        if kind not in EVENTS:
            raise ValueError(f"kind={kind!r}: an event is one of {', '.join(EVENTS)}")
        with self._writing(f"an event of step {step}") as database:
            database.execute(
                "INSERT INTO event (step, layer, kind, message) VALUES (?,?,?,?)",
                (int(step), layer, kind, message),
            )

    def update_manifest(self, **fields: Any) -> None:
        """Set fields of the manifest, all at once."""
        write_manifest(self.path, self.manifest | fields)
        self.manifest = read_manifest(self.path)

    def close(self) -> None:
        """Fold the log into the database: the folder can now be copied or made read-only.

        If a reader or a full disk stands in the way the log stays, and the run is still whole.
        """
        with suppress(sqlite3.Error):  # raised also by a second close
            self._database.execute("PRAGMA busy_timeout = 500")
            self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            self._database.execute("PRAGMA journal_mode = DELETE").fetchall()
        self._database.close()
        self._claim.close()

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _writing(self, what: str) -> Iterator[sqlite3.Connection]:
        safe = f"cannot write {what} to {self.path} (what was written before is intact)"
        with self._lock, explained(safe), self._database:  # commits, or rolls back
            yield self._database


def _continued(path: Path, fields: dict[str, Any], resume: bool) -> dict[str, Any]:
    """The manifest of a run that goes on; refuses another model's run, or one not to be resumed."""
    if not resume:
        raise RecordError(
            f"{path} holds a run: go on with it (resume=True, on the command line --resume) or "
            "choose another out"
        )
    earlier = read_manifest(path)
    for field in ("class", "parameters"):
        before = earlier.get("model", {}).get(field)
        now = fields.get("model", {}).get(field)
        if None not in (before, now) and before != now:
            raise RecordError(
                f"{path} is the run of another model ({field} {before}, now {now}): "
                "resume with the same model, or choose another out"
            )
    kept = {key: earlier[key] for key in ("created", "steps") if key in earlier}
    return earlier | fields | kept


def _claimed(path: Path) -> sqlite3.Connection:
    """The right to write into a run folder, until it is closed or its process ends."""
    claim = sqlite3.connect(path / LOCK, timeout=0, check_same_thread=False)
    try:
        claim.execute("PRAGMA journal_mode = OFF").fetchall()  # no second file beside it
        claim.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as problem:
        claim.close()
        if problem.sqlite_errorcode != sqlite3.SQLITE_BUSY:
            raise
        raise RecordError(
            f"{path} is being written: two runs cannot share a folder; wait until the other one "
            "ends (or close its observation), or choose another out"
        ) from None
    return claim


def _begun(path: Path, fields: dict[str, Any]) -> sqlite3.Connection:
    """The database of a run of ours, with its manifest in place."""
    with explained(f"cannot write to the run folder {path}"):
        for draft in (path / ARRAYS).glob("*.tmp"):
            draft.unlink()
        database = _opened(path / DATABASE)
    try:
        written = database.execute("SELECT max(step) FROM step").fetchone()[0]
        if written is not None and not (path / MANIFEST).exists():
            raise RecordError(f"{path} holds measurements but no {MANIFEST}: choose another")
        write_manifest(path, fields)  # last: from here on the folder is a run
    except BaseException:
        database.close()
        raise
    return database


def _opened(file: Path) -> sqlite3.Connection:
    """The database of a run, made if need be; `sqlite3.DatabaseError` when it is not ours."""
    database = sqlite3.connect(file, timeout=30, check_same_thread=False)
    try:
        tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        mark = database.execute("PRAGMA application_id").fetchone()[0]
        if tables and mark != APPLICATION:
            raise sqlite3.DatabaseError(f"{file.name} was not written by lawful")
        # A step touches one page a curve: small pages, folded in by the 16 MiB, cost least.
        database.execute("PRAGMA page_size = 1024")
        database.execute("PRAGMA journal_mode = WAL").fetchall()
        database.execute("PRAGMA wal_autocheckpoint = 16384").fetchall()
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(f"PRAGMA application_id = {APPLICATION}")
        database.executescript(SCHEMA)
    except BaseException:
        database.close()
        raise
    return database


def _row(m: Measurement, step: int) -> tuple[str, str, int, float, float, int]:
    """A row of the table; float() and int() admit NumPy scalars and zero-dimensional tensors."""
    if m.step != step:
        raise ValueError(f"{m.quantity!r} is of step {m.step}: write(step={step}) takes one step")
    return m.layer, m.quantity, int(step), float(m.value), float(m.stderr), int(m.n)


def _array(place: tuple[str, str], array: np.ndarray) -> np.ndarray:
    """`array` ready to be stored at `place` = (layer, quantity)."""
    if not quantity(place[1]).array:
        raise ValueError(f"{place[1]!r} is a scalar: write it as a Measurement")
    dense = np.asarray(array, order="C")
    if dense.dtype.kind not in "biuf" or dense.dtype.itemsize > 8:
        raise ValueError(f"{place[1]!r} has dtype {dense.dtype}: only real numbers are kept")
    return dense


def _merge(file: Path, named: Mapping[tuple[str, str], np.ndarray]) -> None:
    """Add arrays to the file of their step, replacing those of the same name."""
    kept = load_file(file) if file.exists() else {}
    fresh = {array_key(*place): array for place, array in named.items()}
    with replacing(file) as draft:
        save_file(kept | fresh, draft)
