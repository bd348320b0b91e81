"""Direction 1: a solvable theory of nonlinear networks. Foretell the loss curve of a small one.

World. f(x) = scale·aᵀtanh(Wx)/√256, 256 hidden units, W, a ~ N(0, 1), the value at the start
subtracted, E x_i² = 1/64; ½ mean (f − y)² over 100 handwritten digits, odd +1, even −1;
full-batch descent, mean over three draws. Two cases: `lazy` (scale 4) and `rich` (scale ¼), rates
η = .5/scale².

To beat: the linearised network, L(t) = ½ mean (e^{−ηtΘ/n} y)², Θ the kernel at infinite width
(Monte Carlo over 4096 units), which knows nothing of features that change.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ..lab.datasets import flatten, load, standardise
from .challenge import Array, Case, Challenge, log_rmse

WIDTH, DRAWS, STEPS = 256, 3, (1, 3, 10, 30, 100, 300)


@dataclass(frozen=True)
class Told:
    """x (n, d), y (n,), hidden units, output scale, η, and the steps at which loss is wanted."""

    x: Array
    y: Array
    width: int
    scale: float
    eta: float
    steps: tuple[int, ...]


def cases(seed: int) -> list[Case]:
    data = flatten(standardise(load("digits")))
    order = torch.randperm(len(data.x_train), generator=torch.Generator().manual_seed(seed))[:100]
    x = data.x_train[order].double() / data.x_train.shape[1] ** 0.5
    y = 2.0 * (data.y_train[order] % 2) - 1.0
    found = []
    for name, scale in (("lazy", 4.0), ("rich", 0.25)):
        told = Told(x.numpy(), y.double().numpy(), WIDTH, scale, 0.5 / scale**2, STEPS)
        found.append(Case(name, told, partial(measure, told, seed)))
    return found


def measure(told: Told, seed: int) -> tuple[Array, Array]:
    """Losses at the steps, mean and standard error over the draws."""
    x, y = torch.as_tensor(told.x), torch.as_tensor(told.y)
    curves = np.array([descend(x, y, told, DRAWS * seed + k) for k in range(DRAWS)])
    return curves.mean(0), curves.std(0, ddof=1) / DRAWS**0.5


def descend(x: Tensor, y: Tensor, told: Told, seed: int) -> list[float]:
    draw = torch.Generator().manual_seed(seed)
    W = torch.randn(told.width, x.shape[1], generator=draw, dtype=torch.float64)
    a = torch.randn(told.width, generator=draw, dtype=torch.float64)
    scale = told.scale / told.width**0.5
    start = scale * torch.tanh(x @ W.T) @ a
    losses = []
    for step in range(max(told.steps) + 1):
        h = torch.tanh(x @ W.T)
        r = scale * h @ a - start - y
        if step in told.steps:
            losses.append(float(r.square().mean() / 2))
        g = scale * r / len(x)
        back = torch.outer(g, a) * (1 - h * h)
        a, W = a - told.eta * h.T @ g, W - told.eta * back.T @ x
    return losses


def linearised(told: Told) -> Array:
    """Descent on the kernel of infinite width: (1 − ηΘ/n)^t y."""
    rng = np.random.default_rng(0)
    W = rng.normal(size=(4096, told.x.shape[1]))
    h = np.tanh(told.x @ W.T)
    slope = 1 - h**2
    kernel = told.scale**2 * (h @ h.T + (slope @ slope.T) * (told.x @ told.x.T)) / len(W)
    values, vectors = np.linalg.eigh(kernel)
    y = vectors.T @ told.y
    left = [(1 - told.eta * values / len(y)) ** t * y for t in told.steps]
    return np.array([(r**2).mean() / 2 for r in left])


challenge = Challenge(
    name="loss-curve",
    direction=1,
    question="Can the loss curve of a nonlinear network be foretold from its data and start?",
    told="x, y, width, scale, eta, steps",
    wanted="the training loss at each of the steps",
    scored="root mean square of ln(predicted/measured)",
    cases=cases,
    score=log_rmse,
    baseline=("linearised network", linearised),
)
