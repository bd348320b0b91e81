"""Direction 10: similarity. How alike do two networks represent what they were trained on?

World. ReLU networks 64–n–n–10 trained on 1400 handwritten digits (Adam, 200 steps, batch 100); the
last hidden layer on 300 digits not trained on. Similarity is linear CKA, calibrated by 200 random
permutations of the samples: clip((s − τ)/(1 − τ), 0, 1), τ the 95 % quantile of the null. Pairs:
two seeds at n = 64; widths 16 and 256; untrained with trained; trained on other labels (digits
against parity).

To beat: everything above the null is chance, zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..lab.datasets import batches, flatten, load, standardise
from ..lab.models import seeded
from .challenge import Array, Case, Challenge, distance

DRAWS, PERMUTATIONS, STEPS = 3, 200, 200


@dataclass(frozen=True)
class Net:
    """Hidden units, steps of training (0: none), and the task: "digit" or "parity"."""

    width: int = 64
    steps: int = STEPS
    task: str = "digit"


@dataclass(frozen=True)
class Told:
    """The two networks, and the 300 inputs (n, 64) on which they are compared."""

    first: Net
    second: Net
    x: Array


PAIRS = {
    "two seeds": (Net(), Net()),
    "two widths": (Net(16), Net(256)),
    "untrained": (Net(), Net(steps=0)),
    "two tasks": (Net(), Net(task="parity")),
}


def cases(seed: int) -> list[Case]:
    x = flatten(standardise(load("digits"))).x_test[:300]
    return [
        Case(name, Told(*pair, x.numpy()), partial(measure, *pair, x, seed))
        for name, pair in PAIRS.items()
    ]


def measure(first: Net, second: Net, x: Tensor, seed: int) -> tuple[Array, Array]:
    """Calibrated similarity, mean and standard error over the draws of both networks."""
    found = []
    for k in range(DRAWS):
        s = 2 * (DRAWS * seed + k)
        found.append(calibrated(hidden(first, x, s), hidden(second, x, s + 1), seed))
    return np.array([np.mean(found)]), np.array([np.std(found, ddof=1) / DRAWS**0.5])


def hidden(net: Net, x: Tensor, seed: int) -> Tensor:
    """The last hidden layer (n, width)."""
    data = flatten(standardise(load("digits")))
    y = data.y_train if net.task == "digit" else data.y_train % 2
    with seeded(seed):
        n = net.width
        body = nn.Sequential(nn.Linear(64, n), nn.ReLU(), nn.Linear(n, n), nn.ReLU())
        head = nn.Linear(n, 10)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], 1e-3)
    for xb, yb in batches(data.x_train, y, 100, steps=net.steps, seed=seed):
        optimizer.zero_grad()
        cross_entropy(head(body(xb)), yb).backward()
        optimizer.step()
    with torch.no_grad():
        return body(x).double()


def calibrated(h: Tensor, g: Tensor, seed: int) -> float:
    """Linear CKA above its permutation null: 0 at the 95 % quantile of it, 1 for equal kernels."""
    H, G = (centred(v) for v in (h, g))
    observed = float((H * G).sum())
    draw = torch.Generator().manual_seed(seed)
    null = [observed]
    for _ in range(PERMUTATIONS):
        order = torch.randperm(len(G), generator=draw)
        null.append(float((H * G[order][:, order]).sum()))
    tau = float(np.quantile(null, 0.95))
    return float(np.clip((observed - tau) / (1 - tau), 0, 1))


def centred(h: Tensor) -> Tensor:
    """The centred Gram matrix, of norm one."""
    h = h - h.mean(0)
    K = h @ h.T
    return K / K.norm()


def nothing(told: Told) -> float:
    return 0.0


challenge = Challenge(
    name="similarity",
    direction=10,
    question="How alike do two networks represent the same inputs, beyond chance?",
    told="first and second (width, steps, task), x",
    wanted="calibrated linear CKA of the last hidden layers, 0 to 1",
    scored="root mean square of predicted − measured",
    cases=cases,
    score=distance,
    baseline=("nothing above the null", nothing),
)
