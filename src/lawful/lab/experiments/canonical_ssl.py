"""canonical-ssl: the relations without labels, in SimCLR.

World: two random views of each picture (digits by default), three convolutions as encoder, a
projector of two linear maps, NT-Xent at temperature 0.5, SGD with η = 0.1, momentum 0.9, batch
128, γ = 5e-3. The samples of a batch see each other in the loss; g is taken per view, as the
gradient of the summed loss.

Expected (bands set from trial runs with seed 0): the output side of project2 aligns (RGA_b ≥ 0.7
from less than 0.6), and project1 aligns more than the encoder's first convolution. About 20
seconds. `scale=paper` is a ResNet-18 encoder on CIFAR-10.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...record import Run
from ..datasets import batches, load, move, standardise, stream, subset
from ..experiment import Band, Experiment, Settings, first, last, on, setting
from ..job import Job
from ..models import ConvNet, ResNet18, SimCLR, nt_xent, seeded, two_views
from ..training import Batches


@dataclass(frozen=True)
class Ssl(Settings):
    data: str = setting("digits", "digits, fashion-mnist, cifar10, a folder of pictures.")
    encoder: str = setting(
        "conv", "conv: three convolutions; resnet: ResNet-18.", ("conv", "resnet")
    )
    weight_decay: float = setting(5e-3, "γ, as in torch.optim.SGD.")
    learning_rate: float = setting(0.1, "η.")
    momentum: float = setting(0.9, "As in torch.optim.SGD.")
    temperature: float = setting(0.5, "τ of NT-Xent.")
    strength: float = setting(1.0, "Strength of the augmentation; 0 leaves pictures as they are.")
    batch: int = setting(128, "Pictures in a batch; each gives two views.")
    steps: int = setting(1_000, "Optimiser steps.")
    width: int = setting(16, "Channels of the first convolution.")
    test: int = setting(0, "Test pictures, over which moments are taken; 0 takes all.")


def build(settings: Ssl, channels: int) -> SimCLR:
    """The encoder that the settings name, and its projector."""
    if settings.encoder == "resnet":
        return SimCLR(ResNet18(channels, 0, width=settings.width), 8 * settings.width)
    return SimCLR(ConvNet(channels, 0, width=settings.width), 4 * settings.width)


def views(deal: Batches, settings: Ssl, seed: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Two views of each picture of each batch, drawn from (seed, number of the batch)."""
    for number, (x, y) in enumerate(deal, start=start):
        draw = stream(seed, "views", number)
        yield two_views(x, draw, strength=settings.strength), torch.cat([y, y])


def train(settings: Ssl, job: Job) -> Run:
    device = on(settings.device)
    data = standardise(load(settings.data))
    data = move(subset(data, test=settings.test, seed=job.seed), device)
    with seeded(job.seed):
        model = build(settings, data.x_train.shape[1]).to(device)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )

    def deal(start: int) -> Batches:
        x, y, size = data.x_train, data.y_train, settings.batch
        plain = batches(x, y, size, steps=settings.steps, seed=job.seed, start=start)
        return views(plain, settings, job.seed, start)

    # The loss of a view depends on its batch, so probe batches are as large as training's.
    size = min(settings.batch, len(data.x_test))
    held_out = batches(data.x_test, data.y_test, size, steps=len(data.x_test) // size)
    return job.run(
        model,
        optimizer,
        lambda z, _: nt_xent(z, settings.temperature),
        deal,
        steps=settings.steps,
        measurements=settings.measurements,
        probe=list(views(held_out, settings, job.seed + 1, 0)),
        data=data,
    )


SMALL = {"scale": "small", "data": "digits", "encoder": "conv"}


def gap(run: Run) -> float:
    """How much more project1 aligns than the first convolution, centred RGA_b."""
    low = last("rga_b_centred", "encoder.conv1", run)
    return last("rga_b_centred", "project1", run) - low


experiment = Experiment(
    name="canonical-ssl",
    statement="The relations form without labels, in the projector of SimCLR first.",
    settings=Ssl,
    train=train,
    scales={
        "paper": {
            "data": "cifar10",
            "encoder": "resnet",
            "width": 64,
            "weight_decay": 5e-4,
            "batch": 512,
            "steps": 50_000,
            "test": 4096,
        }
    },
    bands=(
        Band(
            "rga_b of project2 at initialisation",
            -0.1,
            0.6,
            partial(first, "rga_b", "project2"),
            SMALL,
        ),
        Band("rga_b of project2", 0.7, 1.0, partial(last, "rga_b", "project2"), SMALL),
        Band("gwa_a of project2", 0.8, 1.0, partial(last, "gwa_a", "project2"), SMALL),
        Band("rga_b_centred of project1 above conv1", 0.0, 1.0, gap, SMALL),
    ),
)
