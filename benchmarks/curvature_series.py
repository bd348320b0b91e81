"""How many Hessian products does the sharpness of a training run take, and how true is it?

Four worlds are trained and measured every `--every` steps: a tanh MLP and a conv net by gradient
descent at the edge of stability (the worlds of the experiment `edge-of-stability`, η = 0.27 and
0.2), a ReLU MLP by SGD on batches of 16 digits (η = 0.1), a two-block character GPT by AdamW
(η = 3·10⁻³). The probe is the training set, 256 digits or 16 sequences. Beside every measurement
stands a solve in double precision converged to 10⁻⁸. Counted, not timed; printed for each world:

    cold, warm     products of the first measurement; mean and largest of the later ones
    error          largest relative error; share of measurements above 2·10⁻³
    bound          reported bounds that hold
    turn           median sin² of the angle between the eigenvectors of two measurements

A series costs what the eigenvector turns: the more often one looks, the less a look costs.

    python benchmarks/curvature_series.py [--every 10] [--steps 600] [--seed 0] [--world edge gpt]
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lawful.estimators.eigen import top_eigenpairs
from lawful.instruments.curvature import Curvature
from lawful.instruments.hessian import loss_surface
from lawful.instruments.probe import Probe
from lawful.lab.datasets import batches, load, subset
from lawful.lab.experiments.canonical_gpt import per_character
from lawful.lab.experiments.edge_of_stability import half_square, network, noisy_digits
from lawful.lab.models import GPT, MLP, seeded

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class World:
    """A training run and the samples that it is measured on."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    loss: Loss
    x: Tensor
    y: Tensor
    batch: int
    probe: tuple[Tensor, Tensor]


def descent(name: str, eta: float, seed: int) -> World:
    x, y = noisy_digits(200, seed)
    with seeded(seed):
        model = network(name)
    optimizer = torch.optim.SGD(model.parameters(), lr=eta)
    return World(model, optimizer, half_square, x, y, len(y), (x, y))


def noisy(seed: int) -> World:
    data = load("digits")
    x, y = (data.x_train - data.x_train.mean(0)) / (data.x_train.std(0) + 1e-6), data.y_train
    with seeded(seed):
        model = MLP(64, 10, width=32, depth=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return World(model, optimizer, cross_entropy, x, y, 16, (x[:256], y[:256]))


def gpt(seed: int) -> World:
    data = subset(load("python-source", context=24, characters=200_000), test=16, seed=seed)
    with seeded(seed):
        model = GPT(data.outputs, context=24, depth=2, heads=2, width=32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    probe = (data.x_test, data.y_test)
    return World(model, optimizer, per_character, data.x_train, data.y_train, 16, probe)


WORLDS: dict[str, Callable[[int], World]] = {
    "edge": lambda seed: descent("mlp", 0.27, seed),
    "conv": lambda seed: descent("conv", 0.2, seed),
    "noisy": noisy,
    "gpt": gpt,
}


@dataclass(frozen=True)
class Look:
    """One measurement: products spent, relative error of λ_1, bound relative to λ_1, u_1."""

    products: int
    error: float
    bound: float
    vector: Tensor


def series(name: str, *, steps: int, every: int, seed: int) -> Iterator[Look]:
    """The measurements at steps 0, every, 2 every … ≤ steps."""
    world = WORLDS[name](seed)
    curvature = Curvature(wants=["sharpness"], seed=seed)
    stream = batches(world.x, world.y, world.batch, steps=steps + 1, seed=seed)
    for step, (x, y) in enumerate(stream):
        if step % every == 0:
            yield look(world, curvature, step)
        world.optimizer.zero_grad()
        world.loss(world.model(x), y).backward()
        world.optimizer.step()


def look(world: World, curvature: Curvature, step: int) -> Look:
    reading = curvature.measure(step, world.model, Probe([world.probe], world.loss), {})
    found = {m.quantity: m.value for m in reading.rows}
    truth, vector = converged(world)
    return Look(
        int(found["curvature_products"]),
        found["sharpness"] / truth - 1,
        found["sharpness_bound"] / truth,
        vector,
    )


def converged(world: World) -> tuple[float, Tensor]:
    """λ_1 and u_1 in double precision, to 10⁻⁸, from the gradient and four random directions."""
    x, y = (t.double() if t.is_floating_point() else t for t in world.probe)
    with loss_surface(copy.deepcopy(world.model).double(), Probe([(x, y)], world.loss)) as surface:
        generator = torch.Generator().manual_seed(0)
        random = torch.randn(4, surface.dimension, generator=generator, dtype=torch.float64)
        start = torch.cat([surface.gradient[None], random])
        found = top_eigenpairs(surface.hessian, start, tolerance=1e-8, residual=1e-4, limit=400)
    assert found.converged
    return float(found.values[0]), found.vectors[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--world", nargs="*", default=list(WORLDS), choices=list(WORLDS))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.world:
        looks = list(series(name, steps=args.steps, every=args.every, seed=args.seed))
        warm = [at.products for at in looks[1:]]
        mean = sum(warm) / len(warm)
        errors = [abs(at.error) for at in looks]
        held = [error <= at.bound for error, at in zip(errors, looks, strict=True)]
        turns = [1 - float(a.vector @ b.vector) ** 2 for a, b in pairwise(looks)]
        print(
            f"{name:6s} cold {looks[0].products:2d}   warm {mean:.2f} ≤ {max(warm)}"
            f"   error ≤ {max(errors):.1e}, {sum(e > 2e-3 for e in errors)} of {len(errors)} above"
            f"   bound holds in {sum(held)} of {len(held)}   turn {median(turns):.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
