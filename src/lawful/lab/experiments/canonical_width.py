"""canonical-width: does a wider network align better, at the same weight decay?

World and net of canonical-decay (tanh, 32–width×5–8, γ = 3e-3), for several widths. The published
figure has five layers at widths 10 … 3200 and reads no trend: RGA_b .62–.87 in layers 3–5,
.27–.67 in layer 2, .15–.28 in layer 1.

Expected here: RGA_b of fc4 at least 0.85 at every width from 24 to 192, an eightfold range,
whereas at initialisation it falls with width like a null must. About 20 seconds a run.

`scale=paper` has widths 10 … 3200; a GPU is needed for the last of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from ...record import Run
from ..experiment import Band, Experiment, Settings, first, last, setting
from ..job import Job
from .canonical_decay import Decay
from .canonical_decay import train as train_one


@dataclass(frozen=True)
class Width(Settings):
    width: tuple[int, ...] = setting((24, 48, 96, 192), "Hidden units; several make a sweep.")
    gamma: float = setting(3e-3, "γ, as in torch.optim.SGD.")
    activation: str = setting("tanh", "tanh, relu, gelu or linear.")
    learning_rate: float = setting(0.1, "η.")
    batch: int = setting(32, "Batch size.")
    steps: int = setting(15_000, "Optimiser steps.")
    depth: int = setting(5, "Hidden layers.")
    samples: int = setting(4096, "Training samples, and test samples.")


def train(settings: Width, job: Job) -> Run:
    (width,) = settings.width
    same = {**vars(settings), "width": width, "gamma": (settings.gamma,)}
    return train_one(Decay(**same), job)


experiment = Experiment(
    name="canonical-width",
    statement="Alignment of deep layers does not depend on width, unlike its null.",
    settings=Width,
    train=train,
    sweep="width",
    scales={
        "paper": {
            "width": (10, 32, 100, 320, 1000, 3200),
            "depth": 4,
            "samples": 50_000,
            "steps": 100_000,
        }
    },
    bands=(
        Band("rga_b of fc4 at initialisation", 0.0, 0.4, partial(first, "rga_b", "fc4")),
        Band("rga_b of fc4", 0.85, 1.0, partial(last, "rga_b", "fc4"), {"gamma": 3e-3}),
        Band("rga_b of fc3", 0.80, 1.0, partial(last, "rga_b", "fc3"), {"gamma": 3e-3}),
        Band("directions kept in fc4", 7, 24, partial(last, "rank_W", "fc4"), {"gamma": 3e-3}),
    ),
)
