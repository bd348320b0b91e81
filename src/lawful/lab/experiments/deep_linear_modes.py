"""deep-linear-modes: a deep linear network learns the data's modes in the order of their strength.

World. y = Mx, x white, d = 16, singular values of M 4, 2.5, 1.5, 0.8; gradient descent on ½E‖y −
f‖² in a network of L square layers:

    aligned    L = 2, 3, 4, balanced at u_0 = 10⁻², η = 10⁻³; L = 2 also at η = 10⁻²
    stages     L = 2, balanced at u_0 = 10⁻⁸ and at 10⁻²
    random     L = 2, hidden width 64, weights N(0, σ²), σ = 10⁻³, 10⁻², three seeds
    greedy     the same at σ = 10⁻⁵, where rank is to rise one by one: t_10%(k+1) > t_90%(k)

Controls: σ = 0.05; inputs of condition number 10, with theory as if they were white; for greedy
rank σ = 0.1, where theory foretells no stages, and σ = 10⁻⁵ with Adam, which rescales gradients
and learns all modes together.

Hypothesis (A. Saxe, J. McClelland, S. Ganguli, arXiv 1312.6120; `theory/deep_linear_modes.py`).
Mode k follows du/dt = L u^{2−2/L}(s − u), known from its start alone.

Bands, as published with the derivation: max error/s ≤ 1.5·ηs_maxL/2; half-time within 2.5 % for σ ≤
10⁻²; all three gaps separate at u_0 = 10⁻⁸ and none at 10⁻². The first band depends on the start
(at u_0 = 10⁻³ and L = 4 it is 1.83, not 1.5): the error itself has a first-order formula, and
follows it within 10 %. Without white inputs it is above ten times that. Greedy rank: all ratios
t_10%(k+1)/t_90%(k) above 1 at σ = 10⁻⁵ and within 2.5 % of theory's; below 1 in both controls.
About 15 seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ...record import Run, RunWriter, open_run
from ...theory import deep_linear_modes as theory
from ..beside import beside
from ..experiment import Band, Experiment, Settings, last, setting
from ..job import Job
from ..world import averaged, measured_steps, paced, ratio

Array = NDArray[np.float64]

STRENGTHS = np.array([4.0, 2.5, 1.5, 0.8])
SEEDS = 3
# case -> (σ of the weights, Adam instead of gradient descent)
GREEDY = {"small": (1e-5, False), "large": (1e-1, False), "small, Adam": (1e-5, True)}


@dataclass(frozen=True)
class DeepLinearModes(Settings):
    device: str = setting("cpu", "Always a CPU: these worlds are small.", ("cpu", "auto"))
    learning_rate: float = setting(0.001, "η.")
    inputs: int = setting(16, "d.")
    width: int = setting(64, "Hidden width of the randomly started networks.")
    start: float = setting(1e-2, "u_0 of the aligned networks.")
    time: float = setting(1.15, "Length of a run, in times to the last mode's 90 %.")


@dataclass(frozen=True)
class Case:
    """One network in training. weights: W_1 … W_L; strengths: a_l of each mode at the start."""

    name: str
    weights: list[Array]
    strengths: list[list[float]]
    eta: float
    condition: float = 1.0
    adam: bool = False

    @property
    def start(self) -> float:
        """u_0 of the strongest mode."""
        return float(np.prod(self.strengths[0]))


def train(settings: DeepLinearModes, job: Job) -> Run:
    rng = np.random.default_rng(job.seed)
    M, U, V = target(settings.inputs, rng)
    laws = ("mode_dynamics", "mode_half_time", "sequential_stages", "greedy_rank")
    with job.world(laws=laws) as writer:
        for depth, eta in ((2, 10.0), (2, 1.0), (3, 1.0), (4, 1.0)):
            case = aligned(depth, eta * settings.learning_rate, settings.start, U, V, rng)
            follow(case, M, U, V, settings, job, writer)
        for start in (1e-8, 1e-2):
            case = aligned(2, 2 * settings.learning_rate, start, U, V, rng)
            times = follow(case, M, U, V, settings, job, None)
            write_stages(f"u₀ = {start:g}", times, case, writer)
        for sigma in (1e-3, 1e-2, 5e-2):
            half_times(sigma, M, U, V, settings, job, writer)
        for name in GREEDY:
            greedy(name, M, U, V, settings, job, writer)
        case = aligned(2, settings.learning_rate, settings.start, U, V, rng, condition=10.0)
        follow(case, M, U, V, settings, job, writer)
    return open_run(job.out)


def target(d: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """M = U diag(s) Vᵀ with random U, V (d, 4)."""
    U, V = (np.linalg.qr(rng.normal(size=(d, d)))[0][:, : len(STRENGTHS)] for _ in range(2))
    return U @ np.diag(STRENGTHS) @ V.T, U, V


def aligned(
    depth: int, eta: float, u0: float, U: Array, V: Array, rng: np.random.Generator,
    condition: float = 1.0,
) -> Case:  # fmt: skip
    """Balanced layers u_0^{1/L} R_{l+1}R_lᵀ, R_0 = V, R_L = U."""
    inner = [np.linalg.qr(rng.normal(size=U.shape))[0] for _ in range(depth - 1)]
    bases = [V, *inner, U]
    weights = [u0 ** (1 / depth) * b @ a.T for a, b in pairwise(bases)]
    name = f"L = {depth}, η = {eta:g}" + (", not white" if condition > 1 else "")
    strengths = [theory.balanced(u0, depth)] * len(STRENGTHS)
    return Case(name, weights, strengths, eta, condition=condition)


def follow(
    case: Case, M: Array, U: Array, V: Array, s: DeepLinearModes, job: Job,
    writer: RunWriter | None,
) -> list[Array]:  # fmt: skip
    """Train to the end of the slowest mode; measured quantile times (10, 50, 90 %) of each mode."""
    steps = int(s.time * max(foretold(case, 0.9)) / case.eta)
    t: Array = case.eta * np.arange(steps + 1, dtype=np.float64)
    foreseen = np.array(
        [theory.path(t, k, a) for k, a in zip(STRENGTHS, case.strengths, strict=True)]
    )
    seen, leak = descend(case, M, U, V, steps, job)
    if writer is not None:
        write_paths(case, seen, foreseen, leak, s, writer)
    return [reached(row, t, k) for row, k in zip(seen, STRENGTHS, strict=True)]


def descend(case: Case, M: Array, U: Array, V: Array, steps: int, job: Job) -> tuple[Array, float]:
    """u_k (4, steps + 1) of gradient descent on ½E‖Mx − Wx‖², and the largest leakage."""
    W, seen, leak = [w.copy() for w in case.weights], [], 0.0
    rules = [Adam() if case.adam else np.asarray for _ in W]
    Sigma = np.diag(np.geomspace(1.0, 1 / case.condition, M.shape[1]))
    if case.condition > 1:
        Sigma /= np.trace(Sigma) / len(Sigma)
    for step in paced(steps + 1, case.name, job.progress):
        rights = [np.eye(M.shape[1])]
        for w in W:
            rights.append(w @ rights[-1])
        u = np.einsum("ik,ij,jk->k", U, rights[-1], V)
        seen.append(u)
        if step % 100 == 0:
            leak = max(leak, theory.projections(rights[-1], U, V)[1])
        back = (M - rights[-1]) @ Sigma
        for l in reversed(range(len(W))):
            gradient = back @ rights[l].T
            back = W[l].T @ back
            W[l] += case.eta * rules[l](gradient)
    return np.array(seen).T, leak


@dataclass
class Adam:
    """A gradient as Adam rescales it: m/√v of running means with β = .9, .999."""

    m: float | Array = 0.0
    v: float | Array = 0.0
    steps: int = field(default=0)

    def __call__(self, gradient: Array) -> Array:
        self.steps += 1
        self.m = 0.9 * self.m + 0.1 * gradient
        self.v = 0.999 * self.v + 0.001 * gradient**2
        mean, square = self.m / (1 - 0.9**self.steps), self.v / (1 - 0.999**self.steps)
        return np.asarray(mean / (np.sqrt(square) + 1e-12))


def reached(u: Array, t: Array, s: float) -> Array:
    """First times at 10, 50 and 90 % of s, between steps by interpolation; NaN where never."""
    found = []
    for q in (0.1, 0.5, 0.9):
        above = np.flatnonzero(u >= q * s)
        if not len(above) or above[0] == 0:
            found.append(0.0 if len(above) else np.nan)
            continue
        i = int(above[0])
        found.append(float(np.interp(q * s, u[i - 1 : i + 1], t[i - 1 : i + 1])))
    return np.array(found)


# -- what is written -----------------------------------------------------------------------------


def write_paths(
    case: Case, seen: Array, foreseen: Array, leak: float, s: DeepLinearModes, writer: RunWriter
) -> None:
    """Each mode beside its path over the steps; at the end the largest departure and its bound."""
    last_step = seen.shape[1] - 1
    depth, top = len(case.weights), float(STRENGTHS[0])
    bound = theory.step_error(case.eta, top, case.start, depth)
    order = theory.discretisation(case.eta, top, depth)
    for k, strength in enumerate(STRENGTHS):
        layer = f"{case.name}, mode {k + 1}"
        for step in measured_steps(s.measurements, last_step):
            writer.write(
                step, beside(step, layer, "mode_projection", seen[k, step], foreseen[k, step])
            )
        error = float(np.max(np.abs(seen[k] - foreseen[k])) / strength)
        furthest = float(max(seen[k].max(), foreseen[k].max()) / strength)
        for quantity, value in (
            ("mode_error", error), ("mode_error_bound", bound), ("mode_error_order", order),
            ("mode_reached", furthest), ("mode_leakage", leak), ("input_condition", case.condition),
        ):  # fmt: skip
            writer.write(last_step, averaged(last_step, layer, quantity, value))


def write_stages(layer: str, times: Sequence[Array], case: Case, writer: RunWriter) -> None:
    """Gaps between stages, measured and predicted."""
    first, final = (foretold(case, q) for q in theory.STAGE)
    seen = theory.separate_stages([t[0] for t in times], [t[2] for t in times])
    said = theory.separate_stages(first, final)
    writer.write(1, beside(1, layer, "separate_stages", seen, said, stderr=0.0))
    writer.write(1, averaged(1, layer, "input_condition", case.condition))


def half_times(
    sigma: float, M: Array, U: Array, V: Array, s: DeepLinearModes, job: Job, writer: RunWriter
) -> None:
    """Half-times from random weights over theory's, mean over three seeds, for each mode."""
    ratios, said = [], []
    for seed in range(SEEDS):
        case = drawn(f"σ = {sigma:g}", sigma, seed, U, V, s, job)
        times = follow(case, M, U, V, s, job, None)
        foreseen = foretold(case, 0.5)
        said.append(foreseen)
        ratios.append([t[1] / f for t, f in zip(times, foreseen, strict=True)])
    for k in range(len(STRENGTHS)):
        layer, mean = f"random, σ = {sigma:g}, mode {k + 1}", float(np.mean(said, 0)[k])
        writer.write(1, averaged(1, layer, "half_time", np.array(ratios)[:, k] * mean, mean))
        writer.write(1, averaged(1, layer, "input_condition", 1.0))
        writer.write(1, averaged(1, layer, "start_scale", sigma))


