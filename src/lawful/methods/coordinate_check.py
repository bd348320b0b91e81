"""The coordinate check: by how much does training move every layer's output, at every width?

    r_l(n, t) = rms over batch and units of h_l(t) − h_l(0),       slope_l = d log₂ r_l / d log₂ n

Under a parametrisation that has a limit of learning features every slope is zero. Standard
parametrisation at a constant rate has hidden slopes near 1 (Adam) and 2 (SGD): it blows up. The NTK
parametrisation has hidden slopes near −½: features freeze. The output at initialisation may shrink
(−½ in μP): the change is looked at, not the value.

Turn dropout off for it. Use a rate at the large end of what trains, or nothing moves. A slope over
less than a factor of 8 in width is no evidence of a limit.

Source: Yang et al., arXiv 2203.03466, app. D; change, not value, as in `EleutherAI/nanoGPT-mup`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Trainable = Callable[[int, int], tuple[nn.Module, torch.optim.Optimizer]]
"""(width, seed) -> a fresh model of that width and its optimiser."""

FLAT = 0.2


@dataclass(frozen=True)
class Coordinates:
    """What the check found.

    layers: names of the modules watched.
    widths: those tried, ascending.
    change: (layers, widths, seeds) rms change of the output after the last step.
    """

    layers: tuple[str, ...]
    widths: tuple[int, ...]
    change: NDArray[np.float64]

    def slopes(self) -> dict[str, tuple[float, float]]:
        """Layer -> (slope, standard error over seeds; NaN for one seed)."""
        x = np.log2(self.widths)
        x = x - x.mean()
        each = np.einsum("lws,w->ls", np.log2(self.change), x) / (x @ x)
        seeds = each.shape[1]
        error = each.std(1, ddof=1) / math.sqrt(seeds) if seeds > 1 else each[:, 0] * math.nan
        rows = zip(self.layers, each, error, strict=True)
        return {name: (float(s.mean()), float(e)) for name, s, e in rows}

    @property
    def steepest(self) -> tuple[str, float]:
        """The layer whose slope is farthest from zero, and that slope."""
        name, (slope, _) = max(self.slopes().items(), key=lambda item: abs(item[1][0]))
        return name, slope

    @property
    def stable(self) -> bool:
        """Whether every slope is within ±0.2."""
        return abs(self.steepest[1]) <= FLAT


def coordinate_check(
    trainable: Trainable,
    widths: Sequence[int],
    x: Tensor,
    loss: Callable[[Tensor], Tensor],
    *,
    steps: int = 3,
    seeds: int = 4,
) -> Coordinates:
    """Train each width for a few steps on one batch and measure how far every layer moved.

    x:    the batch;  loss: model output -> a scalar.
    Watched are the modules that hold parameters of their own and return one tensor.

    Raises ValueError for fewer than two widths and when a layer did not move or is not finite.
    """
    widths = tuple(sorted(widths))
    if len(set(widths)) < 2:
        raise ValueError(f"widths={widths}: a slope needs two different widths or more")
    found = [[_moved(*trainable(n, s), x, loss, steps) for s in range(seeds)] for n in widths]
    layers = tuple(found[0][0])
    change = np.array([[[one[name] for one in row] for row in found] for name in layers])
    if not (np.isfinite(change) & (change > 0)).all():
        still = [n for n, c in zip(layers, change, strict=True) if not (c > 0).all()]
        where = ", ".join(still) or "some layer is not finite"
        raise ValueError(f"no change to take a logarithm of: {where}; choose another learning rate")
    return Coordinates(layers, widths, change)


def _moved(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    x: Tensor,
    loss: Callable[[Tensor], Tensor],
    steps: int,
) -> dict[str, float]:
    """rms change of each watched output after `steps` steps on the same batch."""
    before = _outputs(model, x)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(x)).backward()
        optimizer.step()
    after = _outputs(model, x)
    return {n: float((after[n] - h).double().square().mean().sqrt()) for n, h in before.items()}


def _outputs(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Outputs by module name, dropout and its like in their training mode left as they are."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: object) -> None:
            if isinstance(output, Tensor):
                seen[name] = output.detach().clone()

        return hook

    watched = [(n, m) for n, m in model.named_modules() if m._parameters]
    handles = [m.register_forward_hook(keep(n)) for n, m in watched]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return seen
