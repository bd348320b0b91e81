"""tanh-same-features: does noise make both layers of a tanh network learn the same features?

World. f(x) = U φ(Wx), φ(z) = tanh(az)/a, five inputs, hidden units and outputs; inputs and label
noise both anisotropic, in unrelated directions; y from a network of the same shape. The same
samples are fitted twice from the same weights, loss ‖f − y‖² without ½: one by one (SGD) and all
at once (GD), over equal times η·steps. Gain a = 0 is the linear network, a = 1 tanh itself.

Hypothesis (Ziyin et al., arXiv:2402.07193, shown there for a tanh network in a figure; for a = 0 a
theorem). With Σ̄ = Σ/Tr Σ, averaged over time,

    W Σ̄_x Wᵀ  is similar to  Uᵀ Σ̄_ε U      under SGD,  and not under GD.

The linear argument needs the symmetry U → UM⁻¹, W → MW, which tanh breaks: nothing says how far
it carries. Three numbers: Pearson correlation of entries beside its mean under random rotations
of one side, relative distance, and the paired difference of SGD and GD over independent worlds.

Control. GD, and a = 0 where the theorem holds.

What came out (eight worlds, seed 0, mean ± one standard error, at rest over the last third; no
source gives a band, so all bands are set from such runs):

    a    SGD           null   GD            null   SGD less GD   distance, SGD
    0    .997 ± .001   .46    .295 ± .075   .40    .702 ± .074    .08
    .1   .996 ± .001   .46    .310 ± .084   .41    .685 ± .083    .12
    .3   .959 ± .013   .45    .341 ± .068   .40    .617 ± .071    .40
    1    .669 ± .075   .40    .355 ± .075   .36    .315 ± .032   1.13

So the figure is reproduced in kind: similar under SGD, about chance under GD, at every gain (seed
1 at a = 1: .651 ± .053 and .485 ± .047, difference .166 ± .026). But for tanh itself it is a
resemblance, not an equation: the two matrices differ by as much as they are large. And it takes
data enough to keep the network from fitting the noise: with 200 samples instead of 2,000 nothing
comes to rest at a = 1, and both similarities sink below their nulls (.24 under SGD, .08 under GD).
About 45 seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ...record import Measurement, Run, RunWriter, open_run
from ..experiment import Band, Experiment, Settings, last, setting
from ..job import Job
from ..world import averaged, measured_steps, paced

REAL = torch.float64
INPUT = (2.0, 1.2, 0.8, 0.4, 0.2)
"""Eigenvalues of Σ_x."""
NOISE = (0.06, 0.12, 0.24, 0.36, 0.6)
"""Eigenvalues of Σ_ε."""
SLOWER = 10
"""GD takes steps this much larger, and as many fewer; its path does not depend on them."""
EVERY = 20
"""Steps between two snapshots of the average over time."""


@dataclass(frozen=True)
class SameFeatures(Settings):
    device: str = setting("cpu", "A world this small is fastest on a CPU.", ("cpu",))
    gain: tuple[float, ...] = setting(
        (0.0, 0.1, 0.3, 1.0), "a of φ(z) = tanh(az)/a; 0 is linear, 1 is tanh."
    )
    worlds: int = setting(8, "Independent data sets, teachers and initial weights at every gain.")
    learning_rate: float = setting(0.005, "η of SGD.")
    steps: int = setting(60_000, "Steps of SGD; η²·steps ≳ 2 is needed to forget the start.")
    samples: int = setting(2_000, "Samples of a data set.")
    width: int = setting(5, "Hidden units.")


@dataclass(frozen=True)
class World:
    """Data and starting weights of R networks, all float64.

    x: (R, n, 5); y: (R, n, 5); W: (R, h, 5); U: (R, 5, h); gain: (R, 1, 1);
    Sigma_x, Sigma_eps: (R, 5, 5).
    """

    x: Tensor
    y: Tensor
    W: Tensor
    U: Tensor
    gain: Tensor
    Sigma_x: Tensor
    Sigma_eps: Tensor


def train(settings: SameFeatures, job: Job) -> Run:
    draw = torch.Generator().manual_seed(job.seed)
    world, end = make(settings, draw), settings.steps
    with job.world() as writer:
        by_sgd = follow(settings, world, "SGD", 1, draw, job, writer)
        by_gd = follow(settings, world, "GD", SLOWER, None, job, writer)
        more = (by_sgd - by_gd).unflatten(0, (len(settings.gain), -1))
        for a, difference in zip(settings.gain, more, strict=True):
            rows = averaged(end, f"a={a:g}, SGD less GD", "feature_similarity", difference)
            writer.write(end, rows)
    return open_run(job.out)


def follow(
    s: SameFeatures, world: World, way: str, slower: int, draw: torch.Generator | None,
    job: Job, writer: RunWriter,
) -> Tensor:  # fmt: skip
    """Train and record one way; returns the similarities at the end, (R,)."""
    steps = s.steps // slower
    path = fit(world, s.learning_rate * slower, steps, draw)
    wanted, snapshots = measured_steps(s.measurements, steps), list[Tensor]()
    for step in paced(steps + 1, way, job.progress):
        W, U = next(path)
        if step % EVERY == 0 or step in wanted:
            snapshots.append(both_sides(world, W, U))
        if step in wanted:
            # Averaged since the last measurement: one snapshot is three times as far off.
            A, B = torch.stack(snapshots).mean(0)
            snapshots.clear()
            writer.write(step * slower, compared(s, step * slower, way, A, B))
    return similarity(A, B)


def compared(s: SameFeatures, step: int, way: str, A: Tensor, B: Tensor) -> list[Measurement]:
    """Similarity, its null and distance, by gain; the hypothesis speaks of SGD only."""
    found: list[Measurement] = []
    fate = {
        "feature_similarity": (similarity(A, B), 1.0),
        "feature_similarity_null": (rotated(A, B), None),
        "feature_distance": (distance(A, B), 0.0),
    }
    for quantity, (values, predicted) in fate.items():
        for a, mine in zip(s.gain, values.unflatten(0, (len(s.gain), -1)), strict=True):
            claim = predicted if way == "SGD" else None
            found += averaged(step, f"a={a:g}, {way}", quantity, mine, claim)
    return found


def make(s: SameFeatures, draw: torch.Generator) -> World:
    """The same worlds at every gain, one block of R/len(gain) rows a gain."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(s.worlds, *shape, generator=draw, dtype=REAL)

    def roots(spectrum: tuple[float, ...]) -> Tensor:
        return torch.linalg.qr(normal(5, 5)).Q * torch.tensor(spectrum, dtype=REAL).sqrt()

    root_x, root_eps = roots(INPUT), roots(NOISE)
    x = normal(s.samples, 5) @ root_x.mT
    noise = normal(s.samples, 5) @ root_eps.mT
    teacher_W, W = (normal(s.width, 5) / 5**0.5 for _ in range(2))
    teacher_U, U = (normal(5, s.width) / s.width**0.5 for _ in range(2))
    spread = (x, noise, teacher_W, teacher_U, W, U, root_x @ root_x.mT, root_eps @ root_eps.mT)
    copies = (part.repeat(len(s.gain), 1, 1) for part in spread)
    x, noise, teacher_W, teacher_U, W, U, Sigma_x, Sigma_eps = copies
    gain = torch.tensor(s.gain, dtype=REAL).repeat_interleave(s.worlds)[:, None, None]
    y = phi(x @ teacher_W.mT, gain) @ teacher_U.mT + noise
    return World(x, y, W, U, gain, Sigma_x, Sigma_eps)


