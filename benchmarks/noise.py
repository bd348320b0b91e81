"""What does a step cost while gradient noise is measured? Plain and measured steps side by side.

Every arm trains its own copy of the same model in this process on one thread, the arms taking
turns; printed is the median over rounds of the time of `--steps` measured steps, readings of
their windows included, over that of as many plain ones. `control` is a second plain run: its
distance from 1 is noise. `accumulated` splits the batch in four and takes the micro-batches in.

    python benchmarks/noise.py [--steps 64] [--rounds 7] [--model mlp transformer]
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from overhead import MODELS  # the 784-512-512-512-10 MLP and the 4-layer transformer

from lawful.instruments.instrument import Rates
from lawful.instruments.layers import survey
from lawful.instruments.noise import GradientNoise
from lawful.instruments.tap import Scale

torch.set_num_threads(1)


def train(model: str, *, measured: bool, steps: int, micro: int = 1) -> float:
    """Seconds of `steps` optimiser steps; what is made once is not counted."""
    torch.manual_seed(0)
    net, loss_of, parameters = MODELS[model]()
    optimizer = torch.optim.SGD(parameters(), lr=0.01)
    rates = {p: Rates("SGD", 0.01) for p in parameters()}
    maps, _ = survey(net, "*")
    noise = GradientNoise(net, maps, Scale("mean", micro), seed=0)
    for step in range(-2, steps):
        if step == 0:
            started = time.perf_counter()
        optimizer.zero_grad()
        if measured:
            noise.place()
        for _ in range(micro):
            (loss_of() / micro).backward()
        if measured:
            noise.before(step, rates, 1.0)
        optimizer.step()
        if measured:
            noise.after(step)
            noise.lift()
            if (step + 1) % noise.batches == 0:
                noise.read(step)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", nargs="*", default=list(MODELS))
    args = parser.parse_args()
    for model in args.model:
        for name, measured, micro in (
            ("control", False, 1), ("measured", True, 1), ("accumulated", True, 4),
        ):  # fmt: skip
            ratios = []
            for _ in range(args.rounds):
                plain = train(model, measured=False, steps=args.steps, micro=micro)
                ratios.append(
                    train(model, measured=measured, steps=args.steps, micro=micro) / plain
                )
            middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
            print(f"{model:12s} {name:12s} × {middle:.3f}  [{low:.3f}, {high:.3f}]", flush=True)


if __name__ == "__main__":
    main()
