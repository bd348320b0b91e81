"""canonical-decay: weight decay decides how far down the network the relations reach.

World: x ~ N(0, I_32), y = A tanh(Bx) + 0.3 ε in 8 dimensions, 4096 samples to train on and 4096
to test on. Net: bias-free tanh 32–48×5–8, maps fc0 … fc5. Loss ½‖f − y‖², SGD with η = 0.1,
batch 32, no momentum, 25,000 steps: W ← W − η(∇L + γW). Moments are raw and taken over *test*
samples. One run for each γ; 10 to 40 seconds each on one core.

Expected (from an independent numpy implementation of the same world; ± is the band):

    γ                        0      1e-4   1e-3   3e-3   1e-2
    RGA_b of fc4            .31    .30    .84    .97    .95    ± .12 at 1e-3, else .08;  init .14
    RGA_b of fc2             –      –     .46    .85    .92    ± .15
    directions kept in fc4   47     –     45     9      8
    all six relations, 3e-3: ≥ .87 in fc4, ≥ .78 in fc3;  1e-2: ≥ .85 in fc3 and fc4
    (p, q), γ = 3e-3, fc2:   (.17, 2.29);  γ = 1e-2, fc1: (.04, 2.28)    ± .5
                             near (0, 2), the forward vertex: H_b ∝ Z_b ∝ G_b

The source does not give the teacher. Its hidden width (64) and gain (2) were chosen among some
twenty by these very numbers, at γ = 0, 1e-3 and 3e-3; agreement at those γ is therefore a fit,
and what it tests is that one teacher gives all of them, for every seed tried (0, 1).

So deeper layers cross first as γ grows, the rank falls to that of the target (8) as alignment
rises, and γ = 0 shows what alignment is worth when nothing has formed. More noise helps:
`batch=256` at γ = 3e-3 lowers RGA_b of fc2. `activation=relu learning_rate=0.05` is bias-free
and homogeneous: ⟨W_l, ∂L/∂W_l⟩ is then the same number in every layer, and in fc4 RGA_a is low
raw and high centred, because the mean of a ReLU layer is most of its second moment.

`scale=paper` has five layers of width 100 and the γ of the published figure; its readings there:
RGA_b ≥ .97 in layers 2–5 at γ = 1.3e-4, deeper first. The training settings were not published.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...record import Run
from ..datasets import batches, move, teacher
from ..experiment import Band, Experiment, Settings, first, last, on, setting, weakest
from ..job import Job, chunks
from ..models import MLP, seeded


@dataclass(frozen=True)
class Decay(Settings):
    gamma: tuple[float, ...] = setting((0.0, 1e-4, 1e-3, 3e-3, 1e-2), "γ; several make a sweep.")
    activation: str = setting("tanh", "tanh, relu, gelu or linear.")
    learning_rate: float = setting(0.1, "η.")
    batch: int = setting(32, "Batch size.")
    steps: int = setting(25_000, "Optimiser steps.")
    width: int = setting(48, "Units in a hidden layer.")
    depth: int = setting(5, "Hidden layers.")
    samples: int = setting(4096, "Training samples, and test samples.")
    noise: float = setting(0.3, "σ of the target's noise.")
    probe: str = setting("test", "Samples the moments are taken over.", ("train", "test"))


def half_square(output: Tensor, y: Tensor) -> Tensor:
    """½‖f − y‖², the mean over samples."""
    return 0.5 * (output - y).square().sum(dim=1).mean()


def train(settings: Decay, job: Job) -> Run:
    device = on(settings.device)
    n = settings.samples
    data = move(teacher(noise=settings.noise, train=n, test=n, seed=job.seed), device)
    with seeded(job.seed):
        model = MLP(
            data.features,
            data.outputs,
            width=settings.width,
            depth=settings.depth,
            activation=settings.activation,
            bias=False,
        ).to(device)
    (gamma,) = settings.gamma
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate, weight_decay=gamma)
    x, y = data.x_train, data.y_train
    return job.run(
        model,
        optimizer,
        half_square,
        lambda start: batches(
            x, y, settings.batch, steps=settings.steps, seed=job.seed, start=start
        ),
        steps=settings.steps,
        measurements=settings.measurements,
        probe=chunks(x, y) if settings.probe == "train" else chunks(data.x_test, data.y_test),
        whole=settings.probe == "train",
        data=data,
    )


def band(quantity: str, layer: str, gamma: float, low: float, high: float) -> Band:
    """The last value of a quantity in the tanh run with this γ and batches of 32."""
    when = {"gamma": gamma, "activation": "tanh", "batch": 32, "probe": "test"}
    return Band(f"{quantity} of {layer}", low, high, partial(last, quantity, layer), when)


def floor(layer: str, gamma: float, low: float) -> Band:
    """The weakest of the six relations of a layer."""
    when = {"gamma": gamma, "activation": "tanh", "batch": 32, "probe": "test"}
    return Band(f"weakest relation of {layer}", low, 1.0, weakest(layer), when)


experiment = Experiment(
    name="canonical-decay",
    statement="Deeper layers align first as weight decay grows, and their rank falls.",
    settings=Decay,
    train=train,
    sweep="gamma",
    scales={
        "paper": {
            "gamma": (1e-5, 3.6e-5, 1.3e-4, 4.6e-4, 1.7e-3),
            "width": 100,
            "depth": 4,
            "samples": 50_000,
            "steps": 1_000_000,
        }
    },
    bands=(
        Band("rga_b of fc4 at initialisation", 0.0, 0.3, partial(first, "rga_b", "fc4")),
        band("rga_b", "fc4", 0.0, 0.23, 0.39),
        band("rga_b", "fc4", 1e-4, 0.22, 0.38),
        band("rga_b", "fc4", 1e-3, 0.72, 0.96),
        band("rga_b", "fc4", 3e-3, 0.89, 1.0),
        band("rga_b", "fc4", 1e-2, 0.87, 1.0),
        band("rga_b", "fc2", 1e-3, 0.31, 0.61),
        band("rga_b", "fc2", 3e-3, 0.70, 1.0),
        band("rga_b", "fc2", 1e-2, 0.84, 1.0),
        floor("fc4", 3e-3, 0.87),
        floor("fc3", 3e-3, 0.78),
        floor("fc4", 1e-2, 0.85),
        floor("fc3", 1e-2, 0.85),
        band("rank_W", "fc4", 0.0, 44, 48),
        band("rank_W", "fc4", 1e-3, 40, 48),
        band("rank_W", "fc4", 3e-3, 8, 14),
        band("rank_W", "fc4", 1e-2, 7, 9),
        band("exponent_p", "fc2", 3e-3, -0.33, 0.67),
        band("exponent_q", "fc2", 3e-3, 1.79, 2.79),
        band("exponent_p", "fc1", 1e-2, -0.46, 0.54),
        band("exponent_q", "fc1", 1e-2, 1.78, 2.78),
    ),
)
