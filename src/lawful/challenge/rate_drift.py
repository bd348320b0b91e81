"""Direction 6: hyperparameters. By how much does the best learning rate move?

World. ReLU networks 64–n–n–10, readout zero at the start, 1400 handwritten digits, Adam, standard
parametrisation, 20 steps; log₂ of the best rate (parabola through nine rates by factors of two,
mean loss of the later half), three seeds; its change from (n, B) = (64, 128) to
`width` (512, 128), and from (128, 16) to `batch` (128, 128).

To beat: the tables. Width: rate × 1/m where hidden weights dominate, −3 octaves. Batch: rate × √k,
+1.5 octaves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from ..lab.datasets import flatten, load, standardise
from ..lab.experiments.mup_transfer import MupTransfer, learn, standard, vertex
from .challenge import Array, Case, Challenge, distance

OCTAVES = tuple(float(o) for o in range(-12, -3))
SEEDS = 3


@dataclass(frozen=True)
class Told:
    """Optimiser, and (width, batch) before and after."""

    optimizer: str
    before: tuple[int, int]
    after: tuple[int, int]


def cases(seed: int) -> list[Case]:
    told = {
        "width": Told("adam", (64, 128), (512, 128)), "batch": Told("adam", (128, 16), (128, 128))
    }  # fmt: skip
    return [Case(n, t, partial(measure, t, seed)) for n, t in told.items()]


def measure(told: Told, seed: int) -> tuple[Array, Array]:
    """The change in octaves, mean and standard error over seeds."""
    data = flatten(standardise(load("digits")))
    best = np.empty((2, SEEDS))
    for i, (width, batch) in enumerate((told.before, told.after)):
        settings = MupTransfer(batch=batch)
        for k in range(SEEDS):
            s = SEEDS * seed + k
            losses = [
                learn(standard(2.0**o)(width, s), (data.x_train, data.y_train), settings, s)
                for o in OCTAVES
            ]
            best[i, k] = vertex(np.array(OCTAVES), np.log(losses))
    drift = best[1] - best[0]
    return np.array([drift.mean()]), np.array([drift.std(ddof=1) / SEEDS**0.5])


def tables(told: Told) -> float:
    """μP's hidden rate for the width, the square root for the batch."""
    (n, B), (m, C) = told.before, told.after
    return -math.log2(m / n) + 0.5 * math.log2(C / B)


challenge = Challenge(
    name="rate-drift",
    direction=6,
    question="By how much does the best learning rate move with width and batch?",
    told="optimizer, before (width, batch), after (width, batch)",
    wanted="log₂ of the best rate after over before",
    scored="root mean square of predicted − measured, in octaves",
    cases=cases,
    score=distance,
    baseline=("μP and √B", tables),
)
