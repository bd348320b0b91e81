"""canonical-width: does a wider network align better, at the same weight decay?

World and net of canonical-decay (tanh, 32–width×5–8, γ = 3e-3), for several widths. The published
figure has five layers at widths 10 … 3200 and reads no trend: RGA_b .62–.87 in layers 3–5,
.27–.67 in layer 2, .15–.28 in layer 1.

The published reading was expected here first, after 15,000 steps, for fc3 and fc4 alike, and
failed at widths 96 and 192. The bands below were set after that, from runs of 40,000 steps: RGA_b
of fc4, the last hidden map, at least 0.9 at every width from 24 to 192 and at most 24 directions
left in it, whereas at initialisation RGA_b falls with width as its null √(PR_A PR_B)/d must.
Alignment takes longer in a wider net: of 192 units, fc4 has .86 after 10,000 steps and .97 after
40,000, and fc3 is still on its way (.79). About three minutes in all.

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
    steps: int = setting(40_000, "Optimiser steps.")
    depth: int = setting(5, "Hidden layers.")
    samples: int = setting(4096, "Training samples, and test samples.")


def train(settings: Width, job: Job) -> Run:
    (width,) = settings.width
    same = {**vars(settings), "width": width, "gamma": (settings.gamma,)}
    return train_one(Decay(**same), job)


experiment = Experiment(
    name="canonical-width",
    statement="The last hidden layer aligns at every width, though its null falls with width.",
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
        Band("rga_b of fc4", 0.9, 1.0, partial(last, "rga_b", "fc4"), {"gamma": 3e-3}),
        Band("directions kept in fc4", 7, 24, partial(last, "rank_W", "fc4"), {"gamma": 3e-3}),
        *(
            Band("rga_b of fc3", 0.85, 1.0, partial(last, "rga_b", "fc3"), {"width": width})
            for width in (24, 48, 96)
        ),
    ),
)
