"""deep-linear-equilibrium: which of all factorisations SGD comes to rest at.

World. y = V x + ε with a 3 × 3 map V, inputs x ~ N(0, diag(1.5, 1, .5)), label noise
ε ~ N(0, Σ_ε); linear nets W_D … W_1, loss ‖f(x) − y‖², batch 1, fresh samples. Every run starts at
a factorisation of V far from balance, a little off the minimum. Cases, eight replicas each:

    D=2           width 4, Σ_ε = diag(1, .3, .1)
    D=2, flat     the same, started at the flattest minimum of all
    D=2, even     the same start as D=2, Σ_ε ∝ I with the same trace
    D=3           width 3
    D=3, wide     width 5: wider than the rank of V
    GD            the first one, by descent on the mean loss

Hypothesis (Ziyin et al., arXiv 2402.07193; traces and D ≥ 3 in `theory/linear_equilibrium.py`,
sharpness in `theory/sharpness.py`). SGD rests where A_i/Tr A_{i−1} = B_i/Tr B_{i+1}, A_i the
covariance of h_i and B_i that of the backpropagated noise, both averaged over time. So the
eigenvalues of cov(h_1) are those of S′√(TrΣ_x/TrΣ_ε), the middle layer of three is ρ times an
isometry, and Tr H is the least there is if Σ_ε ∝ I, but not else: from the flattest minimum SGD
then *sharpens*. Without the traces the balance is wrong. Descent keeps what it started with. In a
layer wider than the rank only as many singular values as the rank become equal.

Bands are those published with the derivation, verbatim: gap ≤ .10 with traces, ≥ .4 without, ≥ .6
under GD; top two eigenvalues within 8 %; ends within 5 % of ρ², singular values within 8 % of ρ;
Tr H within 6 % of the flattest (even noise), and 1.05–1.20 times it, from both starts within 3 %
(uneven noise). From trial runs: the wide layer keeps a singular value above 1.2, where ρ = 1.
About 25 seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...record import Measurement, Run, RunWriter, open_run
from ...theory import linear_equilibrium as theory
from ...theory.sharpness import at_equilibrium, flattest
from ..experiment import Band, Experiment, Settings, last, on, setting
from ..job import Job
from ..world import averaged, measured_steps, paced, ratio

V = np.array([[1.2, 0.2, 0.0], [-0.1, 0.8, 0.1], [0.2, 0.0, 0.5]])
SIGMA_X = np.diag([1.5, 1.0, 0.5])
UNEVEN = np.diag([1.0, 0.3, 0.1])
EVEN = np.eye(3) * np.trace(UNEVEN) / 3


@dataclass(frozen=True)
class DeepLinear(Settings):
    device: str = setting("cpu", "Where to compute; a world this small is fastest on a CPU.")
    learning_rate: float = setting(0.007, "η.")
    steps: int = setting(90_000, "Steps of SGD; η²·steps ≳ 2 is needed to forget the start.")
    replicas: int = setting(8, "Runs of every case, with samples of their own.")


@dataclass(frozen=True)
class Case:
    """One case: weights W_1 … W_D (d_i, d_{i−1}) at the start and the noise it trains with."""

    name: str
    start: list[np.ndarray]
    Sigma_eps: np.ndarray
    descent: bool = False


def train(settings: DeepLinear, job: Job) -> Run:
    rng = np.random.default_rng(job.seed)
    two, three, wide = far(2, 4, 0.35, rng), far(3, 3, 0.2, rng), far(3, 5, 0.2, rng)
    flat = [W + 0.05 * rng.normal(size=W.shape) for W in rest(EVEN, 2, 4)]
    groups = [
        [
            Case("D=2", two, UNEVEN),
            Case("D=2, flat", flat, UNEVEN),
            Case("D=2, even", two, EVEN),
        ],
        [Case("D=3", three, UNEVEN)],
        [Case("D=3, wide", wide, UNEVEN)],
        [Case("GD", two, UNEVEN, descent=True)],
    ]
    with job.world() as writer:
        for cases in groups:
            advance(cases, settings, job, writer)
    return open_run(job.out)


def advance(cases: Sequence[Case], s: DeepLinear, job: Job, writer: RunWriter) -> None:
    """Train cases of one shape together and write what they show, over the steps."""
    device, copies = on(s.device), 1 if cases[0].descent else s.replicas
    draw = torch.Generator(device).manual_seed(job.seed)
    real: dict[str, Any] = {"dtype": torch.float64, "device": device}
    weights = [
        torch.as_tensor(np.stack(layer), **real).repeat_interleave(copies, 0)
        for layer in zip(*(case.start for case in cases), strict=True)
    ]
    x_root = torch.as_tensor(np.sqrt(SIGMA_X), **real)
    noise_root = torch.as_tensor(np.stack([np.sqrt(c.Sigma_eps) for c in cases]), **real)
    noise_root, target = noise_root.repeat_interleave(copies, 0), torch.as_tensor(V, **real)
    steps, window = measured_steps(s.measurements, s.steps), Window()
    for step in paced(s.steps + 1, cases[0].name, job.progress):
        # The average is over the window since the last row, at most the last half of the run.
        if step in steps or step % 50 == 0:
            window.add(weights, x_root, noise_root)
        if step in steps:
            for i, case in enumerate(cases):
                own = slice(i * copies, (i + 1) * copies)
                writer.write(step, rows(step, case, window.mean(own)))
            window = Window()
        if cases[0].descent:
            x, y = x_root[None], (target @ x_root)[None]
        else:
            if step % 1000 == 0:
                xs, es = torch.randn(2, 1000, len(noise_root), 3, 1, generator=draw, **real)
                xs, es = x_root @ xs, noise_root @ es
            x = xs[step % 1000]
            y = target @ x + es[step % 1000]
        sgd_step(weights, x, y, s.learning_rate)


def sgd_step(weights: list[Tensor], x: Tensor, y: Tensor, eta: float) -> None:
    """One step on ‖W_D … W_1 x − y‖², summed over the columns of x, in place.

    weights: W_1 … W_D, each (runs, d_i, d_{i−1});  x (runs or 1, d_0, n), y (runs or 1, d_D, n).
    Descent on the mean loss is this step with x = √Σ_x and y = V√Σ_x.
    """
    h = [x]
    for W in weights:
        h.append(W @ h[-1])
    delta = 2 * (h[-1] - y)
    for i in reversed(range(len(weights))):
        back = weights[i].mT @ delta
        weights[i] -= eta * (delta @ h[i].mT)
        delta = back


class Window:
    """Time averages, a replica at a time, of what the theory speaks of."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, weights: list[Tensor], x_root: Tensor, noise_root: Tensor) -> None:
        """Take the weights in: the covariances A_i and B_i, Tr H, and the middle layer's spectrum.

        x_root (3, 3) and noise_root (runs, 3, 3) are √Σ_x and √Σ_ε.
        """
        A, B, eye = [x_root @ x_root], [noise_root @ noise_root], torch.eye(3).to(x_root)
        back = [eye.expand_as(noise_root)]
        for W in weights:
            A.append(W @ A[-1] @ W.mT)
        for W in reversed(weights):
            B.insert(0, W.mT @ B[0] @ W)
            back.insert(0, W.mT @ back[0] @ W)
        now = {f"A{i}": a.expand(len(noise_root), -1, -1) for i, a in enumerate(A)}
        now |= {f"B{i}": b for i, b in enumerate(B)}
        # Tr H = 2 Σ Tr A_{i−1} ‖W_D … W_{i+1}‖², as in theory.sharpness, for all runs at once.
        terms = [trace(a) * trace(b) for a, b in zip(A, back[1:], strict=False)]
        now["sharpness"] = 2 * torch.stack(terms).sum(0)
        if len(weights) == 3:
            read, written = torch.linalg.qr(weights[2].mT)[0], torch.linalg.qr(weights[0])[0]
            now["used"] = torch.linalg.svdvals(read.mT @ weights[1] @ written)
            now["all"] = torch.linalg.svdvals(weights[1])
        for name, value in now.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        self.count += 1

    def mean(self, runs: slice) -> dict[str, Tensor]:
        """The averages of these runs."""
        return {name: total[runs] / self.count for name, total in self.sums.items()}


