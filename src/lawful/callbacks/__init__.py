"""Where people already train and look: trainers that open the door, dashboards that are fed.

    Lightning, Transformers     callbacks of trainers;  on_accelerate  for a loop of one's own
    TensorBoard, WandB, MLflow  sinks: scalars as they come, the table of verdicts at the end

Each is a few lines over `lawful.observe`, and needs its library only when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "Lightning": "lightning",
    "Transformers": "transformers",
    "on_accelerate": "accelerate",
    "TensorBoard": "tensorboard",
    "WandB": "wandb",
    "MLflow": "mlflow",
    "Feed": "feed",
    "Sink": "feed",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lawful.callbacks' has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
