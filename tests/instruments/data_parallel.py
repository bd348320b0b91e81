"""A training script for several processes; `train` runs it in this one, without any wrapper.

    python -m torch.distributed.run --standalone --nproc-per-node 2 data_parallel.py ddp runs/out

Every step has one batch of 48 sequences, whatever the number of processes that share it out.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import lawful
from lawful.instruments import distributed, sample_gradients

BATCH, STEPS, NOISY_STEPS = 48, 8, 36
AFFORDING_STEPS = 200  # until a share of the work pays for a second window
NOISY = {
    "noise": {},
    "noise in parts": {"parts": 2},
    "noise of a sum": {"reduction": "sum"},
    "noise that fails": {"fails": True},
    "noise of uneven shares": {"uneven": True},
}
SGD = partial(torch.optim.SGD, lr=0.05, weight_decay=1e-2)
CHARGED = {  # how the weights move, and how often it is looked at
    "decay": (partial(SGD, foreach=True), 2),
    "momentum": (partial(SGD, momentum=0.9), 1),
    "clipped by value": (SGD, 1),
    "Adam": (partial(torch.optim.Adam, lr=0.01), 1),
}
SCHEDULES = {
    "at": lambda: lawful.at([0, 4]),
    "every": lambda: lawful.every(2),
    "share": lambda: lawful.log_spaced(40, share=0.9),
    "budget": lambda: lawful.budget(0.2),
}


class Conv1D(nn.Module):
    """The linear map of GPT-2 code: its weight lies the other way round."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.weight = nf, nn.Parameter(torch.randn(nx, nf) / nx**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Net(nn.Module):
    """Embedding, convolution, tokens, one row a sample; widths that no process count divides."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv = nn.Embedding(11, 7), nn.Conv1d(7, 9, 3, padding=1)
        self.mix, self.norm = nn.Linear(9, 13), nn.LayerNorm(13)
        self.turn, self.head = Conv1D(13, 13), nn.Linear(13, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.conv(self.embed(x).transpose(1, 2))).transpose(1, 2)
        x = self.turn(self.norm(torch.relu(self.mix(x))))
        return self.head(torch.tanh(x).mean(1))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randint(11, (BATCH, 4), generator=generator)
    return x, x.sum(1) % 3


def net(kind: str) -> nn.Module:
    torch.manual_seed(1)
    model = Net().double()
    return spread(model, kind, [model.mix, model.conv])


def spread(model: nn.Module, kind: str, parts: list[nn.Module]) -> nn.Module:
    """The model over the processes; parts: those that are sharded by themselves."""
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    if kind in ("fsdp", "hsdp"):
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        size = dist.get_world_size()
        mesh = init_device_mesh("cpu", (size,))
        if kind == "hsdp":  # two replicas
            names = ("replica", "shard")
            mesh = init_device_mesh("cpu", (2, size // 2), mesh_dim_names=names)
        for part in parts:
            fully_shard(part, mesh=mesh)
        return fully_shard(model, mesh=mesh)
    return model


def train(kind: str, out: Path, how: str = "at", *, rank: int = 0, size: int = 1) -> None:
    """how: a schedule, or what is wrong: `uneven` shares, `fail` in the last process,
    `absent`: only the first attaches, `kill0`: that process is killed.
    """
    model = net(kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-2)
    schedule = SCHEDULES.get(how, SCHEDULES["at"])()
    watching = lawful.observe(
        model, out, optimizer=optimizer, schedule=schedule, keep="matrices", window=4
    )
    if how == "absent" and rank > 0:
        return
    with watching as watch:
        well = watch.layers.end_of_batch
        for step in range(AFFORDING_STEPS if how == "share" else STEPS):
            x, y = (t.chunk(size)[rank] for t in batch(step))
            if how == "uneven":
                x, y = x[: len(x) - 7 * rank], y[: len(y) - 7 * rank]
            if how == "fail" and rank == size - 1:
                watch.layers.end_of_batch = broken if step == 1 else well  # type: ignore[method-assign]
            if how.startswith("kill") and step == 6 and rank == int(how[4:]):
                os.kill(os.getpid(), signal.SIGKILL)
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if rank == 0:
                watch.log(loss=loss.item())


def rescalable() -> nn.Module:
    """Charges of rescaling, mixing and scale; positions; a norm."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5), nn.Linear(5, 7),
        nn.ReLU(), nn.Linear(7, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3),
    ).double()  # fmt: skip


