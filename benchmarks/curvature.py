"""What does curvature cost? Products and measurements in units of a plain training step.

python benchmarks/curvature.py            MLP 784-512-512-512-10 and a 4-layer transformer, d = 128
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lawful.instruments.curvature import Curvature
from lawful.instruments.hessian import loss_surface
from lawful.instruments.instrument import rates_of
from lawful.instruments.probe import Probe
from lawful.lab.models import GPT, MLP


def seconds(action: Callable[[], object], repeats: int = 9) -> float:
    """Median time, the first call not counted."""
    action()
    times = []
    for _ in range(repeats):
        start = perf_counter()
        action()
        times.append(perf_counter() - start)
    return sorted(times)[repeats // 2]


def text_loss(output: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(output.flatten(0, 1), y.flatten())


def worlds() -> dict[str, tuple[nn.Module, tuple[Tensor, Tensor], Callable[..., Tensor]]]:
    torch.manual_seed(0)
    tokens = torch.randint(64, (16, 65))
    return {
        "MLP, batch 128": (
            MLP(784, 10, width=512, depth=3),
            (torch.randn(128, 784), torch.randint(10, (128,))),
            cross_entropy,
        ),
        "transformer, 16 × 64": (
            GPT(64, context=64, depth=4, heads=4, width=128, sdpa=True),
            (tokens[:, :-1], tokens[:, 1:]),
            text_loss,
        ),
    }


def main() -> None:
    for name, (model, (x, y), loss) in worlds().items():
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

        def step(
            model: nn.Module = model, optimizer: torch.optim.Optimizer = optimizer,
            x: Tensor = x, y: Tensor = y, loss: Callable[..., Tensor] = loss,
        ) -> None:  # fmt: skip
            optimizer.zero_grad()
            loss(model(x), y).backward()
            optimizer.step()

        unit = seconds(step)
        print(f"{name}: a step takes {1e3 * unit:.1f} ms, {len(y)} samples")
        probe = Probe([(x, y)], loss)
        with loss_surface(model, probe) as surface:
            v = torch.randn_like(surface.gradient)
            products = {
                "Hessian product": lambda s=surface, v=v: s.hessian(v),
                "Gauss–Newton product": lambda s=surface, v=v: s.gauss_newton(v),
                "third derivative": lambda s=surface, v=v: s.third(v, v),
            }
            for what, action in products.items():
                print(f"  {what:24} {seconds(action) / unit:6.2f} steps")
        curvature = Curvature(wants=["sharpness"])
        for moment in range(6):
            for _ in range(10):
                step()
            start = perf_counter()
            reading = curvature.measure(moment, model, probe, rates_of(optimizer))
            cost = (perf_counter() - start) / unit
            found = {m.quantity: m.value for m in reading.rows}
            print(
                f"  sharpness {'warm' if moment else 'cold'}  {found['sharpness']:10.3f}"
                f"  ± {found['sharpness_bound']:.1g}  {found['curvature_products']:4.0f} products"
                f"  {cost:6.1f} steps"
            )


if __name__ == "__main__":
    main()
