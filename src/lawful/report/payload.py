"""The numbers a page draws from, as one small JSON document.

    run folder  →  {layers, stepsets, series, frames, phases, …}  →  figures in the browser

The whole of a run does not fit in a file one mails to a friend, so three things are thinned
and the page says so: a series keeps at most `SERIES_STEPS` steps, a spectrum `CURVE_POINTS`
ranks spaced evenly in log rank, and the step slider the frames that fit `FRAME_BYTES`.
The matrices shown are symmetric with entries in [−1, 1]: each is stored as the lower
triangle, row by row, one signed byte an entry (round(127·r), −128 for NaN), in base64. The
rounding error 1/254 is below what a colour scale can show.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..record.errors import RecordError
from ..record.vocabulary import quantity as known
from ..theory.master_theorem import PHASES, Phase
from .plane import read_plane

if TYPE_CHECKING:
    from ..record.run import Run

SERIES_STEPS = 400
CURVE_POINTS = 96
FRAMES = 40
FRAME_BYTES = 12 * 2**20
VIEW_SIZE = 64

CURVES = (
    "singular_values",
    "power_H_a",
    "power_G_b",
    "spectrum_H_a",
    "spectrum_G_a",
    "spectrum_H_b",
    "spectrum_G_b",
)
SHOWN = (*CURVES, "view")
NO_FRAMES: dict[str, Any] = {"view": {"size": 0, "of": 0, "lost": 0}, "frames": []}


def payload(run: Run) -> dict[str, Any]:
    """Everything the page's figures need, as plain lists, numbers and strings.

    NaN and infinities become None, which JSON can carry and a figure leaves out.
    """
    table = run.table()
    described = {str(e.get("name", "")): e for e in run.manifest.get("layers") or []}
    stepsets = _Interned()
    series = _series(table, stepsets)
    frames, ranks = _frames(run)
    layers = [
        {
            "name": name,
            "about": _about(described.get(name, {})),
            "series": series.get(name, {}),
            "plane": asdict(read_plane(run, name)),
            **frames.get(name, NO_FRAMES),
        }
        for name in run.layers
    ]
    return {
        "layers": layers,
        "run": series.get("", {}),
        "stepsets": stepsets.items,
        "ranks": ranks,
        "meanings": {q: _meaning(q) for q in sorted(set(table["quantity"]))},
        "phases": [phase(p) for p in PHASES],
    }


def to_script(document: object) -> str:
    """JSON that is safe inside a `<script>` element, whatever strings it carries.

    >>> to_script("</script>")
    '"\\\\u003c/script\\\\u003e"'
    """
    text = json.dumps(document, allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def pack_view(view: np.ndarray) -> str:
    """Lower triangles of a stack (6, k, k) of symmetric matrices as base64 of int8.

    >>> base64.b64decode(pack_view(np.array([[[1.0, 0.0], [-1.0, np.nan]]])))
    b'\\x7f\\x81\\x80'
    """
    rows, columns = np.tril_indices(view.shape[1])
    entries = np.asarray(view, dtype=np.float64)[:, rows, columns]
    missing = ~np.isfinite(entries)
    scaled = np.rint(127 * np.clip(np.where(missing, 0, entries), -1, 1)).astype(np.int8)
    scaled[missing] = -128
    return base64.b64encode(scaled.tobytes()).decode("ascii")


def thin(n: int, keep: int) -> list[int]:
    """At most `keep` of the indices 0…n−1, evenly spaced, first and last always among them.

    >>> thin(5, 9), thin(9, 3), thin(9, 1)
    ([0, 1, 2, 3, 4], [0, 4, 8], [8])
    """
    if n <= keep:
        return list(range(n))
    if keep <= 1:
        return [n - 1]
    return sorted({round(i * (n - 1) / (keep - 1)) for i in range(keep)})


class _Interned:
    """Lists of steps, each stored once: most series of a run share theirs."""

    def __init__(self) -> None:
        self.items: list[list[int]] = []
        self._place: dict[tuple[int, ...], int] = {}

    def place(self, steps: Sequence[int]) -> int:
        key = tuple(steps)
        if key not in self._place:
            self._place[key] = len(self.items)
            self.items.append(list(key))
        return self._place[key]


def _series(table: pd.DataFrame, stepsets: _Interned) -> dict[str, dict[str, list[Any]]]:
    """{layer: {quantity: [stepset, values, standard errors or None, n of the last step]}}."""
    columns = [table[name].to_numpy() for name in ("step", "value", "stderr", "n")]
    series: dict[str, dict[str, list[Any]]] = {}
    curves: Any = table.groupby(["layer", "quantity"], sort=False).indices
    for (layer, name), rows in curves.items():
        step, value, error, n = (c[rows[thin(len(rows), SERIES_STEPS)]] for c in columns)
        errors = _numbers(error)
        series.setdefault(str(layer), {})[str(name)] = [
            stepsets.place(step.tolist()),
            _numbers(value),
            errors if any(e is not None for e in errors) else None,
            int(n[-1]),
        ]
    return series


def _frames(run: Run) -> tuple[dict[str, dict[str, Any]], dict[str, list[int]]]:
    """What the step slider shows: layer -> {view, frames}, and the ranks of the curves by length.

    view:   {size: neurons drawn, of: steps kept in the run, lost: steps that cannot be read}.
    frames: [[step, {quantity: [length, values at ranks[length]]}, packed view or None], …].
    """
    kept = {place: steps for place, steps in run.kept().items() if place[1] in SHOWN}
    layers = list(dict.fromkeys(layer for layer, _ in kept))
    budget = FRAME_BYTES // max(1, len(run.layers))
    sizes = _view_sizes(run, kept, budget)
    shown: dict[str, dict[str, Any]] = {}
    wanted: dict[int, list[str]] = {}
    for layer in layers:
        steps = sorted({step for (name, _), at in kept.items() if name == layer for step in at})
        size = sizes.get(layer, 0)
        chosen = thin(len(steps), max(2, min(FRAMES, budget // _frame_bytes(size))))
        for step in (steps[i] for i in chosen):
            wanted.setdefault(step, []).append(layer)
        shown[layer] = {"view": {"size": size, "of": len(steps), "lost": 0}, "frames": []}
    ranks: dict[str, list[int]] = {}
    for step, names in sorted(wanted.items()):
        places = [(n, q) for n in names for q in SHOWN if step in kept.get((n, q), ())]
        try:
            arrays = run.arrays(step, places)
        except RecordError:  # a file that was not copied along, or is damaged: the page says so
            for name in names:
                shown[name]["view"]["lost"] += 1
            continue
        for name in names:
            of = {q: arrays[name, q] for q in SHOWN if (name, q) in arrays}
            shown[name]["frames"].append(_frame(step, of, sizes.get(name, 0), ranks))
    return shown, ranks


def _frame(
    step: int, arrays: dict[str, np.ndarray], size: int, ranks: dict[str, list[int]]
) -> list[Any]:
    curves = {}
    for name in (name for name in CURVES if name in arrays):
        values = np.ravel(arrays[name])
        index = _ranks(len(values))
        ranks[str(len(values))] = [j + 1 for j in index]
        curves[name] = [len(values), _numbers(values[index])]
    view = arrays.get("view")
    if view is None or not 0 < size <= _side(view):
        return [step, curves, None]
    return [step, curves, pack_view(view[:, :size, :size])]


def _view_sizes(run: Run, kept: dict[tuple[str, str], list[int]], budget: int) -> dict[str, int]:
    """Neurons a side to draw in each layer with a view, so that two frames at least fit."""
    last: dict[int, list[tuple[str, str]]] = {}
    for place in (place for place in kept if place[1] == "view"):
        last.setdefault(kept[place][-1], []).append(place)
    sizes: dict[str, int] = {}
    for step, places in last.items():
        with suppress(RecordError):
            sizes |= {
                layer: _fitting(_side(v), budget)
                for (layer, _), v in run.arrays(step, places).items()
            }
    return sizes


def _fitting(size: int, budget: int) -> int:
    size = min(size, VIEW_SIZE)
    while size > 8 and 2 * _frame_bytes(size) > budget:
        size //= 2
    return size


def _side(view: np.ndarray) -> int:
    """Rows of each of the six square matrices; 0 when this is something else."""
    square = view.ndim == 3 and view.shape[0] == 6 and view.shape[1] == view.shape[2]
    return int(view.shape[1]) if square else 0


def _frame_bytes(size: int) -> int:
    """Bytes of one frame: six packed triangles (four characters for three bytes) and curves."""
    return 4 * size * (size + 1) + 8 * CURVE_POINTS * len(CURVES)


def _ranks(n: int) -> list[int]:
    """At most `CURVE_POINTS` indices of a falling curve, evenly spaced in log rank."""
    if n <= CURVE_POINTS:
        return list(range(n))
    return sorted({round(r) - 1 for r in np.geomspace(1, n, CURVE_POINTS)})


def _numbers(values: Any) -> list[float | None]:
    """Five significant digits: far below any error a run reports."""
    return [float(f"{v:.5g}") if math.isfinite(v) else None for v in np.asarray(values, float)]


def _meaning(quantity: str) -> str:
    """What a quantity is; nothing when a plug-in, or a later lawful, wrote it."""
    try:
        return known(quantity).meaning
    except KeyError:
        return ""


def _about(entry: dict[str, Any]) -> str:
    parts = [str(entry.get("kind", ""))]
    if entry.get("d_a") and entry.get("d_b"):
        parts.append(f"{entry['d_a']} → {entry['d_b']}")
    if entry.get("bias"):
        parts.append("with bias")
    if entry.get("note"):
        parts.append(str(entry["note"]))
    return ", ".join(p for p in parts if p)


def phase(phase: Phase) -> dict[str, Any]:
    return {
        "name": phase.name,
        "assume": ", ".join(phase.assume),
        "p": None if phase.flat else phase.p,
        "q": None if phase.flat else phase.q,
        "backward": phase.backward,
        "forward": phase.forward,
    }
