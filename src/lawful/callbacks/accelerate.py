"""Hugging Face Accelerate: the door for a loop of one's own.

model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
with lawful.callbacks.on_accelerate(accelerator, model, optimizer, "runs/mine"):
    ...the loop as it was...
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..observe import Observation, observe


def on_accelerate(
    accelerator: Any, model: torch.nn.Module, optimizer: Any, out: str | Path,
    laws: str | Sequence[str] = "canonical", **options: Any,
) -> Observation:  # fmt: skip
    """Observe what `accelerator.prepare` gave; accumulation and loss scaler are its own.

    out, laws, options: as in `lawful.observe`.
    """
    told = {
        "optimizer": bare(optimizer),
        "accumulation": accelerator.gradient_accumulation_steps,
        "scaler": accelerator.scaler,
    }
    return observe(accelerator.unwrap_model(model), out, laws, **(told | options))


def bare(optimizer: Any) -> torch.optim.Optimizer | None:
    """The optimiser that steps, inside those that only hand its steps on."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer
