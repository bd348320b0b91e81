"""platonic-linear: do two linear networks come to represent the world alike, and what stops them?

World. Latents x ~ N(0, I_6), labels y = Vx + ε of 5 dimensions, singular values of V from 2 to 0.4,
noise variances from 0.6 to 0.1. Network A (widths 8, 8) sees M_A x, network B (widths 12, 10, 9)
sees Z M_B x, and both read out through fixed matrices of their own. SGD with one sample a step,
η = 0.01 annealed over the last 30 %, 30,000 steps.

Hypothesis (Ziyin, Chuang, arXiv 2507.01098; `theory/deep_linear_entropy.py`). The entropic force of
SGD picks, among all the factorisations of V, one whose hidden layers all have the kernel
k(x, x′) = xᵀ(VᵀΣ_εV)^½x′: the same in every layer of both networks. Measured as the least uncentred
CKA over the pairs of a layer of A with a layer of B, which is about 0.5 at initialisation.

Cases. `entropy` minimises L + ηS, η → 0, without noise; `SGD` is the hypothesis; `descent` is its
control (no noise, no force). The six breakers, setting `breaker`:

    decay      weight_decay 0.1: it competes with the force at the ratio weight_decay/η, which
               annealing η raises; beside it 0.03, and 0.1 annealed together with η (fixed ratio),
               for which theory has a number as η → 0: 0.96, reached at η = 0.005 and a decay of
               0.05 (0.963), missed at twice both
    labels     B sees Ty: T orthogonal (harmless), or diag(0.2 … 2.5) up to a factor (breaks)
    saddle     B starts at rank 3 and never leaves it: alignment ‖s_{≤3}‖/‖s‖
    inputs     the structure of the noise depends on x, so that E[xxᵀ ⊗ εεᵀ] does not factorise
    noiseless  SGD without label noise
    step       η is not annealed

Bands, as published with the derivation of the theory: alignment and match to the kernel ≥ .9999 for
`entropy`, ≥ .995 for `SGD`, ≤ .80 for `descent`; breakers: orthogonal T ≥ .99, other T ≤ .80,
noiseless ≤ .80, decay 0.1 ≤ .90, saddle = ‖s_{≤3}‖/‖s‖ ± .02 with the layers of B among themselves
≥ .99. `inputs` and `step` have no band: they bend the result too little. Seeds 0, 1, 2 give .832,
.897, .929 for decay 0.1, so the last is outside: how far a given decay reaches depends on the
matrices. The other bands hold for all three. About 20 seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...record import Measurement, Run, RunWriter, open_run
from ...theory.deep_linear_entropy import alignment, kernel, saddle_alignment
from ..experiment import Band, Experiment, Settings, last, setting
from ..job import Job
from ..models.deep_linear import DeepLinear, deep_linear, entropic_minimum
from ..world import averaged, measured_steps, paced

LATENT, LABELS = 6, 5
WIDTHS = {"A": (LATENT, 8, 8, LABELS), "B": (LATENT, 12, 10, 9, LABELS)}
CHUNK = 1000
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One way of training the pair; every field is a departure from the hypothesis.

    labels: T is "same", "turned" or "stretched". noise: "plain", "structured" (depends on x), "no".
    rank:   of network B. anneal: whether η falls; anneal_decay: whether the decay falls with it.
    """

    name: str
    breaker: str
    weight_decay: float = 0.0
    labels: str = "same"
    noise: str = "plain"
    rank: int = 0
    anneal: bool = True
    anneal_decay: bool = False


CASES = (
    Case("SGD", ""),
    Case("decay 0.03", "decay", weight_decay=0.03),
    Case("decay 0.1", "decay", weight_decay=0.1),
    Case("decay 0.1, fixed ratio", "decay", weight_decay=0.1, anneal_decay=True),
    Case("labels turned", "labels", labels="turned"),
    Case("labels stretched", "labels", labels="stretched"),
    Case("saddle", "saddle", rank=3),
    Case("inputs", "inputs", noise="structured"),
    Case("noiseless", "noiseless", noise="no"),
    Case("step", "step", anneal=False),
)
BREAKERS = ("all", "none", *dict.fromkeys(case.breaker for case in CASES if case.breaker))


@dataclass(frozen=True)
class Platonic(Settings):
    device: str = setting("cpu", "Where to compute; a world this small is fastest on a CPU.")
    breaker: str = setting("all", "Which of the six breakers to try beside SGD.", BREAKERS)
    learning_rate: float = setting(0.01, "η, annealed over the last 30 %.")
    steps: int = setting(30_000, "Steps of SGD, one sample each.")
    descent: int = setting(8000, "Steps of full descent, the control.")


@dataclass(frozen=True)
class World:
    """The task and the two networks, in `copies` equal copies."""

    V: Tensor
    variances: Tensor
    A: DeepLinear
    B: DeepLinear
    turn: Tensor
    draw: torch.Generator

    @property
    def task(self) -> tuple[Array, Array, Array]:
        """(V, Σ_x, Σ_ε) as the theory takes them."""
        return self.V.numpy(), torch.eye(LATENT).double().numpy(), self.variances.diag().numpy()


