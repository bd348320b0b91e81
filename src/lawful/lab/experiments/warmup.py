"""warmup: a learning rate that diverges at the start is stable after SGD at a small one.

World. f(x) = u (wᵀx), u and w of 10 entries each, y = u* (w*ᵀx) + ε with ‖u*‖‖w*‖ = 1.5,
x and ε ~ N(0, I); loss ‖f(x) − y‖², batch 1, fresh samples. Every run starts with a large u and a
small w, Tr H = 20 (‖u‖² + ‖w‖²) = 1000. Sixteen replicas each of three ways to go on:

    direct       η = .016 at once
    SGD first    100,000 steps at η = .001, then .016
    GD first     as many steps of descent on the mean loss at .001, then .016

Hypothesis (Ziyin et al., arXiv 2402.07193, where a net diverges at .008 from its initialisation and
is stable after 5,000 steps at .001). Descent keeps C = ‖u‖² − ‖w‖², so it stays sharp,
Tr H = 20 √(C² + 9). Under SGD C decays by 4η²·10·σ² a step (this Σ_ε is even, so the rest is the
flattest minimum, Tr H = 4 √(d_y TrΣ_x) ‖V‖_* = 60). A minimum is stable for mini-batches where
η (Tr H + 2λ_max) < 2, λ_max = 2(‖u‖² + ‖w‖²) (`methods/warmup.py`); `diverged_predicted` is that
bound's answer at the point where each way takes up the large rate. `advise_warmup` says beforehand
how many steps are needed; the measured number is when Tr H first is as low as the bound asks.

What the bound does not say. Not stable need not mean divergent: between ηTr H = 2 and about 10 most
runs are thrown out of the sharp minimum into a flat one and stay there. At Tr H = 433 and η = .008
(`trace=433 learning_rate=0.008`), where a single published run diverged, none of 64 of ours did,
direct or after descent. The default is set where leaving the minimum means leaving for good.

Bands, as published with the derivation: diverge, stable, diverge; Tr H within 6 % of the flattest
after the SGD warm-up. From trial runs: descent within 5 % of the sharpness it should keep, and
.5–1 of the advised number of steps (while the net is sharp the residual is noisier than the labels,
so SGD is faster than advised). About 10 seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ...methods.warmup import Advice, Rescaling, advise_warmup, stable_rate
from ...record import Run, RunWriter, open_run
from ..experiment import Band, Experiment, Settings, last, setting
from ..job import Job
from ..world import averaged, measured_steps, paced, ratio

D, PRODUCT = 10, 1.5
"""Inputs, as many outputs, and ‖u*‖‖w*‖."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Warmup(Settings):
    device: str = setting("cpu", "Always a CPU: a world this small is NumPy.", ("cpu", "auto"))
    learning_rate: float = setting(0.016, "η, the rate one would like to train with.")
    warmup_rate: float = setting(0.001, "η of the warm-up.")
    steps: int = setting(100_000, "Steps of the warm-up.")
    then: int = setting(20_000, "Steps at the large rate.")
    trace: float = setting(1000.0, "Tr H at the start, above 60.")
    noise: float = setting(1.0, "Standard deviation of the label noise, each output.")
    replicas: int = setting(16, "Runs of every way.")


def train(settings: Warmup, job: Job) -> Run:
    rng = np.random.default_rng(job.seed)
    net = start(settings, rng)
    with job.world() as writer:
        race("direct", net, settings, job, rng, writer, 0)
        for way in ("SGD", "GD"):
            warm = warm_up(way, net, settings, job, rng, writer)
            race(f"{way} first", warm, settings, job, rng, writer, settings.steps)
    return open_run(job.out)


@dataclass(frozen=True)
class Net:
    """Replicas of f(x) = u (wᵀx): u and w (replicas, D); the map to be learnt is u* w*ᵀ."""

    u: Array
    w: Array
    u_true: Array
    w_true: Array

    def charge(self) -> Array:
        """‖u‖² − ‖w‖², (replicas,)."""
        return np.asarray((self.u**2).sum(1) - (self.w**2).sum(1))

    def trace(self) -> Array:
        """Tr H of the mean loss, (replicas,)."""
        return np.asarray(2 * D * ((self.u**2).sum(1) + (self.w**2).sum(1)))

    def sgd(self, x: Array, eps: Array, eta: float) -> Net:
        """One step on one sample a replica; x and eps (replicas, D)."""
        h = (self.w * x).sum(1, keepdims=True)
        r = 2 * (self.u * h - self.u_true * (x @ self.w_true)[:, None] - eps)
        back = (r * self.u).sum(1, keepdims=True)
        return replace(self, u=self.u - eta * r * h, w=self.w - eta * back * x)

    def descend(self, eta: float) -> Net:
        """One step on the mean loss, ‖u wᵀ − u* w*ᵀ‖² + const."""
        u, w = self.u, self.w
        du = 2 * (u * (w**2).sum(1, keepdims=True) - self.u_true * (w @ self.w_true)[:, None])
        dw = 2 * (w * (u**2).sum(1, keepdims=True) - self.w_true * (u @ self.u_true)[:, None])
        return replace(self, u=u - eta * du, w=w - eta * dw)


