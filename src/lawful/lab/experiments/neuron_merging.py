"""neuron-merging: weight decay makes neurons of a real classifier identical, block by block.

World. An MLP with two hidden layers on real pictures (digits; `data=fashion-mnist` and others by
name), cross-entropy, SGD at several weight decays, batch 128, η = 0.2. After training (and along
it) the correlation matrix C of the second hidden layer's activations over the test pictures.

Hypothesis (Ziyin, arXiv:2309.16932, there a ResNet-18 on CIFAR-10 at decay 1e-3). Exchanging two
neurons is a mirror symmetry, so decay draws neurons together until groups of them are equal: C is
then made of blocks with one number in each. Without decay, and with decay towards a random θ₀
instead of 0 (syre, arXiv:2408.15495), no mirror plane attracts: every live neuron stays distinct.

Statistics. `block_homogeneity`: neurons are clustered by |C_ij| into width/4 groups (average
linkage), signs aligned within a group; the share of the off-diagonal sum of C_ij² that the means
of the blocks account for. A low-rank representation alone raises it, and so does clustering,
hence the null: the same activations after a random rotation of the neurons, which keeps every
eigenvalue and every direction in sample space and destroys what is particular about neurons.
`distinct_neurons`: groups at |C_ij| ≥ .95. Predicted: as many as live neurons, without a mirror.

Expected (bands from trial runs of this very world; theory gives the sign only, except that nothing
merges without an attracting mirror). Merging sets in near λ = 1e-2 here, ten times later than in
the ResNet; at 1e-3 there is none to speak of. At λ = 0, 1e-3, 1e-2, 3e-2 and 3e-2 towards θ₀ the
share of distinct neurons was 1, 1, .87, .66, 1 on digits and 1, .98, .77, .58, 1 on Fashion-MNIST.
About 20 seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor
from torch.nn.functional import cross_entropy

from ...record import Measurement, Run, open_run
from ..datasets import Dataset, batches, classified, flatten, load, standardise
from ..experiment import Band, Experiment, Settings, last, setting
from ..job import Job
from ..models.mlp import ACTIVATIONS, GAIN
from ..world import averaged, measured_steps, paced

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Merging(Settings):
    device: str = setting("cpu", "A world this small is fastest on a CPU.", ("cpu",))
    measurements: int = setting(12, "Measurements, evenly spaced in log step.")
    data: str = setting("digits", "digits, fashion-mnist, mnist-1d, a .npz file or a folder.")
    weight_decay: tuple[float, ...] = setting((0.0, 1e-3, 1e-2, 3e-2), "λ, as in torch.optim.SGD.")
    anchored: float = setting(3e-2, "λ of the control that decays towards a random θ₀.")
    spread: float = setting(0.1, "Standard deviation of θ₀.")
    learning_rate: float = setting(0.2, "η.")
    batch: int = setting(128, "Batch size.")
    steps: int = setting(5_000, "Optimiser steps.")
    width: int = setting(64, "Units in a hidden layer.")
    activation: str = setting("relu", "relu or tanh.", ("relu", "tanh"))
    seeds: int = setting(3, "Networks at every weight decay.")
    rotations: int = setting(5, "Random rotations behind the null of one network.")


@dataclass(frozen=True)
class Case:
    """One way of decaying: λ, and whether towards a random θ₀ instead of 0."""

    weight_decay: float
    anchored: bool = False

    @property
    def name(self) -> str:
        return f"λ={self.weight_decay:g}" + (" towards θ₀" if self.anchored else "")

    @property
    def attracts(self) -> bool:
        """Whether decay draws θ towards mirror planes."""
        return self.weight_decay > 0 and not self.anchored


def train(settings: Merging, job: Job) -> Run:
    data = flatten(standardise(classified(load(settings.data))))
    cases = [*map(Case, settings.weight_decay), Case(settings.anchored, anchored=True)]
    draw = np.random.default_rng(job.seed)
    wanted = measured_steps(settings.measurements, settings.steps)
    path = networks(settings, cases, data, job.seed)
    with job.world(data=data.describe()) as writer:
        for step in paced(settings.steps + 1, "training", job.progress):
            parameters = next(path)
            if step in wanted:
                with torch.no_grad():
                    output, hidden = forward(parameters, data.x_test, settings.activation)
                right = (output.argmax(-1) == data.y_test).double().mean(1)
                found = [blocks(h, settings, draw) for h in hidden.double().numpy()]
                for i, case in enumerate(cases):
                    mine = slice(i * settings.seeds, (i + 1) * settings.seeds)
                    rows = averaged(step, case.name, "accuracy", right[mine])
                    writer.write(step, rows + report(step, case, found[mine]))
    return open_run(job.out)


# -- the networks --------------------------------------------------------------------------------


def networks(s: Merging, cases: list[Case], data: Dataset, seed: int) -> Iterator[list[Tensor]]:
    """W_0, b_0, … W_2, b_2 of all networks, each (R, …), R = cases × seeds; then after each step.

    The cases start from the same weights and see the same batches.
    """
    draw = torch.Generator().manual_seed(seed)
    sizes = [data.features, s.width, s.width, data.outputs]
    parameters: list[Tensor] = []
    anchors: list[Tensor] = []
    for d_a, d_b in pairwise(sizes):
        scale = (GAIN[s.activation] / d_a) ** 0.5
        for shape, size in (((s.seeds, d_b, d_a), scale), ((s.seeds, 1, d_b), 0.0)):
            start = size * torch.randn(shape, generator=draw)
            parameters.append(start.repeat(len(cases), 1, 1).requires_grad_())
            off = torch.cat([torch.full((s.seeds, 1, 1), float(c.anchored)) for c in cases])
            anchors.append(
                off * s.spread * torch.randn(shape, generator=draw).repeat(len(cases), 1, 1)
            )
    decay = torch.tensor([c.weight_decay for c in cases]).repeat_interleave(s.seeds)[:, None, None]
    yield parameters
    for x, y in batches(data.x_train, data.y_train, s.batch, steps=s.steps, seed=seed):
        output, _ = forward(parameters, x, s.activation)
        loss = cross_entropy(output.flatten(0, 1), y.repeat(len(output))) * len(output)
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for theta, g, anchor in zip(parameters, gradients, anchors, strict=True):
                theta -= s.learning_rate * (g + decay * (theta - anchor))
        yield parameters


def forward(parameters: list[Tensor], x: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """Outputs (R, n, classes) and last hidden layer (R, n, width) of all networks at x (n, d)."""
    h, phi = x.expand(len(parameters[0]), -1, -1), ACTIVATIONS[activation]
    for W, b in zip(parameters[:-2:2], parameters[1:-2:2], strict=True):
        h = phi(h @ W.mT + b)
    return h @ parameters[-2].mT + parameters[-1], h


# -- what the neurons look like ------------------------------------------------------------------


@dataclass(frozen=True)
class Blocks:
    """Of one network: see `report` and the vocabulary."""

    homogeneity: float
    null: float
    distinct: int
    live: int


def blocks(h: Array, s: Merging, draw: np.random.Generator) -> Blocks:
    """Activations h (n, width) of one network, and `rotations` random mixtures of its neurons."""
    C, groups, null = correlations(h), s.width // 4, []
    for _ in range(s.rotations):
        Q = np.linalg.qr(draw.normal(size=(s.width, s.width)))[0]
        null.append(block_homogeneity(correlations(h @ Q), groups))
    together = int(_cluster(C, 0.05, "distance").max())
    return Blocks(block_homogeneity(C, groups), float(np.mean(null)), together, len(C))


def report(step: int, case: Case, found: list[Blocks]) -> list[Measurement]:
    """Means over the networks of a case; without an attracting mirror nothing should merge."""

    def row(
        quantity: str, values: list[float], predicted: float | None = None
    ) -> list[Measurement]:
        return averaged(step, case.name, quantity, torch.tensor(values), predicted)

    live = [float(b.live) for b in found]
    apart = None if case.attracts else sum(live) / len(live)
    return [
        *row("block_homogeneity", [b.homogeneity for b in found]),
        *row("block_homogeneity_null", [b.null for b in found]),
        *row("block_homogeneity_excess", [b.homogeneity - b.null for b in found]),
        *row("distinct_neurons", [float(b.distinct) for b in found], apart),
        *row("live_neurons", live),
    ]


def correlations(h: Array) -> Array:
    """Correlation matrix of the columns of h (n, width) that vary: above 1e-3 of the widest."""
    h = h - h.mean(0)
    spread = h.std(0)
    live = spread > 1e-3 * spread.max()
    h = h[:, live] / spread[live]
    return np.asarray(h.T @ h / len(h))


def block_homogeneity(C: Array, groups: int) -> float:
    """Share of Σ_{i≠j} C_ij² that block means account for, in [0, 1].

    >>> block_homogeneity(np.kron(np.eye(2), np.ones((3, 3))), groups=2)
    1.0
    """
    label = _cluster(C, groups, "maxclust")
    member = (label[:, None] == np.unique(label)).astype(float)  # (width, groups)
    # Signs within a group: those of its most typical neuron's correlations.
    typical = [max(np.flatnonzero(m), key=lambda i: np.abs(C[i, m > 0]).sum()) for m in member.T]
    sign = np.sign(C[np.array(typical)[member.argmax(1)], np.arange(len(C))])
    off = C * np.outer(sign, sign) * (1 - np.eye(len(C)))
    pairs = member.T @ (1 - np.eye(len(C))) @ member
    total = member.T @ off @ member
    explained = total**2 / np.where(pairs > 0, pairs, 1)
    return float(explained.sum() / np.square(off).sum())


def _cluster(C: Array, threshold: float, criterion: str) -> NDArray[np.int32]:
    """Group number of every neuron, by average linkage on 1 − |C_ij|."""
    gap = np.clip(1 - np.abs((C + C.T) / 2), 0, None)
    np.fill_diagonal(gap, 0)
    tree = linkage(squareform(gap, checks=False), "average")
    return np.asarray(fcluster(tree, threshold, criterion))


REAL = {"data": "digits", "activation": "relu"}
EXCESS = partial(last, "block_homogeneity_excess")


def share(case: str, run: Run) -> float:
    """Distinct neurons over live ones."""
    return last("distinct_neurons", case, run) / last("live_neurons", case, run)


experiment = Experiment(
    name="neuron-merging",
    statement="Weight decay makes neurons of a classifier equal in blocks; without it none merge.",
    settings=Merging,
    train=train,
    bands=(
        Band("homogeneity above its null, λ = 0", -0.3, 0.05, partial(EXCESS, "λ=0"), REAL),
        Band("homogeneity above its null, λ = .03", 0.08, 0.4, partial(EXCESS, "λ=0.03"), REAL),
        Band("the same, towards θ₀", -0.3, 0.07, partial(EXCESS, "λ=0.03 towards θ₀"), REAL),
        Band("share of distinct neurons, λ = 0", 0.98, 1, partial(share, "λ=0"), REAL),
        Band("share of distinct neurons, λ = .03", 0.3, 0.75, partial(share, "λ=0.03"), REAL),
        Band("the same, towards θ₀", 0.98, 1, partial(share, "λ=0.03 towards θ₀"), REAL),
        Band("test accuracy, λ = .03", 0.85, 0.95, partial(last, "accuracy", "λ=0.03"), REAL),
    ),
)
