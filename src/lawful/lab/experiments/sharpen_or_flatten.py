"""sharpen-or-flatten: one force, two outcomes; the shape of the label noise decides.

World. f = U W x with 2 × 2 layers, x ~ N(0, I_2), y = x + ε, ℓ = ‖f − y‖²; SGD with one sample a
step, 64 networks at once. All start 1 % off the minimum UW = I, go there, and then along it:

    isotropic   Σ_ε = I,             start U = 2I, W = ½I     Tr Hess = 34, far from the flattest
    mild        Σ_ε = diag(2, 0.2),  start U = W = I          16, the flattest minimum there is
    strong      Σ_ε = diag(1, 0.01), start U = W = I          16
    noiseless   Σ_ε = 0,             start U = 2I, W = ½I     34: the control, nothing to follow

Hypothesis (Ziyin, Xu, Chuang, arXiv 2505.12387: sharpening and flattening share a cause). On the
minimum SGD descends the entropy S = Tr Σ_ε Tr WWᵀ + 2 Tr UᵀΣ_εU and not the trace of the Hessian
4‖U‖² + 4‖W‖². The two agree iff Σ_ε ∝ I: isotropic noise flattens, anisotropic noise sharpens
what was flat. The end is `theory.sharpness.at_equilibrium`, for Σ_ε = diag(s)
4(√c Σ s^{−½} + c^{−½} Σ s^{½}), c = mean(s); the path is the flow of L + ηS.

Bands, as published with the derivation of the theory: 34 → 16 ± 4 % (isotropic), 16 → 19.4 ± 4 %
(mild), change < 1 % (noiseless). `strong` is on its way to 37.5 when the run ends (published: 22.7
and rising) and has no band. The rate is annealed over the last 30 %. About 15 seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...record import Measurement, Run, open_run
from ...theory.sharpness import at_equilibrium
from ..experiment import Band, Experiment, Settings, last, setting
from ..job import Job
from ..models.deep_linear import DeepLinear
from ..world import averaged, measured_steps, paced

F64 = torch.float64
FLATTEST = 16.0
OFF = 1.01


@dataclass(frozen=True)
class Case:
    """Variances of the label noise, and the start U = stretch·I, W = I/stretch."""

    name: str
    variances: tuple[float, float]
    stretch: float


CASES = (
    Case("isotropic", (1.0, 1.0), 2.0),
    Case("mild", (2.0, 0.2), 1.0),
    Case("strong", (1.0, 0.01), 1.0),
    Case("noiseless", (0.0, 0.0), 2.0),
)


@dataclass(frozen=True)
class Sharpen(Settings):
    device: str = setting("cpu", "Where to compute; a world this small is fastest on a CPU.")
    learning_rate: float = setting(0.005, "η, annealed over the last 30 %.")
    steps: int = setting(60_000, "Steps of SGD; η²·steps decides how far along the minimum.")
    replicas: int = setting(64, "Networks in each case, with samples of their own.")


def train(settings: Sharpen, job: Job) -> Run:
    group = {"lr": settings.learning_rate, "momentum": 0.0, "weight_decay": 0.0}
    draw = torch.Generator().manual_seed(job.seed)
    with job.world(
        laws=("noise_curvature",), optimizer={"class": "SGD", "groups": [group]}
    ) as writer:
        net, deviations = networks(settings.replicas)
        copies, when = len(deviations), set(measured_steps(settings.measurements, settings.steps))
        paths = [Path(case) for case in CASES]
        for step in paced(settings.steps + 1, "SGD", job.progress):
            rate = settings.learning_rate * min(1.0, (1 - step / settings.steps) / 0.3)
            if step in when:
                writer.write(step, rows(step, net, paths))
            x = torch.randn(copies, 2, 1, generator=draw, dtype=F64)
            noise = deviations * torch.randn(copies, 2, 1, generator=draw, dtype=F64)
            net.step(x, x + noise, torch.tensor(rate))
            for path in paths:
                path.wait(rate)
    return open_run(job.out)


def networks(replicas: int) -> tuple[DeepLinear, Tensor]:
    """All replicas of all cases as one batch, and the deviations of their noise (K, 2, 1)."""
    stretch = torch.tensor([c.stretch for c in CASES], dtype=F64).repeat_interleave(replicas)
    one = torch.eye(2, dtype=F64).expand(len(stretch), 2, 2)
    weights = [one / stretch[:, None, None], OFF * one * stretch[:, None, None]]
    deviations = torch.tensor([c.variances for c in CASES], dtype=F64).sqrt()
    return DeepLinear(weights, one, one), deviations.repeat_interleave(replicas, 0)[..., None]


class Path:
    """The flow of L + ηS from the start of a case; of the diagonals, which stay diagonals.

    With u, w the diagonals, s the variances: L = Σ (uw − 1)², S = Σs Σw² + 2 Σ s u².
    """

    def __init__(self, case: Case) -> None:
        self.u, self.w = np.full(2, OFF * case.stretch), np.full(2, 1 / case.stretch)
        self.s = np.array(case.variances)

    def wait(self, eta: float) -> None:
        """One step of length η: explicit, accurate to O(η) like the SGD beside it."""
        error, u, w = 2 * (self.u * self.w - 1), self.u, self.w
        self.u = u - eta * (error * w + 4 * eta * self.s * u)
        self.w = w - eta * (error * u + 2 * eta * self.s.sum() * w)

    @property
    def trace(self) -> float:
        return float(4 * (self.u**2).sum() + 4 * (self.w**2).sum())


def trace(net: DeepLinear) -> Tensor:
    """Tr Hess = 2(Tr Σ_x ‖U‖² + d_y ‖W‖²), one number a network."""
    return sum((4 * W.square().sum((1, 2)) for W in net.weights), torch.zeros(1, dtype=F64))


def rows(step: int, net: DeepLinear, paths: list[Path]) -> list[Measurement]:
    """The trace beside the path, and what the noise is."""
    found: list[Measurement] = []
    for case, path, traces in zip(CASES, paths, trace(net).view(len(CASES), -1), strict=True):
        found += averaged(step, case.name, "sharpness_trace", traces, path.trace)
        found += averaged(step, case.name, "label_noise", sum(case.variances))
    return found


def change(case: str, run: Run) -> float:
    """Relative change of the trace since the start."""
    begin, end = run.first("sharpness_trace", case), run.at("sharpness_trace", case)
    return float("nan") if begin is None or end is None else end.value / begin.value - 1


def near(case: str, published: float) -> Band:
    read = partial(last, "sharpness_trace", case)
    return Band(f"trace of the Hessian, {case}", 0.96 * published, 1.04 * published, read)


experiment = Experiment(
    name="sharpen-or-flatten",
    statement="Isotropic label noise flattens the minimum, anisotropic noise sharpens a flat one.",
    settings=Sharpen,
    train=train,
    bands=(
        near("isotropic", FLATTEST),
        near("mild", at_equilibrium(np.eye(2), np.eye(2), np.diag([2.0, 0.2]))),
        Band("relative change without noise", -0.01, 0.01, partial(change, "noiseless")),
    ),
)
