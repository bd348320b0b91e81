"""gradient-balance: SGD makes the gradients of layers equal, weight decay sets them apart by law.

Hypothesis (Ziyin, Xu, Chuang, arXiv 2505.12387; `methods/entropic.py`). Where the entropic loss is
stationary along a rescaling of two layers, W_i → e^a W_i, W_j → e^{−a} W_j,

    η (E‖g_i‖² − E‖g_j‖²) = 2w (‖W_i‖² − ‖W_j‖²),        E over minibatches, mean included,

w the weight_decay of torch; so all layers, or the incoming and outgoing weights of a neuron, have
equal gradients at w = 0. Descent keeps the charge ‖W_i‖² − ‖W_j‖² and with it the imbalance.

Worlds, all with ℓ = ‖f − y‖²:

    A, B    the two linear networks of platonic-linear: SGD, descent and the minimum of the entropy,
            where theory also gives the number itself (`theory/deep_linear_entropy.py`)
    linear  4–5–5–3 on 48 fixed samples with label noise 0.6; batch 1, η = 0.008, w = 0.01, and the
            control w = 0. The charge relaxes at the rate 2ηw + η²(E‖g_i‖² + E‖g_j‖²)/(‖W_i‖² +
            ‖W_j‖²) a step, and before three of its times have passed nothing is claimed
    relu    4–8–1 on 48 fixed samples with label noise 0.6; SGD and descent, neuron by neuron

In `linear`, every change of a charge is held against the mean that theory gives for it,
η²(E‖g_i‖² − E‖g_j‖²) − (2ηw − η²w²)(‖W_i‖² − ‖W_j‖²).

Bands, as published with the derivation of the theory: largest over smallest E‖g_i‖² of A and B at
most 1.10 under SGD, at least 1.25 under descent, at most 1.002 at the minimum, there within 0.3 %
of the formula; two sides of the balance of W_1 and W_2 with decay within 10 %. Those of `relu` are
from trial runs of this world (published for another: 2.77 at the start, 2.45 by descent, .52 by
SGD). Descent leaves the imbalance that the draw has made, so its bands speak of seed 0: A has 1.69
there and 1.24 at seed 1, the neurons 2.46 and 1.09. About 30 seconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...record import Measurement, Run, RunWriter, open_run
from ...theory.deep_linear_entropy import layer_gradient_norm2
from ...theory.noise_equilibrium import charge_step
from ..experiment import Band, Experiment, Settings, first, last, setting
from ..job import Job
from ..models.deep_linear import DeepLinear, deep_linear, entropic_minimum
from ..world import averaged, measured_steps, paced, ratio
from . import platonic_linear as twins

SAMPLES, NOISE, RATE = 48, 0.6, 0.008
F64 = torch.float64


@dataclass(frozen=True)
class Balance(Settings):
    device: str = setting("cpu", "Where to compute; a world this small is fastest on a CPU.")
    steps: int = setting(30_000, "Steps of SGD for the two linear networks.")
    descent: int = setting(8000, "Steps of their control, full descent.")
    long: int = setting(40_000, "Steps on fixed samples, linear; half as many again for relu.")
    replicas: int = setting(16, "Copies with samples of their own, on fixed samples.")
    weight_decay: float = setting(0.01, "w of the linear world, as in torch.optim.SGD.")


def train(settings: Balance, job: Job) -> Run:
    group = {"lr": RATE, "momentum": 0.0, "weight_decay": settings.weight_decay}
    with job.world(laws=("charge_drift",), optimizer={"class": "SGD", "groups": [group]}) as writer:
        pair(settings, job, writer)
        for decay in (settings.weight_decay, 0.0):
            linear(decay, settings, job, writer)
        for batch in (1, SAMPLES):
            relu(batch, settings, job, writer)
    return open_run(job.out)


# -- the two networks of platonic-linear -----------------------------------------------------------


def pair(settings: Balance, job: Job, writer: RunWriter) -> None:
    """E‖g_i‖² of every layer at the end of SGD, of descent, and of the descent of the entropy."""
    w = twins.world(job.seed, 1)
    minimum = {n: entropic_minimum(net, w.V, w.variances.diag()) for n, net in nets(w).items()}
    report(writer, 0, "start", w, nets(w))
    report(writer, 1, "entropy", w, minimum)
    descended, stirred = twins.world(job.seed, 1), twins.world(job.seed, 1)
    when = set(measured_steps(10, settings.descent))
    columns = twins.LATENT**0.5 * torch.eye(twins.LATENT, dtype=F64)[None]
    for step in paced(settings.descent + 1, "A and B, descent", job.progress):
        if step in when:
            report(writer, step, "descent", descended, nets(descended))
        for net in nets(descended).values():
            net.step(columns, w.V @ columns, torch.tensor(0.01))
    when = set(measured_steps(settings.measurements, settings.steps))
    for step in paced(settings.steps + 1, "A and B, SGD", job.progress):
        if step in when:
            report(writer, step, "SGD", stirred, nets(stirred))
        if step % twins.CHUNK == 0:
            X, Y = twins.samples(stirred, [twins.CASES[0]])
        eta = torch.tensor(0.01 * min(1.0, (1 - step / settings.steps) / 0.3))
        for net in nets(stirred).values():
            net.step(X[step % twins.CHUNK], Y[step % twins.CHUNK], eta)


def nets(w: twins.World) -> dict[str, DeepLinear]:
    return {"A": w.A, "B": w.B}


def report(
    writer: RunWriter, step: int, case: str, w: twins.World, trained: dict[str, DeepLinear]
) -> None:
    """Per layer and, as largest over smallest, per network."""
    rows: list[Measurement] = []
    V, Sigma_x, Sigma_eps = w.task
    for name, net in trained.items():
        found = population_gradients(net, w)
        formula = layer_gradient_norm2(
            V, Sigma_x, Sigma_eps, depth=len(found),
            M_in=net.M_in[0].numpy(), M_out=net.M_out[0].numpy(),
        )  # fmt: skip
        layers = [f"{name} W{i + 1}, {case}" for i in range(len(found))]
        for layer, value in zip(layers, found, strict=True):
            rows += averaged(step, layer, "gradient_power", value, formula)
        spread = float(found.max() / found.min())
        rows += averaged(step, f"{name}, {case}", "gradient_spread", spread, 1.0)
    writer.write(step, rows)


def population_gradients(net: DeepLinear, w: twins.World) -> Tensor:
    """E‖g_i‖² of one sample of the first copy, exactly: (D,).

    The residual is Rx − ε with R = f − V; by Isserlis' theorem, with h = Bx and δ = 2Aᵀ(Rx − ε),
    E‖δ‖²‖h‖² = E‖δ‖² E‖h‖² + 2‖2AᵀRBᵀ‖².
    """
    B = [C[0] for C in net.maps()]
    A = [net.M_out[0]]
    for W in reversed(net.weights[1:]):
        A.insert(0, A[0] @ W[0])
    R = net.M_out[0] @ B[-1] - w.V
    residual = w.variances.diag() + R @ R.T
    found = [
        4 * (a.T @ residual @ a).trace() * b.square().sum() + 8 * (a.T @ R @ b.T).square().sum()
        for a, b in zip(A, B, strict=False)
    ]
    return torch.stack(found)


# -- a linear network on fixed samples, with and without decay ------------------------------------


def linear(decay: float, settings: Balance, job: Job, writer: RunWriter) -> None:
    """Both sides of the balance, averaged over the time since the last measurement."""
    draw = torch.Generator().manual_seed(job.seed)
    X, Y = fixed_samples(4, 3, draw)
    net = deep_linear(
        (4, 5, 5, 3), settings.replicas, M_in=torch.eye(4, dtype=F64),
        M_out=torch.eye(3, dtype=F64), generator=draw,
    )  # fmt: skip
    net.weights[0].mul_(1.7)  # far from balance
    net.weights[2].mul_(0.6)
    book = Ledger(f"linear, decay {decay:g}", decay, net)
    when = set(measured_steps(settings.measurements, settings.long))
    eta = torch.tensor(RATE)
    for step in paced(settings.long + 1, f"linear, decay {decay:g}", job.progress):
        if step % 10 == 0 or step in when:
            book.note(step, sample_mean(net, X, Y))
        if step in when:
            writer.write(step, book.rows(step))
        picked = torch.randint(SAMPLES, (settings.replicas,), generator=draw)
        net.step(X[picked], Y[picked], eta, decay)


def fixed_samples(d_x: int, d_y: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """x (48, d_x, 1) and y = Vx + ε (48, d_y, 1), the noise drawn once."""
    X = torch.randn(SAMPLES, d_x, 1, generator=draw, dtype=F64)
    V = torch.randn(d_y, d_x, generator=draw, dtype=F64) / d_x**0.5
    return X, V @ X + NOISE * torch.randn(SAMPLES, d_y, 1, generator=draw, dtype=F64)


def sample_mean(net: DeepLinear, X: Tensor, Y: Tensor) -> Tensor:
    """E‖g_i‖² over all samples, one a batch: (D, K)."""
    copies = len(net.weights[0])
    x, y = (Z[..., 0].T.expand(copies, -1, -1) for Z in (X, Y))
    return net.sample_norm2(x, y)


class Ledger:
    """Running means of the balance of every two neighbouring layers, and the time it has had."""

    def __init__(self, case: str, decay: float, net: DeepLinear) -> None:
        self.case, self.decay, self.net = case, decay, net
        self.pairs = range(len(net.weights) - 1)
        self.times = [0.0 for _ in self.pairs]
        self.since = -1
        self.open(self.norms())

    def norms(self) -> Tensor:
        """‖W_i‖², (D, K)."""
        return torch.stack([W.square().sum((1, 2)) for W in self.net.weights])

    def open(self, norms: Tensor) -> None:
        """Start a new stretch here."""
        self.began, self.at_start = self.since, norms
        self.sums, self.count = torch.zeros(2, *norms.shape, dtype=F64), 0

    def note(self, step: int, gradients: Tensor) -> None:
        """Add the present E‖g_i‖² (D, K) and norms to the means."""
        norms = self.norms()
        for i in self.pairs:
            g, n = gradients[i : i + 2].sum(0).mean(), norms[i : i + 2].sum(0).mean()
            rate = 2 * RATE * self.decay + RATE**2 * float(g / n)
            self.times[i] += rate * (step - max(self.since, 0))
        self.sums += torch.stack([gradients, norms])
        self.count, self.since = self.count + 1, step

    def rows(self, step: int) -> list[Measurement]:
        """Everything since the last call, and a new stretch."""
        (gradients, norms), now = self.sums / self.count, self.norms()
        found: list[Measurement] = []
        for i in self.pairs:
            layer = f"{self.case}, W{i + 1}–W{i + 2}"
            g, n = (Z[i] - Z[i + 1] for Z in (gradients, norms))
            sides = RATE * g, 2 * self.decay * n
            whole = RATE * (gradients[i] + gradients[i + 1])
            whole = whole + 2 * self.decay * (norms[i] + norms[i + 1])
            found += averaged(step, layer, "gradient_balance", sides[0], float(sides[1].mean()))
            residual = float((sides[0] - sides[1]).mean().abs() / whole.mean())
            found += averaged(step, layer, "balance_residual", residual, 0.0)
            found += averaged(step, layer, "relaxation_times", self.times[i])
            found += averaged(step, layer, "balance_charge", now[i] - now[i + 1])
            if step > max(self.began, 0):
                charge = float(n.mean())
                per_step = charge_step(charge, float(g.mean()), eta=RATE, weight_decay=self.decay)
                drift = (now[i] - now[i + 1]) - (self.at_start[i] - self.at_start[i + 1])
                drift = drift / (step - max(self.began, 0))
                found += averaged(step, layer, "charge_drift", drift, per_step - charge)
        self.open(now)
        return found


# -- neurons of a ReLU network ---------------------------------------------------------------------


def relu(batch: int, settings: Balance, job: Job, writer: RunWriter) -> None:
    """E‖g_in‖² against E‖g_out‖² of every neuron; the full batch is descent."""
    draw, K = torch.Generator().manual_seed(job.seed), settings.replicas
    X, Y = relu_samples(draw)
    # Incoming weights four times as large as outgoing ones: far from balance.
    W = torch.randn(8, 4, generator=draw, dtype=F64).expand(K, 8, 4).clone()
    a = torch.randn(8, generator=draw, dtype=F64).expand(K, 8).clone() / 4
    case = "relu, SGD" if batch < SAMPLES else "relu, descent"
    steps = settings.long * 3 // 2 if batch < SAMPLES else settings.long // 4
    when = set(measured_steps(settings.measurements, steps))
    for step in paced(steps + 1, case, job.progress):
        if step in when:
            writer.write(step, averaged(step, case, "neuron_imbalance", imbalance(W, a, X, Y), 0.0))
        picked = torch.randint(SAMPLES, (K, 1), generator=draw)
        x, y = (X[picked], Y[picked]) if batch < SAMPLES else (X[None], Y[None])
        g_in, g_out = relu_gradients(W, a, x, y)
        W, a = W - RATE * g_in.mean(1), a - RATE * g_out.mean(1)


def relu_samples(draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """x (48, 4), y (48,) of a teacher with two neurons, noise drawn once."""
    X = torch.randn(SAMPLES, 4, generator=draw, dtype=F64)
    teacher = torch.randn(2, 4, generator=draw, dtype=F64)
    clean = torch.relu(X @ teacher.T).sum(1)
    return X, clean + NOISE * torch.randn(SAMPLES, generator=draw, dtype=F64)


def relu_gradients(W: Tensor, a: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Per-sample gradients of W (K, n, 8, 4) and a (K, n, 8); x (K, n, 4), y (K, n)."""
    z = x @ W.mT
    h = torch.relu(z)
    r = 2 * ((h @ a[..., None])[..., 0] - y)
    back = r[..., None] * a[:, None] * (z > 0)
    return back[..., None] * x[:, :, None], r[..., None] * h


