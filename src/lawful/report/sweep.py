"""The report of a sweep: phase diagrams in one HTML file, and as a table in the terminal.

    sweep.json + verdicts of its runs  →  cells (diagram.py)  →  small multiples and one large

The page draws with nothing but its own few lines of script, so the file is small enough for a
letter; like the report of a run it escapes every name and may load nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from .diagram import SPLIT, Cell, Diagram, diagram
from .html import asset, environment, written
from .payload import to_script
from .wording import MISSING, STATUSES, Status, count, layer_name, status

if TYPE_CHECKING:
    from ..laws.verdict import Verdict
    from ..record.sweep import Sweep

TIE = Status(SPLIT, "≠", "magenta", "split")
COLUMNS = 8
"""Points side by side in the terminal."""


def write_sweep_report(sweep: Sweep, verdicts: Mapping[str, Sequence[Verdict]], out: Path) -> Path:
    """Write the report of a sweep to the file `out` and return its path.

    verdicts: name of a run -> its verdicts; runs that have none left out.
    Raises ImportError with the command to run when jinja2 is not installed.
    """
    return written(render_sweep(sweep, verdicts), out)


def render_sweep(sweep: Sweep, verdicts: Mapping[str, Sequence[Verdict]]) -> str:
    """The page as a string."""
    found = diagram(sweep, verdicts)
    made = environment()
    made.filters["spelled"] = _text
    return made.from_string(asset("sweep.html.j2")).render(
        title=f"{sweep.experiment}: a sweep",
        headline=headline(sweep),
        sweep=sweep,
        looks=[*STATUSES.values(), TIE],
        laws=list(dict.fromkeys(law for law, _ in found.claims)),
        layers=list(dict.fromkeys(layer for _, layer in found.claims)),
        troubled=[run for run in sweep.runs if run.message or run.status != "finished"],
        css=asset("page.css") + asset("sweep.css"),
        script=asset("sweep.js"),
        data=to_script(document(found)),
    )


def document(found: Diagram) -> dict[str, Any]:
    """The diagram as JSON: cells[claim][point] = [status, share, judged, planned, effects]."""
    looks = {s.name: [s.sign, s.slug] for s in (*STATUSES.values(), TIE)}
    return {
        "axes": [[key, [_text(v) for v in values]] for key, values in found.axes.items()],
        "points": [[_text(p.get(key)) for key in found.axes] for p in found.points],
        "claims": [list(claim) for claim in found.claims],
        "looks": looks,
        "cells": [
            [_numbers(found.cells[i, j]) for j in range(len(found.points))]
            for i in range(len(found.claims))
        ],
    }


def headline(sweep: Sweep) -> str:
    """How many runs there are and how far they have come, in one sentence."""
    states = Counter(run.status for run in sweep.runs)
    rest = [f"{n:,} {state}" for state, n in states.items() if state != "finished"]
    head = f"{states['finished']:,} of {count(len(sweep.runs), 'run')} finished"
    return "; ".join([head, ", ".join(rest)]) + "." if rest else f"{head}."


def sweep_table(sweep: Sweep, verdicts: Mapping[str, Sequence[Verdict]]) -> RenderableType:
    """Laws and layers down, points across; a cell is the majority of the seeds and its votes."""
    found = diagram(sweep, verdicts)
    parts: list[RenderableType] = [Text(headline(sweep)), Text()]
    for first in range(0, len(found.points), COLUMNS):
        places = range(first, min(first + COLUMNS, len(found.points)))
        parts += [_legend(found, places), Text()]
        if found.claims:
            parts += [_columns(found, places), Text()]
    troubles = Table.grid(padding=(0, 2, 0, 0))
    for run in sweep.runs:
        if run.message or run.status != "finished":
            style = "bold red" if run.status == "failed" else "yellow"
            what = Text(run.message or MISSING, style="dim")
            troubles.add_row(Text(run.status, style=style), Text(run.name), what)
    if troubles.rows:
        parts += [troubles, Text()]
    signs = "   ".join(f"{s.sign} {s.name}" for s in (*STATUSES.values(), TIE))
    parts.append(Text(f"{signs}   n/m runs of the m planned", style="dim"))
    return Group(*parts)


def _legend(found: Diagram, places: range) -> Table:
    table = Table.grid(padding=(0, 2))
    for j in places:
        said = ", ".join(f"{key} = {_text(v)}" for key, v in found.points[j].items())
        table.add_row(Text(str(j + 1), style="bold"), Text(said or "one point"))
    return table


def _columns(found: Diagram, places: range) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("law", overflow="fold", max_width=20)
    table.add_column("layer", overflow="fold", max_width=14)
    for j in places:
        table.add_column(str(j + 1), no_wrap=True)
    for i, (law, layer) in enumerate(found.claims):
        cells = [_cell(found.cells[i, j]) for j in places]
        table.add_row(Text(law), Text(layer_name(layer), "dim"), *cells)
    return table


def _cell(cell: Cell) -> Text:
    if not cell.status:
        return Text(MISSING, style="dim")
    look = TIE if cell.status == SPLIT else status(cell.status)
    return Text(f"{look.sign} {max(cell.counts.values())}/{cell.planned}", style=look.style)


def _numbers(cell: Cell) -> list[Any]:
    effects = [None if math.isnan(x) else float(f"{x:.4g}") for x in _effects(cell)]
    return [cell.status, dict(cell.counts), cell.planned, *effects]


def _effects(cell: Cell) -> tuple[float, float, float]:
    return cell.effect, cell.low, cell.high


def _text(value: Any) -> str:
    """A value as it is typed; two that differ are never the same text.

    >>> _text(1e-3), _text(0.00100001), _text("tanh")
    ('0.001', '0.00100001', 'tanh')
    """
    short = f"{value:g}" if isinstance(value, float) else ""
    return short if short and float(short) == value else str(value)
