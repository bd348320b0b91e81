"""What do kernel theory and the empirical tangent kernel cost? Ratios, in one process.

    eigenframework    spectrum of n samples and a learning curve of 20 points, over the bare
                      eigendecomposition of the same matrix
    tangent kernel    over the recipe of the torch.func tutorial (vmap of jacrev, then the products
                      of Jacobians summed over outputs), same samples and outputs

python benchmarks/kernel.py [--n 5000] [--rounds 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg import eigh
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from lawful.instruments.neural_tangent import tangent_kernel
from lawful.lab.models import MLP, ConvNet
from lawful.theory.kernel_eigenframework import from_pool, learning_curve

torch.set_num_threads(1)


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def eigenframework(n: int, rounds: int) -> None:
    x = np.random.default_rng(0).normal(size=(n, 10))
    squares = np.sum(x**2, 1)
    K = np.exp(-np.sqrt(np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0)))
    y, sizes = x[:, 0], np.unique(np.geomspace(10, n / 4, 20).astype(int))
    ratios = []
    for _ in range(rounds):
        bare = seconds(lambda: eigh(K, driver="evd"))
        whole = seconds(lambda: learning_curve(from_pool(K, y), list(sizes), 1e-3))
        ratios.append(whole / bare)
        print(
            f"n = {n}: eigh {bare:.2f} s, with theory {whole:.2f} s, × {ratios[-1]:.3f}", flush=True
        )
    print(f"eigenframework × {statistics.median(ratios):.3f}")


def recipe(model: nn.Module, theta: dict[str, Tensor], x: Tensor) -> Tensor:
    """The tutorial's Jacobian contraction, traced over outputs."""

    def single(params: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(model, params, (one[None],))[0]

    blocks = vmap(jacrev(single), (None, 0))(theta, x)
    flat = [j.flatten(2) for j in blocks.values()]
    return torch.stack([torch.einsum("Naf,Maf->NM", j, j) for j in flat]).sum(0)


def tangent(rounds: int) -> None:
    torch.manual_seed(0)
    cases = {
        "MLP 784-256-256-10, 32 points": (MLP(784, 10, width=256, depth=2), (32, 784)),
        "ConvNet, 16 points": (ConvNet(1, 10, width=8), (16, 1, 16, 16)),
    }
    for name, (model, shape) in cases.items():
        model.eval()
        x, theta = torch.randn(shape), {n: p.detach() for n, p in model.named_parameters()}
        outputs = model(x)[0].numel()
        ours = tangent_kernel(model, theta, x, outputs=outputs, memory=2**40)[0]
        theirs = recipe(model, theta, x) / outputs
        assert torch.allclose(ours.float(), theirs, rtol=1e-3, atol=1e-4)
        ratios = []
        for _ in range(max(rounds, 5)):
            slow = seconds(lambda: recipe(model, theta, x))  # noqa: B023
            fast = seconds(
                lambda: tangent_kernel(model, theta, x, outputs=outputs, memory=2**40)  # noqa: B023
            )
            ratios.append(fast / slow)
        print(f"{name}: × {statistics.median(ratios):.3f} [{min(ratios):.3f}, {max(ratios):.3f}]")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    tangent(args.rounds)
    eigenframework(args.n, args.rounds)


if __name__ == "__main__":
    main()
