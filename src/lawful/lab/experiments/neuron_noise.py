"""neuron-noise: dropout-like noise moves the collapse of a deep linear net, and levels its neurons.

World. f(x) = W_K D_{K−1} W_{K−1} … D_1 W_1 x, one output, 4 inputs, hidden layers of 4 neurons,
D_l diagonal, its entries 1 ± σ with equal odds (σ = 1 is dropout with p = ½). Loss E(f − y)² +
γ Σ‖W_i‖², x ~ N(0, 1.5 I), E[xy] = b with ‖b‖ = 1. K = 2, 3, 4 with σ = 1, and σ = 0 as the
control. Three ways to ask:

    expected loss  descent on the loss averaged over the noise, whose gradient is exact
                   (second moments of the layers, forwards and backwards), from near the non-zero
                   minimum, at γ from .9 to 1.1 of each predicted threshold
    uneven start   the same at ½ γ_c, from weights in which one neuron does nearly all the work
    sampled        SGD with the noise drawn anew in every step, at ½ γ_c

Hypothesis (Ziyin, Li & Meng, arXiv 2202.04777, for the model; the reduction in
`theory/deep_linear_minima.py`, not tested against training before). The noise enters by one number,
c = Π(1 + σ²/d_l): it multiplies Σ_x. So γ_c is unchanged for K = 2, divided by c^{(K−2)/K} for
K ≥ 3; so is the spinodal γ_sp up to which descent stays in the non-zero minimum; ‖β‖ is that of c.
The minimum that attains it treats all neurons of a layer alike, |entries| equal up to sign: with
noise the spread of their norms goes to zero, without it every spread is as good.

Bands. Set before the first run: γ_c, γ_sp and ‖β‖ on the expected loss within 1 % of theory, spread
below .01 with noise and above .1 without; sampled ‖β‖ within 5 %. The grid of γ has steps of 1 %,
so a threshold is known to half of that. About 15 seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from ...record import Measurement, Run, RunWriter, open_run
from ...theory.deep_linear_minima import Thresholds, minimum, noise_factor, thresholds
from ..experiment import Band, Experiment, Settings, last, on, setting
from ..job import Job
from ..world import averaged, measured_steps, paced, ratio

UNEVEN, SAMPLED = ", uneven start", ", sampled"
INPUTS, WIDTH, SECOND = 4, 4, 1.5
"""Inputs, neurons of every hidden layer, and s² of Σ_x = s²I; ‖E[xy]‖ = 1."""


@dataclass(frozen=True)
class NeuronNoise(Settings):
    device: str = setting("cpu", "Where to compute; a world this small is fastest on a CPU.")
    learning_rate: float = setting(0.1, "η of descent on the expected loss.")
    steps: int = setting(5_000, "Steps of descent, and of SGD.")
    sampled_rate: float = setting(0.002, "η of SGD with sampled noise.")
    replicas: int = setting(64, "Replicas of SGD.")
    noise: float = setting(1.0, "σ of the noise; the control has none.")


@dataclass(frozen=True)
class Case:
    """K layers and the variance of the noise; what theory says of them."""

    layers: int
    variance: float

    @property
    def name(self) -> str:
        return f"K={self.layers}, σ²={self.variance:g}"

    @property
    def factor(self) -> float:
        """c = Π(1 + σ²/d_l)."""
        hidden = self.layers - 1
        return noise_factor([WIDTH] * hidden, [self.variance] * hidden)

    @property
    def limits(self) -> Thresholds:
        return thresholds(1.0, SECOND, self.layers, noise=self.factor)

    def size(self, gamma: float) -> float:
        """‖β‖ at the non-zero minimum of this γ, local or global; 0 when there is none.

        The larger root of (1 − c s²t) t^{1−2/K} = γ; the left side is highest at half the jump.
        """
        power, c, top = 1 - 2 / self.layers, self.factor * SECOND, self.limits.jump / 2
        if (1 - c * top) * top**power <= gamma:
            return 0.0
        return float(brentq(lambda t: (1 - c * t) * t**power - gamma, top, 1 / c))


def train(settings: NeuronNoise, job: Job) -> Run:
    cases = [Case(K, v) for v in (settings.noise**2, 0.0) for K in (2, 3, 4)]
    with job.world() as writer:
        for case in cases:
            draw = torch.Generator(on(settings.device)).manual_seed(job.seed)
            expected(case, settings, job, draw, writer)
            if case.variance:
                sampled(case, settings, job, draw, writer)
    return open_run(job.out)


def expected(
    case: Case, s: NeuronNoise, job: Job, draw: torch.Generator, writer: RunWriter
) -> None:
    """Descent on the expected loss: across both thresholds, and from uneven neurons, as one batch.

    γ_c is between the γ at which a net beats the zero network and those at which it does not;
    γ_sp between those that keep their β and those that lose it. The grid has steps of 1 %.
    """
    limits, share = case.limits, torch.linspace(0.905, 1.095, 20, dtype=torch.float64)
    gamma = torch.cat([limits.gamma_c * share, limits.gamma_spinodal * share]).to(draw.device)
    weights = even(case, [max(case.size(g), limits.jump / 2, 0.05) for g in gamma.tolist()], draw)
    half = limits.gamma_c / 2
    weights = [torch.cat(pair) for pair in zip(weights, uneven(case, half, draw), strict=True)]
    every = torch.cat([gamma, torch.full((8,), half).to(gamma)])
    moments, where = measured_steps(s.measurements, s.steps), case.name + UNEVEN
    for step in paced(s.steps + 1, f"{case.name}, expected loss", job.progress):
        if step in moments:
            write_state(step, where, case, half, [W[40:] for W in weights], writer)
        descend(weights, case.variance, every[:, None, None], s.learning_rate)
    worth = objective(weights, case.variance, every)[:20]
    kept = beta(weights).norm(dim=1)[20:40] > limits.jump / 4
    rows = threshold(s.steps, case, "critical_decay", gamma[:20], worth < 0, limits.gamma_c)
    if case.layers > 2:  # with one hidden layer the two are one
        edge = limits.gamma_spinodal
        rows += threshold(s.steps, case, "spinodal_decay", gamma[20:], kept, edge)
    writer.write(s.steps, rows)


def threshold(
    step: int, case: Case, quantity: str, gamma: Tensor, alive: Tensor, foreseen: float
) -> list[Measurement]:
    """Half way between the last γ that is alive and the next, as torch's weight_decay 2γ."""
    found = gamma[alive].max() + (gamma[1] - gamma[0]) / 2 if alive.any() else torch.nan
    return averaged(step, case.name, quantity, 2 * float(found), 2 * foreseen)


