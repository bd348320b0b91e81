"""The one exception of the record room, and how a low-level failure becomes a sentence."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError


class RecordError(RuntimeError):
    """A run folder cannot be read or written; the message says which, why and what to do."""


# UnicodeError and JSON errors are ValueErrors; the last two come from crafted contents.
LOW_LEVEL = (OSError, sqlite3.Error, SafetensorError, ValueError, TypeError, RecursionError)


@contextmanager
def explained(sentence: str, remedy: str = "") -> Iterator[None]:
    """Turn a low-level failure of the block into `RecordError("<sentence>: <reason>; <remedy>")`.

    >>> with explained("cannot read run.json"):
    ...     raise FileNotFoundError(2, "No such file or directory")
    Traceback (most recent call last):
    lawful.record.errors.RecordError: cannot read run.json: No such file or directory
    """
    try:
        yield
    except LOW_LEVEL as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise RecordError(f"{sentence}: {reason}" + (f"; {remedy}" if remedy else "")) from error
