"""mirror-transition: at which weight decay, or noise, a symmetric state becomes inevitable.

World. Four small losses with a mirror symmetry, descended in float64; γ is that of L + γ‖θ‖²,
torch's weight_decay is 2γ.

    factorisation   ‖M − UV‖² + γ(‖U‖² + ‖V‖²), M 6 × 6 with s = 3, 2, 1.4, .9, .5, .2
    two neurons     E(v_1 tanh w_1x + v_2 tanh w_2x − y)² + γ‖θ‖²
    deep linear     E(W_K … W_1x − y)² + γΣ‖W_i‖², K = 2, 3, 4, Σ_x = 1.5·I, ‖E[xy]‖ = 1
    noisy saddle    s ← s(1 − η(h + s²)), h = −1.2 or .8 with odds .45 : .55: downhill on average

Hypotheses. (1) Modes shrink to (s_i − γ)₊: rank #{s_i > γ} (Ziyin et al., arXiv:2202.04777).
(2) The neurons merge at γ_c = −½λ_min(OᵀH₀O), with s* = √(−a/2c₁) below (Ziyin,
arXiv:2309.16932): a, c₁ from derivatives at the symmetric state alone, c₁ with the in-plane modes
eliminated. (3) K = 2 collapses continuously at ‖E[xy]‖; K ≥ 3 jumps at γ_c, and survives as a
local minimum up to γ_sp > γ_c, while zero is a local minimum from every γ > 0 on. (4) SGD falls
into a saddle iff the Lyapunov exponent E ln|1 − ηh| is negative (Ziyin et al., arXiv:2303.13093).

Controls. Decay on the product UV instead of its factors leaves the rank alone; decay towards a
θ₀ off the mirror plane (syre, arXiv:2408.15495) never merges neurons exactly, but follows the
imperfect pitchfork; full-batch descent never falls into the saddle, whatever η.

Bands. Published with the theory's derivation: ranks exact and singular values within 1e-5 of
(s_i − γ)₊; neurons apart at .95 γ_c and merged at 1.05 γ_c; the ratio of order parameters at .8 and
.95 γ_c within 1.9–2.2 (√4 = 2 near γ_c); thresholds of deep linear nets, read here as 1e-3
relative; collapsed share ≤ .05 at η = .15 and ≥ .95 at .3. The rest guards against change.
About 15 seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.func import grad, jacrev

from ...record import Measurement, Run, RunWriter, open_run
from ...theory import lyapunov
from ...theory.deep_linear_minima import modes, thresholds
from ...theory.mirror_collapse import critical_gamma, critical_gamma_moving, order_parameter
from ..beside import beside
from ..experiment import Band, Experiment, Settings, last, setting
from ..job import Job
from ..world import averaged, measured_steps, paced, ratio

REAL = torch.float64
Rows = Iterator[tuple[int, list[Measurement]]]

SPECTRUM = (3.0, 2.0, 1.4, 0.9, 0.5, 0.2)
DECAYS = (0.1, 0.35, 0.7, 1.7, 3.5)
FACTORS = (0.8, 0.95, 0.9875, 1.05, 1.2)
ANCHOR = 0.02
RATES = (0.05, 0.15, 0.3, 0.6)
CURVATURES, ODDS = np.array([-1.2, 0.8]), np.array([0.45, 0.55])


@dataclass(frozen=True)
class Transition(Settings):
    device: str = setting("cpu", "A world this small is fastest on a CPU.", ("cpu",))
    steps: int = setting(12_000, "Steps; each of the four worlds takes a fixed part of them.")
    replicas: int = setting(2_000, "Replicas of the noisy saddle.")
    layers: tuple[int, ...] = setting((2, 3, 4), "Depths K of the deep linear nets.")


def train(settings: Transition, job: Job) -> Run:
    draw = torch.Generator().manual_seed(job.seed)
    with job.world(laws=("mirror_threshold",)) as writer:
        for part in (factorisation, two_neurons, deep_linear, noisy_saddle):
            record(part(settings, draw, job.progress), writer)
    return open_run(job.out)


def record(rows: Rows, writer: RunWriter) -> None:
    for step, measurements in rows:
        writer.write(step, measurements)


# -- rank ----------------------------------------------------------------------------------------


def factorisation(s: Transition, draw: torch.Generator, progress: bool) -> Rows:
    """Ranks and modes of UV at every γ, beside (s_i − γ)₊; decay on UV as the control."""
    truth, gammas = np.array(SPECTRUM), torch.tensor(DECAYS, dtype=REAL)[:, None, None]
    d, R = len(truth), len(DECAYS)
    left, right = (torch.linalg.qr(_normal(draw, d, d)).Q for _ in range(2))
    M = left @ torch.diag(torch.tensor(truth)) @ right
    start = _normal(draw, 2, d, d) * 0.3
    # The first R pairs decay in their factors, the others in their product.
    U, V = (part.expand(2 * R, d, d).clone() for part in start)
    factor = torch.cat([gammas, 0 * gammas])
    product = torch.cat([0 * gammas, gammas])
    steps = s.steps // 3
    wanted = measured_steps(s.measurements, steps)
    for step in paced(steps + 1, "factorisation", progress):
        if step in wanted:
            spectra = torch.linalg.svdvals(U @ V).numpy()
            rows: list[Measurement] = []
            for case, gamma in enumerate(DECAYS):
                shrunk, kept = modes(truth, gamma), truth / (1 + gamma)
                rows += _spectrum(step, f"factors, γ={gamma:g}", spectra[case], shrunk)
                rows += _spectrum(step, f"product, γ={gamma:g}", spectra[R + case], kept)
            for i, mode in enumerate(modes(truth, DECAYS[2])):
                where = f"factors, γ={DECAYS[2]:g}, mode {i + 1}"
                rows += beside(step, where, "mode_strength", spectra[2, i], mode)
            yield step, rows
        pull = M - U @ V - product * (U @ V)
        U, V = U + 0.1 * (pull @ V.mT - factor * U), V + 0.1 * (U.mT @ pull - factor * V)


def _spectrum(step: int, case: str, values: np.ndarray, predicted: np.ndarray) -> list[Measurement]:
    def count(s: np.ndarray) -> int:
        return int((s > 1e-3 * SPECTRUM[0]).sum())

    error = float(np.abs(values - predicted).max())
    rows = beside(step, case, "rank", count(values), count(predicted))
    return [*rows, Measurement(step, case, "spectrum_error", error)]


# -- two neurons ---------------------------------------------------------------------------------

INPUTS = torch.linspace(-2, 2, 41, dtype=REAL)
TARGET = torch.tanh(2.5 * INPUTS) + 0.5 * INPUTS
SWAP = torch.tensor([[1.0, 0, -1, 0], [0, 1, 0, -1]], dtype=REAL).T / math.sqrt(2)


def fit(theta: Tensor) -> Tensor:
    """Mean squared error of two tanh neurons; theta (…, 4) is (w_1, v_1, w_2, v_2)."""
    w1, v1, w2, v2 = theta[..., None].unbind(-2)
    return (v1 * torch.tanh(w1 * INPUTS) + v2 * torch.tanh(w2 * INPUTS) - TARGET).square().mean(-1)


def nearest_mirror(theta: Tensor) -> Tensor:
    """Distance to the nearest symmetric state of all: neurons equal, opposite, or one of them 0."""
    a, b = theta[..., :2], theta[..., 2:]
    near = torch.stack([(a - b) / math.sqrt(2), (a + b) / math.sqrt(2), a, b])
    return near.norm(dim=-1).amin(0)


def hessian(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Reverse mode twice: forward mode still compiles with a deprecated part of torch."""
    return jacrev(grad(f))


