"""lazy-rich: how loud the output speaks decides whether a network learns features.

World. h: 10–128–128–1 in NTK parametrisation, tanh, 16 points on the sphere, random targets; f =
α(h − h_0), gradient descent on ½Σ(f − y)²/α² until the loss is 1 % of its start; α = ¼ … 512, eight
seeds. Control: the same with ReLU, whose gates flip.

Hypothesis (L. Chizat, E. Oyallon, F. Bach, arXiv 1812.07956; `theory/lazy_rich.py`). For large α,
‖Δw‖ and ‖ΔΘ‖ fall as 1/α, 1 − cos(Θ_t, Θ_0) as 1/α²; the nonlinearity ρ at the end of the
linearised solution, known before training, says where that begins.

Bands. Slopes over α = 8 … 512: −1 ± 0.1 for ‖Δw‖ and ‖ΔΘ‖, as published with the derivation, and
twice that for the square. From trial runs: ReLU over α = 1 … 32, where gates still flip, has 1 −
cos fall slower than α^−1.85 (beyond, single flips make it erratic); its ‖ΔΘ‖ falls as α^−0.87
there, where −0.56 was reported for 128 units and 16 points at α = .03 … 30, depth and targets
unstated: a slope that depends on the world, so no band; at α = 128 the outputs are within 1 % of
the linearised network's, at α = ¼ beyond 20 %. About 15 seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from ...estimators.log_slope import log_slope
from ...instruments.neural_tangent import NeuralTangent
from ...instruments.probe import Probe
from ...record import Run, RunWriter, open_run
from ...theory.lazy_rich import SLOPES
from ..beside import beside
from ..experiment import Band, Experiment, Settings, last, setting
from ..job import Job
from ..models import seeded
from ..world import averaged, paced

ALPHAS = (0.25, 1.0, 8.0, 32.0, 128.0, 512.0)
RANGE = {"tanh": (8.0, 512.0), "relu": (1.0, 32.0)}
MEASURES = ("weight_change", "ntk_change", "ntk_turn", "linearisation_distance")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}


@dataclass(frozen=True)
class LazyRich(Settings):
    device: str = setting("cpu", "Always a CPU: these worlds are small.", ("cpu", "auto"))
    width: int = setting(128, "Neurons of both hidden layers.")
    points: int = setting(16, "Training samples.")
    seeds: int = setting(8, "Networks and targets.")
    target: float = setting(0.01, "Share of the first loss at which training ends.")
    steps: int = setting(20_000, "Steps at most.")


class Wide(nn.Module):
    """Weights N(0, 1), 1/√fan-in in the forward pass, two hidden layers, one output."""

    def __init__(self, inputs: int, width: int, activation: str) -> None:
        super().__init__()
        sizes = (inputs, width, width, 1)
        self.weights = nn.ParameterList(
            nn.Parameter(torch.randn(b, a, dtype=torch.float64)) for a, b in pairwise(sizes)
        )
        self.phi = ACTIVATIONS[activation]
        self.gain = math.sqrt(2) if activation == "relu" else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) → (n,)."""
        for l, W in enumerate(self.weights):
            x = x @ W.T / math.sqrt(W.shape[1]) * (self.gain if l else 1.0)
            x = self.phi(x) if l < 2 else x
        return x[:, 0]


def train(settings: LazyRich, job: Job) -> Run:
    laws = ("lazy_weight_change", "lazy_ntk_change", "lazy_ntk_turn", "lazy_linear")
    with job.world(laws=laws) as writer:
        for activation in ACTIVATIONS:
            sweep(activation, settings, job, writer)
    return open_run(job.out)