def imbalance(W: Tensor, a: Tensor, X: Tensor, Y: Tensor) -> Tensor:
    """Mean |ln E‖g_in‖²/E g_out²| over neurons, (K,); those without gradient left out."""
    g_in, g_out = relu_gradients(W, a, X[None], Y[None])
    into, out = g_in.square().sum(-1).mean(1), g_out.square().mean(1)
    live = torch.minimum(into, out) > 1e-8 * torch.maximum(into, out).amax(1, keepdim=True)
    logs = (into / out).log().abs().where(live, torch.nan)
    return logs.nanmean(1)


# -- bands -----------------------------------------------------------------------------------------


def worst(case: str, run: Run) -> float:
    """Largest relative departure of a layer's E‖g‖² from the formula."""
    layers = [f"A W{i}, {case}" for i in (1, 2, 3)] + [f"B W{i}, {case}" for i in (1, 2, 3, 4)]
    return max(abs(ratio("gradient_power", layer)(run) - 1) for layer in layers)


def spread(name: str, low: float, high: float) -> Band:
    read = partial(last, "gradient_spread", name)
    return Band(f"largest over smallest gradient of {name}", low, high, read)


STATIONARY = "linear, decay 0.01, W1–W2"

experiment = Experiment(
    name="gradient-balance",
    statement="SGD balances the gradients of layers and neurons; weight decay shifts the balance.",
    settings=Balance,
    train=train,
    bands=(
        *(spread(f"{net}, SGD", 1.0, 1.10) for net in "AB"),
        *(spread(f"{net}, descent", 1.25, math.inf) for net in "AB"),
        *(spread(f"{net}, entropy", 1.0, 1.002) for net in "AB"),
        Band("departure from the formula", 0.0, 0.003, partial(worst, "entropy")),
        Band("two sides of the balance", 0.9, 1.1, ratio("gradient_balance", STATIONARY)),
        Band(
            "imbalance of neurons, start", 2.0, 4.0, partial(first, "neuron_imbalance", "relu, SGD")
        ),
        Band("imbalance of neurons, SGD", 0.0, 0.8, partial(last, "neuron_imbalance", "relu, SGD")),
        Band(
            "imbalance of neurons, descent",
            1.5,
            4.0,
            partial(last, "neuron_imbalance", "relu, descent"),
        ),
    ),
)
