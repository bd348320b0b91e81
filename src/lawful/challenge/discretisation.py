"""Direction 5: discretisation. How fast does a network forget that it is finite?

World. tanh networks 64–n–n–1 in μP on 256 handwritten digits (odd +1, even −1), mean squared error,
full-batch descent. Two distances of the outputs on 200 other digits, with their exponents:

    width  n = 32 … 256: spread over 8 seeds of the trained network less its start, ~ n^−p
    rate   η = .04 … .005 at a fixed time η·steps = 4, same start: distance to η/2, ~ η^p

(With ReLU the second does not converge: kinks are crossed in another order.) To beat: p = ½
(fluctuations about an infinite-width limit) and p = 1 (Euler's method).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ..lab.datasets import flatten, load, standardise
from ..methods.mup import trainable
from .challenge import Array, Case, Challenge, distance

WIDTHS, RATES, SEEDS, TIME = (32, 64, 128, 256), (0.04, 0.02, 0.01, 0.005), 8, 4.0


@dataclass(frozen=True)
class Told:
    """What is varied ("width" or "rate"), its values, the parametrisation, and the time η·steps."""

    varied: str
    values: tuple[float, ...]
    parametrisation: str
    time: float


def cases(seed: int) -> list[Case]:
    return [
        Case("width", Told("width", WIDTHS, "μP, SGD", TIME), partial(over_width, seed)),
        Case("rate", Told("rate", RATES, "μP, SGD, width 128", TIME), partial(over_rate, seed)),
    ]


def make(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1)
    ).double()


def outputs(width: int, eta: float, seed: int) -> Tensor:
    """f at the end less f at the start, on 200 digits not trained on."""
    data = flatten(standardise(load("digits")))
    x, y = data.x_train[:256].double(), 2.0 * (data.y_train[:256] % 2) - 1
    others = data.x_test[:200].double()
    model, optimizer = trainable(make, base=32, delta=64, lr=eta, optimizer="sgd")(width, seed)
    start = model(others).detach()
    for _ in range(round(TIME / eta)):
        optimizer.zero_grad()
        (model(x).squeeze(1) - y).square().mean().mul(0.5).backward()
        optimizer.step()
    return (model(others).detach() - start).squeeze(1)


def over_width(seed: int) -> tuple[Array, Array]:
    spread = []
    for n in WIDTHS:
        f = torch.stack([outputs(n, 0.04, SEEDS * seed + k) for k in range(SEEDS)])
        spread.append(f.var(0).mean().sqrt())
    return slope(WIDTHS, spread, -1)


def over_rate(seed: int) -> tuple[Array, Array]:
    gaps = []
    for eta in RATES:
        pair = [outputs(128, e, seed) for e in (eta, eta / 2)]
        gaps.append((pair[0] - pair[1]).square().mean().sqrt())
    return slope(RATES, gaps, 1)


def slope(x: tuple[float, ...], y: list[Tensor], sign: int) -> tuple[Array, Array]:
    """±d ln y/d ln x and the error of a straight line through four points."""
    v = np.log([float(t) for t in y])
    line, covariance = np.polyfit(np.log(x), v, 1, cov=True)
    return np.array([sign * line[0]]), np.sqrt(covariance[:1, 0])


def textbook(told: Told) -> float:
    return {"width": 0.5, "rate": 1.0}[told.varied]


challenge = Challenge(
    name="discretisation",
    direction=5,
    question="How fast do the errors of finite width and finite steps vanish?",
    told="varied, values, parametrisation, time",
    wanted="the exponent p: distance ~ width^−p, or ~ rate^p",
    scored="root mean square of predicted − measured",
    cases=cases,
    score=distance,
    baseline=("½ for width, 1 for the rate", textbook),
)
