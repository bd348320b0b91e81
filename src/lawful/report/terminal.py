"""A run in the terminal: what it is, what was seen, the last numbers, the verdicts.

Everything is laid out for 80 columns. Names that came from the user are put in as plain
`Text`, so square brackets in a layer's name are letters and not markup.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ..record.vocabulary import RELATIONS
from .knobs import knob_table, knobs
from .predictions import prediction_table, predictions
from .summary import coverage, facts, tally, title
from .wording import MISSING, STATUSES, count, interval, layer_name, number, status

if TYPE_CHECKING:
    from ..laws.verdict import Verdict
    from ..record.run import Run

EVENTS_SHOWN = 12
STATUS_WIDTH = max(len(name) for name in STATUSES) + 2
LAYER_WIDTH = 18


def show(run: Run, verdicts: Sequence[Verdict], console: Console) -> None:
    """Print the whole of a run: manifest, coverage, last measurements, events, verdicts."""
    panel = knobs(run, verdicts)
    sections: list[tuple[str, RenderableType]] = [
        (title(run), manifest_table(run)),
        ("Coverage", coverage_report(run)),
        *_unless_empty("Last measurements", bool(run.table(quantity=list(RELATIONS)).size),
                       lambda: measurement_table(run)),
        *_unless_empty("Prediction beside measurement", bool(predictions(run)),
                       lambda: prediction_table(run)),
        *_unless_empty("Knobs", bool(panel), lambda: knob_table(panel)),
        ("Events", event_table(run)),
        ("Verdicts", verdict_table(verdicts)),
    ]  # fmt: skip
    for heading, body in sections:
        console.print(Rule(Text(heading, style="bold"), align="left", style="dim"))
        console.print(Padding(body, (0, 0, 1, 1)))


def _unless_empty(
    heading: str, filled: bool, make: Callable[[], RenderableType]
) -> list[tuple[str, RenderableType]]:
    """A section that only some runs have."""
    return [(heading, make())] if filled else []


def manifest_table(run: Run) -> Table:
    """Two columns, label and text, of the manifest's main entries."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in facts(run):
        table.add_row(Text(label), Text(text))
    return table


def coverage_report(run: Run) -> RenderableType:
    """The sentence, then every observed layer, then every other module with its reason."""
    report = coverage(run)
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, width=1)
    table.add_column(overflow="fold", ratio=2)
    table.add_column(overflow="fold", ratio=3, style="dim")
    for entry in report.measured:
        table.add_row("●", Text(str(entry.get("name"))), Text(_shape(entry)))
    for entry in report.waiting:
        reason = f"{_shape(entry)}: observed, but no measurement yet (was it ever called?)"
        table.add_row("◐", Text(str(entry.get("name"))), Text(reason.lstrip(": ")))
    for entry in report.unobserved:
        reason = f"{entry.get('kind', '')}: {entry.get('reason') or 'no reason recorded'}"
        table.add_row("○", Text(str(entry.get("name"))), Text(reason))
    return Group(Text(report.sentence), table)


def measurement_table(run: Run) -> RenderableType:
    """The six relations of every layer at its last measured step.

    First line value ± standard error, second line the null it has to beat (the larger of
    the random-rotation mean and the neuron-permutation 99th percentile).
    """
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    table.add_column("layer", overflow="fold", max_width=18)
    table.add_column("step", justify="right", style="dim")
    for relation in RELATIONS:
        table.add_column(relation, justify="right", no_wrap=True)
    for layer in run.layers:
        cells = [_relation_cell(run, relation, layer) for relation in RELATIONS]
        steps = [m.step for r in RELATIONS if (m := run.at(r, layer)) is not None]
        if steps:
            table.add_row(Text(layer), _short_step(max(steps)), *cells)
    if not table.rows:
        return Text("No layer has a measured relation yet.", style="dim")
    legend = Text("value ± standard error; below it the null it must beat", style="dim")
    return Group(table, legend)


def event_table(run: Run) -> RenderableType:
    """The last warnings and notes of the run, oldest first."""
    events = run.events()
    if events.empty:
        return Text("None.", style="dim")
    styles = {"error": "bold red", "warning": "yellow"}
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    rows: Any = events.tail(EVENTS_SHOWN).itertuples(index=False)
    for row in rows:
        where = f"{row.layer}: " if row.layer else ""
        kind = Text(str(row.kind), style=styles.get(row.kind, "dim"))
        table.add_row(kind, f"{row.step:,}", Text(f"{where}{row.message}"))
    hidden = len(events) - EVENTS_SHOWN
    if hidden <= 0:
        return table
    return Group(Text(f"{count(hidden, 'earlier event')} not shown", style="dim"), table)


def verdict_table(verdicts: Sequence[Verdict]) -> RenderableType:
    """Law by law, a row a layer: status, the numbers, the sentence; then the map and the count."""
    if not verdicts:
        return Text("No law was tested.", style="dim")
    parts: list[RenderableType] = []
    for law, some in groupby(verdicts, key=lambda v: v.law):
        parts += [Text(law, style="bold"), Padding(_findings(list(some)), (0, 0, 0, 2))]
    return Group(*parts, Text(), verdict_map(verdicts), Text(), tally_line(verdicts))


