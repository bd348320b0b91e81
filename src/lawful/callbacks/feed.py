"""What a run records, handed to dashboards: each step once, when it is complete.

A step is complete when a later one is there, or the run has ended: until then decompositions put
off may still be added to it. Of a run's hundred quantities a dashboard gets the one that each law
is about, the first that it needs, and what belongs to the run as a whole.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from ..laws import Verdict, laws, test
from ..record import open_run

COLUMNS = ("law", "layer", "status", "effect", "low", "high", "sentence")


class Sink(Protocol):
    """A dashboard."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of one step, by name: `rga_b/fc1`, `loss`."""

    def verdicts(self, step: int, found: Sequence[Verdict]) -> None:
        """Take the table of verdicts."""


class Feed:
    """Sends one run to sinks. One that fails is told and left out: training goes on.

    quantities: names or globs; by default those the run's laws are about, and the whole run's.
    """

    def __init__(
        self, out: str | Path, sinks: Iterable[Sink], quantities: Sequence[str] | None = None
    ) -> None:
        self.out, self.sinks, self.quantities = Path(out), list(sinks), quantities
        self._sent = -1

    def send(self) -> None:
        """Send the complete steps that were not sent yet."""
        if self.sinks:
            self._send(open_run(self.out).steps[:-1])

    def close(self) -> None:
        """The run has ended: send the rest, and the verdicts."""
        if not self.sinks:
            return
        run = open_run(self.out)
        self._send(run.steps)
        found = test(run)
        self._tell("verdicts", run.steps[-1] if run.steps else 0, found)

    def _send(self, steps: Sequence[int]) -> None:
        run = open_run(self.out)
        wanted = self.quantities
        if wanted is None:
            known = laws()
            names = [name for name in run.manifest.get("laws", []) if name in known]
            wanted = list(dict.fromkeys(known[name].needs[0] for name in names))
        for step in [s for s in steps if s > self._sent]:
            rows = [run.table(step=step, quantity=wanted)] if wanted else []
            rows.append(run.table(step=step, layer=""))
            values = {
                _tag(quantity, layer): float(value)
                for table in rows
                for quantity, layer, value in zip(
                    table["quantity"], table["layer"], table["value"], strict=True
                )
                if math.isfinite(value)
            }
            self._tell("scalars", step, values)
            self._sent = step

    def _tell(self, what: str, step: int, given: object) -> None:
        for sink in list(self.sinks):
            try:
                getattr(sink, what)(step, given)
            except Exception as error:
                self.sinks.remove(sink)
                warnings.warn(
                    f"lawful: {type(sink).__name__} gets no more of this run "
                    f"({type(error).__name__}: {error}); all of it is in {self.out}",
                    stacklevel=2,
                )


def rows(found: Iterable[Verdict]) -> list[tuple[object, ...]]:
    """Verdicts as rows of `COLUMNS`."""
    return [(v.law, v.layer, v.status, v.effect, *v.interval, v.sentence) for v in found]


def markdown(found: Iterable[Verdict]) -> str:
    """Verdicts as a table in Markdown; a layer's name is data, so what Markdown reads is escaped.

    >>> print(markdown([]))
    | law | layer | status | effect | low | high | sentence |
    | --- | --- | --- | --- | --- | --- | --- |
    """
    lines = [COLUMNS, ("---",) * len(COLUMNS), *rows(found)]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: object) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    escapes = {"&": "&amp;", "<": "&lt;", "|": "&#124;", "`": "&#96;", "[": "&#91;"}
    for mark, safe in escapes.items():
        text = text.replace(mark, safe)
    return " ".join(text.splitlines())


def _tag(quantity: str, layer: str) -> str:
    return f"{quantity}/{layer}" if layer else quantity
