"""mode-connectivity: the hill between two solutions is one of numbering.

World. Two networks 64–n–10 (ReLU) on the same 1400 handwritten digits, from different seeds, Adam,
η = 1e-3, batch 100, 100 passes; the straight line between their weights in 11 points, as they are
and after the hidden neurons of one were put in the order of the other's; five pairs each. The
barrier is read on the digits trained on and on the 397 others ("test"). Cases:

    wide        n = 2048
    middle      n = 512
    narrow      n = 8: the control, where two solutions use different neurons
    memorised   n = 512, three tenths of the labels drawn at random: the other control, where most
                of what was learned has no common form

Hypothesis (Ainsworth et al., arXiv 2209.04836). The wider, the less is left of the barrier.

Bands. Published with the derivation: .018 nats as they are and .000 matched, n = 512. That is the
barrier on test digits, where trained ends are overconfident and their mean is not (.003 to .04 and
at most .005 here, means of five pairs that scatter from 0 to .04). On the training set, which the
ends have to a thousandth of a nat, the same line has .05 and .002. The share that is left there,
ours from trial runs: at most a tenth where wide, more where narrow or memorised. It depends on the
length of training: after 30 passes .12 nats and a tenth. 90 seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ...instruments.mode_connectivity import barrier, match, path
from ...record import Run, RunWriter, open_run
from ..datasets import batches, flatten, load, standardise
from ..experiment import Band, Experiment, Settings, last, setting
from ..job import Job
from ..models import seeded
from ..world import averaged, paced

# case -> (hidden units, share of labels drawn at random)
CASES = {
    "wide": (2048, 0.0), "middle": (512, 0.0), "narrow": (8, 0.0), "memorised": (512, 0.3),
}  # fmt: skip


@dataclass(frozen=True)
class ModeConnectivity(Settings):
    device: str = setting("cpu", "Where to compute; networks this small are fastest on a CPU.")
    learning_rate: float = setting(1e-3, "η of Adam.")
    passes: int = setting(100, "Passes over the data.")
    pairs: int = setting(5, "Pairs of networks.")


def train(settings: ModeConnectivity, job: Job) -> Run:
    data = flatten(standardise(load("digits")))
    x = data.x_train
    with job.world(laws=("mode_connectivity",), data=data.describe()) as writer:
        for case, (units, share) in CASES.items():
            y = mislabelled(data.y_train, share, job.seed)
            losses, net = (mean_loss(x, y), mean_loss(data.x_test, data.y_test)), network(units)
            found = []
            for k in paced(settings.pairs, case, job.progress):
                seeds = [2 * (settings.pairs * job.seed + k) + i for i in (0, 1)]
                a, b = (solution(units, x, y, s, settings) for s in seeds)
                ends = (b, match(a, b, ["0", "2"]))
                found.append([barrier(path(net, a, end, loss)) for loss in losses for end in ends])
            write(case, torch.tensor(found, dtype=torch.float64), settings.passes, writer)
    return open_run(job.out)


def write(case: str, found: Tensor, passes: int, writer: RunWriter) -> None:
    """Barriers (pairs, 4): plain and matched, on the training set and on the test set."""
    train_plain, train_matched, test_plain, test_matched = found.T
    rows = averaged(passes, case, "barrier", train_plain)
    rows += averaged(passes, case, "barrier_matched", train_matched, 0.0)
    rows += averaged(passes, case, "barrier_left", train_matched / train_plain)
    rows += averaged(passes, f"{case}, test", "barrier", test_plain)
    rows += averaged(passes, f"{case}, test", "barrier_matched", test_matched, 0.0)
    writer.write(passes, rows)


def network(units: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, units), nn.ReLU(), nn.Linear(units, 10))


def mean_loss(x: Tensor, y: Tensor) -> Callable[[Callable[..., Tensor]], float]:
    """What `path` asks for: a function of the network as a function."""
    return lambda f: float(cross_entropy(f(x), y))


def mislabelled(y: Tensor, share: float, seed: int) -> Tensor:
    """A share of the labels replaced by random ones, the same for both networks."""
    draw = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(y), generator=draw) < share
    return torch.where(wrong, torch.randint(10, y.shape, generator=draw), y)


def solution(units: int, x: Tensor, y: Tensor, seed: int, s: ModeConnectivity) -> dict[str, Tensor]:
    """The weights of one trained network."""
    with seeded(seed):
        net = network(units)
    optimizer = torch.optim.Adam(net.parameters(), s.learning_rate)
    for xb, yb in batches(x, y, 100, steps=s.passes * (len(x) // 100), seed=seed):
        optimizer.zero_grad()
        cross_entropy(net(xb), yb).backward()
        optimizer.step()
    return net.state_dict()


FULL = {"passes": 100, "learning_rate": 1e-3, "pairs": 5}

experiment = Experiment(
    name="mode-connectivity",
    statement="Put the neurons of two wide solutions in one order, and no barrier is between them.",
    settings=ModeConnectivity,
    train=train,
    bands=(
        Band("test, middle", 0.003, 0.04, partial(last, "barrier", "middle, test"), FULL),
        Band("test, matched", 0, 0.005, partial(last, "barrier_matched", "middle, test"), FULL),
        Band("matched, middle", 0, 0.005, partial(last, "barrier_matched", "middle"), FULL),
        Band("left, wide", 0, 0.1, partial(last, "barrier_left", "wide"), FULL),
        Band("left, middle", 0, 0.1, partial(last, "barrier_left", "middle"), FULL),
        Band("left, narrow", 0.12, 1, partial(last, "barrier_left", "narrow"), FULL),
        Band("left, memorised", 0.12, 1, partial(last, "barrier_left", "memorised"), FULL),
    ),
)
