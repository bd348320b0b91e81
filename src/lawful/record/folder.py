"""The run folder: what lies where, and how a file changes hands without a torn moment.

    manifest.json                        what was run (manifest.py)
    measurements.sqlite                  every number, keyed by (layer, quantity, step)
    arrays/step-00000123.safetensors     every array of step 123, keyed `quantity:layer`
    writer.lock                          empty; locked by the process that writes

A layer's name is data, never a path: it may hold slashes, quotes or `..`. The primary key
starts with (layer, quantity), so that one curve is one contiguous read however long the run.
SQLite keeps NaN as NULL; the reader turns it back.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DATABASE = "measurements.sqlite"
ARRAYS = "arrays"
LOCK = "writer.lock"

APPLICATION = 0x6C617766  # "lawf": SQLite's own header field that tells our files from others'

SCHEMA = """
CREATE TABLE IF NOT EXISTS step (step INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS layer (seen INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS measurement (
    layer TEXT NOT NULL, quantity TEXT NOT NULL, step INTEGER NOT NULL,
    value REAL, stderr REAL, n INTEGER NOT NULL,
    PRIMARY KEY (layer, quantity, step)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS array (
    layer TEXT NOT NULL, quantity TEXT NOT NULL, step INTEGER NOT NULL,
    PRIMARY KEY (layer, quantity, step)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS event (
    id INTEGER PRIMARY KEY, step INTEGER NOT NULL, layer TEXT NOT NULL,
    kind TEXT NOT NULL, message TEXT NOT NULL);
"""


def array_file(run: Path, step: int) -> Path:
    """The file holding the arrays of one step.

    >>> array_file(Path("run"), 123).as_posix()
    'run/arrays/step-00000123.safetensors'
    """
    return run / ARRAYS / f"step-{step:08d}.safetensors"


def array_key(layer: str, quantity: str) -> str:
    """The name of an array in its file; no quantity holds a colon, so it reads back one way."""
    return f"{quantity}:{layer}"


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield a path beside `target` to write; it takes the target's place if the block ends well.

    A reader, or a machine that stops half-way, sees the old file or the new one, never a part.
    Who may read it is for the umask to say: safetensors writes files for their owner alone.
    """
    draft = target.with_name(target.name + ".tmp")
    try:
        draft.touch()
        mode = draft.stat().st_mode
        yield draft
        if draft.stat().st_mode != mode:
            draft.chmod(mode)
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)


@contextmanager
def written_for_user(target: Path) -> Iterator[Path]:
    """Yield a path to write a file that a user asked for by name; its folder is made if need be.

    A regular file is replaced whole. A link is followed, and a device or a pipe (/dev/stdout) is
    written in place: to replace those would be to remove them.
    """
    if target.exists() and not target.is_file():
        yield target
        return
    target = target.resolve()
    if target.parent.is_file():
        raise NotADirectoryError(errno.ENOTDIR, f"{target.parent} is a file, not a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as draft:
        yield draft