def greedy(
    name: str, M: Array, U: Array, V: Array, s: DeepLinearModes, job: Job, writer: RunWriter
) -> None:
    """t_10% of each mode over t_90% of the one before it, beside theory's, over three seeds."""
    (sigma, adam), seen, said = GREEDY[name], [], []
    for seed in range(SEEDS):
        case = drawn(name, sigma, seed, U, V, s, job, adam=adam)
        times = np.array(follow(case, M, U, V, s, job, None))
        seen.append(times[1:, 0] / times[:-1, 2])
        said.append(np.divide(foretold(case, 0.1)[1:], foretold(case, 0.9)[:-1]))
    for k in range(len(STRENGTHS) - 1):
        layer = f"greedy, {name}, mode {k + 1} to {k + 2}"
        ratios, mean = np.array(seen)[:, k], float(np.mean(said, 0)[k])
        writer.write(1, averaged(1, layer, "stage_ratio", ratios, mean))
        writer.write(1, averaged(1, layer, "start_scale", sigma))


def drawn(
    name: str, sigma: float, seed: int, U: Array, V: Array, s: DeepLinearModes, job: Job,
    adam: bool = False,
) -> Case:  # fmt: skip
    """Two layers with weights N(0, σ²), as good as aligned ones of equal ‖W_1v + W_2ᵀu‖."""
    rng = np.random.default_rng([job.seed, seed])
    W1 = sigma * rng.normal(size=(s.width, s.inputs))
    W2 = sigma * rng.normal(size=(s.inputs, s.width))
    starts = [theory.random_start(W1, W2, U[:, k], V[:, k]) for k in range(len(STRENGTHS))]
    strengths = [theory.balanced(u0, 2) for u0 in starts]
    title = f"{name}, seed {seed}"
    return Case(title, [W1, W2], strengths, 2 * s.learning_rate, adam=adam)


