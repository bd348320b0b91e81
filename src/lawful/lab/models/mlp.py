"""A multi-layer perceptron, W0 … W_depth.

    x_0 = x,   x_{l+1} = φ(W_l x_l + b_l)   for l < depth,   f(x) = W_depth x_depth + b_depth

`depth` hidden layers of `width` units make depth + 1 linear maps, named fc0 … fc{depth}.
Initialisation: W_l ~ N(0, c/d_in) with c = 1 (tanh, linear) or c = 2 (ReLU, GELU), b = 0, so the
size of x_l neither grows nor shrinks with l (Y. LeCun et al. 1998; K. He et al. 2015).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "gelu": nn.functional.gelu,
    "linear": lambda x: x,
}
GAIN = {"tanh": 1.0, "relu": 2.0, "gelu": 2.0, "linear": 1.0}


class MLP(nn.Module):
    """inputs → width → … → width → outputs; takes (N, …) and flattens all but the first axis.

    activation: tanh, relu, gelu or linear. bias: False leaves every b_l out.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        width: int = 64,
        depth: int = 4,
        activation: str = "relu",
        bias: bool = True,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"activation={activation!r} is not known; use one of {known}")
        self.activation, self.depth = activation, depth
        sizes = [inputs, *[width] * depth, outputs]
        for l, (d_a, d_b) in enumerate(pairwise(sizes)):
            layer = nn.Linear(d_a, d_b, bias=bias)
            nn.init.normal_(layer.weight, std=math.sqrt(GAIN[activation] / d_a))
            if bias:
                nn.init.zeros_(layer.bias)
            self.add_module(f"fc{l}", layer)

    def forward(self, x: Tensor) -> Tensor:
        """(N, …) → (N, outputs)."""
        phi = ACTIVATIONS[self.activation]
        x = x.flatten(1)
        for l in range(self.depth):
            x = phi(self.get_submodule(f"fc{l}")(x))
        return self.get_submodule(f"fc{self.depth}")(x)
