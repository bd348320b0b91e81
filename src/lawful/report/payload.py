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
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

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


def payload(run: Run) -> dict[str, Any]:
    """Everything the page's figures need, as plain lists, numbers and strings.

    NaN and infinities become None, which JSON can carry and a figure leaves out.
    """
    table = run.table()
    described = {str(e.get("name", "")): e for e in run.manifest.get("layers") or []}
    stepsets = _Interned()
    ranks: dict[str, list[int]] = {}
    share = FRAME_BYTES // max(1, len(run.layers))
    layers = []
    for name in run.layers:
        view, frames = _frames(run, name, ranks, share)
        layers.append(
            {
                "name": name,
                "about": _about(described.get(name, {})),
                "series": _series(table[table["layer"] == name], stepsets),
                "plane": asdict(read_plane(run, name)),
                "view": view,
                "frames": frames,
            }
        )
    return {
        "layers": layers,
        "run": _series(table[table["layer"] == ""], stepsets),
        "stepsets": stepsets.items,
        "ranks": ranks,
        "meanings": {q: known(q).meaning for q in sorted(set(table["quantity"]))},
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


def _series(rows: pd.DataFrame, stepsets: _Interned) -> dict[str, list[Any]]:
    """{quantity: [stepset, values, standard errors or None, n of the last step]}."""
    series: dict[str, list[Any]] = {}
    for name, group in rows.groupby("quantity", sort=False):
        kept = group.sort_values("step").iloc[thin(len(group), SERIES_STEPS)]
        errors = _numbers(kept["stderr"])
        known = any(e is not None for e in errors)
        series[str(name)] = [
            stepsets.place([int(s) for s in kept["step"]]),
            _numbers(kept["value"]),
            errors if known else None,
            int(kept["n"].iloc[-1]),
        ]
    return series


def _frames(
    run: Run, layer: str, ranks: dict[str, list[int]], budget: int
) -> tuple[dict[str, Any], list[Any]]:
    """What the step slider shows: ({neurons drawn, steps kept in the run}, [frame, …]).

    A frame is [step, {quantity: [length, values at ranks[length]]}, packed view or None].
    """
    have = {q: set(run.array_steps(q, layer)) for q in (*CURVES, "view")}
    steps = sorted(set().union(*have.values()))
    size = _view_size(run, layer, max(have["view"], default=None), budget)
    kept = thin(len(steps), max(2, min(FRAMES, budget // _frame_bytes(size))))
    frames = []
    for step in (steps[i] for i in kept):
        curves = {}
        for q in CURVES:
            if step in have[q]:
                values = np.ravel(run.array(q, layer=layer, step=step))
                index = _ranks(len(values))
                ranks[str(len(values))] = [j + 1 for j in index]
                curves[q] = [len(values), _numbers(values[index])]
        shown = None
        if size and step in have["view"]:
            view = run.array("view", layer=layer, step=step)
            shown = pack_view(view[:, :size, :size])
        frames.append([step, curves, shown])
    return {"size": size, "of": len(steps)}, frames


def _view_size(run: Run, layer: str, step: int | None, budget: int) -> int:
    """Neurons a side to draw, so that two frames at least fit the budget; 0 without a view."""
    if step is None:
        return 0
    shape = run.array("view", layer=layer, step=step).shape
    if len(shape) != 3 or shape[0] != 6 or shape[1] != shape[2]:
        return 0
    size = min(shape[1], VIEW_SIZE)
    while size > 8 and 2 * _frame_bytes(size) > budget:
        size //= 2
    return size


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