def uneven(case: Case, gamma: float, draw: torch.Generator) -> list[Tensor]:
    """Eight nets whose first neuron of every layer does nearly all the work."""
    weights = even(case, [case.size(gamma)] * 8, draw)
    scale = torch.tensor([2.0] + [0.3] * (WIDTH - 1)).to(weights[0])
    for i, W in enumerate(weights[:-1]):
        push = torch.randn(W.shape, generator=draw, dtype=W.dtype, device=W.device)
        W *= scale[:, None] * (1 + 0.1 * push)
        weights[i + 1] *= scale
    return weights


def sampled(case: Case, s: NeuronNoise, job: Job, draw: torch.Generator, writer: RunWriter) -> None:
    """SGD with the noise drawn anew: x stays averaged, so that nothing but D is random."""
    gamma, sigma = case.limits.gamma_c / 2, case.variance**0.5
    weights = even(case, [1.3 * case.size(gamma)] * s.replicas, draw)
    moments, where = measured_steps(s.measurements, s.steps), case.name + SAMPLED
    for step in paced(s.steps + 1, where, job.progress):
        if step in moments:
            write_state(step, where, case, gamma, weights, writer)
        shape = (case.layers - 1, s.replicas, WIDTH, 1)
        coin = torch.randint(0, 2, shape, generator=draw, device=draw.device).to(weights[0])
        masks = 1 + sigma * (2 * coin - 1)
        # A net with its masks is a net without noise, whose weights are D_l W_l.
        masked = [m * W for m, W in zip(masks, weights, strict=False)] + [weights[-1]]
        for i, g in enumerate(gradients(masked, 0.0)):
            g = g * masks[i] if i < len(masks) else g
            weights[i] -= s.sampled_rate * (g + 2 * gamma * weights[i])


def write_state(
    step: int, where: str, case: Case, gamma: float, weights: list[Tensor], writer: RunWriter
) -> None:
    """‖β‖ and the spread of the first layer's neurons."""
    foreseen = minimum(target().numpy(), SECOND * np.eye(INPUTS), gamma, case.layers,
                       noise=case.factor)  # fmt: skip
    size = beta(weights).norm(dim=1)
    rows = averaged(step, where, "order_parameter", size, float(np.linalg.norm(foreseen)))
    norms = weights[0].norm(dim=2)
    spread = norms.std(1, correction=0) / norms.mean(1)
    zero = 0.0 if case.variance else None
    writer.write(step, rows + averaged(step, where, "neuron_spread", spread, zero))


# -- the loss averaged over x and the noise ------------------------------------------------------


def target() -> Tensor:
    """b = E[xy], of norm 1."""
    return torch.ones(INPUTS, dtype=torch.float64) / INPUTS**0.5