def foretold(case: Case, q: float) -> list[float]:
    """t_q of each mode."""
    pairs = zip(STRENGTHS, case.strengths, strict=True)
    return [theory.quantile_time(q, k, a) for k, a in pairs]


# -- bands ---------------------------------------------------------------------------------------


def worst(name: str, scale: str) -> Callable[[Run], float]:
    """The largest mode_error of a case's modes over what it is measured by."""

    def read(run: Run) -> float:
        layers = [f"{name}, mode {k + 1}" for k in range(len(STRENGTHS))]
        return max(last("mode_error", x, run) / last(scale, x, run) for x in layers)

    return read


def half(sigma: float, pick: Callable[[list[float]], float]) -> Callable[[Run], float]:
    """The largest or smallest measured over predicted half-time at one σ."""

    def read(run: Run) -> float:
        layers = [f"random, σ = {sigma:g}, mode {k + 1}" for k in range(len(STRENGTHS))]
        return pick(
            [last("half_time", x, run) / last("half_time_predicted", x, run) for x in layers]
        )

    return read


def stages(name: str, pick: Callable[[list[float]], float]) -> Callable[[Run], float]:
    """The largest or smallest t_10%(k+1)/t_90%(k) of a greedy case."""

    def read(run: Run) -> float:
        layers = [f"greedy, {name}, mode {k} to {k + 1}" for k in range(1, len(STRENGTHS))]
        return pick([last("stage_ratio", x, run) for x in layers])

    return read