def phi(z: Tensor, gain: Tensor) -> Tensor:
    """tanh(az)/a, and z itself where a = 0."""
    return torch.where(gain > 0, torch.tanh(gain * z) / gain.clamp_min(1e-12), z)


def fit(
    world: World, eta: float, steps: int, draw: torch.Generator | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """(W, U) before the first step and after each; draw None is full-batch descent."""
    W, U, x, y, each = world.W, world.U, world.x, world.y, torch.arange(len(world.x))
    for step in range(steps + 1):
        yield W, U
        if draw is not None:
            if step % 1000 == 0:
                picks = torch.randint(world.x.shape[1], (1000, len(each)), generator=draw)
            x, y = (part[each, picks[step % 1000]][:, None] for part in (world.x, world.y))
        h = phi(x @ W.mT, world.gain)
        g = (h @ U.mT - y) * (2 / x.shape[1])
        dU, dW = g.mT @ h, ((g @ U) * (1 - (world.gain * h) ** 2)).mT @ x
        U, W = U - eta * dU, W - eta * dW


def both_sides(world: World, W: Tensor, U: Tensor) -> Tensor:
    """WΣ̄_xWᵀ and UᵀΣ̄_εU, stacked (2, R, h, h)."""
    Sigma_x, Sigma_eps = world.Sigma_x, world.Sigma_eps
    A, B = W @ Sigma_x @ W.mT, U.mT @ Sigma_eps @ U
    return torch.stack([A / _trace(Sigma_x), B / _trace(Sigma_eps)])


def similarity(A: Tensor, B: Tensor) -> Tensor:
    """Pearson correlation over entries, (R,); A, B (R, d, d)."""
    A, B = (M.flatten(1) - M.flatten(1).mean(1, keepdim=True) for M in (A, B))
    return (A * B).sum(1) / (A.norm(dim=1) * B.norm(dim=1))


def rotated(A: Tensor, B: Tensor, draws: int = 50) -> Tensor:
    """`similarity` of A and QBQᵀ, mean over random rotations Q."""
    draw = torch.Generator().manual_seed(0)
    Q = torch.linalg.qr(torch.randn(draws, *A.shape[1:], generator=draw, dtype=A.dtype)).Q
    return torch.stack([similarity(A, q @ B @ q.T) for q in Q]).mean(0)


def distance(A: Tensor, B: Tensor) -> Tensor:
    """‖A − B‖/‖B‖, (R,)."""
    return (A - B).flatten(1).norm(dim=1) / B.flatten(1).norm(dim=1)


def _trace(S: Tensor) -> Tensor:
    return S.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]


SIMILAR = partial(last, "feature_similarity")

experiment = Experiment(
    name="tanh-same-features",
    statement="Both layers of a tanh network learn similar features under SGD, not under GD.",
    settings=SameFeatures,
    train=train,
    bands=(
        Band("similarity, linear, SGD", 0.97, 1, partial(SIMILAR, "a=0, SGD")),
        Band("similarity, linear, GD", 0, 0.6, partial(SIMILAR, "a=0, GD")),
        Band("similarity, a = .1, SGD", 0.95, 1, partial(SIMILAR, "a=0.1, SGD")),
        Band("similarity, a = .3, SGD", 0.8, 1, partial(SIMILAR, "a=0.3, SGD")),
        Band("SGD less GD, a = .3", 0.3, 1, partial(SIMILAR, "a=0.3, SGD less GD")),
        Band("similarity, tanh, SGD", 0.4, 0.9, partial(SIMILAR, "a=1, SGD")),
        Band("similarity, tanh, GD", 0, 0.6, partial(SIMILAR, "a=1, GD")),
        Band("SGD less GD, tanh", 0.1, 0.6, partial(SIMILAR, "a=1, SGD less GD")),
    ),
)
