"""spred-lasso: two factors with weight decay are the lasso, unless the start is trapped.

World. 1000 samples of 100 inputs, 10 of them with weights ±.5 … ±2, noise .1; loss mean squared
error, full batch, η = .02, 60,000 steps (sizes of the official demonstration). W = U ⊙ V, decay λ
on both, for λ = .2, .5, 1 and

    independent   U, V uniform in ±1/√p            (official code)
    balanced      |U| = |V| at a random W           (official code: the `sqrt` start)
    unmatched     independent, but λ = α where the lasso to be solved is scikit-learn's α

and DCS: θ = (I − OOᵀ)w + O(u ⊙ v) with 6 directions O of 12, loss ½‖θ − a‖², decay λ.

Hypothesis (Ziyin & Wang, ICML 2023, arXiv 2210.01212; `methods/spred.py`, `methods/dcs.py`).
min L(U ⊙ V) + λ/2 (‖U‖² + ‖V‖²) = min L(W) + λ‖W‖₁, and FISTA (Beck & Teboulle 2009) gives that
minimum beforehand: the objective, the number of coordinates that are not zero, every coordinate.
Gradient descent keeps u² − v² = 0 where it starts there, so a balanced start can change no sign:
it goes to the minimum among the w with the signs of its start, which FISTA gives as well.
scikit-learn's Lasso(α) has half the mean squared error, so its λ is 2α. DCS soft-thresholds:
Oᵀθ = sign(Oᵀa)(|Oᵀa| − λ)₊, and leaves the rest of a alone.

Bands, as published with the derivation: relative gap ≤ 1e-6 and identical zeros (|w| < 1e-6) for
λ ≥ .2; DCS within 1e-3. The balanced start is counted as trapped in every coordinate before the
first step; it ends within 1e-6 of the minimum with its signs, at least 1.1 times the lasso's (from
trial runs; how much depends on the signs drawn). About 10 seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...methods import Subspace, dcs, fold, matched_decay, parameter_groups
from ...methods.spred import factorise, frozen_share
from ...record import Measurement, Run, RunWriter, open_run
from ..experiment import Band, Experiment, Settings, last, on, setting
from ..job import Job
from ..world import averaged, measured_steps, paced, ratio

ZERO = 1e-6
"""A coordinate below this counts as zero: they decay as e^{−ηk(λ − |∂L/∂w|)}, and never end."""


@dataclass(frozen=True)
class SpredLasso(Settings):
    device: str = setting("cpu", "Where to compute; a world this small is fastest on a CPU.")
    decay: tuple[float, ...] = setting((0.2, 0.5, 1.0), "λ of the factors; advanced together.")
    learning_rate: float = setting(0.02, "η.")
    steps: int = setting(60_000, "Steps of gradient descent.")
    samples: int = setting(1000, "Samples.")
    inputs: int = setting(100, "Inputs.")
    relevant: int = setting(10, "Inputs with a weight.")
    noise: float = setting(0.1, "Standard deviation of the label noise.")


def train(settings: SpredLasso, job: Job) -> Run:
    draw = torch.Generator(on(settings.device)).manual_seed(job.seed)
    problem = Problem.draw(settings, draw)
    with job.world() as writer:
        for start in ("independent", "balanced"):
            decay = torch.tensor(settings.decay, dtype=torch.float64, device=draw.device)
            spred(start, decay, decay, problem, settings, job, draw, writer)
        alpha = decay / 2
        wanted = alpha * matched_decay(1.0, loss_factor=2)
        spred("unmatched", alpha, wanted, problem, settings, job, draw, writer)
        soft_threshold(settings, job, writer)
    return open_run(job.out)


@dataclass(frozen=True)
class Problem:
    """The mean squared error as a quadratic: wᵀGw − 2cᵀw + y²; G (p, p), c (p,)."""

    G: Tensor
    c: Tensor
    y2: float

    @staticmethod
    def draw(s: SpredLasso, draw: torch.Generator) -> Problem:
        """Sparse linear data."""
        real: dict[str, Any] = {"dtype": torch.float64, "device": draw.device, "generator": draw}
        X = torch.randn(s.samples, s.inputs, **real)
        w = torch.zeros(s.inputs, dtype=torch.float64, device=draw.device)
        signs = 1 - 2 * (torch.rand(s.relevant, **real) < 0.5).to(w)
        w[: s.relevant] = signs * torch.linspace(0.5, 2, s.relevant).to(w)
        y = X @ w + s.noise * torch.randn(s.samples, **real)
        return Problem(X.T @ X / len(y), X.T @ y / len(y), float(y.square().mean()))

    def gradient(self, w: Tensor) -> Tensor:
        """∇ of the mean squared error at each row of w (k, p)."""
        return 2 * (w @ self.G - self.c)

    def objective(self, w: Tensor, decay: Tensor) -> Tensor:
        """Mean squared error + λ‖w‖₁ of every row, (k,)."""
        loss = ((w @ self.G - 2 * self.c) * w).sum(1) + self.y2
        return loss + decay * w.abs().sum(1)


def fista(
    problem: Problem, decay: Tensor, signs: Tensor | None = None, steps: int = 3000
) -> Tensor:
    """The lasso for each λ (k,), by accelerated proximal steps: (k, p).

    signs: ±1 (p,); only w with these signs, or zeros, are allowed.
    """
    step = 0.5 / float(torch.linalg.eigvalsh(problem.G)[-1])
    w = ahead = torch.zeros(len(decay), len(problem.c)).to(problem.c)
    t, threshold = 1.0, (step * decay)[:, None]
    for _ in range(steps):
        moved = ahead - step * problem.gradient(ahead)
        side = moved.sign() if signs is None else signs
        new, t_new = side * (side * moved - threshold).relu(), (1 + (1 + 4 * t * t) ** 0.5) / 2
        ahead, w, t = new + (t - 1) / t_new * (new - w), new, t_new
    return w


def spred(
    start: str, decay: Tensor, wanted: Tensor, problem: Problem, s: SpredLasso, job: Job,
    draw: torch.Generator, writer: RunWriter,
) -> None:  # fmt: skip
    """Descend on the factors with `decay`; beside it the lasso with the strengths `wanted` (k,)."""
    W = 0.3 * torch.randn(s.inputs, generator=draw, dtype=torch.float64, device=draw.device)
    init = "balanced" if start == "balanced" else "independent"
    U, V = (F.repeat(len(decay), 1) for F in factorise(W, 2, init=init, generator=draw))
    exact = fista(problem, wanted, W.sign() if start == "balanced" else None)
    best, active = problem.objective(exact, wanted), (exact != 0).sum(1)
    names = [f"{start}, λ={value:g}" for value in wanted.tolist()]
    for i, name in enumerate(names):
        trapped = frozen_share([U[i], V[i]])
        writer.write(0, averaged(0, name, "trapped_share", trapped, float(start == "balanced")))
    moments = measured_steps(s.measurements, s.steps)
    for step in paced(s.steps + 1, f"spred, {start}", job.progress):
        if step in moments:
            w = U * V
            reached, alive = problem.objective(w, wanted), (w.abs() > ZERO).sum(1)
            off = (w - exact).abs().amax(1)
            for i, name in enumerate(names):
                rows = averaged(step, name, "objective", float(reached[i]), float(best[i]))
                alive_i, active_i = float(alive[i]), float(active[i])
                rows += averaged(step, name, "active_coordinates", alive_i, active_i)
                writer.write(
                    step, rows + averaged(step, name, "coordinate_error", float(off[i]), 0.0)
                )
        g, shrink = problem.gradient(U * V), 1 - s.learning_rate * decay[:, None]
        U, V = U * shrink - s.learning_rate * g * V, V * shrink - s.learning_rate * g * U


def soft_threshold(s: SpredLasso, job: Job, writer: RunWriter) -> None:
    """DCS on ½‖θ − a‖², through the methods a user calls: each coefficient beside its threshold."""
    draw = torch.Generator().manual_seed(job.seed)
    O = torch.linalg.qr(torch.randn(12, 6, generator=draw, dtype=torch.float64)).Q
    level = torch.linspace(-1.5, 1.5, 6, dtype=torch.float64)
    a = torch.randn(12, generator=draw, dtype=torch.float64)
    a = a - O @ (O.T @ a) + O @ level
    model = nn.Module()
    model.weight = nn.Parameter(torch.randn(12, generator=draw, dtype=torch.float64))
    dcs(model, "weight", Subspace(O), generator=draw)
    decay = s.decay[len(s.decay) // 2]
    optimizer = torch.optim.SGD(parameter_groups(model, decay), lr=0.05)
    for _ in paced(4000, "DCS", job.progress):
        optimizer.zero_grad()
        (0.5 * (model.weight - a).square().sum()).backward()
        optimizer.step()
    theta = fold(model).get_parameter("weight").detach()
    wanted = nn.functional.softshrink(level, decay)
    rows: list[Measurement] = []
    for i, (found, predicted) in enumerate(zip(O.T @ theta, wanted.tolist(), strict=True)):
        where = f"DCS, direction {i + 1}"
        rows += averaged(s.steps, where, "coefficient", float(found), predicted)
    off = O @ wanted + (a - O @ level) - theta
    rows += averaged(s.steps, "DCS", "coordinate_error", float(off.abs().max()), 0.0)
    writer.write(s.steps, rows)


def gap(start: str, decay: float) -> Callable[[Run], float]:
    """Reads the relative distance of the objective from the lasso's."""
    measured = ratio("objective", f"{start}, λ={decay:g}")
    return lambda run: measured(run) - 1


