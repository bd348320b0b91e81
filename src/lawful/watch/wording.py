"""Texts and numbers as they are sent: short, printable, and only those that exist."""

from __future__ import annotations

import math

TEXT = 400
"""Letters of a name or a fact that are sent."""


def short(text: str, most: int = TEXT) -> str:
    """A text of at most `most` letters, without what JSON or a screen cannot show.

    >>> short("abcdef", 4), short("a" + chr(0) + "b" + chr(0xD800))
    ('abc…', 'a�b�')
    """
    text = "".join(c if c.isprintable() else "�" for c in text[: most + 1])
    return text if len(text) <= most else text[: most - 1] + "…"


def plain(x: float) -> float | None:
    """Five digits; None for a number that does not exist.

    >>> plain(0.123456789), plain(math.inf)
    (0.12346, None)
    """
    return float(f"{x:.5g}") if math.isfinite(x) else None