def symmetric_minimiser(gamma: float) -> Tensor:
    """θ_s(γ): the best pair of equal neurons, (4,); Newton's method from a quasi-Newton point."""

    def paired(z: Tensor) -> Tensor:
        return fit(z.repeat(2)) + 2 * gamma * z.square().sum()

    slope = grad(paired)
    found = minimize(
        lambda z: float(paired(torch.tensor(z))),
        [1.0, 0.5],
        jac=lambda z: slope(torch.tensor(z)).numpy(),
    )
    z = torch.tensor(found.x)
    for _ in range(5):
        z = z - torch.linalg.solve(hessian(paired)(z), slope(z))
    return z.repeat(2)


def pitchfork(gamma: float) -> tuple[float, float, Tensor]:
    """(a, c₁, direction): L_γ ≈ a s² + c₁s⁴ across the plane at θ_s(γ), in-plane modes eliminated.

    Eliminating z from ½s²bᵀz + ½zᵀKz, b = D³L[v, v, ·], takes bᵀK⁻¹b/8 off the quartic term.
    """
    theta = symmetric_minimiser(gamma)
    H = hessian(fit)(theta)
    values, vectors = torch.linalg.eigh(SWAP.T @ H @ SWAP)
    v = SWAP @ vectors[:, 0]

    def along(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda t: grad(f)(t) @ v

    second = along(along(fit))
    fourth = float(along(along(second))(theta))
    plane = torch.linalg.qr(torch.cat([SWAP.abs(), SWAP], 1)).Q[:, :2]  # equal neurons
    b = plane.T @ grad(second)(theta)
    K = plane.T @ H @ plane + 2 * gamma * torch.eye(2, dtype=REAL)
    quartic = fourth / 24 - float(b @ torch.linalg.solve(K, b)) / 8
    return float(values[0]) / 2 + gamma, quartic, v


def critical_at(gamma: float) -> float:
    return critical_gamma(hessian(fit)(symmetric_minimiser(gamma)).numpy(), SWAP.numpy())


def two_neurons(s: Transition, draw: torch.Generator, progress: bool) -> Rows:
    """Descent from beside the plane at several γ around γ_c; decay to an anchor as the control."""
    critical = critical_gamma_moving(critical_at, 1e-3, 0.2)
    gammas = [factor * critical for factor in FACTORS]
    forks = [pitchfork(gamma) for gamma in gammas]
    plain = torch.stack([symmetric_minimiser(g) for g in gammas])
    off = torch.stack([v for *_, v in forks])
    start, anchor = plain + 0.05 * off, ANCHOR * off * (off @ off[0]).sign()[:, None]
    theta = torch.cat([start, start])
    pulled_to = torch.cat([0 * anchor, anchor])
    decay = torch.tensor(gammas, dtype=REAL).repeat(2)[:, None]
    predicted = [order_parameter(a, 0.0, c) for a, c, _ in forks]
    predicted += [_imperfect(a, c, gamma) for (a, c, _), gamma in zip(forks, gammas, strict=True)]
    cases = [f"neurons, {f:g} γ_c{tag}" for tag in ("", ", anchored") for f in FACTORS]
    steps = s.steps // 2
    wanted = measured_steps(s.measurements, steps)
    slope, momentum = grad(lambda t: fit(t).sum()), torch.zeros_like(theta)
    for step in paced(steps + 1, "two neurons", progress):
        if step in wanted:
            distance = nearest_mirror(theta).tolist()
            paired = zip(cases, distance, predicted, strict=True)
            yield step, [m for c, d, p in paired for m in beside(step, c, "order_parameter", d, p)]
        momentum = 0.95 * momentum + slope(theta) + 2 * decay * (theta - pulled_to)
        theta = theta - 0.2 * momentum
    # s*² is linear in γ near the transition: two points say where it ends.
    near = np.polyfit(np.square(distance[1:3]), gammas[1:3], 1)
    yield steps, beside(steps, "neurons", "critical_decay", 2 * float(near[1]), 2 * critical)


def _imperfect(a: float, quartic: float, gamma: float) -> float:
    """The minimiser of a s² + c₁s⁴ − 2γ s₀ s: a in the place of γ − γ_c, but γ in the pull."""
    roots = np.roots([4 * quartic, 0.0, 2 * a, -2 * gamma * ANCHOR])
    return float(max(roots[np.abs(roots.imag) < 1e-9].real))


# -- deep linear nets ----------------------------------------------------------------------------

SECOND_MOMENT = 1.5


def deep_linear(s: Transition, draw: torch.Generator, progress: bool) -> Rows:
    """Branches from above and from below at γ around the thresholds, then the thresholds."""
    for K in s.layers:
        known = thresholds(1.0, SECOND_MOMENT, K)
        between = (known.gamma_c + known.gamma_spinodal) / 2
        gammas = [0.5 * known.gamma_c, 0.9 * known.gamma_c, between, 1.15 * known.gamma_spinodal]
        predicted = [_upper(g, K) for g in gammas]
        for way, wanted in (("above", predicted), ("below", predicted if K == 2 else [0.0] * 4)):
            path = descend(torch.tensor(gammas, dtype=REAL), K, way, s.steps // 4, draw)
            title, marks = f"K={K} from {way}", measured_steps(s.measurements, s.steps // 4)
            for step in paced(s.steps // 4 + 1, title, progress):
                size, _ = next(path)
                if step in marks:
                    rows: list[Measurement] = []
                    for gamma, norm, theory in zip(gammas, size, wanted, strict=True):
                        case = f"K={K}, γ={gamma:.3f} from {way}"
                        rows += beside(step, case, "order_parameter", float(norm), theory)
                    yield step, rows
        critical, spinodal = measured_thresholds(K, s.steps // 4, draw)
        rows = beside(s.steps, f"K={K}", "critical_decay", 2 * critical, 2 * known.gamma_c)
        rows += beside(s.steps, f"K={K}", "spinodal_decay", 2 * spinodal, 2 * known.gamma_spinodal)
        yield s.steps, rows


def descend(
    gammas: Tensor, K: int, way: str, steps: int, draw: torch.Generator, width: int = 3
) -> Iterator[tuple[Tensor, Tensor]]:
    """Plain descent at every γ at once; yields (‖β‖, L − E y²) before and after each step.

    way: "above" starts at the minimum without decay, "below" near zero. Inertia would jump the
    barrier between the two, hence no momentum.
    """
    beta = torch.linalg.qr(_normal(draw, width, 1)).Q[:, 0]  # E[xy], of norm 1
    target, first = torch.zeros(2, width, width, dtype=REAL)
    target[0], first[0, 0] = beta, 1.0  # one output: the other rows of W_K are never used
    size = SECOND_MOMENT ** (-1 / K) if way == "above" else 0.0
    weights = [size * (target if k == 0 else first) for k in range(K)]
    W = torch.stack([w + 0.02 * _normal(draw, width, width) for w in weights])
    W = W[None].repeat(len(gammas), 1, 1, 1)
    W[:, -1, 1:] = 0.0
    for _ in range(steps + 1):
        slope, product = slopes(W, target)
        found = product[:, 0]
        fit = SECOND_MOMENT * found.square().sum(1) - 2 * found @ beta
        yield found.norm(dim=1), fit + gammas * W.square().sum((1, 2, 3))
        slope[:, -1, 1:] = 0.0
        W = W - 0.1 * (slope + 2 * gammas[:, None, None, None] * W)


def slopes(W: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients (R, K, d, d) of s²‖P‖² − 2⟨P, target⟩ in the factors of P = W_K … W_1; and P."""
    eye = torch.eye(W.shape[-1], dtype=W.dtype).expand(len(W), -1, -1)
    heads, K = [eye], W.shape[1]
    for k in range(K):
        heads.append(W[:, k] @ heads[-1])
    pull, tail = 2 * (SECOND_MOMENT * heads[-1] - target), eye
    found: list[Tensor] = []
    for k in reversed(range(K)):
        found.insert(0, tail.mT @ pull @ heads[k].mT)
        tail = tail @ W[:, k]
    return torch.stack(found, 1), heads[-1]


def measured_thresholds(K: int, steps: int, draw: torch.Generator) -> tuple[float, float]:
    """(γ_c, γ_sp) read off the branch from above, by three ever finer grids of γ.

    γ_c: where the branch and zero, L = E y², cost the same; γ_sp: where the branch ends. A
    continuous transition has both at its end, found by extrapolating ‖β‖ to zero.
    """
    if K == 2:
        grid = torch.linspace(0.3, 0.9, 13, dtype=REAL)
        *_, (size, _) = descend(grid, K, "above", steps, draw)
        slope, offset = np.polyfit(grid.numpy(), size.numpy(), 1)
        return (-offset / slope,) * 2
    low, high, critical, end = 0.02, 1.0, math.nan, math.nan
    for _ in range(3):
        grid = torch.linspace(low, high, 25, dtype=REAL)
        *_, (size, cost) = descend(grid, K, "above", steps, draw)
        alive = int((size > 1e-2).sum())
        if not 0 < alive < len(grid):  # too few steps to tell
            return math.nan, math.nan
        worth = cost[:alive].numpy()
        if worth[-1] > 0 > worth[0]:
            critical = float(np.interp(0.0, worth, grid[:alive].numpy()))
        end = float(grid[alive - 1] + grid[alive]) / 2
        low, high = float(grid[max(alive - 2, 0)]), float(grid[alive])
    near = torch.linspace(0.98 * critical, 1.02 * critical, 9, dtype=REAL)
    *_, (_, cost) = descend(near, K, "above", steps, draw)
    return float(np.interp(0.0, cost.numpy(), near.numpy())), end


def _upper(gamma: float, K: int) -> float:
    """‖β‖ of the branch from above: the largest root of (1 − s²t)t^{1−2/K} = γ, else 0."""
    t = np.linspace(0, 1 / SECOND_MOMENT, 200_001)[1:]
    inside = np.flatnonzero((1 - SECOND_MOMENT * t) * t ** (1 - 2 / K) >= gamma)
    return float(t[inside[-1]]) if len(inside) else 0.0


# -- noise ---------------------------------------------------------------------------------------


def noisy_saddle(s: Transition, draw: torch.Generator, progress: bool) -> Rows:
    """Share of replicas at the saddle under SGD, beside the sign of the exponent; GD as control."""
    exponents = [lyapunov.exponent(CURVATURES, eta, probabilities=ODDS) for eta in RATES]
    eta = torch.tensor(RATES * 2, dtype=REAL)[:, None]
    x, mean = torch.full((2 * len(RATES), s.replicas), 0.01, dtype=REAL), float(CURVATURES @ ODDS)
    steps = s.steps // 3
    wanted = measured_steps(s.measurements, steps)
    for step in paced(steps + 1, "noisy saddle", progress):
        if step in wanted:
            rows: list[Measurement] = []
            for i, exponent in enumerate(exponents):
                fell = (x.abs() < 1e-6).double()
                where = f"saddle, η={RATES[i]:g}"
                rows += averaged(step, where, "collapsed_fraction", fell[i], float(exponent < 0))
                if exponent < 0:
                    ahead = math.log(0.01) + exponent * step
                    rows += averaged(step, where, "log_distance", x[i].abs().log(), ahead)
                calm = fell[len(RATES) + i]
                rows += averaged(step, f"{where}, full batch", "collapsed_fraction", calm, 0.0)
            yield step, rows
        kinds = torch.rand(len(RATES), s.replicas, generator=draw, dtype=REAL) < ODDS[0]
        h = torch.where(kinds, CURVATURES[0], CURVATURES[1])
        h = torch.cat([h, torch.full_like(h, mean)])
        x = x * (1 - eta * (h + x**2))


def _normal(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=draw, dtype=REAL)


# -- what is expected ----------------------------------------------------------------------------


def rank_misses(run: Run) -> float:
    """How many cases end with another rank than predicted."""
    cases = [c for c in run.layers if run.at("rank", c) is not None]
    return sum(last("rank", c, run) != last("rank_predicted", c, run) for c in cases)


def worst_spectrum(kind: str, run: Run) -> float:
    """The largest error of a singular value over all γ."""
    return max(last("spectrum_error", f"{kind}, γ={g:g}", run) for g in DECAYS)


def square_root_law(run: Run) -> float:
    """Order parameters at .8 and .95 γ_c; 2 when s* ∝ √(γ_c − γ)."""
    far, near = (last("order_parameter", f"neurons, {f:g} γ_c", run) for f in (0.8, 0.95))
    return far / near


ORDER = partial(last, "order_parameter")
SHARE = partial(last, "collapsed_fraction")

experiment = Experiment(
    name="mirror-transition",
    statement="Symmetric states take over at the weight decay, or the noise, that theory predicts.",
    settings=Transition,
    train=train,
    bands=(
        Band("cases with a rank other than #{s_i > γ}", 0, 0, rank_misses),
        Band("largest error of a singular value", 0, 1e-5, partial(worst_spectrum, "factors")),
        Band("the same, decay on the product", 0, 1e-5, partial(worst_spectrum, "product")),
        Band(
            "γ_c of the neurons, measured/predicted", 0.95, 1.05, ratio("critical_decay", "neurons")
        ),
        Band("‖Oᵀθ‖ at .95 γ_c", 0.05, 1.0, partial(ORDER, "neurons, 0.95 γ_c")),
        Band("‖Oᵀθ‖ at 1.05 γ_c", 0, 1e-3, partial(ORDER, "neurons, 1.05 γ_c")),
        Band("√-law: s(.8 γ_c)/s(.95 γ_c)", 1.9, 2.2, square_root_law),
        Band(
            "s*, measured/predicted, .9875 γ_c", 0.9, 1.1,
            ratio("order_parameter", "neurons, 0.9875 γ_c"),
        ),
        Band(
            "anchored s*, measured/predicted, 1.2 γ_c", 0.9, 1.1,
            ratio("order_parameter", "neurons, 1.2 γ_c, anchored"),
        ),
        *(
            Band(f"{name}, measured/predicted, K={K}", 0.999, 1.001, ratio(name, f"K={K}"))
            for K in (2, 3, 4)
            for name in ("critical_decay", "spinodal_decay")
        ),
        Band("collapsed share at η = .15", 0, 0.05, partial(SHARE, "saddle, η=0.15")),
        Band("collapsed share at η = .3", 0.95, 1, partial(SHARE, "saddle, η=0.3")),
        Band("the same, full batch", 0, 0, partial(SHARE, "saddle, η=0.3, full batch")),
    ),
)  # fmt: skip
