"""noise-equilibrium: SGD carries a charge to the one value where its noise balances.

World. Two nets with a rescaling symmetry u → u/α, w → αw, at batch 1 with label noise:

    scalar    ℓ = (u w x − y)²,  y = x + ε,  fresh samples;  charge C = w² − u²
    neurons   ℓ = (Σ_j u_j relu(w_jᵀx) − y)²,  128 fixed samples of a teacher with as many
              neurons, so that the minima are one rescaling orbit; one charge a neuron,
              C_j = ‖w_j‖² − u_j²

each from three places on the orbit: the minimum shifted by e^{λA}, λ = −.7, 0, .7, and pushed off
it a little, so that descent has something to do. The control is full-batch descent.

Hypothesis (Ziyin et al., arXiv 2402.07193; `theory/noise_equilibrium.py`). Gradient flow keeps C.
Under SGD it goes to the value at which the noise on both blocks is equal, from everywhere on the
orbit, along dλ/dk = E[ΔC](λ)/(2θᵀA²θ). What the prediction uses: the charge at the start and the
gradient covariance at the minimum, both known before the first step. In the scalar net both blocks
always have equal noise, and C is multiplied by exactly 1 − η²G², G = 2(uwx − y)x, in each step:
at the minimum by 1 − 4η²σ_x²σ_ε² on average.

Bands. Product law ≤ 1e-10 and rate ratio 1.0–1.2: as published with the theory's derivation (the
excess is the residual's own fluctuation, of order ηTr H). The neurons' bands are from trial runs:
they reach the predicted charge within 5 %, from all three starts, while descent stays within
5 % of the charge it started with (its drift is of order η), and are .7–1.05 as long on the way:
far from balance a net is sharp, and its residual noisier than at the minimum. About 15 seconds.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...record import Run, RunWriter, open_run
from ...theory.noise_equilibrium import (
    Orbit,
    equilibrium,
    orbit_path,
    two_signs,
)
from ..experiment import Band, Experiment, Settings, last, on, setting
from ..job import Job
from ..world import averaged, measured_steps, paced, ratio

SHIFTS = (-0.7, 0.0, 0.7)
"""Where on the orbit the runs start: e^{λA} from the minimum that was found."""


@dataclass(frozen=True)
class NoiseEquilibrium(Settings):
    device: str = setting("cpu", "Where to compute; a world this small is fastest on a CPU.")
    learning_rate: float = setting(0.005, "η.")
    steps: int = setting(100_000, "Steps of SGD; η²·steps ≳ 2 is needed to forget the start.")
    replicas: int = setting(16, "Runs from every start, with noise of their own.")
    noise: float = setting(0.8, "Standard deviation of the label noise.")
    inputs: int = setting(4, "Dimension of x in the net of neurons.")
    neurons: int = setting(2, "Hidden neurons of student and teacher.")
    samples: int = setting(128, "Samples in the net's data set.")


def train(settings: NoiseEquilibrium, job: Job) -> Run:
    with job.world() as writer:
        scalar(settings, job, writer)
        net(settings, job, writer)
    return open_run(job.out)


# -- the scalar net ------------------------------------------------------------------------------


def scalar(s: NoiseEquilibrium, job: Job, writer: RunWriter) -> None:
    """ℓ = (u w x − y)² from two charges; the exact product law beside SGD."""
    draw = torch.Generator(on(s.device)).manual_seed(job.seed)
    real: dict[str, Any] = {"dtype": torch.float64, "device": on(s.device), "generator": draw}
    start = torch.tensor([3.0, -1.0], dtype=torch.float64, device=on(s.device))
    C0 = start[:, None].expand(-1, s.replicas)
    w = ((C0 + (C0**2 + 4).sqrt()) / 2).sqrt()  # w² − u² = C and uw = 1
    u, kept, worst = 1 / w, torch.ones_like(w), 0.0
    rate = 4 * s.learning_rate**2 * s.noise**2
    wanted = measured_steps(s.measurements, s.steps)
    for step in paced(s.steps + 1, "scalar", job.progress):
        if step in wanted:
            C = w**2 - u**2
            worst = max(worst, float((C / (C0 * kept) - 1).abs().max()))
            for row, c0 in zip(C, start.tolist(), strict=True):
                where, predicted = f"scalar, from {c0:g}", c0 * math.exp(-rate * step)
                writer.write(step, averaged(step, where, "charge", row, predicted))
        if step % 1000 == 0:
            x = torch.randn(1000, *w.shape, **real)
            y = x + s.noise * torch.randn(1000, *w.shape, **real)
        u, w, G = scalar_step(u, w, x[step % 1000], y[step % 1000], s.learning_rate)
        kept = kept * (1 - s.learning_rate**2 * G**2)
    writer.write(s.steps, averaged(s.steps, "scalar", "charge_error", worst, 0.0))
    measured = -kept.log() / (s.steps + 1)
    writer.write(s.steps, averaged(s.steps, "scalar", "charge_rate", measured, rate))


def scalar_step(
    u: Tensor, w: Tensor, x: Tensor, y: Tensor, eta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One SGD step on (u w x − y)²; returns the new u, w and G = ∂ℓ/∂(uw)."""
    G = 2 * (u * w * x - y) * x
    return u - eta * G * w, w - eta * G * u, G


