"""How a report says things: numbers with their errors, statuses, steps.

A number is printed with the digits its error allows: the error is rounded to two
significant digits and the value to the same decimal place,

    0.94312 with standard error 0.01187  →  0.943 ± 0.012,

because a digit smaller than the error is noise (JCGM 100:2008, §7.2.6). A number that
does not exist prints as an en dash, never as 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MISSING = "–"

Z95 = 1.96
"""Half-width of a 95 % normal interval in standard errors."""


@dataclass(frozen=True)
class Status:
    """How one verdict status looks: the sign differs as well as the colour.

    name:  as in `Verdict.status`.
    sign:  one character, readable without colour.
    style: rich style for the terminal.
    slug:  class name in the page.
    """

    name: str
    sign: str
    style: str
    slug: str


STATUSES = {
    s.name: s
    for s in (
        Status("holds", "●", "bold cyan", "holds"),
        Status("violated", "✕", "bold red", "violated"),
        Status("undetermined", "◐", "yellow", "undetermined"),
        Status("out of regime", "○", "dim", "outside"),
    )
}

RELATION_MEANING = {
    "rga_a": "H ∝ G, input side",
    "rwa_a": "H ∝ Z, input side",
    "gwa_a": "G ∝ Z, input side",
    "rga_b": "H ∝ G, output side",
    "rwa_b": "H ∝ Z, output side",
    "gwa_b": "G ∝ Z, output side",
}


def status(name: str) -> Status:
    """Look of a status; one this version does not know is shown plainly, not dropped."""
    return STATUSES.get(name, Status(name, "?", "", "unknown"))


def number(value: float | None, stderr: float | None = None) -> str:
    """`value ± stderr` with the digits the error allows; three significant without one.

    >>> number(0.94312, 0.01187), number(12345.0), number(3.2e-6), number(float("nan"))
    ('0.943 ± 0.012', '12,345', '3.2e-6', '–')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if stderr is None or not math.isfinite(stderr) or stderr <= 0:
        return _plain(value)
    places = 1 - math.floor(math.log10(stderr))
    if not 0 <= places <= 5:
        return f"{_plain(value)} ± {_plain(stderr)}"
    return f"{value:,.{places}f} ± {stderr:.{places}f}".replace("-", "−")


def _plain(value: float) -> str:
    size = abs(value)
    if size == 0:
        return "0"
    if size < 1e-3 or size >= 1e7:
        mantissa, exponent = f"{value:.2e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".").replace("-", "−")
        return f"{mantissa}e{int(exponent)}"
    if size >= 1000:
        return f"{value:,.0f}".replace("-", "−")
    places = 2 - math.floor(math.log10(size))
    text = f"{value:.{places}f}"
    if float(value).is_integer():
        text = f"{value:.0f}"
    return text.replace("-", "−")


def interval(bounds: tuple[float, float]) -> str:
    """A 95 % interval, or a dash when it was not estimated.

    >>> interval((0.91, 0.97)), interval((float("nan"), float("nan")))
    ('[0.910, 0.970]', '–')
    """
    low, high = bounds
    if not (math.isfinite(low) or math.isfinite(high)):
        return MISSING
    return f"[{number(low)}, {number(high)}]"


def count(n: int, one: str, many: str | None = None) -> str:
    """A count with its noun.

    >>> count(1, "layer"), count(1200, "layer"), count(2, "run has", "runs have")
    ('1 layer', '1,200 layers', '2 runs have')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def layer_name(layer: str) -> str:
    """The empty path is the run as a whole."""
    return layer or "whole run"
