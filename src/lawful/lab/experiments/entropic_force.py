"""entropic-force: the mean of many SGD runs follows the flow of F = L + S, not that of L.

World. A tanh net of 9 parameters, f = Σ_k a_k tanh(w_k·x), 8 samples on a circle, batch 2,
½(f − y)², time η·steps = 1.6 at η = 0.1, 0.05 and 0.025. An ensemble runs from one start in two
ways: `reshuffled`, every epoch dealing out all samples in a new order, and `independent` batches.

Hypothesis (Ziyin, Xu, Chuang, arXiv 2505.12387; `methods/entropic.py`). Reshuffled, the mean of θ
follows the flow of F to second order in η and that of L only to first: halving η divides the two
errors by 4 and by 2. For independent batches E[θ′|θ] = θ − η∇L holds exactly, and the force is
*not* in the mean at this order: there F is no better than first order. That is the control.

Along the way the displacement of the mean from the flow of L is measured in the direction in which
F points, beside what F says of it (`entropic_drift`): first order in η again, so that their ratio
departs from one by half as much when η is halved, 1.196, 1.099 and 1.050 with seed 0. The law of
that name judges it where ηλ₁ of the sharpest batch is small enough, at the least η.

Bands, as published with the derivation of the theory: ratio of the errors at η = 0.1 and 0.05 for
reshuffled runs 3.5–4.5 (F) and 1.8–2.3 (L), the error of F at most 0.15 of that of L at η = 0.05;
for independent batches 1.4–2.4 (F). The error's own noise is taken out: ‖mean − flow‖² less the
variance of the mean. Ours: the displacement over that of F, its term of order η removed between
two neighbouring η, is one within 2 %: what is left is of order (ηλ₁)². About a minute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import jacrev
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from ...methods.entropic import entropic_loss
from ...record import Measurement, Run, RunWriter, open_run
from ..experiment import Band, Experiment, Settings, last, setting
from ..job import Job
from ..models import seeded
from ..world import averaged, paced, ratio

SAMPLES, BATCH, TIME, RATES = 8, 2, 1.6, (0.1, 0.05, 0.025)
EPOCH = SAMPLES // BATCH
F64 = torch.float64


@dataclass(frozen=True)
class Force(Settings):
    device: str = setting("cpu", "Where to compute; a world this small is fastest on a CPU.")
    reshuffled: int = setting(40_000, "Runs with reshuffled epochs at each η.")
    independent: int = setting(200_000, "Runs with independent batches at each η.")


@dataclass(frozen=True)
class World:
    """The net and its data; θ is (w (3, 2) row by row, a (3,)), as torch lays it out."""

    model: nn.Module
    x: Tensor
    y: Tensor

    @property
    def start(self) -> Tensor:
        return parameters_to_vector(self.model.parameters()).detach().clone()


def half_square(output: Tensor, y: Tensor) -> Tensor:
    """½(f − y)², the mean over samples."""
    return (output - y).square().mean() / 2


def world(seed: int) -> World:
    with seeded(seed):
        layers = nn.Linear(2, 3, bias=False), nn.Tanh(), nn.Linear(3, 1, bias=False)
        model = nn.Sequential(*layers).double()
        for p in model.parameters():
            nn.init.normal_(p, std=0.5)
        x, y = torch.randn(SAMPLES, 2, dtype=F64), torch.randn(SAMPLES, 1, dtype=F64)
    return World(model, x / x.norm(dim=1, keepdim=True), y)


def train(settings: Force, job: Job) -> Run:
    w = world(job.seed)
    sizes = {"reshuffled": settings.reshuffled, "independent": settings.independent}
    group = {"lr": RATES[0], "momentum": 0.0, "weight_decay": 0.0}
    with job.world(
        laws=("entropic_drift",), optimizer={"class": "SGD", "groups": [group]}
    ) as writer:
        for eta in RATES:
            flows = [flow(w, objective(w, kind, eta), eta) for kind in "LF"]
            for kind, runs in sizes.items():
                if kind == "reshuffled" or eta > min(RATES):
                    compare(w, kind, eta, runs, flows, job, writer)
    return open_run(job.out)


def compare(
    w: World, kind: str, eta: float, runs: int, flows: list[Tensor], job: Job, writer: RunWriter
) -> None:
    """The mean of an ensemble after every epoch, beside the two flows."""
    draw = torch.Generator().manual_seed(job.seed + 1)
    case, push = f"{kind}, η = {eta:g}", flows[1][-1] - flows[0][-1]
    theta = w.start.expand(runs, -1).clone()
    deal, sharpest = batches(kind, runs, draw), largest_curvature(w)
    for epoch in paced(round(TIME / eta / EPOCH) + 1, case, job.progress):
        if epoch:
            for _ in range(EPOCH):
                theta -= eta * gradient(theta, w, next(deal))
        step, ahead = epoch * EPOCH, [path[epoch] for path in flows]
        along = (theta - ahead[0]) @ push / push.norm()
        said = float((ahead[1] - ahead[0]) @ push / push.norm())
        rows = averaged(step, case, "entropic_drift", along, said)
        rows += averaged(step, case, "reshuffled", float(kind == "reshuffled"))
        rows += averaged(step, case, "rate_curvature_batch", eta * sharpest)
        for name, path in zip("LF", ahead, strict=True):
            rows += error(step, f"{case}, {name}", theta, path)
        writer.write(step, rows)


def error(step: int, case: str, theta: Tensor, path: Tensor) -> list[Measurement]:
    """‖mean − path‖ with the variance of the mean taken out, and its standard error."""
    off, C = theta.mean(0) - path, theta.T.cov() / len(theta)
    square = float(off @ off - C.trace())
    size = math.sqrt(square) if square > 0 else 0.0
    stderr = math.sqrt(float(off @ C @ off)) / size if size else math.nan
    return [Measurement(step, case, "flow_error", size, stderr, len(theta))]


# -- the ensemble ----------------------------------------------------------------------------------


def batches(kind: str, runs: int, draw: torch.Generator) -> Iterator[Tensor]:
    """Indices (runs, BATCH) for ever; `reshuffled` uses up a permutation first."""
    while True:
        order = torch.rand(runs, SAMPLES, generator=draw).argsort(1)
        parts = order.split(BATCH, 1)
        yield from parts if kind == "reshuffled" else parts[:1]


def gradient(theta: Tensor, w: World, picked: Tensor) -> Tensor:
    """The gradient of ½(f − y)² over a batch for each row of theta (runs, 9)."""
    W, a = theta[:, :6].view(-1, 3, 2), theta[:, 6:]
    x, y = w.x[picked], w.y[picked, 0]
    h = torch.tanh(x @ W.mT)
    r = ((h * a[:, None]).sum(-1) - y) / BATCH
    back = r[..., None] * a[:, None] * (1 - h * h)
    return torch.cat([(back.mT @ x).flatten(1), (r[..., None] * h).sum(1)], 1)


def largest_curvature(w: World) -> float:
    """λ₁ of the Hessian at the start, of the batch where it is largest."""
    pairs = torch.combinations(torch.arange(SAMPLES), BATCH)
    slope = jacrev(lambda theta: gradient(theta.expand(len(pairs), -1), w, pairs))
    return float(torch.linalg.eigvalsh(slope(w.start))[:, -1].max())


# -- the flows -------------------------------------------------------------------------------------


def objective(w: World, kind: str, eta: float) -> Callable[[], Tensor]:
    """L, or F at this η, of the model as it stands."""
    if kind == "L":
        return lambda: half_square(w.model(w.x), w.y)
    return lambda: entropic_loss(w.model, half_square, w.x, w.y, lr=eta, batch=BATCH)


def flow(w: World, value: Callable[[], Tensor], eta: float, substeps: int = 5) -> Tensor:
    """Gradient flow from the start, seen after each epoch: (epochs + 1, 9); Runge–Kutta."""
    start, h = w.start, EPOCH * eta / substeps

    def force(theta: Tensor) -> Tensor:
        vector_to_parameters(theta, w.model.parameters())
        parts = torch.autograd.grad(value(), list(w.model.parameters()))
        return -torch.cat([g.flatten() for g in parts])

    path = [start]
    for _ in range(round(TIME / eta / EPOCH)):
        theta = path[-1]
        for _ in range(substeps):
            a = force(theta)
            b = force(theta + h / 2 * a)
            c = force(theta + h / 2 * b)
            theta = theta + h / 6 * (a + 2 * b + 2 * c + force(theta + h * c))
        path.append(theta)
    vector_to_parameters(start, w.model.parameters())
    return torch.stack(path)


# -- bands -----------------------------------------------------------------------------------------


def fall(kind: str, flow: str, run: Run) -> float:
    """Error at the larger η over that at the smaller."""
    errors = [last("flow_error", f"{kind}, η = {eta:g}, {flow}", run) for eta in RATES[:2]]
    return errors[0] / errors[1] if errors[1] else math.inf


def without_next_order(i: int, run: Run) -> float:
    """Displacement over that of F at two neighbouring η, extrapolated to η = 0."""
    large, small = (
        ratio("entropic_drift", f"reshuffled, η = {eta:g}")(run) for eta in RATES[i : i + 2]
    )
    return 2 * small - large


def better(run: Run) -> float:
    """Error of F over error of L, reshuffled, smaller η."""
    errors = [last("flow_error", f"reshuffled, η = {RATES[1]:g}, {f}", run) for f in "FL"]
    return errors[0] / errors[1]


experiment = Experiment(
    name="entropic-force",
    statement="The mean of reshuffled SGD follows an entropic loss that the data do not contain.",
    settings=Force,
    train=train,
    bands=(
        Band("fall of F's error, reshuffled", 3.5, 4.5, partial(fall, "reshuffled", "F")),
        Band("fall of L's error, reshuffled", 1.8, 2.3, partial(fall, "reshuffled", "L")),
        Band("error of F over that of L", 0.0, 0.15, better),
        *(
            Band(
                f"drift over F's, from η = {RATES[i]:g} to 0",
                0.98,
                1.02,
                partial(without_next_order, i),
            )
            for i in (0, 1)
        ),
        Band("fall of F's error, independent", 1.4, 2.4, partial(fall, "independent", "F")),
    ),
)
