"""mode-connectivity: the hill between two solutions is one of numbering.

World. Two networks 64–n–10 (ReLU) on the same 1400 handwritten digits, from different seeds, Adam,
η = 1e-3, batch 100, 30 passes; the straight line between their weights in 11 points, as they are
and after the hidden neurons of one were put in the order of the other's; three pairs each. Cases:

    wide     n = 512
    harder   n = 512, three tenths of the labels drawn at random: a taller hill
    narrow   n = 8: the control, where two solutions use different neurons

Hypothesis (Ainsworth et al., arXiv 2209.04836). Wide: matched, no barrier is left.

Bands. As published with the derivation, wide: .018 nats as they are, .000 matched; there is no more
than that to see in so easy a task, so `harder` carries the contrast. Ours, from trial runs: the
barrier as it is within a factor of 3 of the published, matched below .0005; `narrow` keeps more
than a tenth. 20 seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...instruments.mode_connectivity import barrier, match, path
from ...record import Run, open_run
from ..datasets import batches, flatten, load, standardise
from ..experiment import Band, Experiment, Settings, last, setting
from ..job import Job
from ..models import seeded
from ..world import averaged, paced

# case -> (hidden units, share of labels drawn at random)
CASES = {"wide": (512, 0.0), "harder": (512, 0.3), "narrow": (8, 0.0)}


@dataclass(frozen=True)
class ModeConnectivity(Settings):
    device: str = setting("cpu", "Where to compute; networks this small are fastest on a CPU.")
    learning_rate: float = setting(1e-3, "η of Adam.")
    passes: int = setting(30, "Passes over the data.")
    pairs: int = setting(3, "Pairs of networks.")


def train(settings: ModeConnectivity, job: Job) -> Run:
    data = flatten(standardise(load("digits")))
    x = data.x_train
    with job.world(laws=("mode_connectivity",), data=data.describe()) as writer:
        for case, (units, share) in CASES.items():
            y = mislabelled(data.y_train, share, job.seed)
            found = []
            for k in paced(settings.pairs, case, job.progress):
                seeds = [2 * (settings.pairs * job.seed + k) + i for i in (0, 1)]
                a, b = (solution(units, x, y, s, settings) for s in seeds)
                ends = (b, match(a, b, ["0", "2"]))
                found.append([barrier(path(network(units), a, end, mean_loss(x, y))) for end in ends])
            plain, matched = torch.tensor(found, dtype=torch.float64).T
            rows = averaged(settings.passes, case, "barrier", plain)
            rows += averaged(settings.passes, case, "barrier_matched", matched, 0.0)
            rows += averaged(settings.passes, case, "barrier_left", matched / plain)
            writer.write(settings.passes, rows)
    return open_run(job.out)


def network(units: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, units), nn.ReLU(), nn.Linear(units, 10))


def mean_loss(x: Tensor, y: Tensor):  # type: ignore[no-untyped-def]
    """What `path` asks for: a function of the network as a function."""
    return lambda f: float(cross_entropy(f(x), y))


def mislabelled(y: Tensor, share: float, seed: int) -> Tensor:
    """A share of the labels replaced by random ones, the same for both networks."""
    draw = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(y), generator=draw) < share
    return torch.where(wrong, torch.randint(10, y.shape, generator=draw), y)


def solution(
    units: int, x: Tensor, y: Tensor, seed: int, s: ModeConnectivity
) -> dict[str, Tensor]:
    """The weights of one trained network."""
    with seeded(seed):
        net = network(units)
    optimizer = torch.optim.Adam(net.parameters(), s.learning_rate)
    for xb, yb in batches(x, y, 100, steps=s.passes * (len(x) // 100), seed=seed):
        optimizer.zero_grad()
        cross_entropy(net(xb), yb).backward()
        optimizer.step()
    return net.state_dict()


FULL = {"passes": 30, "learning_rate": 1e-3}

experiment = Experiment(
    name="mode-connectivity",
    statement="Put the neurons of two wide solutions in one order, and no barrier is between them.",
    settings=ModeConnectivity,
    train=train,
    bands=(
        Band("barrier, wide", 0.006, 0.054, partial(last, "barrier", "wide"), FULL),
        Band("matched, wide", 0, 0.0005, partial(last, "barrier_matched", "wide"), FULL),
        Band("left, harder", 0, 0.1, partial(last, "barrier_left", "harder"), FULL),
        Band("left, narrow", 0.1, 1, partial(last, "barrier_left", "narrow"), FULL),
    ),
)
