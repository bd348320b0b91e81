"""Which numbers the weight decay falls on: the factors of a reparametrisation and nothing else.

spred, DCS and syre turn an ordinary L2 decay on φ into another penalty on θ = f(φ):

    min_φ L(f(φ)) + λ/2 ‖φ‖²     is     min_θ L(θ) + λ · penalty(θ),

with λ torch's `weight_decay`, as in φ ← φ − η (∂L/∂φ + λφ). So λ has to reach φ in the loss's own
units: SGD with or without momentum, or Adam(weight_decay=λ), which adds λφ to the gradient.
AdamW decays φ beside the adaptive step instead; its stationary points minimise something else.

Build the optimiser *after* the reparametrisation: the parameter it replaced is not in the
model any more, and an optimiser that still holds it would train nothing.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .parameters import originals, part, reparametrised


def parameter_groups(model: nn.Module, decay: float, *, rest: float = 0.0) -> list[dict[str, Any]]:
    """Two parameter groups for any torch optimiser: factors at λ = decay, all else at `rest`.

    model: with at least one parameter under spred, DCS or syre.
    decay: λ ≥ 0 of the factors, in units of the loss.
    rest:  weight decay of every other parameter that requires a gradient.

    Raises ValueError for a negative λ and for a model without any reparametrisation.
    """
    for argument, value in (("decay", decay), ("rest", rest)):
        if not value >= 0:
            raise ValueError(f"{argument}={value}: a weight decay is a number ≥ 0")
    factors = [p for _, owner, leaf in reparametrised(model) for p in _decayed(owner, leaf)]
    if not factors:
        raise ValueError("model has no parameter under spred, dcs or syre; apply one of them first")
    ids = {id(p) for p in factors}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in ids]
    groups = [{"params": factors, "weight_decay": decay}, {"params": others, "weight_decay": rest}]
    return [group for group in groups if group["params"]]


def _decayed(owner: nn.Module, leaf: str) -> list[nn.Parameter]:
    ours = part(owner, leaf)
    assert ours is not None
    return originals(owner, leaf)[ours.free :]
