"""What joins a model and data that were not made for each other: a loss, and the shape of x.

labels that are classes   →  cross-entropy of f(x), or of its `logits`
labels that are numbers   →  mean squared error
as many numbers a sample  →  x in the shape that the model takes
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from .datasets import Dataset
from .training import Loss


def _cross_entropy(output: Any, y: Tensor) -> Tensor:
    logits = getattr(output, "logits", output)
    # Logits (N, T, K) of a text, as torch takes them: (N, K, T).
    return cross_entropy(logits.movedim(-1, 1) if logits.ndim == 3 else logits, y)


def _mse(output: Any, y: Tensor) -> Tensor:
    return mse_loss(getattr(output, "logits", output), y)


LOSSES: dict[str, Loss] = {"cross_entropy": _cross_entropy, "mse": _mse}
"""Means over a batch, of an output that is a tensor or holds it as `logits`."""


def loss_of(data: Dataset) -> Loss:
    """The loss that the labels ask for."""
    return LOSSES["cross_entropy" if data.classes else "mse"]


def shaped_like(x: Tensor, example: Any) -> Tensor:
    """Samples in the shape of those of an example, where they have as many numbers."""
    one = example[0] if isinstance(example, tuple | list) else example
    if getattr(one, "ndim", 0) and one[0].numel() == x[0].numel():
        return x.reshape(len(x), *one.shape[1:])
    return x


def flat_for(model: nn.Module | None, x: Tensor) -> Tensor:
    """Samples as vectors, where the first layer of the model is a linear one of their length."""
    inside = [] if model is None else model.modules()
    first = next((module for module in inside if not any(module.children())), None)
    if isinstance(first, nn.Linear) and first.in_features == x[0].numel():
        return x.flatten(1)
    return x