def rows(step: int, case: Case, mean: dict[str, Tensor]) -> list[Measurement]:
    """What is written of a case at one step, the prediction beside it."""
    D, name, Sigma = len(case.start), case.name, case.Sigma_eps
    found = []
    for normalised, quantity in ((True, "balance_gap"), (False, "balance_gap_raw")):
        worst = torch.stack([gap(mean, i, normalised) for i in range(1, D)]).amax(0)
        expected = 0.0 if normalised and not case.descent else None
        found += averaged(step, name, quantity, worst, expected)
    if case.descent:  # theory is of SGD; without noise there is nothing to compare
        return found + averaged(step, name, "sharpness_trace", mean["sharpness"])
    spectrum = theory.hidden_spectrum(V, SIGMA_X, Sigma)
    rho = theory.equilibrium(V, SIGMA_X, Sigma, depth=D).rho
    if D == 2:
        eigenvalues = torch.linalg.eigvalsh(mean["A1"]).flip(-1)
        for j, predicted in enumerate(spectrum):
            where = f"{name}, {j + 1}"
            found += averaged(step, where, "hidden_eigenvalue", eigenvalues[:, j], predicted)
    else:
        ends = (
            trace(mean["A1"]) / trace(mean["A0"]),
            trace(mean[f"B{D - 1}"]) / trace(mean[f"B{D}"]),
        )
        for side, end in zip(("input", "output"), ends, strict=True):
            found += averaged(step, f"{name}, {side}", "end_norm", end, rho**2)
        for j in range(3):
            where = f"{name}, used {j + 1}"
            found += averaged(step, where, "singular_value", mean["used"][:, j], rho)
        for j in range(mean["all"].shape[1]):
            found += averaged(step, f"{name}, {j + 1}", "singular_value", mean["all"][:, j])
    sharpness = at_equilibrium(V, SIGMA_X, Sigma, depth=D)
    return found + averaged(step, name, "sharpness_trace", mean["sharpness"], sharpness)


