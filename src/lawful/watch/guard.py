"""What the page may read: the files of a run, in its folder, of a size it can hold.

A run folder may come from anyone. Reading it executes nothing (JSON, SQLite with our tables only,
safetensors); this file sees to the rest. A link could lead out of the folder, a pipe would never
end, and a file could be larger than memory: each is refused before it is opened.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ..record.errors import RecordError, explained
from ..record.folder import ARRAYS, DATABASE
from ..record.manifest import MANIFEST
from ..record.sweep import SWEEP

MANIFEST_BYTES = 8 * 2**20
DATABASE_BYTES = 8 * 2**30
JUDGED_BYTES = 512 * 2**20
"""Largest database on which laws are tested while somebody watches."""

DEPTH = 3
RUNS = 500
ENTRIES = 20_000
"""How deep runs are looked for, how many are followed, how many folder entries are looked at."""

_FILES = {
    MANIFEST: MANIFEST_BYTES,
    DATABASE: DATABASE_BYTES,
    f"{DATABASE}-wal": DATABASE_BYTES,
    f"{DATABASE}-shm": DATABASE_BYTES,
    f"{DATABASE}-journal": DATABASE_BYTES,
}

Signature = tuple[tuple[str, int, int], ...]


def signature(run: Path) -> Signature:
    """(file, size, time) of what a run consists of: it changes whenever the run does.

    Raises `RecordError` for a link, for what is no file, and for a file that is too large.
    """
    found = []
    for name, most in _FILES.items():
        with explained(f"cannot look at {run}"):
            try:
                about = os.stat(run / name, follow_symlinks=False)
            except FileNotFoundError:
                continue
        if not stat.S_ISREG(about.st_mode):
            raise RecordError(f"{name} is a link or no file: it is not read")
        if about.st_size > most:
            raise RecordError(f"{name} has {about.st_size:,} bytes: more than the {most:,} read")
        if not name.endswith("-shm"):  # readers touch it too
            found.append((name, about.st_size, about.st_mtime_ns))
    return tuple(found)


def arrays_inside(run: Path) -> None:
    """Raise `RecordError` when an array file of the run is a link, or their folder is."""
    folder = run / ARRAYS
    if not os.path.lexists(folder):
        return
    linked = folder.is_symlink()
    if not linked:
        with explained(f"cannot look at {folder}"), os.scandir(folder) as entries:
            linked = any(entry.is_symlink() for entry in entries)
    if linked:
        raise RecordError("an array file is a link: it is not read")


def runs_in(root: Path) -> Iterator[Path]:
    """The run folders at `root` and below, without following a link below it."""
    budget = [ENTRIES]
    yield from _runs(root, DEPTH, budget)


def _runs(folder: Path, depth: int, budget: list[int]) -> Iterator[Path]:
    if os.path.lexists(folder / MANIFEST):
        yield folder
        return
    if depth == 0:
        return
    try:
        entries = os.scandir(folder)
    except OSError:
        return
    with entries:
        below = []
        for entry in entries:
            budget[0] -= 1
            if budget[0] < 0:
                return
            hidden = entry.name.startswith(".") or entry.name in (ARRAYS, "logs", SWEEP)
            if not hidden and entry.is_dir(follow_symlinks=False):
                below.append(entry.name)
    for name in sorted(below):
        yield from _runs(folder / name, depth - 1, budget)
