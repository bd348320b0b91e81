"""wide-limit: how fast networks of growing width become kernel machines.

World. ReLU networks 10–n–n–1 with weights N(0, 1) in NTK parametrisation, n = 32 … 512, 16 training
and 16 test points on the sphere, full-batch descent on ½Σ(f − y)² until the loss is 10⁻³ of its
start; 24 seeds. f_0 is taken off, by shifting the targets. Control: the same with the maximal
update parametrisation (last layer 1/n instead of 1/√n, steps n times larger), which has another
limit.

Hypothesis (A. Jacot et al., arXiv 1806.07572; J. Lee et al., arXiv 1902.06720). Relative deviation
of the tangent kernel between seeds, distance to kernel regression with the analytic kernel, and
change of the second hidden layer's input fall as n^−½; the drift of the kernel in training as 1/n.

Bands. Slopes within ±0.15 over sixteenfold width, as published with the derivation; control: change
of features does not fall (slope above −0.2). About 10 seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ...estimators.log_slope import log_slope
from ...record import Run, RunWriter, open_run
from ...theory.wide_kernels import SLOPES, linearised, relu_kernels
from ..beside import beside
from ..experiment import Band, Experiment, Settings, last, setting
from ..job import Job
from ..world import averaged, paced


@dataclass(frozen=True)
class WideLimit(Settings):
    device: str = setting("cpu", "Always a CPU: these worlds are small.", ("cpu", "auto"))
    widths: tuple[int, ...] = setting((32, 64, 128, 256, 512), "n.")
    seeds: int = setting(24, "Networks of each width.")
    target: float = setting(1e-3, "Share of the first loss at which training ends.")
    steps: int = setting(4_000, "Steps at most.")


@dataclass
class Net:
    """Three maps and what stands before each: f = c_3W_3φ(c_2W_2φ(c_1W_1x)); rate: of the steps."""

    weights: list[Tensor]
    factors: tuple[float, ...]
    rate: float

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(inputs of the three maps, their outputs z_1, z_2, z_3), one row a sample."""
        inputs, outputs = [x], []
        for W, c in zip(self.weights, self.factors, strict=True):
            outputs.append(c * inputs[-1] @ W.T)
            inputs.append(torch.relu(outputs[-1]))
        return inputs[:-1], outputs

    def back(self, outputs: list[Tensor], slope: Tensor) -> list[Tensor]:
        """∂(Σ slope·f)/∂z_l, l = 1, 2, 3; slope (n, 1)."""
        found = [slope]
        for l in (2, 1):
            found.insert(0, self.factors[l] * found[0] @ self.weights[l] * (outputs[l - 1] > 0))
        return found

    def kernel(self, x: Tensor) -> Tensor:
        """Θ (n, n): products of inputs times products of backward signals, map by map."""
        inputs, outputs = self.forward(x)
        signals = self.back(outputs, torch.ones(len(x), 1, dtype=x.dtype))
        terms = zip(inputs, signals, self.factors, strict=True)
        return torch.as_tensor(sum(c**2 * (h @ h.T) * (g @ g.T) for h, g, c in terms))


def net(width: int, maximal: bool, inputs: int, generator: torch.Generator) -> Net:
    """Weights N(0, 1); the maximal update parametrisation is f/√n with steps n times larger."""
    sizes = (inputs, width, width, 1)
    weights = [
        torch.randn(b, a, generator=generator, dtype=torch.float64) for a, b in pairwise(sizes)
    ]
    end = math.sqrt(2 / width) / (math.sqrt(width) if maximal else 1.0)
    return Net(weights, (inputs**-0.5, math.sqrt(2 / width), end), float(width if maximal else 1))


