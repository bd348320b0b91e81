"""canonical-conv: the relations in a convolutional network, where samples are patches.

World: pictures (digits by default), a ReLU net of three 3 × 3 convolutions, mean pooling and
two linear maps, cross-entropy, SGD with η = 0.05, batch 32, γ = 0.01. A convolution is read as
a linear map on unfolded patches; ∂ℓ/∂W then sums over positions, so the theorem's rank-one
argument does not cover it.

Expected (bands set from trial runs with seed 0): the linear maps after pooling align more than
the convolutions, and centred more than raw (the mean of a ReLU layer fills its second moment):
centred RGA_b of fc1 at least 0.5, of conv1 below that of fc1; GWA_a of fc1 at least 0.8. About 30
seconds.

`scale=paper` is a ResNet-18 on CIFAR-10 with a hidden map before the output: the published
claim is α > 0.7 for all six relations in those two maps. Optimiser settings were not published.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ...record import Run
from ..datasets import batches, classified, load, move, permute_labels, standardise, subset
from ..experiment import Band, Experiment, Settings, first, last, on, setting
from ..job import Job, chunks
from ..models import ConvNet, ResNet18, seeded
from ..training import cosine


@dataclass(frozen=True)
class Conv(Settings):
    data: str = setting("digits", "digits, fashion-mnist, cifar10, a folder of pictures.")
    labels: str = setting("true", "true, or permuted: the negative control.", ("true", "permuted"))
    model: str = setting("conv", "conv: three convolutions; resnet: ResNet-18.", ("conv", "resnet"))
    weight_decay: float = setting(1e-2, "γ, as in torch.optim.SGD.")
    learning_rate: float = setting(0.05, "η.")
    momentum: float = setting(0.0, "As in torch.optim.SGD.")
    anneal: bool = setting(False, "Whether η falls to 0 along a cosine.")
    batch: int = setting(32, "Batch size.")
    steps: int = setting(6_000, "Optimiser steps.")
    width: int = setting(16, "Channels of the first convolution.")
    train: int = setting(0, "Training samples; 0 takes all.")
    test: int = setting(0, "Test samples, over which moments are taken; 0 takes all.")


def build(settings: Conv, channels: int, outputs: int) -> nn.Module:
    """The network that the settings name."""
    if settings.model == "resnet":
        return ResNet18(channels, outputs, width=settings.width, hidden=8 * settings.width)
    return ConvNet(channels, outputs, width=settings.width)


def train(settings: Conv, job: Job) -> Run:
    device = on(settings.device)
    data = standardise(classified(load(settings.data)))
    data = move(subset(data, settings.train, settings.test, seed=job.seed), device)
    if settings.labels == "permuted":
        data = permute_labels(data, seed=job.seed)
    with seeded(job.seed):
        model = build(settings, data.x_train.shape[1], data.outputs).to(device)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
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
        probe=chunks(data.x_test, data.y_test, 256),
        laws=("canonical", "collapse"),
        data=data,
        rate=cosine(settings.learning_rate, settings.steps) if settings.anneal else None,
    )


SMALL = {"model": "conv", "data": "digits", "labels": "true", "weight_decay": 1e-2}


def gap(run: Run) -> float:
    """How much more fc1 aligns than conv1, centred RGA_b."""
    return last("rga_b_centred", "fc1", run) - last("rga_b_centred", "conv1", run)


experiment = Experiment(
    name="canonical-conv",
    statement="Linear maps after pooling align; convolutions, read on patches, align less.",
    settings=Conv,
    train=train,
    scales={
        "paper": {
            "data": "cifar10",
            "model": "resnet",
            "width": 64,
            "weight_decay": 5e-4,
            "learning_rate": 0.1,
            "momentum": 0.9,
            "anneal": True,
            "batch": 128,
            "steps": 80_000,
        }
    },
    bands=(
        Band(
            "rga_b_centred of fc1 at initialisation",
            -0.1,
            0.35,
            partial(first, "rga_b_centred", "fc1"),
            SMALL,
        ),
        Band("rga_b_centred of fc1", 0.5, 1.0, partial(last, "rga_b_centred", "fc1"), SMALL),
        Band("gwa_a of fc1", 0.8, 1.0, partial(last, "gwa_a", "fc1"), SMALL),
        Band("rga_b_centred of fc1 above conv1", 0.0, 1.0, gap, SMALL),
        *(
            Band(
                f"{relation} of {fc}",
                0.7,
                1.0,
                partial(last, relation, fc),
                {"model": "resnet", "data": "cifar10"},
            )
            for fc in ("fc", "out")
            for relation in ("rga_a", "rwa_a", "gwa_a", "rga_b", "rwa_b", "gwa_b")
        ),
    ),
)