def stage_error(run: Run) -> float:
    """The largest departure of a small start's ratio from theory's, relative."""
    layers = [f"greedy, small, mode {k} to {k + 1}" for k in range(1, len(STRENGTHS))]
    return max(abs(ratio("stage_ratio", x)(run) - 1) for x in layers)


FULL = {"learning_rate": 0.001, "inputs": 16, "width": 64, "start": 1e-2}
CASES = "L = 2, η = 0.01", "L = 2, η = 0.001", "L = 3, η = 0.001", "L = 4, η = 0.001"

experiment = Experiment(
    name="deep-linear-modes",
    statement="A deep linear network learns mode after mode, each along a path known beforehand.",
    settings=DeepLinearModes,
    train=train,
    bands=(
        *(
            Band(f"error over ηsL/2, {case}", 0, 1.5, worst(case, "mode_error_order"), FULL)
            for case in CASES
        ),
        *(
            Band(f"error over theory, {case}", 0.9, 1.1, worst(case, "mode_error_bound"), FULL)
            for case in CASES
        ),
        *(
            Band(f"{word} half-time ratio, σ = {sigma:g}", 0.975, 1.025, half(sigma, pick), FULL)
            for sigma in (1e-3, 1e-2)
            for word, pick in (("least", min), ("largest", max))
        ),
        *(
            Band(f"{word} half-time ratio, σ = 0.05", 0.995, 1.06, half(5e-2, pick), FULL)
            for word, pick in (("least", min), ("largest", max))
        ),
        Band("stages, u₀ = 1e-8", 3, 3, partial(last, "separate_stages", "u₀ = 1e-08"), FULL),
        Band("stages, u₀ = 1e-2", 0, 0, partial(last, "separate_stages", "u₀ = 0.01"), FULL),
        Band("least ratio of stages, small start", 1, 2, stages("small", min), FULL),
        Band("its departure from theory", 0, 0.025, stage_error, FULL),
        *(
            Band(f"largest ratio of stages, {name}", 0, 1, stages(name, max), FULL)
            for name in ("large", "small, Adam")
        ),
        Band(
            "error over theory, not white", 10, 500,
            worst("L = 2, η = 0.001, not white", "mode_error_bound"), FULL,
        ),
    ),
)  # fmt: skip
