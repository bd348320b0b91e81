"""What a run is and how much of the model was seen, in words.

The manifest becomes short labelled facts; the coverage report sorts every parametrised
module into three heaps: measured, observed but never measured (never called, or called
too rarely), and unobserved with its reason. A module in no heap would be silent partial
coverage, so a manifest that does not list the unobserved ones is said to be unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .wording import STATUSES, count, number

if TYPE_CHECKING:
    from ..laws.verdict import Verdict
    from ..record.run import Run


_NAMELESS = {"name": "", "kind": "", "reason": "", "parameters": 0}
"""A module of which the manifest says nothing: each of its fields may be absent."""


@dataclass(frozen=True)
class Coverage:
    """The coverage report.

    measured:   manifest entries of the layers that have measurements.
    waiting:    entries of layers observed but without a single measurement.
    unobserved: entries with `name, kind, reason, parameters` of everything else.
    known:      False when the manifest does not say what was left out.
    sentence:   the whole in one or two sentences.
    """

    measured: list[dict[str, Any]]
    waiting: list[dict[str, Any]]
    unobserved: list[dict[str, Any]]
    known: bool
    sentence: str


def title(run: Run) -> str:
    """Name of the experiment when the run has one, else of its folder."""
    experiment = run.manifest.get("experiment") or {}
    name = experiment.get("name") if isinstance(experiment, dict) else experiment
    return str(name or run.path.name)


def facts(run: Run) -> list[tuple[str, str]]:
    """The manifest's main entries as (label, text), in reading order; absent ones left out."""
    m = run.manifest
    model, data = _mapping(m.get("model")), _mapping(m.get("data"))
    environment = _mapping(m.get("environment"))
    rows = [
        ("model", _model(model)),
        ("optimizer", _optimizer(_mapping(m.get("optimizer")))),
        ("data", str(data.get("name", "")) if data else ""),
        ("loss reduction", str(m.get("reduction", ""))),
        ("measured on", _source(m)),
        ("steps", _steps(run.steps)),
        ("seed", "" if m.get("seed") is None else str(m["seed"])),
        ("status", str(m.get("status", ""))),
        ("created", str(m.get("created", ""))),
        ("machine", ", ".join(f"{k} {v}" for k, v in environment.items())),
        ("lawful", str(m.get("lawful", ""))),
    ]
    return [(label, text) for label, text in rows if text]


def settings(run: Run) -> list[tuple[str, str]]:
    """Every knob: the experiment's settings and each parameter group of the optimizer."""
    experiment = _mapping(run.manifest.get("experiment"))
    rows = [(str(k), str(v)) for k, v in _mapping(experiment.get("settings")).items()]
    optimizer = _mapping(run.manifest.get("optimizer"))
    groups = [g for g in optimizer.get("groups") or [] if isinstance(g, Mapping)]
    for i, group in enumerate(groups):
        where = f"group {i}: " if len(groups) > 1 else ""
        rows += [(f"{where}{k}", _knob(v)) for k, v in group.items()]
    return rows


def coverage(run: Run) -> Coverage:
    """Sort every parametrised module of the model into measured, waiting and unobserved."""
    listed = [_NAMELESS | e for e in run.manifest.get("layers") or []]
    known_names = {str(e.get("name", "")) for e in listed}
    listed += [_NAMELESS | {"name": n} for n in run.layers if n not in known_names]
    table = run.table()
    seen = set(table["layer"].unique())
    unobserved = [_NAMELESS | e for e in run.manifest.get("unobserved") or []]
    known = "unobserved" in run.manifest
    measured = [e for e in listed if e.get("name") in seen]
    waiting = [e for e in listed if e.get("name") not in seen]
    sentence = _coverage_sentence(run, len(measured), waiting, unobserved, known)
    return Coverage(measured, waiting, unobserved, known, sentence)


def tally(verdicts: Iterable[Verdict]) -> list[tuple[str, int]]:
    """Number of verdicts of each status, in the order of `STATUSES`; zeros kept."""
    counts = Counter(v.status for v in verdicts)
    unknown = [s for s in counts if s not in STATUSES]
    return [(s, counts.get(s, 0)) for s in [*STATUSES, *unknown]]


def _coverage_sentence(
    run: Run, measured: int, waiting: list[Any], unobserved: list[dict[str, Any]], known: bool
) -> str:
    if "layers" not in run.manifest and not known:
        return f"A simulation: {count(measured, 'case')}, not the layers of a model."
    parts = [f"{count(measured, 'layer')} measured"]
    if waiting:
        parts.append(f"{len(waiting):,} observed but never measured")
    if not known:
        head = ", ".join(parts)
        return f"{head}. The manifest does not say which modules were left out."
    if not unobserved:
        return f"{', '.join(parts)}. No parametrised module was left out."
    parts.append(f"{len(unobserved):,} not observed")
    total = _mapping(run.manifest.get("model")).get("parameters") or 0
    missing = sum(int(e.get("parameters") or 0) for e in unobserved)
    share = f" {number(100 * missing / total)} % of all" if total else ""
    held = f" ({count(missing, 'parameter')},{share})" if share else ""
    return f"{', '.join(parts)}{held}."


def _model(model: Mapping[str, Any]) -> str:
    size = model.get("parameters")
    parts = [str(model.get("class", ""))]
    if isinstance(size, int):
        parts.append(count(size, "parameter"))
    return ", ".join(p for p in parts if p)


def _optimizer(optimizer: Mapping[str, Any]) -> str:
    groups = optimizer.get("groups") or [{}]
    first = _mapping(groups[0])
    shown = (("lr", "lr"), ("momentum", "momentum"), ("weight_decay", "weight decay"))
    parts = [f"{label} {_knob(first[key])}" for key, label in shown if first.get(key) is not None]
    more = f"; {len(groups)} parameter groups" if len(groups) > 1 else ""
    name = str(optimizer.get("class", ""))
    return ", ".join([name, *parts]) + more if name else ""


def _source(manifest: Mapping[str, Any]) -> str:
    words = {
        "stream": "the training batches as they pass",
        "probe": "a fixed probe set",
    }
    source = str(manifest.get("source", ""))
    schedule = str(manifest.get("schedule", ""))
    text = words.get(source, source)
    return f"{text}, {schedule}" if text and schedule else text or schedule


def _steps(steps: list[int]) -> str:
    if not steps:
        return "none recorded yet"
    if len(steps) == 1:
        return f"1 recorded (step {steps[0]:,})"
    return f"{len(steps):,} recorded, {steps[0]:,} to {steps[-1]:,}"


def _knob(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{value:g}" if isinstance(value, float) else f"{value:,}"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
