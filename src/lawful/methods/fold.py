"""fold: the plain model back, θ = f(φ) written out once and for all.

    model with φ, f   ->   model with θ,   the same function to the last bit.

After it `state_dict()` has the keys of the model that was never reparametrised, so the result
loads, exports and pickles like any other. Decay now acts on θ again and not on φ: training on
with the old λ is another objective. Build a new optimiser (for spred, dcs: θ is a new parameter).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from .parameters import Reparametrisation, reparametrised


def fold(model: nn.Module) -> nn.Module:
    """Undo every spred, dcs and syre of the model in place, keeping its weights; returns it.

    Reparametrisations that are not of this room (weight norm, orthogonal, …) stay. A model
    without any is returned as it is. A parameter that was frozen in between stays frozen.

    Raises ValueError when another reparametrisation was stacked on one of these.
    """
    found = reparametrised(model)
    for name, owner, leaf in found:
        _check_alone(name, owner, leaf)
    for _, owner, leaf in found:
        trains = any(p.requires_grad for p in owner.parametrizations[leaf].parameters())  # type: ignore
        with torch.no_grad():
            value = getattr(owner, leaf).detach().clone()
            parametrize.remove_parametrizations(owner, leaf)
        # torch leaves a buffer where no original asked for a gradient; a weight is a parameter.
        delattr(owner, leaf)
        owner.register_parameter(leaf, nn.Parameter(value, requires_grad=trains))
    return model


def _check_alone(name: str, owner: nn.Module, leaf: str) -> None:
    lists = owner.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    strangers = [p for p in lists[leaf].children() if not isinstance(p, Reparametrisation)]
    if strangers:
        raise ValueError(
            f"fold: {name!r} also has {type(strangers[0]).__name__} on top; remove that one first "
            "with torch.nn.utils.parametrize.remove_parametrizations"
        )
