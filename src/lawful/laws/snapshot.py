"""A run as it stood when it was first asked: one read a layer, every answer from memory.

A test of all laws asks some hundred questions of each layer, and a run may be growing while
they are asked. Reading each layer once makes the answers quick and of one moment.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..record.measurement import Measurement
from ..record.vocabulary import quantity as known

if TYPE_CHECKING:
    import pandas as pd

    from ..record import Run


class Curve(NamedTuple):
    """One quantity of one layer, by rising step."""

    step: np.ndarray
    value: np.ndarray
    stderr: np.ndarray
    n: np.ndarray


class Snapshot:
    """Answers `manifest`, `layers`, `series`, `at` and `first` as the run does, from memory.

    Anything else (arrays, events) is asked of the run itself.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.manifest: dict[str, Any] = run.manifest
        self.layers: list[str] = run.layers
        self._curves: dict[str, dict[str, Curve]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def series(self, quantity: str, layer: str) -> pd.DataFrame:
        """One curve: value, stderr, n indexed by step; empty when it was not measured."""
        import pandas as pd

        curve = self._curve(quantity, layer)
        columns = {"value": curve.value, "stderr": curve.stderr, "n": curve.n}
        return pd.DataFrame(columns, index=pd.Index(curve.step, name="step"))

    def at(self, quantity: str, layer: str, step: int | None = None) -> Measurement | None:
        """The measurement at `step`; by default the last one with a finite value."""
        curve = self._curve(quantity, layer)
        wanted = np.isfinite(curve.value) if step is None else curve.step == step
        return _row(curve, np.flatnonzero(wanted)[-1:], quantity, layer)

    def first(self, quantity: str, layer: str) -> Measurement | None:
        """The first measurement with a finite value."""
        curve = self._curve(quantity, layer)
        return _row(curve, np.flatnonzero(np.isfinite(curve.value))[:1], quantity, layer)

    def _curve(self, quantity: str, layer: str) -> Curve:
        if layer not in self._curves:
            rows = self._run.table(layer=layer)
            rows = rows[rows["layer"] == layer]  # a layer's name may read as a pattern
            self._curves[layer] = _cut(rows)
        return self._curves[layer].get(known(quantity).name, self._curves[layer][""])


def _cut(rows: pd.DataFrame) -> dict[str, Curve]:
    """The table of a layer, which rises in step, cut into its curves; "" is an empty one."""
    kinds = {"step": int, "value": float, "stderr": float, "n": None}
    columns = [rows[name].to_numpy(kinds[name]) for name in Curve._fields]
    places: dict[Any, Any] = {"": slice(0), **rows.groupby("quantity", sort=False).indices}
    return {str(name): Curve(*(c[places[name]] for c in columns)) for name in places}


def _row(curve: Curve, rows: np.ndarray, quantity: str, layer: str) -> Measurement | None:
    """The measurement in the one row chosen, if there is one."""
    for i in rows:
        n = curve.n[i]
        return Measurement(
            int(curve.step[i]), layer, quantity, float(curve.value[i]), float(curve.stderr[i]),
            0 if math.isnan(n) else int(n),
        )  # fmt: skip
    return None
