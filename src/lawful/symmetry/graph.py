"""The computation of ℓ(θ, x) as a graph of tensor operations, from one run on example data.

torch.fx records every operation between the parameters and the loss (`make_fx` before dispatch,
so that a linear map, a norm, an attention stay one node each). It follows the run itself: Python
control flow, functional calls and fused modules are all seen. A branch that these data do not
take is not; whatever is proposed from the graph is certified by gradients afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_leaves

Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Graph:
    """module: the recorded graph; leaves: its inputs, by node; names: parameter of a leaf node."""

    module: GraphModule
    leaves: dict[Node, Tensor]
    names: dict[Node, str]

    @property
    def nodes(self) -> list[Node]:
        return list(self.module.graph.nodes)

    def constant(self, node: Node) -> Any:
        """A tensor the graph holds: a buffer or a literal."""
        value: Any = self.module
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value


def arguments(x: Any) -> tuple:
    """What the model is called with: a tuple is its positional arguments."""
    return tuple(x) if isinstance(x, tuple | list) else (x,)


def split_pair(example_input: Any) -> tuple[Any, tuple]:
    """(x, y) → x, (y,); anything else is x alone."""
    if isinstance(example_input, tuple | list) and len(example_input) == 2:
        return example_input[0], (example_input[1],)
    return example_input, ()


def trace(model: nn.Module, x: Any, targets: tuple, loss: Loss | None) -> Graph:
    """Record loss(model(x), *targets), or the model's output when `loss` is None.

    Buffers may change during the run: give a copy of the model. Raises whatever torch.fx raises
    when the run cannot be recorded (a branch on a value, for one).
    """
    parameters = dict(model.named_parameters())

    def run(theta: list[Tensor], x: Any, targets: tuple) -> Any:
        named = dict(zip(parameters, theta, strict=True))
        out = functional_call(model, named, arguments(x))
        return (
            [t for t in tree_leaves(out) if isinstance(t, Tensor)]
            if loss is None
            else loss(out, *targets)
        )

    theta = list(parameters.values())
    module = make_fx(run, tracing_mode="real", pre_dispatch=True)(theta, x, targets)
    flat = [*theta, *tree_leaves((x, targets))]
    heads = [n for n in module.graph.nodes if n.op == "placeholder"]
    leaves = dict(zip(heads, flat, strict=True))
    return Graph(module, leaves, dict(zip(heads, parameters, strict=False)))