# -- the net of neurons --------------------------------------------------------------------------


def net(s: NoiseEquilibrium, job: Job, writer: RunWriter) -> None:
    """Neurons' charges under SGD and under descent, beside the orbit's own prediction."""
    draw = torch.Generator(on(s.device)).manual_seed(job.seed)
    x, y, minimum = teacher(s, draw)
    shifts = torch.tensor(SHIFTS, dtype=x.dtype, device=x.device)[:, None]
    # One push a start, the same for its replicas: the start is a point, the noise is not.
    W = minimum.W * shifts[..., None].exp()
    W = W + 0.1 * torch.randn(W.shape, generator=draw, dtype=x.dtype, device=x.device)
    u = minimum.u * (-shifts).exp()
    descent = Neurons(W, u)
    sgd = Neurons(W.repeat_interleave(s.replicas, 0), u.repeat_interleave(s.replicas, 0))

    steps = measured_steps(s.measurements, s.steps)
    began = descent.charges()
    orbits = [at_charge(orbit, began[:, j]) for j, orbit in enumerate(neuron_orbits(minimum, x, y))]
    paths = [[charge_path(o, steps, s.learning_rate) for o in column] for column in orbits]
    seen: list[Tensor] = []
    for step in paced(s.steps + 1, "neurons", job.progress):
        if step in steps:
            k, spread = steps.index(step), sgd.charges().unflatten(0, (len(SHIFTS), s.replicas))
            seen.append(spread.mean(1))
            for j, i in itertools.product(range(s.neurons), range(len(SHIFTS))):
                case = f"neuron {j}, λ={SHIFTS[i]:g}"
                rows = averaged(step, f"SGD, {case}", "charge", spread[i, :, j], paths[j][i][k])
                now = float(descent.charges()[i, j])
                rows += averaged(step, f"GD, {case}", "charge", now, float(began[i, j]))
                writer.write(step, rows)
        if step % 1000 == 0:
            picks = torch.randint(len(x), (1000, len(sgd.u)), generator=draw, device=x.device)
        at = picks[step % 1000]
        sgd.step(x[at][:, None], y[at][:, None], s.learning_rate)
        descent.step(x[None], y[None], s.learning_rate)
    for j, point in enumerate(column[0] for column in orbits):
        there = point.shifted(equilibrium(point))
        C, where = float(there.a @ there.theta2), f"SGD, neuron {j}"
        rows = averaged(s.steps, where, "charge", spread[..., j], C)
        for i in (0, len(SHIFTS) - 1):
            measured = efolding(steps, [float(now[i, j]) for now in seen], C)
            predicted = efolding(steps, paths[j][i], C)
            case = f"{where}, λ={SHIFTS[i]:g}"
            rows += averaged(s.steps, case, "relaxation_steps", measured, predicted)
        writer.write(s.steps, rows)


