"""A model of the lab by its name, made to fit a data set.

mlp:64-128-128-10        ReLU; also mlp-tanh, mlp-gelu, mlp-linear: sizes from input to output
resnet18, gpt            with their defaults; input and output as the data ask
"""

from __future__ import annotations

from torch import nn

from ..datasets import Dataset
from .gpt import GPT
from .mlp import ACTIVATIONS, MLP
from .resnet import ResNet18
from .seeded import seeded

NAMES = ("mlp:SIZES", *(f"mlp-{a}:SIZES" for a in ACTIVATIONS), "resnet18", "gpt")


def named(name: str, data: Dataset, *, seed: int = 0) -> nn.Module:
    """Build the model. Raises ValueError for an unknown name, or sizes that do not fit the data.

    >>> from lawful.lab.datasets import teacher
    >>> named("mlp-tanh:32-16-8", teacher(train=8, test=8)).fc0
    Linear(in_features=32, out_features=16, bias=True)
    """
    kind, _, sizes = name.partition(":")
    with seeded(seed):
        if kind == "mlp" or kind.removeprefix("mlp-") in ACTIVATIONS:
            return _mlp(name, kind.removeprefix("mlp").removeprefix("-") or "relu", sizes, data)
        if name == "resnet18" and data.x_train.dim() == 4:
            return ResNet18(data.x_train.shape[1], data.outputs)
        if name == "gpt" and not data.x_train.is_floating_point():
            return GPT(data.outputs, context=data.x_train.shape[1])
    needs = {"resnet18": "images (N, channels, R, C)", "gpt": "text"}
    if name in needs:
        raise ValueError(f"model {name!r} needs {needs[name]}; {data.name!r} has none")
    raise ValueError(f"unknown model {name!r}: use MODULE:FUNCTION or one of {', '.join(NAMES)}")


def _mlp(name: str, activation: str, sizes: str, data: Dataset) -> MLP:
    parts = sizes.split("-")
    if not all(p.isdecimal() and int(p) for p in parts) or len(parts) < 2:
        raise ValueError(f"model {name!r}: give sizes from input to output, e.g. mlp:64-128-10")
    first, *hidden, last = map(int, parts)
    if (first, last) != (data.features, data.outputs):
        raise ValueError(
            f"model {name!r} goes from {first} to {last}; data set {data.name!r} has "
            f"{data.features} inputs and {data.outputs} outputs: write "
            f"mlp:{'-'.join(map(str, [data.features, *hidden, data.outputs]))}"
        )
    if len(set(hidden)) > 1:
        raise ValueError(f"model {name!r}: hidden layers of the lab's MLP have one width")
    return MLP(first, last, width=(hidden or [1])[0], depth=len(hidden), activation=activation)