def train(settings: WideLimit, job: Job) -> Run:
    generator = torch.Generator().manual_seed(job.seed)
    points = torch.randn(32, 10, generator=generator, dtype=torch.float64)
    points = points / points.norm(dim=1, keepdim=True) * math.sqrt(10)
    y = torch.randn(16, 1, generator=generator, dtype=torch.float64)
    with job.world(laws=tuple(f"wide_{q}" for q in SLOPES)) as writer:
        sweep("NTK", settings.seeds, settings, job, writer, points, y)
        sweep("maximal update", max(3, settings.seeds // 2), settings, job, writer, points, y)
    return open_run(job.out)


def sweep(
    name: str, seeds: int, s: WideLimit, job: Job, writer: RunWriter, points: Tensor, y: Tensor
) -> None:
    """All widths and seeds of one parametrisation; measures, and their slopes beside theory's."""
    x, new = points[:16], points[16:]
    exact, cross = (relu_kernels(a.numpy(), x.numpy(), 2)[1] for a in (x, new))
    wanted = torch.from_numpy(linearised(exact, cross, y.numpy()))
    found = np.zeros((len(SLOPES), seeds, len(s.widths)))
    count = iter(paced(seeds * len(s.widths), name, job.progress))
    for j, width in enumerate(s.widths):
        kernels, rows = [], []
        for seed in range(seeds):
            next(count)
            generator = torch.Generator().manual_seed(1000 * job.seed + seed)
            model = net(width, name != "NTK", 10, generator)
            kernel, row = measured(model, x, new, y, wanted, s)
            kernels.append(kernel * model.rate)
            rows.append(row)
        mean = torch.stack(kernels).mean(0)
        # An unbiased square: the mean of m kernels is itself off by 1/m of their variance.
        spread = [float((k - mean).square().sum()) * seeds / (seeds - 1) for k in kernels]
        found[0, :, j] = np.sqrt(spread) / float(mean.norm())
        found[1:, :, j] = np.array(rows).T
    for k, (q, said) in enumerate(SLOPES.items()):
        for j, width in enumerate(s.widths):
            layer = f"{name}, n = {width}"
            writer.write(width, averaged(width, layer, q, found[k, :, j]))
        write_slope(name, q, said, found[k], s.widths, writer)
    last_width = s.widths[-1]
    span = averaged(last_width, name, "sweep_span", last_width / s.widths[0])
    writer.write(last_width, span)
    list(count)


def write_slope(
    name: str, q: str, said: float, values: np.ndarray, widths: Sequence[int], writer: RunWriter
) -> None:
    slope = log_slope(np.array(widths, float), values)
    rows = beside(
        widths[-1], name, f"width_slope_{q}", slope.slope, said, stderr=slope.stderr, n=slope.n
    )
    writer.write(widths[-1], rows)


def measured(
    model: Net, x: Tensor, new: Tensor, y: Tensor, wanted: Tensor, s: WideLimit
) -> tuple[Tensor, tuple[float, float, float]]:
    """Θ_0, and (drift of Θ, change of z_2, distance to kernel regression on the test points)."""
    start, first = model.kernel(x), model.forward(x)[1]
    new_0 = model.forward(new)[1][2]
    descend(model, x, y + first[2], s)
    after = model.forward(x)[1]
    drift = float((model.kernel(x) - start).norm() / start.norm())
    feature = float((after[1] - first[1]).norm() / first[1].norm())
    apart = float((model.forward(new)[1][2] - new_0 - wanted).norm() / wanted.norm())
    return start, (drift, feature, apart)


def descend(model: Net, x: Tensor, y: Tensor, s: WideLimit) -> None:
    """w ← w − η∇½Σ(f − y)²; η = 1/λ_max of the kernel, halved whenever the loss would rise."""
    eta = model.rate / float(torch.linalg.eigvalsh(model.rate * model.kernel(x))[-1])
    inputs, outputs = model.forward(x)
    loss = float((outputs[2] - y).square().sum())
    goal = s.target * loss
    for _ in range(s.steps):
        if loss <= goal:
            return
        signals = model.back(outputs, outputs[2] - y)
        moves = [eta * c * g.T @ h for h, g, c in zip(inputs, signals, model.factors, strict=True)]
        before, loss = loss, math.inf
        while loss > before and eta > 1e-12:
            trial = [W - m for W, m in zip(model.weights, moves, strict=True)]
            inputs, outputs = Net(trial, model.factors, model.rate).forward(x)
            loss = float((outputs[2] - y).square().sum())
            if loss > before:
                eta, moves = eta / 2, [m / 2 for m in moves]
        model.weights = trial


FULL = {"widths": [32, 64, 128, 256, 512], "seeds": 24, "target": 1e-3}

experiment = Experiment(
    name="wide-limit",
    statement="Kernel, features and predictions approach the infinite-width limit at known rates.",
    settings=WideLimit,
    train=train,
    bands=(
        *(
            Band(
                f"slope of {q}", said - 0.15, said + 0.15,
                partial(last, f"width_slope_{q}", "NTK"), FULL,
            )
            for q, said in SLOPES.items()
        ),
        Band(
            "slope of feature_change, maximal update", -0.2, 0.2,
            partial(last, "width_slope_feature_change", "maximal update"), FULL,
        ),
    ),
)  # fmt: skip
