"""What does the charge instrument cost? Measured steps against plain ones, in one process.

Two copies of a model train on the same batches on one thread, taking turns step by step: one
plain, one with every step measured, readings (one in four steps) included. Printed is the ratio
of their median step times over rounds, and of two plain copies as a control; then the largest
closure of the account over `--long` consecutive measured steps in float32.

    python benchmarks/charges.py [--steps 40] [--rounds 5] [--model mlp gpt] [--long 1000]

Unmeasured steps run no code of the instrument at all: its hooks are off.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lawful.instruments.charges import Charges
from lawful.instruments.instrument import Rates
from lawful.instruments.tap import Scale
from lawful.lab.models import GPT, MLP
from lawful.symmetry import Symmetry, symmetries

torch.set_num_threads(1)
ETA, DECAY = 0.05, 1e-3


def characters(f: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(f.flatten(0, 1), y.flatten())


def mlp() -> tuple[nn.Module, Callable, Callable]:
    data = torch.randn(4096, 784), torch.randint(10, (4096,))
    return MLP(784, 10, width=512, depth=3), nn.functional.cross_entropy, dealt(*data, 128)


def gpt() -> tuple[nn.Module, Callable, Callable]:
    text = torch.randint(96, (1024, 65))
    return GPT(96, width=128), characters, dealt(text[:, :-1], text[:, 1:], 16)


def dealt(x: Tensor, y: Tensor, batch: int) -> Callable[[int], tuple[Tensor, Tensor]]:
    def deal(step: int) -> tuple[Tensor, Tensor]:
        at = torch.arange(step * batch, (step + 1) * batch) % len(x)
        return x[at], y[at]

    return deal


class Arm:
    """One copy in training, measured or not."""

    def __init__(self, model: nn.Module, loss: Callable, found: list[Symmetry] | None) -> None:
        self.model, self.loss = copy.deepcopy(model), loss
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=ETA, weight_decay=DECAY)
        rates = Rates("SGD", ETA, DECAY)
        self.rates = dict.fromkeys(self.model.parameters(), rates)
        self.charges = None if found is None else Charges(self.model, found, Scale("mean", 1))
        self.closure = self.broken = 0.0

    def step(self, k: int, batch: tuple[Tensor, Tensor]) -> float:
        started = time.perf_counter()
        if self.charges is not None:
            self.charges.place()
        self.optimizer.zero_grad()
        self.loss(self.model(batch[0]), batch[1]).backward()
        if self.charges is not None:
            self.charges.before(k, self.rates, 1.0)
        self.optimizer.step()
        if self.charges is not None:
            self.charges.after(k)
            self.charges.lift()
            if k % self.charges.batches == self.charges.batches - 1:
                rows = self.charges.read(k).rows
                exact = {r.layer for r in rows
                         if r.quantity == "symmetry_violation" and r.value < 1e-8}  # fmt: skip
                left = [r for r in rows if r.quantity == "charge_closure"]
                self.closure = max(r.value for r in left if r.layer in exact)
                self.broken = max((r.value for r in left if r.layer not in exact), default=0.0)
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", nargs="*", default=["mlp", "gpt"])
    parser.add_argument("--long", type=int, default=1000)
    args = parser.parse_args()
    for name in args.model:
        torch.manual_seed(0)
        model, loss, deal = {"mlp": mlp, "gpt": gpt}[name]()
        found = symmetries(model, deal(0), loss)
        for label, second in (("control", None), ("measured", found)):
            ratios = []
            for _ in range(args.rounds):
                arms = Arm(model, loss, None), Arm(model, loss, second)
                times: tuple[list[float], list[float]] = ([], [])
                for k in range(args.steps):
                    for i in (0, 1) if k % 2 else (1, 0):
                        times[i].append(arms[i].step(k, deal(k)))
                ratios.append(sum(times[1][4:]) / sum(times[0][4:]))
            middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
            print(f"{name:5s} {label:9s} × {middle:.3f}  [{low:.3f}, {high:.3f}]", flush=True)
        arm = Arm(model, loss, found)
        for k in range(args.long):
            arm.step(k, deal(k))
        print(f"{name:5s} closure after {args.long} steps {arm.closure:.1e}"
              f", where ε breaks the symmetry {arm.broken:.1e}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
