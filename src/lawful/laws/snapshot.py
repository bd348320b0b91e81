"""A run as it stood when it was first asked: one read a layer, every answer from memory.

A test of all laws asks some hundred questions of each layer, and a run may be growing while
they are asked. Reading each layer once makes the answers quick and of one moment.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..record.measurement import Measurement
from ..record.vocabulary import quantity as known

if TYPE_CHECKING:
    import pandas as pd

    from ..record import Run


class Snapshot:
    """Answers `manifest`, `layers`, `series`, `at` and `first` as the run does, from memory.

    Anything else (arrays, events) is asked of the run itself.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.manifest: dict[str, Any] = run.manifest
        self.layers: list[str] = run.layers
        self._curves: dict[str, dict[str, pd.DataFrame]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    def series(self, quantity: str, layer: str) -> pd.DataFrame:
        """One curve: value, stderr, n indexed by step; empty when it was not measured."""
        if layer not in self._curves:
            rows = self._run.table(layer=layer)
            rows = rows[rows["layer"] == layer]  # a layer's name may read as a pattern
            self._curves[layer] = {
                str(name): curve.set_index("step")[["value", "stderr", "n"]]
                for name, curve in rows.groupby("quantity", sort=False)
            }
            self._curves[layer][""] = rows.set_index("step")[["value", "stderr", "n"]].iloc[:0]
        return self._curves[layer].get(known(quantity).name, self._curves[layer][""])

    def at(self, quantity: str, layer: str, step: int | None = None) -> Measurement | None:
        """The measurement at `step`; by default the last one with a finite value."""
        curve = self.series(quantity, layer)
        return _row(
            curve if step is None else curve[curve.index == step], quantity, layer, step, -1
        )

    def first(self, quantity: str, layer: str) -> Measurement | None:
        """The first measurement with a finite value."""
        return _row(self.series(quantity, layer), quantity, layer, None, 0)


def _row(
    curve: pd.DataFrame, quantity: str, layer: str, step: int | None, place: int
) -> Measurement | None:
    """The first (0) or last (−1) row; only finite values count where no step was asked for."""
    values = curve["value"].to_numpy(float)
    rows = np.flatnonzero(np.isfinite(values)) if step is None else np.arange(len(values))
    if not len(rows):
        return None
    i = rows[place]
    stderr, n = float(curve["stderr"].iloc[i]), curve["n"].iloc[i]
    return Measurement(
        int(curve.index[i]), layer, quantity, float(values[i]), stderr,
        0 if math.isnan(n) else int(n),
    )  # fmt: skip
