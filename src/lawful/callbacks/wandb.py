"""Weights & Biases: scalars over our own count of steps, verdicts as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..laws import Verdict
from .extra import extra
from .feed import COLUMNS, rows


class WandB:
    """A run of Weights & Biases; by default the one `wandb.init` has opened.

    Its own step counter belongs to the training code, so ours goes along as `lawful/step`.
    """

    def __init__(self, run: Any = None) -> None:
        self._wandb = extra("wandb", "wandb")
        self.run = run if run is not None else self._wandb.run
        if self.run is None:
            raise ValueError("run=None and no run is open: call wandb.init() first, or pass run=")
        self.run.define_metric("lawful/*", step_metric="lawful/step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        named = {f"lawful/{name}": value for name, value in values.items()}
        self.run.log(named | {"lawful/step": step})

    def verdicts(self, step: int, found: Sequence[Verdict]) -> None:
        cells = [[None if _lacking(c) else c for c in row] for row in rows(found)]
        table = self._wandb.Table(columns=list(COLUMNS), data=cells, allow_mixed_types=True)
        self.run.log({"lawful/verdicts": table, "lawful/step": step})


def _lacking(cell: object) -> bool:
    return isinstance(cell, float) and not math.isfinite(cell)
