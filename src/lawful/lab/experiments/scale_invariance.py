"""scale-invariance: noise only ever grows a normalised weight; decay gives it a radius.

World. Two losses that do not know the length r of their weights θ, at mini-batch SGD:

    toy    ℓ(θ; z) = −zᵀθ/‖θ‖,  z ~ N(m e₁, I) in 20 dimensions, m = ½, 32 replicas
    BN     64–32–10 on 1400 handwritten digits, the 64–32 map followed by BatchNorm and ReLU,
           batch 32; θ is that map's weight

each without decay and with decay λ. Controls, on the toy: descent on the mean loss, Adam with the
same λ (added to the gradient), and the same data without the normalisation, ½‖θ − z‖²; beside
them stands what SGD on the normalised loss would do.

Hypothesis (van Laarhoven, arXiv 1706.05350; Kunin et al., arXiv 2012.04728; discrete forms in
`theory/scale_invariance.py`). Since θᵀg = 0 and g = ĝ/r, r⁴ = r₀⁴ + 2η²E‖ĝ‖²k without decay; with
it r → r* = (ηE‖ĝ‖²/(2λ − ηλ²))^¼ and a step turns θ by arccos(1 − ηλ) ≈ √(2ηλ), whatever the loss.
E‖ĝ‖² = d − 1 in the toy, before the first step (the mean's share is below 1 %); in the net it is
what the steps themselves show, so there r is a test of the law, and only the angle is foreseen.

Bands. Toy: slope of r⁴ .95–1.05, radius and angle within 1 %, as published with the derivation.
From trial runs: BN radius within 2 % and angle within 5 %; each control outside .8–1.25. Descent
stops growing once it has found its direction. About 10 seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from ...record import Run, RunWriter, open_run
from ...theory.scale_invariance import angular_step, equilibrium_radius, norm2_path
from ..datasets import batches, flatten, load, standardise
from ..experiment import Band, Experiment, Settings, last, setting
from ..job import Job
from ..models import seeded
from ..world import averaged, measured_steps, paced, ratio

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ScaleInvariance(Settings):
    device: str = setting("cpu", "Always a CPU: these worlds are small.", ("cpu", "auto"))
    learning_rate: float = setting(0.1, "η.")
    weight_decay: float = setting(0.01, "λ, as in torch.optim.SGD.")
    steps: int = setting(10_000, "Steps of the toy.")
    replicas: int = setting(32, "Replicas of the toy.")
    inputs: int = setting(20, "Dimension of the toy.")
    mean: float = setting(0.5, "m: how much of a direction there is to find.")
    net_steps: int = setting(4_000, "Steps of the net.")


def train(settings: ScaleInvariance, job: Job) -> Run:
    with job.world() as writer:
        for case, rule in CASES.items():
            toy(case, rule, settings, job, writer)
        for decay in (0.0, settings.weight_decay):
            net(decay, settings, job, writer)
    return open_run(job.out)


# -- the toy -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """How a case departs from SGD on the normalised loss without decay."""

    decay: bool = False
    descent: bool = False
    adam: bool = False
    normalised: bool = True


CASES = {
    "growth": Rule(),
    "decay": Rule(decay=True),
    "GD": Rule(descent=True),
    "Adam, decay": Rule(decay=True, adam=True),
    "not normalised, decay": Rule(decay=True, normalised=False),
}


def toy(case: str, rule: Rule, s: ScaleInvariance, job: Job, writer: RunWriter) -> None:
    """Radius and angle over the steps beside the closed forms, which know only η, λ and d."""
    rng, eta = np.random.default_rng(job.seed), s.learning_rate
    decay = s.weight_decay if rule.decay else 0.0
    unit2, adam = s.inputs - 1.0, Adam(eta)
    theta = rng.normal(size=(s.replicas, s.inputs))
    theta *= 2 / np.linalg.norm(theta, axis=1, keepdims=True)  # r₀ = 2
    moments, turned = measured_steps(s.measurements, s.steps), []
    for step in paced(s.steps + 1, case, job.progress):
        if step in moments:
            r = np.linalg.norm(theta, axis=1)
            path = norm2_path(4.0, unit2, np.array([step]), eta=eta, weight_decay=decay)
            foreseen = float(np.sqrt(path[0]))
            writer.write(step, averaged(step, case, "norm_radius", r, foreseen))
        mean = np.eye(s.inputs)[0] * s.mean
        z = mean if rule.descent else mean + rng.normal(size=theta.shape)
        g = gradient(theta, z, rule.normalised) + decay * theta
        after = theta - (adam.step(g) if rule.adam else eta * g)
        if decay and step > s.steps // 2:
            turned.append(angle2(theta, after))
        theta = after
    if decay:
        write_angle(case, s.steps, np.mean(turned, 0), eta, decay, writer)


def gradient(theta: Array, z: Array, normalised: bool) -> Array:
    """∇ of −zᵀθ/‖θ‖, or of ½‖θ − z‖²; theta (replicas, d), z (d,) or (replicas, d)."""
    if not normalised:
        return theta - z
    r = np.linalg.norm(theta, axis=1, keepdims=True)
    along = (theta * z).sum(1, keepdims=True) / r**2
    return np.asarray((along * theta - z) / r)


def angle2(before: Array, after: Array) -> Array:
    """The squared angle between rows, by 2 arctan of half chords: exact also where it is small."""
    a, b = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (before, after))
    chord, span = np.linalg.norm(a - b, axis=-1), np.linalg.norm(a + b, axis=-1)
    return np.asarray((2 * np.arctan2(chord, span)) ** 2)


def write_angle(
    case: str, step: int, mean_square: Array, eta: float, decay: float, writer: RunWriter
) -> None:
    """The root mean square angle of the later half of a run beside arccos(1 − ηλ)."""
    foreseen = angular_step(eta=eta, weight_decay=decay)
    writer.write(step, averaged(step, case, "angular_step", np.sqrt(mean_square), foreseen))


class Adam:
    """Adam as in torch, on one array."""

    def __init__(self, eta: float) -> None:
        self.eta, self.k = eta, 0
        self.m: Array | float = 0.0
        self.v: Array | float = 0.0

    def step(self, g: Array) -> Array:
        """What is subtracted from θ."""
        self.k += 1
        self.m, self.v = 0.9 * self.m + 0.1 * g, 0.999 * self.v + 0.001 * g**2
        m, v = self.m / (1 - 0.9**self.k), self.v / (1 - 0.999**self.k)
        return np.asarray(self.eta * m / (np.sqrt(v) + 1e-8))


# -- a net with BatchNorm ------------------------------------------------------------------------


def net(decay: float, s: ScaleInvariance, job: Job, writer: RunWriter) -> None:
    """The same two numbers of a weight in front of a BatchNorm, and the accuracy of the net."""
    case = "BN, decay" if decay else "BN, growth"
    data = flatten(standardise(load("digits")))
    with seeded(job.seed):
        first = nn.Linear(64, 32, bias=False)
        rest = nn.Sequential(nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10))
    model, W, eta = nn.Sequential(first, rest), first.weight, s.learning_rate
    groups: list[dict[str, Any]] = [
        {"params": [W], "weight_decay": decay},
        {"params": list(rest.parameters()), "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=eta)
    began, r4, moments = float(W.detach().square().sum()), 0.0, measured_steps(30, s.net_steps)
    unit2: list[float] = []
    turned: list[float] = []
    deal = batches(data.x_train, data.y_train, 32, steps=s.net_steps + 1, seed=job.seed)
    for step, (x, y) in zip(paced(s.net_steps + 1, case, job.progress), deal, strict=True):
        before = W.detach().double().flatten().numpy().copy()
        norm2 = float(before @ before)
        if step in moments:
            # Without decay every step's own ‖ĝ‖² adds to r⁴; with it the rest needs their mean.
            foreseen: float | None = (began**2 + r4) ** 0.25
            if decay:
                late = unit2[len(unit2) // 2 :]
                balance = partial(equilibrium_radius, eta=eta, weight_decay=decay)
                foreseen = balance(float(np.mean(late))) if late else None
            writer.write(step, averaged(step, case, "norm_radius", norm2**0.5, foreseen))
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()
        assert W.grad is not None
        unit2.append(float(W.grad.double().square().sum()) * norm2)
        r4 += 2 * eta**2 * unit2[-1]
        turned.append(float(angle2(before, W.detach().double().flatten().numpy())))
    accuracy = float((model.eval()(data.x_test).argmax(1) == data.y_test).double().mean())
    writer.write(s.net_steps, averaged(s.net_steps, case, "accuracy", accuracy))
    if decay:
        late2 = np.array(turned[s.net_steps // 2 :]).mean()
        write_angle(case, s.net_steps, late2, eta, decay, writer)


def slope(case: str) -> Callable[[Run], float]:
    """What r⁴ gained in the later half of a run over what it should have; NaN for one row."""

    def read(run: Run) -> float:
        measured, foreseen = (
            run.series(name, case).value ** 4 for name in ("norm_radius", "norm_radius_predicted")
        )
        middle = measured.index[np.searchsorted(measured.index, measured.index[-1] / 2)]
        gained = (table.iloc[-1] - table.loc[middle] for table in (measured, foreseen))
        return float(next(gained) / next(gained))

    return read


FULL = {"steps": 10_000, "learning_rate": 0.1, "weight_decay": 0.01}

experiment = Experiment(
    name="scale-invariance",
    statement="Noise grows a scale-invariant weight, r⁴ ∝ steps; decay fixes its radius and angle.",
    settings=ScaleInvariance,
    train=train,
    bands=(
        Band("slope of r⁴, toy", 0.95, 1.05, slope("growth"), FULL),
        Band("radius, toy", 0.99, 1.01, ratio("norm_radius", "decay"), FULL),
        Band("angle, toy", 0.99, 1.01, ratio("angular_step", "decay"), FULL),
        Band("slope of r⁴, descent", -0.01, 0.2, slope("GD"), FULL),
        Band("angle, Adam", 0, 0.8, ratio("angular_step", "Adam, decay"), FULL),
        Band(
            "angle, not normalised", 1.25, 100, ratio("angular_step", "not normalised, decay"), FULL
        ),
        Band("radius, BN", 0.98, 1.02, ratio("norm_radius", "BN, decay"), FULL),
        Band("radius, BN without decay", 0.98, 1.02, ratio("norm_radius", "BN, growth"), FULL),
        Band("angle, BN", 0.95, 1.05, ratio("angular_step", "BN, decay"), FULL),
        Band("accuracy, BN with decay", 0.9, 1, partial(last, "accuracy", "BN, decay"), FULL),
    ),
)