def world(seed: int, copies: int) -> World:
    """Drawn from the seed alone: the same whatever the number of copies."""
    draw = torch.Generator().manual_seed(seed)
    V = orthogonal(LABELS, draw) * spread(2.0, 0.4, LABELS) @ orthogonal(LATENT, draw)[:LABELS]
    shown = {"A": mixing(LATENT, draw), "B": mixing(LATENT, draw) @ mixing(LATENT, draw)}
    nets = {
        name: deep_linear(
            WIDTHS[name], copies, M_in=shown[name], M_out=mixing(LABELS, draw), generator=draw
        )
        for name in ("A", "B")
    }
    turn = orthogonal(LABELS, draw)
    return World(V, spread(0.6, 0.1, LABELS), nets["A"], nets["B"], turn, draw)


def train(settings: Platonic, job: Job) -> Run:
    chosen = [c for c in CASES if settings.breaker in ("all", c.breaker) or not c.breaker]
    group = {"lr": settings.learning_rate, "momentum": 0.0, "weight_decay": 0.0}
    with job.world(laws=("platonic",), optimizer={"class": "SGD", "groups": [group]}) as writer:
        noiseless_limit(world(job.seed, 1), writer)
        descend(world(job.seed, 1), settings, job, writer)
        stochastic(world(job.seed, len(chosen)), chosen, settings, job, writer)
    return open_run(job.out)


# -- the three ways down -------------------------------------------------------------------------


def noiseless_limit(w: World, writer: RunWriter) -> None:
    """L + ηS minimised as η → 0."""
    ends = [entropic_minimum(net, w.V, w.variances.diag()) for net in (w.A, w.B)]
    for step, (A, B) in ((0, (w.A, w.B)), (1, ends)):
        writer.write(step, rows(step, "entropy", w, A, B, predicted=1.0))


def descend(w: World, settings: Platonic, job: Job, writer: RunWriter) -> None:
    """Descent on the loss of the whole population: a batch of d_x columns, see `DeepLinear`."""
    x = LATENT**0.5 * torch.eye(LATENT, dtype=torch.float64)[None]
    eta, when = torch.tensor(settings.learning_rate), measured_steps(10, settings.descent)
    for step in paced(settings.descent + 1, "descent", job.progress):
        if step in when:
            writer.write(step, rows(step, "descent", w, w.A, w.B))
        for net in (w.A, w.B):
            net.step(x, w.V @ x, eta)


def stochastic(
    w: World, cases: Sequence[Case], settings: Platonic, job: Job, writer: RunWriter
) -> None:
    """SGD in all cases at once, on the same samples."""
    expected = [prediction(case, w, settings) for case in cases]
    at_rank(w.B, cases)
    T = torch.stack([labels(case, w.turn) for case in cases])
    decay = torch.tensor([c.weight_decay for c in cases]).double()[:, None, None]
    when, steps = set(measured_steps(settings.measurements, settings.steps)), settings.steps
    for step in paced(steps + 1, "SGD", job.progress):
        if step in when:
            for k, case in enumerate(cases):
                A, B = one(w.A, k), one(w.B, k)
                writer.write(step, rows(step, case.name, w, A, B, predicted=expected[k]))
                writer.write(step, conditions(step, case, w, settings))
        if step % CHUNK == 0:
            X, Y = samples(w, cases)
        falls = min(1.0, (1 - step / steps) / 0.3)
        share = torch.tensor([falls if c.anneal else 1.0 for c in cases]).double()[:, None, None]
        follow = torch.tensor([falls if c.anneal_decay else 1.0 for c in cases]).double()
        x, y = X[step % CHUNK], Y[step % CHUNK]
        eta, lam = settings.learning_rate * share, decay * follow[:, None, None]
        w.A.step(x, y, eta, lam)
        w.B.step(x, T @ y, eta, lam)


def samples(w: World, cases: Sequence[Case]) -> tuple[Tensor, Tensor]:
    """CHUNK samples: x (n, 1, d_x, 1), y (n, K, d_y, 1)."""
    x = torch.randn(CHUNK, 1, LATENT, 1, generator=w.draw, dtype=torch.float64)
    unit = torch.randn(CHUNK, 1, LABELS, 1, generator=w.draw, dtype=torch.float64)
    plain = w.variances.sqrt()[:, None] * unit
    # On either side of a plane in x the variances are dealt out to the labels in another order.
    other = w.variances.flip(0).sqrt()[:, None] * unit
    kinds = {
        "plain": plain,
        "no": 0 * plain,
        "structured": torch.where(x[:, :, :1] > 0, plain, other),
    }
    return x, torch.cat([w.V @ x + kinds[case.noise] for case in cases], 1)


def labels(case: Case, turn: Tensor) -> Tensor:
    """T, of size one on average, so that η means the same in all cases."""
    stretch = spread(0.2, 2.5, LABELS)
    return {
        "same": torch.eye(LABELS).double(),
        "turned": turn,
        "stretched": (stretch / stretch.square().mean().sqrt()).diag(),
    }[case.labels]


