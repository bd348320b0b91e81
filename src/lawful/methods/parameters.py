"""The address of a parameter: which module owns `blocks.0.mlp.weight`, and may it be replaced?

A reparametrisation θ = f(φ) replaces one parameter θ by its originals φ. In torch it lives on
the module that owns θ, under the name of its attribute, so a dotted name is split into

    owner = model.get_submodule("blocks.0.mlp"),   leaf = "weight",

and everything that would fail later, or fail silently, is refused here, before anything is
changed: tied parameters (one copy would be replaced, the others not), recurrent modules (they
keep a second list of their weights, which would go on being used), frozen and integer ones.

Source: `torch.nn.utils.parametrize`, on which all of this stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


@dataclass(frozen=True)
class Address:
    """One parameter: its dotted name, the module that owns it, its attribute there."""

    name: str
    owner: nn.Module
    leaf: str

    @property
    def tensor(self) -> nn.Parameter:
        """The parameter itself."""
        found = getattr(self.owner, self.leaf)
        assert isinstance(found, nn.Parameter)
        return found


class Reparametrisation(nn.Module):
    """A map θ = f(φ) of this room: `forward` is f, `right_inverse` one of its inverses.

    free:      how many of the first originals carry no decay (see `decay.parameter_groups`).
    generator: source of the draws of `right_inverse` while it is attached; forgotten then.
    """

    free: int = 0
    generator: torch.Generator | None = None


def find(model: nn.Module, names: str | Iterable[str], method: str) -> list[Address]:
    """The parameters that names, or globs over names, select, in the model's order.

    names: "0.weight", "*.weight", ["encoder.*", "head.bias"], as in `named_parameters()`.

    Raises ValueError for a pattern that selects nothing, and for a parameter that is tied,
    frozen, not real floating point, in a recurrent module, or reparametrised already.
    """
    patterns = [names] if isinstance(names, str) else list(names)
    known = _addresses(model)
    for pattern in patterns:
        _check_matches(model, pattern, known, method)
    chosen = [a for a in known if any(fnmatchcase(a.name, p) for p in patterns)]
    if not chosen:
        raise ValueError(f"names={names!r} selects no parameter: {_available(known)}")
    for address in chosen:
        _check_replaceable(model, address, method)
    return chosen


def attach(addresses: Iterable[Address], make: Callable[[Address], Reparametrisation]) -> None:
    """Put f on every address; all are made before the first is attached: errors leave no trace."""
    for address, reparametrisation in [(a, make(a)) for a in addresses]:
        with torch.no_grad():
            parametrize.register_parametrization(address.owner, address.leaf, reparametrisation)
        # A later assignment to the weight draws from torch's own generator: a generator of the
        # caller has no place in a model that is copied and saved.
        reparametrisation.generator = None


def reparametrised(model: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """(name, owner, leaf) of every parameter under a reparametrisation of this room."""
    found = []
    for path, module in model.named_modules():
        if not parametrize.is_parametrized(module):
            continue
        lists = module.parametrizations
        assert isinstance(lists, nn.ModuleDict)
        ours = [leaf for leaf in lists if part(module, leaf) is not None]
        found += [(f"{path}.{leaf}".lstrip("."), module, leaf) for leaf in ours]
    return found


def chain(owner: nn.Module, leaf: str) -> parametrize.ParametrizationList:
    """Everything that stands between φ and θ at one address."""
    lists = owner.parametrizations
    assert isinstance(lists, nn.ModuleDict)
    found = lists[leaf]
    assert isinstance(found, parametrize.ParametrizationList)
    return found


def part(owner: nn.Module, leaf: str) -> Reparametrisation | None:
    """The reparametrisation of this room at one address; None where there is none."""
    ours = (p for p in chain(owner, leaf).children() if isinstance(p, Reparametrisation))
    return next(ours, None)


def originals(owner: nn.Module, leaf: str) -> list[nn.Parameter]:
    """φ: the parameters that the optimiser sees in place of θ, in the order of `forward`."""
    return list(chain(owner, leaf).parameters(recurse=False))


def uniform(like: Tensor, low: float, high: float, generator: torch.Generator | None) -> Tensor:
    """Uniform draws with the shape, dtype and device of `like`; None draws from torch's own."""
    device = like.device if generator is None else generator.device
    draw = torch.rand(like.shape, generator=generator, device=device, dtype=like.dtype)
    return (low + (high - low) * draw).to(like.device)


def normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal draws with the shape, dtype and device of `like`."""
    device = like.device if generator is None else generator.device
    return torch.randn(like.shape, generator=generator, device=device, dtype=like.dtype).to(
        like.device
    )


def _addresses(model: nn.Module) -> list[Address]:
    """Every parameter as the user knows it: originals inside a reparametrisation left out."""
    return [
        Address(f"{path}.{leaf}".lstrip("."), module, leaf)
        for path, module in model.named_modules()
        if not isinstance(module, parametrize.ParametrizationList)
        for leaf, _ in module.named_parameters(recurse=False)
    ]


def _check_matches(model: nn.Module, pattern: str, known: list[Address], method: str) -> None:
    taken = [name for name, _, _ in reparametrised(model) if fnmatchcase(name, pattern)]
    if taken:
        raise ValueError(
            f"{method}: {taken[0]!r} is reparametrised already; call fold(model) first"
        )
    if not any(fnmatchcase(a.name, pattern) for a in known):
        raise ValueError(f"{method}: names={pattern!r} selects no parameter; {_available(known)}")


def _check_replaceable(model: nn.Module, address: Address, method: str) -> None:
    tensor, name = address.tensor, address.name
    every = model.named_parameters(remove_duplicate=False)
    twins = [other for other, p in every if p is tensor and other != name]
    if twins:
        reason = f"is tied to {twins[0]!r}; untie them (give one a clone) or leave both out"
    elif isinstance(address.owner, nn.RNNBase):
        reason = "is inside a fused recurrent module, which would not see it; use its Cell form"
    elif not tensor.is_floating_point():
        reason = f"has dtype {tensor.dtype}; only real floating-point parameters can be replaced"
    elif not tensor.requires_grad:
        reason = "is frozen (requires_grad=False); unfreeze it or leave it out of names"
    elif isinstance(tensor, nn.parameter.UninitializedParameter):
        reason = "has no shape yet; run one forward pass of the lazy module first"
    else:
        return
    raise ValueError(f"{method}: {name!r} {reason}")


def _available(known: list[Address]) -> str:
    shown = ", ".join(a.name for a in known[:6]) or "none"
    return f"the model has {shown}{', …' if len(known) > 6 else ''}"
