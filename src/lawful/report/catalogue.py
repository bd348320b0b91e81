"""Lists in the terminal: which laws, experiments and open questions there are, and who won.

Everything is laid out for 80 columns; a name is never broken before its line is full.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Row = tuple[str, ...]

WIDEST = 32
"""Columns that a name may take."""


def listing(rows: Iterable[Row]) -> Table:
    """Rows of plain text; the last column wraps."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def chapters(parts: Sequence[tuple[str, str, Sequence[Row]]]) -> RenderableType:
    """Chapters (heading, sentence, rows); a row is (name, meaning) or (name, meaning, formula)."""
    names = [row[0] for _, _, rows in parts for row in rows]
    width = min(WIDEST, max(map(len, names), default=0))
    shown: list[RenderableType] = []
    for heading, sentence, rows in parts:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(overflow="fold", width=width)
        table.add_column(overflow="fold", ratio=1)
        for name, meaning, *formula in rows:
            said = Text(meaning)
            for line in formula:
                said.append(f"\n{line}", style="dim")
            table.add_row(Text(name), said)
        shown += [Text(heading, style="bold"), *([Text(sentence)] if sentence else [])]
        shown += [Padding(table, (0, 0, 0, 2)), Text()]
    return Group(*shown[:-1])


def score_table(scored: str, results: Iterable[Any]) -> Table:
    """One row a theory and case of a challenge: what was measured, what was said, the score.

    scored: the score in words.  results: those of `lawful.challenge.run`.
    """
    table = Table(caption=f"score: {scored}; 0 is perfect")
    for title in ("case", "theory", "measured", "±", "predicted", "score"):
        table.add_column(title)
    for r in results:
        three = map(_numbers, (r.measured, r.stderr, r.predicted))
        cells = (r.case, r.theory, *three, r.failure or f"{r.score:.3f}")
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _numbers(values: Iterable[float]) -> str:
    return " ".join(f"{v:.3g}" for v in values)