def beta(weights: list[Tensor]) -> Tensor:
    """The product W_K … W_1 of a net without its noise: (runs, inputs)."""
    product = weights[0]
    for W in weights[1:]:
        product = W @ product
    return product[:, 0]


def noisy(M: Tensor, variance: float) -> Tensor:
    """E[D M D]: the diagonal of a second moment grows by σ²."""
    return M + variance * torch.diag_embed(M.diagonal(dim1=-2, dim2=-1))


def signals(weights: list[Tensor], variance: float) -> list[Tensor]:
    """E[h hᵀ] of what each layer receives, and last of the output: M_0 = s²I, (runs, d, d)."""
    M = [SECOND * torch.eye(INPUTS).to(weights[0])]
    for i, W in enumerate(weights):
        out = W @ M[-1] @ W.mT
        M.append(noisy(out, variance) if i < len(weights) - 1 else out)
    return M


def gradients(weights: list[Tensor], variance: float) -> list[Tensor]:
    """∇ of E(f − y)² = M_K − 2β·b + E y², per layer: 2 P_l W_l M_{l−1} − 2 (after)ᵀ(before b)ᵀ."""
    M, b = signals(weights, variance), target().to(weights[0])
    before = [b[None, :, None].expand(len(weights[0]), -1, -1)]
    for W in weights[:-1]:
        before.append(W @ before[-1])
    after = P = torch.ones(1, 1, 1).to(weights[0])
    found: list[Tensor] = []
    for i in reversed(range(len(weights))):
        W = weights[i]
        found.insert(0, 2 * P @ W @ M[i] - 2 * after @ before[i].mT)
        after, P = W.mT @ after, noisy(W.mT @ P @ W, variance)
    return found


def objective(weights: list[Tensor], variance: float, gamma: Tensor) -> Tensor:
    """The loss with its decay, less E y² (the zero network's), (runs,)."""
    fit = signals(weights, variance)[-1][:, 0, 0] - 2 * beta(weights) @ target().to(weights[0])
    return fit + gamma * torch.stack([W.square().sum((1, 2)) for W in weights]).sum(0)


def descend(weights: list[Tensor], variance: float, gamma: Tensor | float, eta: float) -> None:
    """One step of descent on the expected loss with decay, in place."""
    for W, g in zip(weights, gradients(weights, variance), strict=True):
        W -= eta * (g + 2 * gamma * W)


def even(case: Case, sizes: list[float], draw: torch.Generator) -> list[Tensor]:
    """Nets with ‖β‖ = sizes along b, all layers of one norm and all neurons alike, up to signs."""
    size = torch.tensor(sizes, dtype=torch.float64, device=draw.device)[:, None, None]
    sides, ends = [target().to(size)], (case.layers - 1) * [None]
    for _ in ends:
        coin = torch.randint(0, 2, (WIDTH,), generator=draw, device=draw.device)
        sides.append((2 * coin - 1).to(size) / WIDTH**0.5)
    sides.append(torch.ones(1).to(size))
    share = size ** (1 / case.layers)
    return [share * torch.outer(out, into) for into, out in pairwise(sides)]


def spread(name: str) -> Callable[[Run], float]:
    """Reads the spread of the neurons' norms where descent leaves it."""
    return partial(last, "neuron_spread", name + UNEVEN)


NAMES = [Case(K, 1.0).name for K in (2, 3, 4)]
QUIET = [Case(K, 0.0).name for K in (2, 3, 4)]
FULL = {"steps": 5_000, "noise": 1.0}

experiment = Experiment(
    name="neuron-noise",
    statement="Neuron noise acts on a deep linear net through one number, and levels its neurons.",
    settings=NeuronNoise,
    train=train,
    bands=(
        *(
            Band(f"γ_c, {name}", 0.99, 1.01, ratio("critical_decay", name), FULL)
            for name in (*NAMES, *QUIET)
        ),
        *(
            Band(f"γ_sp, {name}", 0.99, 1.01, ratio("spinodal_decay", name), FULL)
            for name in (*NAMES[1:], *QUIET[1:])
        ),
        *(
            Band(f"‖β‖, {name}", 0.99, 1.01, ratio("order_parameter", name + UNEVEN), FULL)
            for name in (*NAMES, *QUIET)
        ),
        *(
            Band(f"‖β‖ of {name}, SGD", 0.95, 1.05, ratio("order_parameter", name + SAMPLED), FULL)
            for name in NAMES
        ),
        *(Band(f"spread of neurons, {name}", 0, 0.01, spread(name), FULL) for name in NAMES),
        *(Band(f"spread of neurons, {name}", 0.1, 10, spread(name), FULL) for name in QUIET),
    ),
)  # fmt: skip
