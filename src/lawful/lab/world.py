"""A simulated world: its steps, and its rows with theory's number beside the measured one.

    for step in paced(steps, "warm-up", job.progress):          a bar on stderr
        ...
        writer.write(step, averaged(step, "SGD", "charge", C, predicted))

A world is many small systems advanced together, so a measured value is a mean over them with
its standard error. `ratio` reads measured/predicted off the record, for the bands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..record import Measurement, Run
from ..record.vocabulary import PREDICTED
from ..schedule import log_spaced
from .beside import beside
from .training import bar


def paced(steps: int, title: str, progress: bool) -> Iterator[int]:
    """0, 1, … steps − 1, with a bar on stderr when `progress`."""
    with bar(steps, 0, title, progress) as advance:
        for step in range(steps):
            yield step
            advance(step + 1, math.nan)


def measured_steps(n: int, last: int) -> list[int]:
    """Step 0, then at most n − 1 more, evenly in log step, the last one `last`.

    >>> measured_steps(5, 1000)
    [0, 1, 10, 100, 1000]
    """
    return list(takewhile(lambda step: step <= last, log_spaced(n, last=last).steps()))


def averaged(
    step: int,
    layer: str,
    quantity: str,
    values: Tensor | NDArray[Any] | float,
    predicted: float | None = None,
) -> list[Measurement]:
    """The mean over replicas with its standard error and, where there is one, the prediction.

    values: one number a replica, any shape (of a single number the error is 0).

    >>> [(m.quantity, m.value) for m in averaged(0, "u", "charge", torch.tensor([1.0, 3.0]), 2.5)]
    [('charge', 2.0), ('charge_predicted', 2.5)]
    """
    values = torch.as_tensor(values, dtype=torch.float64).flatten()
    n = len(values)
    error = float(values.std()) / math.sqrt(n) if n > 1 else 0.0
    if predicted is None:
        return [Measurement(step, layer, quantity, float(values.mean()), error, n)]
    return beside(step, layer, quantity, float(values.mean()), predicted, stderr=error, n=n)


def ratio(quantity: str, layer: str) -> Callable[[Run], float]:
    """What a band reads: the last measured value over the last predicted one; NaN without both."""

    def read(run: Run) -> float:
        measured, predicted = run.at(quantity, layer), run.at(quantity + PREDICTED, layer)
        if measured is None or predicted is None or predicted.value == 0:
            return math.nan
        return measured.value / predicted.value

    return read
