"""mup-transfer: one learning rate for all widths, and the standard parametrisation beside it.

World. ReLU networks 64–n–n–10 on 1400 handwritten digits, cross-entropy, Adam, batch 128, 20 steps;
n = 64, 128, 256, 512; nine rates by factors of two, five seeds. SP is one rate for all weights,
torch's own initialisation with a readout of zeros; μP the same with `methods.mup`, base 64, where
both are one network. (Later, with the digits learned by heart, every rate within two octaves will
do, and its optimum says little: after 60 steps μP moves by 1.2 ± .6.)

Hypothesis (Yang et al., arXiv 2203.03466). The rate of least loss stays put under μP and falls with
width under SP; the change of every layer's output in three steps does not depend on width under μP
(slope 0), grows under SP.

Bands. As published with the derivation: |log₂ η*(512)/η*(64)| below 1 for μP, above 1.5 for SP
(there −.8 an octave of width); slopes of the coordinates of both hidden maps, n = 128 to 1024,
within ±.2 for μP with Adam and with SGD; ours: above .5 for SP's second. The readout's slope is
recorded without a band: it is the last to reach its limit (there −.16 and −.08). η* is the vertex
of a parabola through the best rate and two neighbours on either side, in log loss averaged over the
later half of the steps. 30 seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...methods.coordinate_check import Trainable, coordinate_check
from ...methods.mup import trainable
from ...record import Measurement, Run, RunWriter, open_run
from ..datasets import batches, flatten, load, standardise
from ..experiment import Band, Experiment, Settings, last, setting
from ..job import Job
from ..world import averaged, paced

Array = NDArray[np.float64]
Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class MupTransfer(Settings):
    device: str = setting("cpu", "Where to compute; networks this small are fastest on a CPU.")
    widths: tuple[int, ...] = setting((64, 128, 256, 512), "n; the first is the base.")
    octaves: tuple[float, ...] = setting(
        (-11, -10, -9, -8, -7, -6, -5, -4, -3), "log₂ of the learning rates tried."
    )
    seeds: int = setting(5, "Trainings of each.")
    steps: int = setting(20, "Steps of a training.")
    batch: int = setting(128, "Batch size.")


def make(width: int) -> nn.Module:
    """64–n–n–10, ReLU, torch's initialisation, zeros in the last map."""
    last = nn.Linear(width, 10)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), last)


def standard(lr: float, optimizer: str = "adam") -> Trainable:
    """One rate for all weights."""

    def build(width: int, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = make(width)
        kind = torch.optim.Adam if optimizer == "adam" else torch.optim.SGD
        return model, kind(model.parameters(), lr=lr)

    return build


def train(settings: MupTransfer, job: Job) -> Run:
    loaded = flatten(standardise(load("digits")))
    data, base = (loaded.x_train, loaded.y_train), settings.widths[0]

    def maximal(lr: float, optimizer: str) -> Trainable:
        return trainable(make, base=base, delta=2 * base, lr=lr, optimizer=optimizer)

    rules: dict[str, Callable[[float, str], Trainable]] = {
        "SP": standard,
        "μP": maximal,
    }
    laws = ("coordinate_stability", "rate_transfer")
    with job.world(laws=laws, data=loaded.describe()) as writer:
        for name, rule in rules.items():
            coordinates(name, rule, data, settings, job, writer)
            transfer(name, rule, data, settings, job, writer)
    return open_run(job.out)


def coordinates(
    name: str, rule: Callable[[float, str], Trainable], data: Data, s: MupTransfer, job: Job,
    writer: RunWriter,
) -> None:  # fmt: skip
    """Slopes over the widths of what three steps on one batch change."""
    x, y = data[0][: s.batch], data[1][: s.batch]
    widths = [2 * n for n in s.widths]  # three steps are cheap: nearer to the limit
    for optimizer, lr in (("adam", 2.0**-7), ("sgd", 0.1)):
        found = coordinate_check(
            rule(lr, optimizer), widths, x, partial(cross_entropy, target=y), steps=3, seeds=4
        )
        rows = []
        for layer, (slope, error) in found.slopes().items():
            case = f"{name}, {optimizer}, map {layer}"
            rows.append(Measurement(3, case, "coordinate_slope", slope, error, 4))
            rows.append(Measurement(3, case, "sweep_span", max(s.widths) / min(s.widths), 0.0, 0))
        writer.write(3, rows)


def transfer(
    name: str, rule: Callable[[float, str], Trainable], data: Data, s: MupTransfer, job: Job,
    writer: RunWriter,
) -> None:  # fmt: skip
    """The best rate at every width, seed by seed, and how far it moves."""
    best = np.empty((len(s.widths), s.seeds))
    pace = paced(len(s.widths) * s.seeds, name, job.progress)
    octaves = np.array(s.octaves)
    for i, n in enumerate(s.widths):
        for k in range(s.seeds):
            next(pace)
            seed = s.seeds * job.seed + k
            losses = [learn(rule(2.0**o, "adam")(n, seed), data, s, seed) for o in octaves]
            best[i, k] = vertex(octaves, np.log(losses))
        writer.write(s.steps, averaged(s.steps, f"{name}, width {n}", "best_rate", best[i]))
    span = Measurement(s.steps, name, "sweep_span", max(s.widths) / min(s.widths), 0.0, 0)
    predicted = 0.0 if name == "μP" else None
    drift = averaged(s.steps, name, "rate_drift", best[-1] - best[0], predicted)
    writer.write(s.steps, [*drift, span])


def learn(
    made: tuple[nn.Module, torch.optim.Optimizer], data: Data, s: MupTransfer, seed: int
) -> float:
    """Mean training loss over the later half of the steps; a large number if it diverged."""
    model, optimizer = made
    losses = []
    for x, y in batches(*data, s.batch, steps=s.steps, seed=seed):
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    late = float(np.mean(losses[s.steps // 2 :]))
    return late if math.isfinite(late) else 1e3


def vertex(x: Array, y: Array) -> float:
    """Where the parabola through the least y and two neighbours a side is least, within these.

    >>> round(vertex(np.arange(6.0), (np.arange(6.0) - 2.2) ** 2), 6)
    2.2
    """
    i = int(np.argmin(y))
    near = slice(max(0, i - 2), i + 3)
    a, b, _ = np.polyfit(x[near], y[near], 2)
    return float(np.clip(-b / (2 * a), x[near][0], x[near][-1])) if a > 0 else float(x[i])


FULL = {"widths": [64, 128, 256, 512], "steps": 20, "seeds": 5}

experiment = Experiment(
    name="mup-transfer",
    statement="In μP the best learning rate of a narrow network is that of a wide one; in SP not.",
    settings=MupTransfer,
    train=train,
    bands=(
        Band("drift of the best rate, μP", -1, 1, partial(last, "rate_drift", "μP"), FULL),
        Band("drift of the best rate, SP", -5, -1.5, partial(last, "rate_drift", "SP"), FULL),
        *(
            Band(f"slope, μP, {optimizer}, map {l}", -0.2, 0.2,
                 partial(last, "coordinate_slope", f"μP, {optimizer}, map {l}"), FULL)
            for optimizer in ("adam", "sgd")
            for l in (0, 2)
        ),
        Band("hidden slope, SP, Adam", 0.5, 1.5,
             partial(last, "coordinate_slope", "SP, adam, map 2"), FULL),
    ),
)  # fmt: skip
