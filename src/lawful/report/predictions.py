"""Prediction beside measurement: every number of a run that theory gave before it was measured.

A quantity `q` that stands in the record together with `q_predicted` is such a number. The
difference is told in standard errors where the measurement has one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from ..record.vocabulary import PREDICTED
from .wording import layer_name, number

if TYPE_CHECKING:
    from ..record.run import Run

SHOWN = 60


@dataclass(frozen=True)
class Pair:
    """One number as measured last and as theory gave it for that step.

    layer: the layer, or the case of a simulated world.
    """

    quantity: str
    layer: str
    step: int
    value: float
    stderr: float
    predicted: float

    @property
    def apart(self) -> float:
        """measured/predicted; NaN where the prediction is 0 or one of them is missing."""
        return self.value / self.predicted if self.predicted else math.nan


def predictions(run: Run) -> list[Pair]:
    """All pairs of a run, quantity by quantity, at the last step that holds both."""
    table = run.table()
    foretold = table[table["quantity"].str.endswith(PREDICTED)]
    foretold = foretold.assign(quantity=foretold["quantity"].str.removesuffix(PREDICTED))
    keys = ["quantity", "layer", "step"]
    both = table.merge(foretold[[*keys, "value"]], on=keys, suffixes=("", PREDICTED))
    last = both.groupby(["quantity", "layer"], sort=False).tail(1)
    rows: Any = last.itertuples(index=False)
    found = [
        Pair(str(r.quantity), str(r.layer), int(r.step), float(r.value), float(r.stderr),
             float(r.value_predicted))
        for r in rows
    ]  # fmt: skip
    order = {name: i for i, name in enumerate(dict.fromkeys(p.quantity for p in found))}
    return sorted(found, key=lambda p: order[p.quantity])


def prediction_table(run: Run) -> RenderableType:
    """A row a pair: what and where, measured ± standard error, predicted."""
    pairs = predictions(run)
    if not pairs:
        return Text("Theory foretold no number of this run.", style="dim")
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("quantity", overflow="fold", max_width=24)
    table.add_column("where", overflow="fold", style="dim")
    table.add_column("step", justify="right", style="dim", no_wrap=True)
    table.add_column("measured", justify="right", no_wrap=True)
    table.add_column("predicted", justify="right", no_wrap=True)
    for p in pairs[:SHOWN]:
        cells = (number(p.value, p.stderr), number(p.predicted))
        table.add_row(p.quantity, Text(layer_name(p.layer)), f"{p.step:,}", *cells)
    if len(pairs) <= SHOWN:
        return table
    rest = f"{len(pairs) - SHOWN} more: `lawful export` writes them all"
    return Group(table, Text(rest, style="dim"))
