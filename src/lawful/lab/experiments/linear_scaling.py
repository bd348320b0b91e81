"""linear-scaling: a batch k times as large wants a rate k times as large; for Adam, √k.

Hypotheses (Goyal et al., arXiv 1706.02677, for SGD; Malladi, Lyu, Panigrahi, Arora, arXiv
2205.10287, for Adam; `theory/scaling_rules.py`). At equal numbers of samples the loss is the same
after B → kB, η → kη, as long as kηλ₁ is small; for Adam, where noise dominates the gradient, after
η → √k η, 1 − β → k(1 − β). The controls are the other rules: constant rate, and √ for SGD, linear
for Adam. Measured: `scaling_error`, the mean of |ln L_k − ln L_1| along the run. The laws
`linear_scaling` and `root_scaling` judge the runs that follow a rule where it is valid.

Worlds.

    regression  64 dimensions, λ_i = 1/i, Gaussian inputs, no label noise, B = 1 and k = 16: the
                exact mean loss of SGD, `regression_losses`, at kηλ₁ = 0.1, 0.4 and 1.6
    adam        tanh MLP 16–32–1 on fresh samples of a teacher with label noise of deviation 3,
                B = 4, η = 1e-3, β = (0.9, 0.99), k = 4 and 8; loss without the label noise,
                averaged over 32 copies; `floor` compares two disjoint halves of those at k = 1.
                Validity is read at the end: √kηλ₁ with the Gauss–Newton matrix (the label noise
                has no mean) over the root of the second moment, and ‖∇L‖² over trΣ/(kB)

Bands, as published with the derivation of the theory: linear rule on the regression below 0.02 for
kηλ₁ ≤ 0.41; published beside it: 0.26 at 1.66, √ 0.43–1.35, constant 0.9–2.6, here held to at least
0.1, 0.3 and 0.6. Adam, published in another world: floor 0.04, √ 0.05, linear 0.15–0.2, constant
0.2–0.4; here √ at most 0.1, and the others at least twice that of √. About 15 seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ...record import Measurement, Run, RunWriter, open_run
from ...theory.scaling_rules import Adam, regression_losses, square_root_rule
from ..experiment import Band, Experiment, Settings, last, setting
from ..job import Job
from ..world import averaged, paced

F64 = torch.float64
STEPS = (0.1, 0.4, 1.6)
"""kηλ₁ of the regression."""

K_SGD, K_ADAM = 16, (4, 8)
BASE = Adam(1e-3, 0.9, 0.99, 1e-8)


@dataclass(frozen=True)
class Scaling(Settings):
    device: str = setting("cpu", "Where to compute; a world this small is fastest on a CPU.")
    samples: int = setting(16_000, "Samples of the run with Adam, in all.")
    copies: int = setting(32, "Copies of every run with Adam, with samples of their own.")


def train(settings: Scaling, job: Job) -> Run:
    with job.world(laws=("linear_scaling", "root_scaling")) as writer:
        regression(settings, writer)
        adam(settings, job, writer)
    return open_run(job.out)


def compared(
    writer: RunWriter, case: str, samples: Sequence[int], losses: np.ndarray, base: np.ndarray
) -> None:
    """Loss beside the one it should equal, and the error of the rule so far."""
    error = np.abs(np.log(losses / base))
    for i, count in enumerate(samples):
        rows = averaged(count, case, "loss", float(losses[i]), float(base[i]))
        writer.write(count, rows + averaged(count, case, "scaling_error", error[: i + 1].mean()))


def describe(writer: RunWriter, case: str, samples: int, numbers: dict[str, float]) -> None:
    """What was done in a case, and whether its rule is valid."""
    writer.write(samples, [Measurement(samples, case, q, x, 0.0) for q, x in numbers.items()])


# -- SGD -------------------------------------------------------------------------------------------


def regression(settings: Scaling, writer: RunWriter) -> None:
    """The exact mean loss at batch 1 and at batch k under three rules."""
    eigenvalues, start = 1 / np.arange(1, 65), np.ones(64)
    for small in STEPS:
        eta = small / K_SGD
        length = int(40 / small)  # steps at batch k: λ₁η·steps of 2.5 at batch 1
        base = regression_losses(eigenvalues, start, eta=eta, batch=1, steps=length * K_SGD)
        rules = {"linear": K_SGD * eta, "root": K_SGD**0.5 * eta, "constant": eta}
        at = np.unique(np.geomspace(1, length, settings.measurements).round().astype(int))
        for rule, rate in rules.items():
            found = regression_losses(eigenvalues, start, eta=rate, batch=K_SGD, steps=length)
            case = f"SGD {rule}, kηλ₁ = {small:g}"
            compared(writer, case, (at * K_SGD).tolist(), found[at], base[at * K_SGD])
            told = {"batch_ratio": K_SGD, "rate_ratio": rate / eta, "scaling_error_floor": 0.0}
            describe(writer, case, length * K_SGD, told | {"rate_curvature": rate})


# -- Adam ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """What to do with Adam for a batch k times as large."""

    name: str
    k: int

    @property
    def adam(self) -> Adam:
        if self.name == "root":
            return square_root_rule(BASE, self.k)
        factor = {"linear": self.k, "constant": 1}[self.name]
        return Adam(BASE.eta * factor, BASE.beta1, BASE.beta2, BASE.eps)


RULES = tuple(Rule(name, k) for k in K_ADAM for name in ("root", "linear", "constant"))


def adam(settings: Scaling, job: Job, writer: RunWriter) -> None:
    """Loss curves of all rules beside that of k = 1."""
    task = Task(torch.Generator().manual_seed(job.seed))
    marks = [round(settings.samples * (i + 1) / 20 / 32) * 32 for i in range(20)]
    base = task.curve(BASE, 4, 2 * settings.copies, marks, job)
    halves = base[:, : settings.copies], base[:, settings.copies :]
    means = [half.mean(1).numpy() for half in halves]
    compared(writer, "Adam floor", marks, means[0], means[1])
    floor = float(np.abs(np.log(means[0] / means[1])).mean())
    for rule in RULES:
        found = task.curve(rule.adam, 4 * rule.k, settings.copies, marks, job)
        case = f"Adam {rule.name}, k = {rule.k}"
        compared(writer, case, marks, found.mean(1).numpy(), base.mean(1).numpy())
        told = {"batch_ratio": rule.k, "rate_ratio": rule.adam.eta / BASE.eta}
        valid = {"rate_curvature_adam": task.curvature, "signal_to_noise": task.signal}
        describe(writer, case, marks[-1], told | valid | {"scaling_error_floor": floor})


class Task:
    """A teacher, the start of all students, and fresh noisy samples."""

    def __init__(self, draw: torch.Generator) -> None:
        self.draw = draw
        self.teacher, self.start = self.drawn(), self.drawn()
        self.seen = torch.randn(1000, 16, generator=draw, dtype=F64)
        self.curvature = self.signal = math.nan  # ηλ₁ and ‖∇L‖²/(trΣ/B) where a curve ended

    def drawn(self) -> list[Tensor]:
        sizes = ((32, 16), (1, 32))
        return [torch.randn(*s, generator=self.draw, dtype=F64) / s[1] ** 0.5 for s in sizes]

    def curve(self, adam: Adam, batch: int, copies: int, marks: Sequence[int], job: Job) -> Tensor:
        """Clean loss after the marked numbers of samples: (marks, copies); ends with `judge`."""
        W = [Z.expand(copies, *Z.shape).clone() for Z in self.start]
        m, v = [[torch.zeros_like(Z) for Z in W] for _ in range(2)]
        found, steps = [], marks[-1] // batch
        for t in [s + 1 for s in paced(steps, f"Adam, batch {batch}", job.progress)]:
            x = torch.randn(copies, batch, 16, generator=self.draw, dtype=F64)
            y = output(self.teacher, x) + 3 * torch.randn(
                copies, batch, 1, generator=self.draw, dtype=F64
            )
            for Z, g, one, two in zip(W, gradients(W, x, y), m, v, strict=True):
                one.lerp_(g, 1 - adam.beta1)
                two.lerp_(g * g, 1 - adam.beta2)
                first, second = one / (1 - adam.beta1**t), two / (1 - adam.beta2**t)
                Z -= adam.eta * first / (second.sqrt() + adam.eps)
            if t * batch in marks:
                off = output(W, self.seen) - output(self.teacher, self.seen)
                found.append(off.square().mean((1, 2)) / 2)
        powers = [two / (1 - adam.beta2**steps) for two in v]
        self.judge(W, powers, adam)
        return torch.stack(found)

    def judge(self, W: list[Tensor], powers: Sequence[Tensor], adam: Adam) -> None:
        """Numbers that the validity of the rule rests on; powers: running E g_B² of W."""
        clean = output(self.teacher, self.seen)
        slope = gradients(W, self.seen[None], clean)
        signal = sum(float(g.square().sum((1, 2)).mean()) for g in slope)
        power = sum(float(p.sum((1, 2)).mean()) for p in powers)
        self.signal = signal / (power - signal)
        of_one = jacobian([Z[0] for Z in W], self.seen)
        scale = torch.cat([(p[0].sqrt() + adam.eps).flatten() for p in powers]).rsqrt()
        self.curvature = adam.eta * float(torch.linalg.matrix_norm(of_one * scale, 2)) ** 2 / 1000


def output(W: Sequence[Tensor], x: Tensor) -> Tensor:
    """tanh(x W₁ᵀ) W₂ᵀ."""
    return torch.tanh(x @ W[0].mT) @ W[1].mT


def jacobian(W: Sequence[Tensor], x: Tensor) -> Tensor:
    """∂f/∂W of one network, (n, D): W_1 (32, 16), W_2 (1, 32), x (n, 16)."""
    h = torch.tanh(x @ W[0].T)
    into = (W[1] * (1 - h * h))[:, :, None] * x[:, None, :]
    return torch.cat([into.flatten(1), h], dim=1)


def gradients(W: Sequence[Tensor], x: Tensor, y: Tensor) -> list[Tensor]:
    """Of ½(f − y)², the mean over a batch: W_i (K, …), x (K, n, 16), y (K, n, 1)."""
    h = torch.tanh(x @ W[0].mT)
    r = (h @ W[1].mT - y) / x.shape[1]
    return [((r @ W[1]) * (1 - h * h)).mT @ x, r.mT @ h]


# -- bands -----------------------------------------------------------------------------------------


def error(case: str, low: float, high: float) -> Band:
    read = partial(last, "scaling_error", case)
    return Band(f"error in ln L, {case}", low, high, read)


def worse(rule: str, k: int, run: Run) -> float:
    """Error of another rule over that of the square root."""
    errors = [last("scaling_error", f"Adam {r}, k = {k}", run) for r in (rule, "root")]
    return errors[0] / errors[1]


experiment = Experiment(
    name="linear-scaling",
    statement="While steps are small, SGD's rate goes with the batch size, Adam's with its root.",
    settings=Scaling,
    train=train,
    bands=(
        *(error(f"SGD linear, kηλ₁ = {small:g}", 0.0, 0.02) for small in STEPS[:2]),
        error("SGD linear, kηλ₁ = 1.6", 0.1, 1.0),
        *(error(f"SGD root, kηλ₁ = {small:g}", 0.3, 2.0) for small in STEPS),
        *(error(f"SGD constant, kηλ₁ = {small:g}", 0.6, 4.0) for small in STEPS),
        *(error(f"Adam root, k = {k}", 0.0, 0.1) for k in K_ADAM),
        *(
            Band(f"{rule} over root, Adam, k = {k}", 2.0, 50.0, partial(worse, rule, k))
            for rule in ("linear", "constant")
            for k in K_ADAM
        ),
    ),
)
