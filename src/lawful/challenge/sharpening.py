"""Direction 8: curvature. Foretell how sharp a network becomes when nothing stops it.

World. 64–32–32–10 tanh networks on 200 handwritten digits with three tenths of the labels drawn at
random, half the squared distance to one-hot targets, mean over samples, full-batch descent at
η = .05, far below the edge;
sharpness (largest eigenvalue of the Hessian of the loss) after 300 and 1500 steps over that at the
start. Two cases: labels as described, and none wrong.

No quantitative law of progressive sharpening is known. To beat: no law at all, a ratio of one. (2/η
is no prediction here: these runs never come near it.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ..lab.datasets import flatten, load, standardise
from ..lab.models import seeded
from .challenge import Array, Case, Challenge, log_rmse

ETA, STEPS, DRAWS = 0.05, (300, 1500), 3


@dataclass(frozen=True)
class Told:
    """x (n, 64), one-hot y (n, 10), sizes of the layers, η and the steps."""

    x: Array
    y: Array
    sizes: tuple[int, ...]
    eta: float
    steps: tuple[int, ...]


def cases(seed: int) -> list[Case]:
    data = flatten(standardise(load("digits")))
    x, labels = data.x_train[:200], data.y_train[:200]
    draw = torch.Generator().manual_seed(seed)
    wrong = torch.rand(200, generator=draw) < 0.3
    random = torch.where(wrong, torch.randint(10, (200,), generator=draw), labels)
    found = []
    for name, y in (("clean labels", labels), ("random labels", random)):
        target = one_hot(y, 10).float()
        told = Told(x.numpy(), target.numpy(), (64, 32, 32, 10), ETA, STEPS)
        found.append(Case(name, told, partial(measure, x, target, seed)))
    return found


def measure(x: Tensor, y: Tensor, seed: int) -> tuple[Array, Array]:
    """Sharpness over that at the start, geometric mean over the draws and its error."""
    grown = np.log([growth(x, y, DRAWS * seed + k) for k in range(DRAWS)])
    mean = np.exp(grown.mean(0))
    return mean, mean * grown.std(0, ddof=1) / DRAWS**0.5


def growth(x: Tensor, y: Tensor, seed: int) -> list[float]:
    with seeded(seed):
        net = nn.Sequential(
            nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 10)
        )
    optimizer = torch.optim.SGD(net.parameters(), ETA)
    start, found = sharpness(net, x, y), []
    for step in range(1, max(STEPS) + 1):
        optimizer.zero_grad()
        loss(net, x, y).backward()
        optimizer.step()
        if step in STEPS:
            found.append(sharpness(net, x, y) / start)
    return found


def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """½ E‖f − y‖²."""
    return (net(x) - y).square().sum(1).mean() / 2


def sharpness(net: nn.Module, x: Tensor, y: Tensor, *, iterations: int = 60) -> float:
    """Largest eigenvalue of the Hessian by power iteration."""
    weights = list(net.parameters())
    gradient = torch.autograd.grad(loss(net, x, y), weights, create_graph=True)
    draw = torch.Generator().manual_seed(0)
    v = [torch.randn(w.shape, generator=draw) for w in weights]
    value = 0.0
    for _ in range(iterations):
        norm = sum(float(t.square().sum()) for t in v) ** 0.5
        v = [t / norm for t in v]
        Hv = torch.autograd.grad(gradient, weights, v, retain_graph=True)
        value = sum(float((a * b).sum()) for a, b in zip(v, Hv, strict=True))
        v = [t.detach() for t in Hv]
    return value


def unchanged(told: Told) -> Array:
    return np.ones(len(told.steps))


challenge = Challenge(
    name="sharpening",
    direction=8,
    question="By how much does training sharpen the loss before the edge of stability?",
    told="x, y, sizes, eta, steps",
    wanted="sharpness at each of the steps over sharpness at the start",
    scored="root mean square of ln(predicted/measured)",
    cases=cases,
    score=log_rmse,
    baseline=("no sharpening", unchanged),
)