def sweep(activation: str, s: LazyRich, job: Job, writer: RunWriter) -> None:
    """Every α with every seed; the measures beside each other, and their slopes."""
    found: dict[str, list[list[float]]] = {q: [] for q in MEASURES}
    count = iter(paced(len(ALPHAS) * s.seeds, activation, job.progress))
    for seed in range(s.seeds):
        rows: list[dict[str, float]] = []
        for alpha in ALPHAS:
            next(count)
            rows.append(one(activation, alpha, job.seed + seed, s))
        for q in MEASURES:
            found[q].append([row[q] for row in rows])
    for i, alpha in enumerate(ALPHAS):
        layer = f"{activation}, α = {alpha:g}"
        for q in MEASURES:
            writer.write(1, averaged(1, layer, q, np.array(found[q])[:, i]))
        writer.write(1, averaged(1, layer, "smooth", float(activation == "tanh")))
    low, high = RANGE[activation]
    lazy = [i for i, alpha in enumerate(ALPHAS) if low <= alpha <= high]
    scales = np.array(ALPHAS)[lazy]
    for q, said in SLOPES.items():
        slope = log_slope(scales, np.array(found[q])[:, lazy])
        writer.write(
            1, beside(1, activation, f"alpha_slope_{q}", slope.slope, said,
                      stderr=slope.stderr, n=slope.n),
        )  # fmt: skip
    writer.write(1, averaged(1, activation, "smooth", float(activation == "tanh")))
    writer.write(1, averaged(1, activation, "sweep_span", float(scales[-1] / scales[0])))
    list(count)


def one(activation: str, alpha: float, seed: int, s: LazyRich) -> dict[str, float]:
    """Train one network at one α; its measures at the end."""
    with seeded(seed):
        model = Wide(10, s.width, activation)
        x = nn.functional.normalize(torch.randn(s.points, 10, dtype=torch.float64)) * math.sqrt(10)
        y = torch.randn(s.points, dtype=torch.float64)
    with torch.no_grad():
        h0 = model(x)
    instrument = NeuralTangent(points=s.points)
    probe = Probe([(x, y)], nn.functional.mse_loss)
    instrument.measure(0, model, probe, {})
    assert instrument.start is not None
    top = float(torch.linalg.eigvalsh(instrument.start.kernel)[-1])
    descend(model, x, y, h0, alpha, 0.5 / top, s)
    rows = instrument.measure(1, model, probe, {}).rows
    return {r.quantity: r.value for r in rows if not r.layer}


def descend(
    model: nn.Module, x: Tensor, y: Tensor, h0: Tensor, alpha: float, rate: float, s: LazyRich
) -> None:
    """w ← w − η∇(½Σ(f − y)²/α²); a step that raises the loss is taken back and η halved."""
    parameters = list(model.parameters())
    loss = 0.5 * (alpha * (model(x) - h0) - y).square().sum()
    goal = s.target * float(loss.detach())
    for _ in range(s.steps):
        if float(loss.detach()) <= goal:
            return
        grads = torch.autograd.grad(loss / alpha**2, parameters)
        before = float(loss.detach())
        loss = loss.new_tensor(math.inf)
        while float(loss.detach()) > before and rate > 1e-12:
            move(parameters, grads, -rate)
            loss = 0.5 * (alpha * (model(x) - h0) - y).square().sum()
            if float(loss.detach()) > before:
                move(parameters, grads, rate)
                rate /= 2


def move(parameters: list[nn.Parameter], grads: tuple[Tensor, ...], by: float) -> None:
    """w ← w + by·g."""
    with torch.no_grad():
        for p, g in zip(parameters, grads, strict=True):
            p.add_(g, alpha=by)


FULL = {"width": 128, "points": 16, "seeds": 8, "target": 0.01}

experiment = Experiment(
    name="lazy-rich",
    statement="Scaling the output up freezes weights, kernel and features, at known rates.",
    settings=LazyRich,
    train=train,
    bands=(
        Band("slope of ‖Δw‖", -1.1, -0.9, partial(last, "alpha_slope_weight_change", "tanh"), FULL),
        Band("slope of ‖ΔΘ‖", -1.1, -0.9, partial(last, "alpha_slope_ntk_change", "tanh"), FULL),
        Band("slope of 1 − cos", -2.2, -1.8, partial(last, "alpha_slope_ntk_turn", "tanh"), FULL),
        Band(
            "slope of 1 − cos, ReLU", -1.85, -0.5,
            partial(last, "alpha_slope_ntk_turn", "relu"), FULL,
        ),
        Band(
            "off the linearised network, α = 128", 0, 0.01,
            partial(last, "linearisation_distance", "tanh, α = 128"), FULL,
        ),
        Band(
            "off the linearised network, α = ¼", 0.2, 10,
            partial(last, "linearisation_distance", "tanh, α = 0.25"), FULL,
        ),
    ),
)  # fmt: skip
