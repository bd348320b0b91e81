"""What does observing cost? The same training loop with and without lawful, side by side.

Two copies of one model train in this process on one thread and take turns, a block of steps each,
so that a machine that slows down slows both; printed is the median over rounds of the processor
time of the observed one over the plain one, attaching and closing included. `control` is a second
plain copy: its distance from 1 is noise.

    python benchmarks/overhead.py [--steps N] [--rounds 4] [--arm NAME …] [--long]

A run has 4,000 steps (the transformer 400) unless `--steps` says otherwise: a reading at
initialisation and one decomposition belong to every run, however short.

`--long` times the default schedule over 5,000 steps (minutes). Peak memory is read in a process
of its own for each arm, after a small observed run in both: the code of the libraries that a
reading calls, some 15 MiB shared by all processes, is then in neither difference.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

import lawful

torch.set_num_threads(1)
BLOCK = 20  # steps of one copy before the other one's turn


class Attention(nn.Module):
    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, d = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / (d // self.heads) ** 0.5).softmax(-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(B, T, d))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


def mlp() -> tuple[nn.Module, Callable[[], torch.Tensor], Callable]:
    sizes = [784, 512, 512, 512, 10]
    parts: list[nn.Module] = []
    for a, b in pairwise(sizes):
        parts += [nn.Linear(a, b), nn.ReLU()]
    net = nn.Sequential(*parts[:-1])
    x, y = torch.randn(128, 784), torch.randint(10, (128,))
    return net, lambda: nn.functional.cross_entropy(net(x), y), net.parameters


def transformer() -> tuple[nn.Module, Callable[[], torch.Tensor], Callable]:
    d = 128
    net = nn.Sequential(nn.Embedding(96, d), *[Attention(d, 4) for _ in range(4)], nn.Linear(d, 96))
    x, y = torch.randint(96, (16, 64)), torch.randint(96, (16, 64))
    loss = nn.functional.cross_entropy
    return net, lambda: loss(net(x).flatten(0, 1), y.flatten()), net.parameters


def small() -> tuple[nn.Module, Callable[[], torch.Tensor], Callable]:
    net = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    x, y = torch.randn(64, 8), torch.randint(4, (64,))
    return net, lambda: nn.functional.cross_entropy(net(x), y), net.parameters


MODELS = {"mlp": mlp, "transformer": transformer, "small": small}
ARMS: dict[str, Callable[[], object] | None] = {
    "control": None,
    "every(1)": lambda: lawful.every(1),
    "every(10)": lambda: lawful.every(10),
    "every(100)": lambda: lawful.every(100),
    "budget(0.02)": lambda: lawful.budget(0.02),
}


class Training:
    """One copy of a model in training, and the processor time that its steps have taken."""

    def __init__(self, model: str, schedule: Callable[[], object] | str | None) -> None:
        torch.manual_seed(0)
        self.net, self.loss_of, parameters = MODELS[model]()
        self.optimizer = torch.optim.SGD(parameters(), lr=0.01, momentum=0.9)
        self.schedule, self.seconds = schedule, 0.0

    @contextmanager
    def timed(self) -> Iterator[None]:
        started = time.process_time()
        yield
        self.seconds += time.process_time() - started

    @contextmanager
    def observed(self) -> Iterator[None]:
        """Attached and detached by lawful, where there is a schedule, on the clock."""
        if self.schedule is None:
            yield
            return
        chosen = None if isinstance(self.schedule, str) else self.schedule()
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with self.timed():
                observation = lawful.observe(
                    self.net, Path(folder) / "run", optimizer=self.optimizer, schedule=chosen
                )
                observation.__enter__()
            yield
            with self.timed():
                observation.close()

    def train(self, steps: int) -> None:
        with self.timed():
            for _ in range(steps):
                self.optimizer.zero_grad()
                self.loss_of().backward()
                self.optimizer.step()


def ratio(
    model: str, schedule: Callable[[], object] | str | None, steps: int, *, first: bool = False
) -> float:
    """Processor time of an observed training over that of a plain one beside it.

    first: the observed copy is made first. Where its weights come to lie decides up to a per cent
    of a copy's speed, and the two places are not alike.
    """
    made = [Training(model, which) for which in ((schedule, None) if first else (None, schedule))]
    ours, plain = made if first else made[::-1]
    with ours.observed():
        for begin in range(0, steps, BLOCK):
            turn = (plain, ours) if begin // BLOCK % 2 else (ours, plain)
            for one in turn:
                one.train(min(BLOCK, steps - begin))
    return ours.seconds / plain.seconds


def memory(model: str, schedule: Callable[[], object] | None) -> float:
    """Peak resident MiB of a short run in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (model, schedule is not None))


def _peak(model: str, observed: bool) -> float:
    for name, seen, steps in (("small", True, 40), (model, observed, 120)):
        one = Training(name, (lambda: lawful.every(1)) if seen else None)
        with one.observed():
            one.train(steps)
    # Not `ru_maxrss`: that of a new process begins with what its parent had.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, help="default: 4000, transformer 400")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--model", nargs="*", default=["mlp", "transformer"])
    parser.add_argument("--arm", nargs="*", default=list(ARMS))
    parser.add_argument("--long", action="store_true", help="the default schedule, 5,000 steps")
    args = parser.parse_args()
    for model in args.model:
        ratio(model, lambda: lawful.every(1), 40)  # what is imported and set up once
        steps = args.steps or {"mlp": 4000, "transformer": 400}[model]
        arms = [(name, ARMS[name], steps) for name in args.arm]
        if args.long:
            arms = [("control", None, 5000), ("default, 5,000 steps", "default", 5000)]
        for name, schedule, steps in arms:
            rounds = range(args.rounds)
            ratios = [ratio(model, schedule, steps, first=i % 2 == 1) for i in rounds]
            middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
            print(f"{model:12s} {name:22s} × {middle:.3f}  [{low:.3f}, {high:.3f}]", flush=True)
        if not args.long:
            plain, ours = memory(model, None), memory(model, lawful.every(1))
            print(f"{model:12s} {'memory above plain':22s} {ours - plain:.1f} MiB")


if __name__ == "__main__":
    main()