def trap(decay: float) -> Callable[[Run], float]:
    """Reads the objective from the balanced start over that from independent factors."""
    cases = f"balanced, λ={decay:g}", f"independent, λ={decay:g}"
    return lambda run: last("objective", cases[0], run) / last("objective", cases[1], run)


FULL = {"steps": 60_000, "learning_rate": 0.02}
LASSOES = (0.2, 0.5, 1.0)

experiment = Experiment(
    name="spred-lasso",
    statement="Two factors with weight decay find the lasso, but not from a balanced start.",
    settings=SpredLasso,
    train=train,
    bands=(
        *(Band(f"gap, λ={x:g}", -1e-6, 1e-6, gap("independent", x), FULL) for x in LASSOES),
        *(
            Band(
                f"coordinates not zero / the lasso's, λ={x:g}", 1, 1,
                ratio("active_coordinates", f"independent, λ={x:g}"), FULL,
            )
            for x in LASSOES
        ),
        *(
            Band(
                f"worst coordinate, λ={x:g}", 0, 1e-4,
                partial(last, "coordinate_error", f"independent, λ={x:g}"), FULL,
            )
            for x in LASSOES
        ),
        *(
            Band(f"trapped, λ={x:g}", 1, 1, partial(last, "trapped_share", f"balanced, λ={x:g}"))
            for x in LASSOES
        ),
        *(Band(f"gap, balanced, λ={x:g}", -1e-6, 1e-6, gap("balanced", x), FULL) for x in LASSOES),
        *(Band(f"cost of the trap, λ={x:g}", 1.1, 100, trap(x), FULL) for x in LASSOES),
        *(
            Band(
                f"worst coordinate, unmatched, λ={x:g}", 0.02, 10,
                partial(last, "coordinate_error", f"unmatched, λ={x:g}"), FULL,
            )
            for x in LASSOES
        ),
        Band("worst coordinate of DCS", 0, 1e-3, partial(last, "coordinate_error", "DCS")),
    ),
)  # fmt: skip
