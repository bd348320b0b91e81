"""What an instrument is: the two ways of looking at a training run.

    on the stream    at a measured step: place → forward, backward → before → step → after
    on a probe       at fixed weights:   measure(model, probe)

A stream instrument sees the training batch as it passes and pays nothing on other steps. A probe
instrument runs the model on samples of its own. Neither knows of laws or of the record's folder:
they give back a `Reading`, and `observe` writes it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from ..record import Measurement
from .probe import Probe
from .tap import Scale


@dataclass
class Reading:
    """What an instrument has to say.

    rows:     measurements, `step` as given to the instrument.
    arrays:   (layer, quantity) -> array.
    problems: (layer, message): what could not be measured and why.
    """

    rows: list[Measurement] = field(default_factory=list)
    arrays: dict[tuple[str, str], np.ndarray] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Rates:
    """How the optimiser moves one parameter, as torch names it.

    optimizer:    class name, e.g. `SGD`.  lr: η.  weight_decay: λ, added to the gradient unless
    decoupled.    momentum, dampening, nesterov, betas, eps as in `torch.optim`.
    """

    optimizer: str
    lr: float
    weight_decay: float = 0.0
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    decoupled: bool = False
    betas: tuple[float, float] = (0.0, 0.0)
    eps: float = 0.0


def rates_of(optimizer: torch.optim.Optimizer | None) -> dict[nn.Parameter, Rates]:
    """How the optimiser moves each of its parameters now.

    Raises `ValueError` for one that climbs: it moves along the gradient, not against it.
    """
    if optimizer is None:
        return {}
    if any(group.get("maximize") for group in optimizer.param_groups):
        raise ValueError(
            "optimizer has maximize=True, and laws speak of a loss that falls: minimise its "
            "negative and leave maximize out"
        )
    name = type(optimizer).__name__
    found: dict[nn.Parameter, Rates] = {}
    for group in optimizer.param_groups:
        rates = Rates(
            optimizer=name,
            lr=_number(group.get("lr", 0.0)),
            weight_decay=_number(group.get("weight_decay", 0.0)),
            momentum=_number(group.get("momentum", 0.0)),
            dampening=_number(group.get("dampening", 0.0)),
            nesterov=bool(group.get("nesterov", False)),
            decoupled=name == "AdamW" or bool(group.get("decoupled_weight_decay", False)),
            betas=_two(group.get("betas")),
            eps=_number(group.get("eps", 0.0)),
        )
        found |= dict.fromkeys(group["params"], rates)
    return found


def _two(betas: Iterable[Any] | None) -> tuple[float, float]:
    """The first two of an optimiser's betas, 0 where it has none."""
    first, second, *_ = [*map(_number, () if betas is None else betas), 0.0, 0.0]
    return first, second


def _number(value: Any) -> float:
    """A setting of an optimiser; NaN where it is none, as the `lr` that Adafactor makes itself.

    >>> _number(0.1), _number(torch.tensor(2.0)), _number(None), _number((1e-30, 1e-3))
    (0.1, 2.0, nan, nan)
    """
    single = isinstance(value, torch.Tensor) and value.numel() == 1
    return float(value) if single or isinstance(value, int | float) else math.nan


class StreamInstrument(Protocol):
    """Watches measured steps of the training stream.

    quantities: the names it can record.
    batches:    how many batches of a window it wants to see.
    scale:      its own; what it says of the loss is read anew at every gradient.
    """

    quantities: frozenset[str]
    batches: int
    scale: Scale

    def place(self) -> None:
        """Hooks on: the coming batch is measured."""

    def lift(self) -> None:
        """Hooks off: the coming batch costs nothing."""

    def before(self, step: int, rates: Mapping[nn.Parameter, Rates], divisor: float) -> None:
        """The gradients of a measured step are final (÷ divisor), the parameters not yet moved."""

    def after(self, step: int) -> None:
        """The optimiser has moved the parameters of a measured step."""

    def read(self, step: int) -> Reading:
        """The window is over: what it showed; starts anew."""


class ProbeInstrument(Protocol):
    """Looks at fixed weights through samples of its own.

    quantities: the names it can record.
    """

    quantities: frozenset[str]

    def measure(
        self, step: int, model: nn.Module, probe: Probe, rates: Mapping[nn.Parameter, Rates]
    ) -> Reading:
        """Everything of the model and its run is as before afterwards."""
