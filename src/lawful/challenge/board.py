"""The board: which open directions can be tried, by name."""

from __future__ import annotations

import difflib
from importlib import import_module

from .challenge import Challenge

BOARD = (
    "loss_curve",
    "learning_curve",
    "discretisation",
    "rate_drift",
    "exponent",
    "sharpening",
    "similarity",
)
"""Modules of this folder, in the order of their directions; each has a `challenge`."""


def challenges() -> dict[str, Challenge]:
    """All challenges by name."""
    found = (import_module(f"{__package__}.{name}").challenge for name in BOARD)
    return {c.name: c for c in found}


def challenge(name: str) -> Challenge:
    """One challenge; raises `KeyError` naming those there are.

    >>> challenge("exponent").direction
    7
    """
    known = challenges()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f": did you mean {near[0]}?" if near else "."
        raise KeyError(f"unknown challenge {name!r}{hint} Valid: {', '.join(known)}")
    return known[name]