def _findings(verdicts: Sequence[Verdict]) -> Table:
    """The verdicts on one law."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, width=STATUS_WIDTH)
    table.add_column(overflow="fold", max_width=LAYER_WIDTH)
    table.add_column(overflow="fold", ratio=1)
    for v in verdicts:
        look = status(v.status)
        numbers = _numbers(v)
        finding = Text("" if numbers == MISSING else f"{numbers}\n").append(v.sentence, style="dim")
        mark = Text(f"{look.sign} {v.status}", style=look.style)
        table.add_row(mark, Text(layer_name(v.layer)), finding)
    return table


def verdict_map(verdicts: Sequence[Verdict]) -> RenderableType:
    """Laws down, layers across, one sign a verdict: the whole run at a glance."""
    laws = list(dict.fromkeys(v.law for v in verdicts))
    layers = list(dict.fromkeys(v.layer for v in verdicts))
    at = {(v.law, v.layer): status(v.status) for v in verdicts}
    maps: list[RenderableType] = []
    for some in _columns(layers):
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
        table.add_column("", no_wrap=True)
        for layer in some:
            head = Text(layer_name(layer))
            table.add_column(head, justify="center", overflow="ellipsis", no_wrap=True)
        for law in laws:
            looks = [at.get((law, layer)) for layer in some]
            if any(looks):
                cells = [Text(k.sign, style=k.style) if k else Text(" ") for k in looks]
                table.add_row(Text(law), *cells)
        maps.append(table)
    return Group(*maps)


def _columns(layers: Sequence[str], width: int = 60) -> list[list[str]]:
    """Layers in groups whose names fit side by side."""
    groups: list[list[str]] = [[]]
    room = width
    for layer in layers:
        need = min(len(str(layer_name(layer))), 24) + 1
        if groups[-1] and need > room:
            groups.append([])
            room = width
        groups[-1].append(layer)
        room -= need
    return groups


def tally_line(verdicts: Sequence[Verdict]) -> Text:
    """How many verdicts of each status, on one line."""
    line = Text()
    for name, n in tally(verdicts):
        look = status(name)
        line.append(f"{look.sign} {n} {name}   ", style=look.style)
    return line


def compare_table(runs: Sequence[Run], verdicts: Sequence[Sequence[Verdict]]) -> RenderableType:
    """Laws and layers down, runs across: the status and effect of the same claim in each run.

    runs:     the runs, named in the order given.
    verdicts: for each run its verdicts; ValueError when the two lengths differ.
    """
    if len(runs) != len(verdicts):
        raise ValueError(
            f"runs has {len(runs)} entries and verdicts {len(verdicts)}: "
            "give one list of verdicts for each run"
        )
    found = [{(v.law, v.layer): v for v in vs} for vs in verdicts]
    claims = list(dict.fromkeys(key for table in found for key in table))
    if not claims:
        return Text("No law was tested in any of these runs.", style="dim")
    names = Table.grid(padding=(0, 2))
    for letter, run in zip(_letters(len(runs)), runs, strict=True):
        names.add_row(Text(letter, style="bold"), Text(title(run)), Text(str(run.path), "dim"))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("law", overflow="fold", max_width=20)
    table.add_column("layer", overflow="fold", max_width=20)
    for letter in _letters(len(runs)):
        table.add_column(letter, no_wrap=True)
    for law, layer in claims:
        cells = [_compare_cell(one.get((law, layer))) for one in found]
        table.add_row(Text(law), Text(layer_name(layer), "dim"), *cells)
    signs = "   ".join(f"{s.sign} {s.name}" for s in STATUSES.values())
    legend = Text(f"{signs}   {MISSING} not tested", style="dim")
    return Group(names, Text(), table, Text(), legend)


def _numbers(v: Verdict) -> str:
    parts = [number(v.effect)]
    if interval(v.interval) != MISSING:
        parts[0] += f" {interval(v.interval)}"
    if math.isfinite(v.null):
        parts.append(f"null {number(v.null)}")
    if math.isfinite(v.initial):
        parts.append(f"start {number(v.initial)}")
    return " · ".join(parts)


def _relation_cell(run: Run, relation: str, layer: str) -> Text:
    m = run.at(relation, layer)
    if m is None:
        return Text(MISSING, style="dim")
    cell = Text(_two_places(m.value))
    if math.isfinite(m.stderr) and m.stderr > 0:
        cell.append(f"±{_two_places(m.stderr)}", style="dim")
    nulls = [run.at(f"{relation}_{kind}", layer) for kind in ("haar", "permutation")]
    values = [n.value for n in nulls if n is not None and math.isfinite(n.value)]
    return cell.append(f"\n{_two_places(max(values))}" if values else "\n", style="dim")


def _two_places(value: float) -> str:
    """Two decimals and no leading zero: six relations have to fit on one line.

    >>> _two_places(0.9312), _two_places(-0.04), _two_places(0.9999), _two_places(0.0004)
    ('.93', '−.04', '1.00', '.00')
    """
    text = f"{abs(value):.2f}"
    sign = "−" if value < 0 and float(text) else ""
    return sign + (text[1:] if text.startswith("0.") else text)


def _short_step(step: int) -> str:
    """
    >>> _short_step(950), _short_step(25_000), _short_step(1_500_000)
    ('950', '25k', '1.5M')
    """
    for unit, letter in ((1_000_000, "M"), (1_000, "k")):
        if step >= 10 * unit or (step >= unit and letter == "M"):
            return f"{step / unit:.3g}{letter}"
    return f"{step}"


def _compare_cell(v: Verdict | None) -> Text:
    if v is None:
        return Text(MISSING, style="dim")
    look = status(v.status)
    return Text(f"{look.sign} {number(v.effect)}", style=look.style)


def _letters(n: int) -> list[str]:
    """A, B, … Z, then by number: columns need short heads."""
    return [chr(65 + i) if i < 26 else str(i + 1) for i in range(n)]


def _shape(entry: dict[str, Any]) -> str:
    kind = str(entry.get("kind", ""))
    if not (entry.get("d_a") and entry.get("d_b")):
        return kind
    note = f", {entry['note']}" if entry.get("note") else ""
    return f"{kind} {entry['d_a']} → {entry['d_b']}{note}"