class Neurons:
    """A batch of nets Σ_j u_j relu(w_jᵀx): W (runs, m, d), u (runs, m)."""

    def __init__(self, W: Tensor, u: Tensor) -> None:
        self.W, self.u = W.clone(), u.clone()

    def charges(self) -> Tensor:
        """‖w_j‖² − u_j², (runs, m)."""
        return self.W.square().sum(-1) - self.u.square()

    def gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Of the mean of (f(x) − y)²; x (runs or 1, n, d), y (runs or 1, n)."""
        h = (x @ self.W.mT).relu()
        r = 2 * ((h * self.u[:, None]).sum(-1) - y) / y.shape[-1]
        back = r[..., None] * self.u[:, None] * (h > 0)
        return back.mT @ x, (h * r[..., None]).sum(1)

    def step(self, x: Tensor, y: Tensor, eta: float) -> None:
        """One step of SGD on these samples, in place."""
        dW, du = self.gradients(x, y)
        self.W.sub_(dW, alpha=eta)
        self.u.sub_(du, alpha=eta)


def teacher(s: NoiseEquilibrium, draw: torch.Generator) -> tuple[Tensor, Tensor, Neurons]:
    """x (n, d), y (n,) and the minimum of their loss, reached by descent from the teacher."""
    real: dict[str, Any] = {"dtype": torch.float64, "device": draw.device, "generator": draw}
    x = torch.randn(s.samples, s.inputs, **real)
    W = torch.nn.functional.normalize(torch.randn(1, s.neurons, s.inputs, **real), dim=-1)
    net = Neurons(W, torch.ones_like(W[..., 0]))
    y = (x @ W[0].T).relu().sum(-1) + s.noise * torch.randn(s.samples, **real)
    for _ in range(5000):
        net.step(x[None], y[None], 0.05)
    return x, y, net


def neuron_orbits(net: Neurons, x: Tensor, y: Tensor) -> list[Orbit]:
    """Each neuron's rescaling orbit at a minimum: squared norms and gradient noise of its blocks.

    net: a single one (runs = 1). A sample is a run of its own here, so that its gradients are.
    """
    each = Neurons(net.W.expand(len(x), -1, -1), net.u.expand(len(x), -1))
    dW, du = each.gradients(x[:, None], y[:, None])
    noise_in, noise_out = dW.var(0, correction=0).sum(-1), du.var(0, correction=0)
    norms = net.W[0].square().sum(-1), net.u[0].square()
    return [two_signs(*row) for row in torch.stack([*norms, noise_in, noise_out], 1).tolist()]


def at_charge(orbit: Orbit, charges: Tensor) -> list[Orbit]:
    """The points of a rescaling orbit that have these charges: c₊e^{2λ} − c₋e^{−2λ} = C."""
    plus, minus = orbit.theta2
    growth = [(C + math.sqrt(C**2 + 4 * plus * minus)) / (2 * plus) for C in charges.tolist()]
    return [orbit.shifted(math.log(g) / 2) for g in growth]


def charge_path(start: Orbit, steps: list[int], eta: float) -> list[float]:
    """C at these steps of batch-1 SGD, as the mean drift along the orbit has it."""
    shifts = orbit_path(start, np.array(steps, dtype=float), eta=eta, batch=1)
    return [float(there.a @ there.theta2) for there in map(start.shifted, shifts)]


def efolding(steps: list[int], charges: list[float], rest: float) -> float:
    """Steps until a charge has come e times closer to `rest`; NaN when it never does.

    >>> efolding([0, 10, 20], [2.0, 1.5, 1.2], 1.0).__round__(1)
    14.4
    """
    distance = np.abs(np.array(charges) - rest)
    goal = distance[0] / math.e
    after = int(np.argmax(distance <= goal))
    if after == 0:
        return math.nan
    return float(np.interp(goal, distance[[after, after - 1]], np.array(steps)[[after, after - 1]]))


FULL = {"steps": 100_000, "learning_rate": 0.005, "noise": 0.8}

experiment = Experiment(
    name="noise-equilibrium",
    statement="SGD carries a charge to the value where its noise balances; descent keeps it.",
    settings=NoiseEquilibrium,
    train=train,
    bands=(
        Band("product law of the scalar charge", 0, 1e-10, partial(last, "charge_error", "scalar")),
        Band("decay rate of the scalar charge", 1.0, 1.2, ratio("charge_rate", "scalar"), FULL),
        *(
            Band(f"charge at rest, {where}", 0.95, 1.05, ratio("charge", where), FULL)
            for j in (0, 1)
            for where in (f"SGD, neuron {j}", *(f"SGD, neuron {j}, λ={x:g}" for x in SHIFTS))
        ),
        *(
            Band(
                f"charge under descent, neuron {j}, λ={x:g}", 0.95, 1.05,
                ratio("charge", f"GD, neuron {j}, λ={x:g}"), FULL,
            )
            for j in (0, 1)
            for x in (SHIFTS[0], SHIFTS[-1])
        ),
        *(
            Band(
                f"relaxation of neuron {j} from λ={x:g}", 0.7, 1.05,
                ratio("relaxation_steps", f"SGD, neuron {j}, λ={x:g}"), FULL,
            )
            for j in (0, 1)
            for x in (SHIFTS[0], SHIFTS[-1])
        ),
    ),
)  # fmt: skip