def start(s: Warmup, rng: np.random.Generator) -> Net:
    """A large u and a small w in directions of their own, ‖w‖² = 3, Tr H as set."""
    u, w, u_true, w_true = (v / np.linalg.norm(v) for v in rng.normal(size=(4, D)))
    u, w = u * np.sqrt(s.trace / (2 * D) - 3), w * np.sqrt(3)
    u, w = (np.tile(v, (s.replicas, 1)) for v in (u, w))
    return Net(u, w, u_true * np.sqrt(PRODUCT), w_true * np.sqrt(PRODUCT))


def warm_up(
    way: str, net: Net, s: Warmup, job: Job, rng: np.random.Generator, writer: RunWriter
) -> Net:
    """Steps at the small rate, by samples or by the mean loss; Tr H beside its prediction."""
    C0, said = net.charge(), advise(net, s)
    forgetting = 4 * s.warmup_rate**2 * D * s.noise**2 if way == "SGD" else 0.0
    reached = np.full(s.replicas, np.nan)
    moments = measured_steps(s.measurements, s.steps)
    for step in paced(s.steps + 1, f"{way} warm-up", job.progress):
        reached[np.isnan(reached) & (net.trace() <= said.trace_needed)] = step
        if step in moments:
            C = C0.mean() * np.exp(-forgetting * step)
            predicted = 2 * D * np.hypot(C, 2 * PRODUCT)
            writer.write(step, averaged(step, way, "sharpness_trace", net.trace(), predicted))
        if way == "GD":
            net = net.descend(s.warmup_rate)
            continue
        if step % 1000 == 0:
            xs, es = rng.normal(size=(2, 1000, s.replicas, D))
        net = net.sgd(xs[step % 1000], s.noise * es[step % 1000], s.warmup_rate)
    if way == "SGD":
        writer.write(s.steps, averaged(s.steps, way, "warmup_steps", reached, said.steps))
    return net


def race(
    case: str, net: Net, s: Warmup, job: Job, rng: np.random.Generator, writer: RunWriter, at: int
) -> None:
    """Steps at the large rate, counted from `at`; the share that diverges beside the bound."""
    trace = float(net.trace().mean())
    bound = stable_rate(trace, top=trace / D, batch=1)
    writer.write(at, averaged(at, case, "sharpness_trace", net.trace()))
    moments = measured_steps(s.measurements, s.then)
    with np.errstate(over="ignore", invalid="ignore"):
        for step in paced(s.then + 1, case, job.progress):
            if step in moments:
                lost = ~(net.trace() < 1e6)
                predicted = float(s.learning_rate > bound)
                writer.write(at + step, averaged(at + step, case, "diverged", lost, predicted))
                if lost.all():
                    return
            if step % 1000 == 0:
                xs, es = rng.normal(size=(2, 1000, s.replicas, D))
            net = net.sgd(xs[step % 1000], s.noise * es[step % 1000], s.learning_rate)


def advise(net: Net, s: Warmup) -> Advice:
    """The steps of warm-up from the minimum that has the charge of this start."""
    C = float(net.charge().mean())
    total = math.hypot(C, 2 * PRODUCT)
    out, into = (total + C) / 2, (total - C) / 2
    noise, curvature = 4 * s.noise**2 * D, 2 * D
    point = Rescaling(into, out, noise * out, noise * into, curvature * out, curvature * into)
    return advise_warmup(
        point, eta=s.learning_rate, batch=1, top=2 * total, warmup_eta=s.warmup_rate
    )


def flatness(run: Run) -> float:
    """Tr H after the SGD warm-up over the least there is, 4 √(d_y TrΣ_x) ‖V‖_*."""
    return last("sharpness_trace", "SGD", run) / (4 * D * PRODUCT)


FULL = {
    "steps": 100_000,
    "warmup_rate": 0.001,
    "learning_rate": 0.016,
    "noise": 1.0,
    "trace": 1000.0,
}

experiment = Experiment(
    name="warmup",
    statement="SGD at a small rate flattens what then trains at a large one; descent does not.",
    settings=Warmup,
    train=train,
    bands=(
        Band("diverged, at once", 1, 1, partial(last, "diverged", "direct"), FULL),
        Band("diverged, after SGD", 0, 0, partial(last, "diverged", "SGD first"), FULL),
        Band("diverged, after descent", 1, 1, partial(last, "diverged", "GD first"), FULL),
        Band("Tr H after SGD / flattest", 0.94, 1.06, flatness, FULL),
        Band("Tr H after GD / kept", 0.95, 1.05, ratio("sharpness_trace", "GD"), FULL),
        Band("warm-up steps / advised", 0.5, 1.0, ratio("warmup_steps", "SGD"), FULL),
    ),
)
