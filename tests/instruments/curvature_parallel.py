"""Curvature of a model in `DistributedDataParallel`; `train` runs without processes as well.

python -m torch.distributed.run --standalone --nproc-per-node 2 curvature_parallel.py runs/out
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from data_parallel import Net, batch
from torch import nn

import lawful
from lawful.instruments.curvature import Curvature

STEPS = 6


def train(out: Path, *, rank: int = 0, size: int = 1) -> None:
    torch.manual_seed(1)
    model: nn.Module = Net().double()
    if size > 1:
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    probe = lawful.Probe([batch(100), batch(101)], F.cross_entropy)
    with lawful.observe(
        model,
        out,
        optimizer=optimizer,
        probe=probe,
        laws=("curvature",),
        schedule=lawful.at([0, 4]),
    ):
        for step in range(STEPS):
            x, y = (t.chunk(size)[rank] for t in batch(step))
            if (
                step == 2 and rank == 0
            ):  # one process looks at its wrapped model, the other does not
                reading = Curvature(wants=["sharpness"]).measure(step, model, probe, {})
                assert not reading.problems
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()


if __name__ == "__main__":
    dist.init_process_group("gloo")
    warnings.simplefilter("ignore", lawful.LawfulWarning)
    try:
        train(Path(sys.argv[1]), rank=dist.get_rank(), size=dist.get_world_size())
    finally:
        dist.destroy_process_group()
    os._exit(0)
