"""What cannot be analysed is refused at the door, in one sentence with the remedy.

A symmetry is a statement about one function ℓ(θ, x) with a gradient: a random mask (dropout)
makes it another function at each call, rounding and argmax cut the gradient, integer weights
have none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_leaves

from .errors import SymmetryError
from .graph import Graph
from .walk import operation

CUTS = [
    "round",
    "floor",
    "ceil",
    "trunc",
    "fix",
    "sign",
    "heaviside",
    "argmax",
    "argmin",
    "bernoulli",
]
RANDOM = [
    "rand",
    "randn",
    "rand_like",
    "randn_like",
    "randint",
    "bernoulli",
    "normal",
    "multinomial",
    "randperm",
]


def check_model(model: nn.Module) -> None:
    """Raise SymmetryError for a model that has no single differentiable ℓ(θ, x)."""
    for name, p in model.named_parameters():
        if isinstance(p, nn.parameter.UninitializedParameter):
            raise SymmetryError(
                f"parameter {name} is not initialised yet; call the model once on data first"
            )
        if hasattr(p, "full_tensor"):
            raise SymmetryError(
                f"parameter {name} lies in shards on several processes; find the symmetries before "
                "fully_shard, which leaves the names as they are"
            )
        if not p.is_floating_point():
            raise SymmetryError(
                f"parameter {name} is {str(p.dtype).removeprefix('torch.')} and has no gradient; "
                "pass the model before quantisation, or make it a buffer"
            )
    if not any(p.requires_grad for p in model.parameters()):
        raise SymmetryError("no parameter requires a gradient; unfreeze what is to be trained")
    for name, module in model.named_modules():
        rate = module.p if isinstance(module, _DropoutNd) else getattr(module, "dropout", 0.0)
        if module.training and isinstance(rate, float) and rate > 0:
            raise SymmetryError(
                f"dropout p={rate:g} is active in {name or 'the model'}, so the loss is another "
                "function at each call; call eval() on it or set p=0"
            )


def check_data(x: Any, targets: tuple) -> int:
    """The number of samples; raises SymmetryError when the leading dimensions disagree."""
    sizes = [t.shape[0] for t in tree_leaves((x, targets)) if isinstance(t, Tensor) and t.dim()]
    if not sizes:
        raise SymmetryError("example_input holds no batch; pass a tensor (N, …) or a pair (x, y)")
    if sizes[0] == 0 or any(n != sizes[0] for n in sizes[-len(targets) or len(sizes) :]):
        raise SymmetryError(f"example_input has leading dimensions {sizes}; they must be one N ≥ 1")
    return sizes[0]


def check_loss(value: Any, again: Any) -> None:
    """The loss must be one finite number that does not change when it is computed again."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise SymmetryError(f"loss gave {shape}, not one number; reduce it with mean() or sum()")
    if not value.requires_grad:
        raise SymmetryError(
            "the loss does not depend differentiably on any parameter; an argmax, round, detach or "
            "no_grad lies between"
        )
    if not bool(torch.isfinite(value)):
        raise SymmetryError(f"the loss is {value.item()} on the example input; pass other data")
    if abs(value.item() - again.item()) > 1e-9 * (1 + abs(value.item())):
        raise SymmetryError(
            f"the loss is random: {value.item():.6g}, then {again.item():.6g} on the same data; "
            "switch its noise off"
        )


def check_graph(graph: Graph) -> None:
    """Raise SymmetryError for operations that cut the gradient or draw random numbers."""
    depends = _depends_on_parameters(graph)
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        name = operation(node)
        if name in RANDOM or _dropping(name, node):
            raise SymmetryError(
                f"the model draws random numbers ({name}); call eval() or switch its noise off"
            )
        if name in CUTS and any(n in depends for n in node.all_input_nodes):
            raise SymmetryError(
                f"the operation {name} has no gradient and acts on what parameters compute; "
                "pass the part of the model before it, or a smooth form of it"
            )


def _dropping(name: str, node: Node) -> bool:
    if name == "dropout" or name == "native_dropout":
        return bool(node.args[1]) and bool(node.args[2] if len(node.args) > 2 else True)
    return name == "scaled_dot_product_attention" and len(node.args) > 4 and bool(node.args[4])


def _depends_on_parameters(graph: Graph) -> set[Node]:
    found = set(graph.names)
    for node in graph.nodes:
        if any(n in found for n in node.all_input_nodes):
            found.add(node)
    return found


def unreachable(model: nn.Module, gradients: dict[str, Tensor | None]) -> None:
    """Raise SymmetryError when trained parameters get no gradient at all."""
    lost = [n for n, p in model.named_parameters() if p.requires_grad and gradients[n] is None]
    if lost:
        more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
        raise SymmetryError(
            f"parameter {lost[0]}{more} gets no gradient: it is unused, or a detach, argmax or "
            "round cuts it off; freeze it with requires_grad_(False) or pass the part that uses it"
        )
