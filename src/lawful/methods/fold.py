"""fold: the plain model back, θ = f(φ) written out once and for all.

    model with φ, f   ->   model with θ,   the same function to the last bit.

After it `state_dict()` has the keys of the model that was never reparametrised, so the result
loads, exports and pickles like any other. Decay now acts on θ again and not on φ: training on
with the old λ is another objective. Build a new optimiser (after spred
and dcs θ is a new parameter; after syre it is the one that the old optimiser holds).
"""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize

from .parameters import Reparametrisation, chain, originals, reparametrised


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
        trains = any(p.requires_grad for p in originals(owner, leaf))
        parametrize.remove_parametrizations(owner, leaf)
        value = getattr(owner, leaf)
        if not isinstance(value, nn.Parameter):
            # torch leaves a buffer where no gradient was asked for; a weight is a parameter.
            delattr(owner, leaf)
            owner.register_parameter(leaf, nn.Parameter(value.detach(), requires_grad=trains))
    return model


def _check_alone(name: str, owner: nn.Module, leaf: str) -> None:
    strangers = [p for p in chain(owner, leaf).children() if not isinstance(p, Reparametrisation)]
    if strangers:
        raise ValueError(
            f"fold: {name!r} also has {type(strangers[0]).__name__} on top; remove that one first "
            "with torch.nn.utils.parametrize.remove_parametrizations"
        )