def gap(mean: dict[str, Tensor], i: int, normalised: bool) -> Tensor:
    """‖X − Y‖/max(‖X‖, ‖Y‖) at layer i, one number a run (see `theory.linear_equilibrium.gaps`)."""
    X, Y = mean[f"A{i}"], mean[f"B{i}"]
    if normalised:
        X = X / trace(mean[f"A{i - 1}"])[:, None, None]
        Y = Y / trace(mean[f"B{i + 1}"])[:, None, None]
    sizes = [torch.linalg.matrix_norm(M) for M in (X, Y, X - Y)]
    return sizes[2] / torch.maximum(sizes[0], sizes[1])


def trace(M: Tensor) -> Tensor:
    """Tr of the last two dimensions."""
    return M.diagonal(dim1=-2, dim2=-1).sum(-1)


def rest(Sigma_eps: np.ndarray, depth: int, width: int) -> list[np.ndarray]:
    """The factors of V that theory predicts."""
    return list(theory.equilibrium(V, SIGMA_X, Sigma_eps, depth=depth, width=width).weights)


def far(depth: int, width: int, spread: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Factors of V far from balance: every hidden basis changed by 1.4 (1 + spread·N(0, 1)) and
    its inverse, then a little noise."""
    weights = rest(UNEVEN, depth, width)
    idle = np.diag([0.0] * 3 + [1.6] * (width - 3))  # what a wide middle layer does not use
    for i in range(1, depth):
        change = (np.eye(width) + spread * rng.normal(size=(width, width))) * (
            1.4 if i == 1 else 1.0
        )
        weights[i - 1] = change @ (weights[i - 1] + (idle if i > 1 else 0.0))
        weights[i] = weights[i] @ np.linalg.inv(change)
    return [W + 0.02 * rng.normal(size=W.shape) for W in weights]


def sharper_than_flattest(case: str) -> Callable[[Run], float]:
    """Reads the measured Tr H of a two-layer case over the least there is."""
    least = flattest(V, SIGMA_X)
    return lambda run: last("sharpness_trace", case, run) / least


def two_starts(run: Run) -> float:
    """Tr H of the run that began at the flattest minimum over that of the one from afar."""
    return last("sharpness_trace", "D=2, flat", run) / last("sharpness_trace", "D=2", run)


IDLE = "D=3, wide, 1"  # the largest singular value; the idle ones began at 1.6
FULL = {"steps": 90_000, "learning_rate": 0.007}

experiment = Experiment(
    name="deep-linear-equilibrium",
    statement="SGD balances the layers of a deep linear net, with traces; descent does not.",
    settings=DeepLinear,
    train=train,
    scales={"paper": {"learning_rate": 0.005, "steps": 480_000, "replicas": 32}},
    bands=(
        Band("gap of the balance", 0, 0.10, partial(last, "balance_gap", "D=2"), FULL),
        Band("gap without the traces", 0.4, 1, partial(last, "balance_gap_raw", "D=2"), FULL),
        Band("gap under descent", 0.6, 1, partial(last, "balance_gap", "GD"), FULL),
        *(
            Band(f"eigenvalue {j} of cov(h_1)", 0.92, 1.08, ratio("hidden_eigenvalue", f"D=2, {j}"))
            for j in (1, 2)
        ),
        *(
            Band(f"{side} norm of D=3", 0.95, 1.05, ratio("end_norm", f"D=3, {side}"), FULL)
            for side in ("input", "output")
        ),
        *(
            Band(f"singular value {j} of W_2", 0.92, 1.08, ratio("singular_value", where), FULL)
            for j in (1, 2, 3)
            for where in (f"D=3, used {j}", f"D=3, wide, used {j}")
        ),
        Band(
            "idle direction of the wide W_2", 1.2, 10, partial(last, "singular_value", IDLE), FULL
        ),
        Band("even noise: Tr H / flattest", 0.94, 1.06, sharper_than_flattest("D=2, even"), FULL),
        Band("uneven noise: Tr H / flattest", 1.05, 1.2, sharper_than_flattest("D=2"), FULL),
        Band("uneven noise: the two starts agree", 0.97, 1.03, two_starts, FULL),
    ),
)
