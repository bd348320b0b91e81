"""Reading a run: a folder, opened read-only, asked one question at a time.

A `Run` holds nothing but its path. Every question opens the database, reads one consistent
snapshot and closes it, so a run can be read while another process writes it and always shows
the rows that are there now.

Only (W, H_a, G_b) are free among the six matrices of a layer; the reader derives the others
(exact identities of h_b = W h_a and g_a = Wᵀ g_b, h_b being the output before its bias):

    H_b = W H_a Wᵀ,    G_a = Wᵀ G_b W,    Z_a = WᵀW,    Z_b = W Wᵀ.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import safe_open

from .errors import RecordError, explained
from .folder import APPLICATION, DATABASE, SCHEMA, array_file, array_key
from .manifest import read_manifest
from .measurement import Measurement
from .vocabulary import VOCABULARY
from .vocabulary import quantity as known

if TYPE_CHECKING:
    import pandas as pd

LONGEST = 2**20
"""Bytes of the longest name or message that is read."""

SALVAGE = "if it was cut short, `sqlite3 FILE .recover` prints what can be saved"

_MEASURED = {"value": "float64", "stderr": "float64", "n": "int64"}
_COLUMNS = {"step": "int64", "layer": "str", "quantity": "str"} | _MEASURED
_EVENT = {"step": "int64", "layer": "str", "kind": "str", "message": "str"}

_DERIVED: dict[str, tuple[tuple[str, ...], Callable[..., np.ndarray]]] = {
    "H_b": (("W", "H_a"), lambda W, H_a: W @ H_a @ W.T),
    "G_a": (("W", "G_b"), lambda W, G_b: W.T @ G_b @ W),
    "Z_a": (("W",), lambda W: W.T @ W),
    "Z_b": (("W",), lambda W: W @ W.T),
}


def open_run(path: str | Path) -> Run:
    """Open the run folder at `path` for reading, finished or not.

    Raises `RecordError` when the folder, its manifest or its database is missing or damaged.
    """
    run = Run(Path(path))
    _ = run.manifest, run.steps
    return run


@dataclass(frozen=True)
class Run:
    """One run: its manifest and its measurements, as they are at the moment of asking.

    path: the run folder.
    """

    path: Path

    @property
    def manifest(self) -> dict[str, Any]:
        """What was run; the fields are those of `manifest.FORM`."""
        return read_manifest(self.path)

    @property
    def layers(self) -> list[str]:
        """Observed layers in the manifest's order, then any other that was measured."""
        declared = [layer["name"] for layer in self.manifest.get("layers", [])]
        seen = [name for (name,) in self._ask("SELECT name FROM layer ORDER BY seen")]
        if not all(isinstance(name, str) for name in seen):
            raise RecordError(f"{self.path / DATABASE} is damaged: a layer's name is no text")
        return [name for name in dict.fromkeys(declared + seen) if name]

    @property
    def steps(self) -> list[int]:
        """Steps recorded, rising."""
        return [step for (step,) in self._ask("SELECT step FROM step ORDER BY step")]

    def table(
        self,
        *,
        quantity: str | Sequence[str] | None = None,
        layer: str | Sequence[str] | None = None,
        step: int | None = None,
    ) -> pd.DataFrame:
        """Measurements as a table: step, layer, quantity, value, stderr, n.

        quantity, layer: a name, a glob pattern or several of them; None is all. The layer ""
                         is the run as a whole and comes first.
        Raises `KeyError` for a quantity that the vocabulary does not know.
        """
        where, bound = "layer = ?", list[str | int]()
        if quantity is not None:
            bound += _quantities(quantity)
            where += f" AND quantity IN ({','.join('?' * len(bound))})"
        if step is not None:
            bound.append(int(step))
            where += " AND step = ?"
        query = (
            f"SELECT {','.join(_COLUMNS)} FROM measurement WHERE {where} ORDER BY quantity, step"
        )
        layers = ["", *self.layers]
        chosen = layers if layer is None else _matching(layer, layers)
        with self._reading() as database:
            rows = [row for name in chosen for row in database.execute(query, (name, *bound))]
            return _frame(rows, _COLUMNS)

    def series(self, quantity: str, layer: str) -> pd.DataFrame:
        """One curve: value, stderr, n indexed by step; empty when it was not measured."""
        query = "SELECT step, value, stderr, n FROM measurement WHERE quantity = ? AND layer = ?"
        with self._reading() as database:
            rows = database.execute(query + " ORDER BY step", (known(quantity).name, layer))
            return _frame(rows.fetchall(), {"step": "int64"} | _MEASURED).set_index("step")

    def progress(self) -> tuple[int, int]:
        """How many steps are recorded, and the last of them; −1 when there is none."""
        count, last = self._ask("SELECT count(*), max(step) FROM step")[0]
        return int(count), -1 if last is None else int(last)

    def measured(self, layer: str) -> list[str]:
        """The quantities recorded of a layer, by name; quick however long the run."""
        # One seek a quantity: the next name after the last, instead of every row of the layer.
        names = self._ask(
            "WITH RECURSIVE q(name) AS (SELECT min(quantity) FROM measurement WHERE layer = ?1 "
            "UNION ALL SELECT (SELECT min(quantity) FROM measurement WHERE layer = ?1 "
            "AND quantity > name) FROM q WHERE name IS NOT NULL) "
            "SELECT name FROM q WHERE name IS NOT NULL",
            (layer,),
        )
        return [name for (name,) in names]

    def since(
        self, step: int, quantity: str, layer: str, most: int
    ) -> list[tuple[int, float, float]]:
        """What a curve gained after `step`: at most `most` (step, value, stderr), evenly spaced.

        The first and the last are always among them.
        """
        query = "FROM measurement WHERE layer = ? AND quantity = ? AND step > ?"
        bound = (layer, known(quantity).name, int(step))
        with self._reading() as database:
            steps = database.execute(f"SELECT count(*) {query}", bound).fetchone()[0]
            every = max(1, math.ceil((steps - 1) / max(1, most - 1)))
            numbered = f"SELECT row_number() OVER (ORDER BY step) AS i, step, value, stderr {query}"
            rows = database.execute(
                f"SELECT step, value, stderr FROM ({numbered}) WHERE (i - 1) % ? = 0 OR i = ?",
                (*bound, every, steps),
            ).fetchall()
            return [(int(s), _number(v), _number(e)) for s, v, e in rows]

    def at(self, quantity: str, layer: str, step: int | None = None) -> Measurement | None:
        """The measurement at `step`; by default the last one with a finite value."""
        if step is None:
            return self._one(quantity, layer, "abs(value) < 9e999 ORDER BY step DESC")
        return self._one(quantity, layer, "step = ?", int(step))

    def first(self, quantity: str, layer: str) -> Measurement | None:
        """The first measurement with a finite value: initialisation, where it was measured."""
        return self._one(quantity, layer, "abs(value) < 9e999 ORDER BY step")

    def array(self, quantity: str, *, layer: str, step: int | None = None) -> np.ndarray:
        """An array as stored, or derived (in float64) from those that are.

        step: by default the last step that has it.
        Raises `RecordError` when the run does not keep it, or its file is damaged.
        """
        steps = self.array_steps(quantity, layer)
        step = steps[-1] if step is None and steps else step
        if step not in steps:
            raise RecordError(self._absence(quantity, layer, step, steps))
        if int(step) in self._stored_steps(quantity, layer):
            return _load(self.path, quantity, layer, int(step))
        needs, derive = _DERIVED[quantity]
        parts = [_load(self.path, part, layer, int(step)).astype(np.float64) for part in needs]
        with explained(f"cannot derive {quantity} of layer {layer!r} at step {step}"):
            return derive(*parts)

    def arrays(
        self, step: int, places: Iterable[tuple[str, str]]
    ) -> dict[tuple[str, str], np.ndarray]:
        """Stored arrays of one step, (layer, quantity) -> array, from one reading of its file.

        Raises `RecordError` when one of them is not there, or the file is missing or damaged.
        """
        file = array_file(self.path, step)
        with (
            explained(f"cannot read {file}, missing or damaged"),
            safe_open(file, framework="numpy") as found,
        ):
            return {place: found.get_tensor(array_key(*place)) for place in places}

    def kept(self) -> dict[tuple[str, str], list[int]]:
        """Which arrays are stored: (layer, quantity) -> steps, rising."""
        steps: dict[tuple[str, str], list[int]] = {}
        with self._reading() as database:
            rows = database.execute("SELECT layer, quantity, step FROM array ORDER BY step")
            for layer, name, step in rows:
                steps.setdefault((layer, name), []).append(int(step))
        return steps

    def array_steps(self, quantity: str, layer: str) -> list[int]:
        """Steps at which `array` has an answer, rising."""
        stored = self._stored_steps(quantity, layer)
        if quantity in _DERIVED:
            needs, _ = _DERIVED[quantity]
            stored |= set.intersection(*(self._stored_steps(part, layer) for part in needs))
        return sorted(stored)

    def events(self) -> pd.DataFrame:
        """What was worth telling, in the order it happened: step, layer, kind, message."""
        with self._reading() as database:
            rows = database.execute("SELECT step, layer, kind, message FROM event ORDER BY id")
            return _frame(rows.fetchall(), _EVENT)

    def _one(self, quantity: str, layer: str, where: str, *bound: int) -> Measurement | None:
        rows = self._ask(
            "SELECT step, value, stderr, n FROM measurement "
            f"WHERE quantity = ? AND layer = ? AND {where} LIMIT 1",
            (known(quantity).name, layer, *bound),
        )
        for step, value, stderr, n in rows:
            with explained(f"{self.path / DATABASE} is damaged", SALVAGE):
                return Measurement(
                    int(step), layer, quantity, _number(value), _number(stderr), int(n)
                )
        return None

    def _stored_steps(self, quantity: str, layer: str) -> set[int]:
        query = "SELECT step FROM array WHERE quantity = ? AND layer = ?"
        return {step for (step,) in self._ask(query, (known(quantity).name, layer))}

    def _absence(self, quantity: str, layer: str, step: int | None, steps: list[int]) -> str:
        """One sentence on an array that is not there: what is, and how to keep more."""
        if steps:
            some = ", ".join(map(str, steps[:8])) + (", …" if len(steps) > 8 else "")
            return f"{quantity} of layer {layer!r} is not kept at step {step}: it is at {some}"
        query = "SELECT DISTINCT quantity FROM array WHERE layer = ? ORDER BY quantity"
        kept = ", ".join(name for (name,) in self._ask(query, (layer,))) or "no array"
        return (
            f"{self.path} does not keep {quantity} of layer {layer!r} (it keeps {kept}): "
            'matrices are kept with observe(..., keep="matrices")'
        )

    def _ask(self, query: str, bound: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        with self._reading() as database:
            return database.execute(query, tuple(bound)).fetchall()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        file = self.path / DATABASE
        if not file.is_file():
            raise RecordError(f"{self.path} is not a whole run: it has no {DATABASE}")
        with (
            explained(f"{file} is damaged or cannot be read", SALVAGE),
            closing(_connect(file)) as database,
        ):
            yield database


def _connect(file: Path) -> sqlite3.Connection:
    """A read-only connection, also where the folder itself cannot be written.

    SQLite keeps a shared index beside a database that is in WAL mode; where it can neither
    find nor make one, the file is read as immutable, which is right only if no log is left.
    """
    try:
        return _checked(file, "mode=ro")
    except sqlite3.OperationalError as error:
        log = file.with_name(file.name + "-wal")
        if "malformed" in str(error) or "lawful" in str(error):
            raise
        if log.exists() and log.stat().st_size:
            raise sqlite3.OperationalError(
                f"{error}; its last steps are in {log.name}: copy the folder to a writable place"
            ) from error
        return _checked(file, "immutable=1")


def _checked(file: Path, mode: str) -> sqlite3.Connection:
    """A connection to a database that carries our mark."""
    database = sqlite3.connect(f"{file.resolve().as_uri()}?{mode}", uri=True, timeout=30)
    try:
        if database.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
            raise sqlite3.DatabaseError("it was not written by lawful")
        # A view or a computed column in a table's place would run what its maker wrote.
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
        made = {sql for (sql,) in database.execute("SELECT sql FROM sqlite_master") if sql}
        if made - _tables():
            raise sqlite3.DatabaseError("it was not written by lawful: it holds other tables")
    except BaseException:
        database.close()
        raise
    return database


@cache
def _tables() -> frozenset[str]:
    """The definitions of our tables as SQLite keeps them."""
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(SCHEMA)
        return frozenset(sql for (sql,) in database.execute("SELECT sql FROM sqlite_master") if sql)


def _load(run: Path, quantity: str, layer: str, step: int) -> np.ndarray:
    """A stored array; safetensors checks dtype, shape and length against the file."""
    file = array_file(run, step)
    with (
        explained(f"cannot read {quantity} of layer {layer!r} in {file}, missing or damaged"),
        safe_open(file, framework="numpy") as arrays,
    ):
        return arrays.get_tensor(array_key(layer, quantity))


def _quantities(patterns: str | Sequence[str]) -> list[str]:
    """Names of the vocabulary that match; `KeyError` for a pattern that matches none."""
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    # A predicted quantity stands for another, and is in the vocabulary by its ending only.
    beside = [p for p in patterns if not _matching(p, VOCABULARY)]
    for pattern in beside:
        known(pattern)
    return [*_matching(patterns, VOCABULARY), *beside]


def _matching(patterns: str | Sequence[str], names: Iterable[str]) -> list[str]:
    """The names that equal or match any pattern, in the order of `names`.

    >>> _matching(["fc*", "blocks[0]"], ["blocks[0]", "fc1", "head"])
    ['blocks[0]', 'fc1']
    """
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    return [name for name in names if any(name == p or fnmatchcase(name, p) for p in patterns)]


def _frame(rows: list[tuple[Any, ...]], columns: dict[str, str]) -> pd.DataFrame:
    """Rows as a table of the given dtypes; SQLite's NULL is NaN."""
    import pandas as pd  # here: 60 MiB that a process which only writes should not carry

    cells = zip(*rows, strict=True) if rows else [()] * len(columns)
    return pd.DataFrame(
        {
            name: pd.Series(values, dtype=dtype)
            for (name, dtype), values in zip(columns.items(), cells, strict=True)
        }
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
