"""grokking: waves grow in the weights long before the answers to unseen sums come right.

World. (a + b) mod 31, f = V (Ux)², 256 hidden units, mean squared error, full-batch AdamW at
η = 5e-3, β = (.9, .98), decay 1, trained on half of the 961 sums for 4000 steps; three seeds.

Hypothesis (Nanda et al., arXiv 2301.05217; Gromov, arXiv 2301.02679; Kumar et al., arXiv
2310.06110). Decay drives the memorised solution towards the one in `theory/grokking.py`, whose
every weight row is one wave: inverse participation ratio and tangent kernel move first, test
accuracy follows. Controls: without decay, and with 30 % of the sums, nothing is to follow.

Bands, as published with the derivation: train accuracy by step 50, test accuracy at step 600; ratio
.125 (its null) → .33 at step 500 → .93; without decay test accuracy 3 %, ratio .17; with 30 %,
33 %. Steps are read as those of 99 %. The law `grokking` is tested on every case. 40 seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...estimators.fourier import inverse_participation, null_participation
from ...estimators.uncertainty import share_error
from ...laws.grokking import crossing
from ...record import Measurement, Run, RunWriter, open_run
from ...theory.grokking import kernel, pairs, scores
from ..experiment import Band, Experiment, Settings, setting
from ..job import Job
from ..world import paced

SEEDS = 3


@dataclass(frozen=True)
class Grokking(Settings):
    device: str = setting("cpu", "Where to compute; a world this small is fastest on a CPU.")
    modulus: int = setting(31, "p, odd.")
    units: int = setting(256, "Hidden units.")
    learning_rate: float = setting(5e-3, "η of AdamW.")
    weight_decay: float = setting(1.0, "λ of AdamW; step η λ.")
    steps: int = setting(4000, "Full-batch steps.")


def train(settings: Grokking, job: Job) -> Run:
    """One case after the other: (decay, share of the sums, seed)."""
    cases = {f"decay, seed {k}": (settings.weight_decay, 0.5, k) for k in range(SEEDS)}
    cases |= {"no decay": (0.0, 0.5, 0), "30 % of the sums": (settings.weight_decay, 0.3, 0)}
    optimizer = {"class": "AdamW", "groups": [{"lr": settings.learning_rate}]}
    with job.world(laws=("grokking",), optimizer=optimizer) as writer:
        for case, (decay, share, k) in cases.items():
            learn(case, decay, share, SEEDS * job.seed + k, settings, job, writer)
    return open_run(job.out)


def learn(
    case: str, decay: float, share: float, seed: int, s: Grokking, job: Job, writer: RunWriter
) -> None:
    draw = torch.Generator().manual_seed(seed)
    x, y = pairs(s.modulus)
    x, target = x.float(), torch.eye(s.modulus)[y]
    order = torch.randperm(len(x), generator=draw)
    seen, unseen = order.tensor_split([round(share * len(x))])
    U = torch.randn(s.units, 2 * s.modulus, generator=draw).div_((2 * s.modulus) ** 0.5)
    V = torch.randn(s.modulus, s.units, generator=draw).div_(s.units**0.5)
    U, V = U.requires_grad_(), V.requires_grad_()
    optimizer = torch.optim.AdamW([U, V], s.learning_rate, (0.9, 0.98), weight_decay=decay)
    few = x[order[:64]]
    start = kernel(U.detach(), V.detach(), few)
    xs, ys, when = x[seen], target[seen], moments(s.steps)
    for step in paced(s.steps + 1, case, job.progress):
        if step in when:
            with torch.no_grad():
                f = scores(U, V, x).argmax(1) == y
                turn = turned(start, kernel(U, V, few))
                ipr = inverse_participation(U.view(s.units, 2, s.modulus)).mean(1)
            found = {
                "train_accuracy": accuracy(f[seen]), "test_accuracy": accuracy(f[unseen]),
                "inverse_participation": (float(ipr.mean()), float(ipr.std()) / s.units**0.5),
                "ntk_turn": (turn, math.nan),
                "participation_null": (null_participation(s.modulus), 0.0),
            }  # fmt: skip
            rows = [Measurement(step, case, q, v, e, s.units) for q, (v, e) in found.items()]
            writer.write(step, rows)
        optimizer.zero_grad()
        (scores(U, V, xs) - ys).square().mean().backward()
        optimizer.step()


def moments(steps: int) -> set[int]:
    """Every 25 steps up to 1500, then every 250: the order of events needs a fine clock."""
    return {*range(0, min(1500, steps) + 1, 25), *range(1500, steps + 1, 250), steps}


def turned(start: Tensor, now: Tensor) -> float:
    """1 − cos of two kernels."""
    return float(1 - (start * now).sum() / (start.norm() * now.norm()))


def accuracy(right: Tensor) -> tuple[float, float]:
    """Share of right answers and its error."""
    share = float(right.double().mean())
    return share, share_error(share, len(right))


def over_seeds(read: Callable[[Run, str], float]) -> Callable[[Run], float]:
    """The mean over the seeds of a number of the main case."""
    return lambda run: float(np.mean([read(run, f"decay, seed {k}") for k in range(SEEDS)]))


def at(quantity: str, step: int | None = None) -> Callable[[Run, str], float]:
    """A number at a step, or at the last one."""

    def read(run: Run, layer: str) -> float:
        row = run.at(quantity, layer, step)
        return math.nan if row is None else row.value

    return read


def first_past(quantity: str, level: float) -> Callable[[Run, str], float]:
    return lambda run, layer: crossing(run, quantity, layer, level)


FULL = {"steps": 4000, "weight_decay": 1.0, "modulus": 31}

experiment = Experiment(
    name="grokking",
    statement="Waves in the weights and a turned kernel come before test accuracy, if decay acts.",
    settings=Grokking,
    train=train,
    bands=(
        Band(
            "step of train accuracy .99",
            25,
            50,
            over_seeds(first_past("train_accuracy", 0.99)),
            FULL,
        ),
        Band(
            "step of test accuracy .99",
            500,
            700,
            over_seeds(first_past("test_accuracy", 0.99)),
            FULL,
        ),
        Band("IPR at the start", 0.115, 0.135, over_seeds(at("inverse_participation", 0)), FULL),
        Band("IPR at step 500", 0.28, 0.38, over_seeds(at("inverse_participation", 500)), FULL),
        Band("IPR at the end", 0.9, 0.96, over_seeds(at("inverse_participation")), FULL),
        Band("test accuracy", 0.95, 1, over_seeds(at("test_accuracy")), FULL),
        Band(
            "test accuracy, no decay",
            0,
            0.06,
            lambda run: at("test_accuracy")(run, "no decay"),
            FULL,
        ),
        Band(
            "IPR, no decay",
            0.14,
            0.2,
            lambda run: at("inverse_participation")(run, "no decay"),
            FULL,
        ),
        Band(
            "test accuracy, 30 %",
            0.2,
            0.5,
            lambda run: at("test_accuracy")(run, "30 % of the sums"),
            FULL,
        ),
    ),
)
