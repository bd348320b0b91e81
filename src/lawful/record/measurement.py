"""A measurement: one number, what it is, where and when it was taken, and its error."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .vocabulary import quantity


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row of a run's table.

    step:     optimiser steps completed when it was taken (0 is initialisation).
    layer:    path as in `named_modules()`; the empty string is the run as a whole.
    quantity: a name of the vocabulary.
    value:    float; NaN means the estimate could not be made.
    stderr:   standard error; 0 for an exact number, NaN when it is not known.
    n:        independent samples behind the value.
    """

    step: int
    layer: str
    quantity: str
    value: float
    stderr: float = math.nan
    n: int = 0

    def __post_init__(self) -> None:
        if quantity(self.quantity).array:
            raise ValueError(f"{self.quantity!r} is an array: write it beside the scalars")
