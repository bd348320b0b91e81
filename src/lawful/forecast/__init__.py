"""What theory says of a training run before it starts.

    model + data + loss + optimiser settings   →   a list of `Forecast`s, each with what it rests on

One file a family of forecasts; a family is a function Case → list[Forecast], listed in `FAMILIES`.

>>> import torch
>>> g = torch.Generator().manual_seed(0)
>>> x = torch.randn(64, 3, generator=g, dtype=torch.float64)
>>> net = torch.nn.Sequential(torch.nn.Linear(3, 4, bias=False), torch.nn.Linear(4, 2, bias=False))
>>> y = x[:, :2] * torch.tensor([2.0, 0.1]) + 0.1 * torch.randn(64, 2, generator=g)
>>> settings = {"lr": 0.01, "weight_decay": 0.5, "batch_size": 8}
>>> found = predict(net.double(), (x, y.double()), torch.nn.functional.mse_loss, **settings)
>>> next(f.sentence[:6] for f in found if f.name == "rank")
'Rank 1'
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from . import (
    kernel_curve,
    lazy_rich,
    linear_network,
    mirror_collapse,
    mode_times,
    noise_equilibrium,
    scale_invariance,
    warm_up,
)
from .case import OPTIMIZERS, Case, Training, case_of
from .forecast import Forecast

FAMILIES: dict[str, Callable[[Case], list[Forecast]]] = {
    module.THEORY: module.forecasts
    for module in (
        linear_network,
        mode_times,
        noise_equilibrium,
        scale_invariance,
        mirror_collapse,
        warm_up,
        lazy_rich,
        kernel_curve,
    )
}


def predict(
    model: nn.Module,
    data: Any,
    loss: Callable[..., Tensor],
    *,
    optimizer: str = "sgd",
    lr: float,
    batch_size: int,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    steps: int | None = None,
    samples: int = 256,
    seed: int = 0,
) -> list[Forecast]:
    """What theory says of training this model so, before it is trained (or from where it is).

    data:      (x, y), or x alone: a batch of 8 samples or more; `samples` of them are looked at.
    loss:      loss(model(x), y) or loss(model(x)) → one number, the mean over the batch.
    optimizer: sgd, adam or adamw; lr, weight_decay, momentum as in torch, the decay of sgd and
               adam coupled, on every parameter.
    steps:     length of the run, to be compared with the times predicted.

    Every forecast says what it rests on and whether this case meets it (`applies`); where
    theory has nothing to say, it says so. The model is left as it is. Measured are gradients and
    Hessian products on the samples; the sampling error of noise is about √(2/samples).

    Raises ValueError, one sentence, for settings or data that cannot be used, and SymmetryError
    (a ValueError) for a model without one differentiable loss; see `symmetries`.
    """
    training = Training(optimizer, lr, batch_size, weight_decay, momentum, steps)
    case = case_of(model, data, loss, training, samples=samples, seed=seed)
    _ = case.symmetries  # refuses, whatever the optimiser, what has no single differentiable loss
    return [forecast for family in FAMILIES.values() for forecast in family(case)]


__all__ = ["FAMILIES", "OPTIMIZERS", "Case", "Forecast", "Training", "predict"]