def at_rank(net: DeepLinear, cases: Sequence[Case]) -> None:
    """All but `rank` neurons of every hidden layer cut off on both sides: SGD never mends that."""
    for k, case in enumerate(cases):
        if case.rank:
            for into, out in zip(net.weights[:-1], net.weights[1:], strict=True):
                into[k, case.rank :] = 0
                out[k, :, case.rank :] = 0


def prediction(case: Case, w: World, settings: Platonic) -> float | None:
    """The alignment that theory gives, where it gives one."""
    V, Sigma_x, Sigma_eps = w.task
    if case.rank:
        return saddle_alignment(V, Sigma_x, Sigma_eps, rank=case.rank)
    if case.labels != "same":
        T = labels(case, w.turn).numpy()
        other = kernel(T @ V, Sigma_x, T @ Sigma_eps @ T.T)
        return alignment(kernel(V, Sigma_x, Sigma_eps), other, Sigma_x)
    if case.anneal_decay:
        ratio = case.weight_decay / settings.learning_rate
        nets = [
            entropic_minimum(n, w.V, w.variances.diag(), decay_over_rate=ratio) for n in (w.A, w.B)
        ]
        return least([K[0] for K in nets[0].kernels()], [K[0] for K in nets[1].kernels()])
    return 1.0 if case.name == "SGD" else None


# -- what is measured ----------------------------------------------------------------------------


def rows(
    step: int, name: str, w: World, A: DeepLinear, B: DeepLinear, predicted: float | None = None
) -> list[Measurement]:
    """Alignment across the two networks, within B, and with the kernel of the theory."""
    a, b = ([K[0] for K in net.kernels()] for net in (A, B))
    common = torch.as_tensor(kernel(*w.task))
    return [
        *averaged(step, name, "platonic_alignment", least(a, b), predicted),
        *averaged(step, name, "within_alignment", least(b, b)),
        *averaged(step, name, "kernel_match", least([*a, *b], [common])),
    ]


def conditions(step: int, case: Case, w: World, settings: Platonic) -> list[Measurement]:
    """What the law asks about: decay over rate, and how much label noise there is."""
    ratio = case.weight_decay / settings.learning_rate
    noise = 0.0 if case.noise == "no" else float(w.variances.sum())
    found = averaged(step, case.name, "decay_over_rate", ratio)
    return found + averaged(step, case.name, "label_noise", noise)


def least(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """The least ⟨K, K′⟩/‖K‖‖K′‖ over pairs."""
    unit = [torch.stack([K.flatten() / K.norm() for K in side]) for side in (a, b)]
    return float((unit[0] @ unit[1].T).min())


def one(net: DeepLinear, k: int) -> DeepLinear:
    """The k-th copy alone."""
    return DeepLinear([W[k : k + 1] for W in net.weights], net.M_in[:1], net.M_out[:1])


# -- matrices ------------------------------------------------------------------------------------


def orthogonal(n: int, draw: torch.Generator) -> Tensor:
    """An n × n orthogonal matrix."""
    return torch.linalg.qr(torch.randn(n, n, generator=draw, dtype=torch.float64))[0]


def mixing(n: int, draw: torch.Generator) -> Tensor:
    """An n × n matrix with singular values from 1.3 to 0.7."""
    return orthogonal(n, draw) * spread(1.3, 0.7, n) @ orthogonal(n, draw)


def spread(first: float, last: float, n: int) -> Tensor:
    """n numbers from first to last."""
    return torch.linspace(first, last, n, dtype=torch.float64)


def off(predicted: str, run: Run) -> float:
    """Measured less predicted alignment of a case."""
    return last("platonic_alignment", predicted, run) - last(
        "platonic_alignment_predicted", predicted, run
    )


def aligned(name: str, case: str, low: float, high: float, breaker: str = "") -> Band:
    when = {"breaker": "all"} if breaker else {}
    return Band(name, low, high, partial(last, "platonic_alignment", case), when)


experiment = Experiment(
    name="platonic-linear",
    statement="Two linear networks of different width, depth and inputs end with one kernel.",
    settings=Platonic,
    train=train,
    bands=(
        aligned("alignment at the minimum of the entropy", "entropy", 0.9999, 1.0001),
        Band("match to the kernel there", 0.9999, 1.0001, partial(last, "kernel_match", "entropy")),
        aligned("alignment under SGD", "SGD", 0.995, 1.0),
        Band("match to the kernel under SGD", 0.995, 1.0, partial(last, "kernel_match", "SGD")),
        aligned("alignment under descent", "descent", 0.0, 0.80),
        aligned("labels turned", "labels turned", 0.99, 1.0, "labels"),
        aligned("labels stretched", "labels stretched", 0.0, 0.80, "labels"),
        aligned("without label noise", "noiseless", 0.0, 0.80, "noiseless"),
        aligned("weight decay 0.1", "decay 0.1", 0.0, 0.90, "decay"),
        Band("saddle less its prediction", -0.02, 0.02, partial(off, "saddle"), {"breaker": "all"}),
        Band(
            "layers of B among themselves at the saddle",
            0.99,
            1.0,
            partial(last, "within_alignment", "saddle"),
            {"breaker": "all"},
        ),
    ),
)