def points(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(BATCH, 2, 6, generator=generator, dtype=torch.float64)
    return x, x.sum((1, 2)).relu().long() % 3


def train_with_noise(
    kind: str, out: Path, *, rank: int = 0, size: int = 1, parts: int = 1, reduction: str = "mean",
    uneven: bool = False, fails: bool = False,
) -> None:  # fmt: skip
    """Gradient noise and charges, every step of `parts` micro-batches.

    Of a summed loss the rate is such that the weights move alike, however many share it.
    """
    model, sum_of = rescalable(), reduction == "sum"
    found = lawful.symmetries(model, points(0), F.cross_entropy)
    model = spread(model, kind, [model[0], model[3], model[6]])  # type: ignore[index]
    rate = 0.05 * size / BATCH if sum_of else 0.05
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    sample_gradients.SHARE = 1e9  # every sample, not some of them at random
    with lawful.observe(
        model, out, ["symmetry", "noise"], optimizer=optimizer, schedule=lawful.every(1),
        symmetries=found, accumulation=parts, reduction=reduction,
    ) as watch:  # fmt: skip
        for step in range(NOISY_STEPS):
            x, y = (t.chunk(size)[rank] for t in points(step))
            if uneven:
                x, y = x[: len(x) - 7 * rank], y[: len(y) - 7 * rank]
            if fails and rank == size - 1 and step in (2, 3):
                noise, charges = (w.instrument for w in watch._watches)
                for part, name in ((noise.layers[0], "before"), (charges.samples, "close")):  # type: ignore[attr-defined]
                    if step == 2:
                        setattr(part, name, broken)
                    else:
                        delattr(part, name)
            optimizer.zero_grad()
            for some, targets in zip(x.chunk(parts), y.chunk(parts), strict=True):
                loss = F.cross_entropy(model(some), targets, reduction=reduction)
                (loss if sum_of else loss / parts).backward()
            optimizer.step()


def train_with_charges(kind: str, out: Path, *, rank: int = 0, size: int = 1) -> None:
    """The charges of one model under several optimisers, each in a run of its own."""
    sample_gradients.SHARE = 1e9
    found = lawful.symmetries(rescalable(), points(0), F.cross_entropy)
    for how, (optimizer_of, every) in CHARGED.items():
        model = rescalable()
        model = spread(model, kind, [model[0], model[3], model[6]])  # type: ignore[index]
        optimizer = optimizer_of(model.parameters())
        with lawful.observe(
            model, out / how, "symmetry", optimizer=optimizer, schedule=lawful.every(every),
            symmetries=found,
        ):  # fmt: skip
            for step in range(10 * every):
                x, y = (t.chunk(size)[rank] for t in points(step))
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                if how == "clipped by value":
                    nn.utils.clip_grad_value_(model.parameters(), 0.01)
                optimizer.step()


def broken(*_: object, **__: object) -> None:
    raise ArithmeticError("a failure of ours, in one process")


def main(kind: str, out: str, how: str = "at") -> None:
    dist.init_process_group("gloo")
    if how == "absent":
        distributed.PATIENCE = timedelta(seconds=1)
    warnings.simplefilter("ignore", lawful.LawfulWarning)
    where = {"rank": dist.get_rank(), "size": dist.get_world_size()}
    try:
        if how == "charges":
            train_with_charges(kind, Path(out), **where)
        elif how in NOISY:
            train_with_noise(kind, Path(out), **where, **NOISY[how])  # type: ignore[arg-type]
        else:
            train(kind, Path(out), how, **where)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
    # One gloo process in thirty aborts in the interpreter's own exit, whoever uses it: not this.
    os._exit(0)
