"""Forecasts in the terminal: by theory, then by place, with what they rest on.

The sign says whether this case meets the assumptions: ● it does, ◐ partly, ○ not applicable. A
theory that speaks of a few places does so in sentences; of many, in a table of numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from .wording import MISSING, number

if TYPE_CHECKING:
    from ..forecast import Forecast

SIGNS = {"yes": ("●", "cyan"), "partly": ("◐", "yellow"), "no": ("○", "dim")}
LEGEND = "● assumptions met   ◐ partly, or not to be known before training   ○ not applicable"
FEW = 4


def forecast_table(forecasts: Sequence[Forecast]) -> RenderableType:
    """One block a theory: sentences and their assumptions, or numbers with the first of these."""
    if not forecasts:
        return Text("No theory has anything to say of this model.", style="dim")
    parts: list[RenderableType] = []
    for theory, group in groupby(forecasts, key=lambda f: f.theory):
        some = list(group)
        several = len({f.where for f in some}) > FEW
        parts.append(Rule(Text(theory, style="bold"), align="left", style="dim"))
        parts.append(Padding(_numbers(some) if several else _sentences(some), (0, 0, 1, 1)))
    return Group(*parts, Text(LEGEND, style="dim"))


def _sentences(forecasts: Sequence[Forecast]) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", max_width=24)
    table.add_column(overflow="fold", ratio=1)
    for (where, rests), some in groupby(forecasts, key=lambda f: (f.where, f.assumption)):
        shown = where or "whole model"
        for f in some:
            table.add_row(_sign(f), Text(shown), Text(f.sentence))
            shown = ""
        table.add_row("", "", Text(f"Rests on: {rests}", style="dim"))
    return table


def _numbers(forecasts: Sequence[Forecast]) -> RenderableType:
    """One table for the places of which the same is said."""
    rows = {place: list(some) for place, some in groupby(forecasts, key=lambda f: f.where)}
    parts: list[RenderableType] = []
    kinds = list(dict.fromkeys(tuple(f.name for f in some) for some in rows.values()))
    for names in kinds:
        chosen = {p: fs for p, fs in rows.items() if tuple(f.name for f in fs) == names}
        if names == ("none",):
            parts.append(_sentences([f for fs in chosen.values() for f in fs]))
            continue
        parts += [_table(names, chosen), Text()]
        first = next(iter(chosen.values()))[0].assumption
        parts += [Text(f"Rests on, in the first row: {first}", style="dim"), Text()]
    return Group(*parts)


def _table(names: Sequence[str], rows: dict[str, list[Forecast]]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold", ratio=1)
    for name in names:
        table.add_column(name.replace("_", " "), justify="right", max_width=12)
    for place, some in rows.items():
        cells = [Text(number(f.value)) if f.applies != "no" else Text(MISSING) for f in some]
        table.add_row(_sign(some[-1]), Text(place), *cells)
    return table


def _sign(f: Forecast) -> Text:
    sign, style = SIGNS[f.applies]
    return Text(sign, style=style)
