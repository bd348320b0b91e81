"""Which neighbouring layers may trade the scale of a neuron: W_i → c W_i, W_{i+1} → W_{i+1}/c.

Between the two may stand only what commutes with a positive scale of each neuron: ReLU and its
leaky kind, dropout; where neurons are channels also pooling, and flattening for a linear map to
read them; and the output of the first may go nowhere else. The bias of the first layer scales
with its weights, so the charge of neuron k is

    ‖row k of W_i‖² + b_k² − ‖columns of W_{i+1} that read k‖².

Read off the graph of the forward code (`torch.fx`), without running it. Code that branches on
its data has no such graph and shows no pairs; `lawful.symmetries` finds them there by running it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from .maps import LinearMap

ELEMENTWISE = {
    nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d,
    torch.relu, F.relu, F.leaky_relu, F.dropout, "relu", "contiguous",
}  # fmt: skip
POOLING = {
    nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, F.max_pool1d, F.max_pool2d, F.avg_pool1d,
    F.avg_pool2d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d,
}  # fmt: skip
FLATTENING = {nn.Flatten, torch.flatten, "flatten"}


class _Tracer(fx.Tracer):
    """Follows forward code alone: a hook, the user's or that of a wrapper, is not to be called."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        written = type(m).forward.__module__  # `fully_shard` gives its modules classes of its own
        return written.startswith("torch.nn.modules") and not isinstance(m, nn.Sequential)

    def call_module(self, m: nn.Module, forward: Any, args: tuple, kwargs: dict) -> Any:
        return super().call_module(m, m.forward, args, kwargs)


def rescalable(model: nn.Module, maps: list[LinearMap]) -> list[tuple[int, int]]:
    """Pairs (i, j) of positions in `maps`: every neuron of map i is read by map j alone.

    The inputs of map j that belong to neuron k of map i are d_a(j)/d_b(i) neighbours: taps of a
    filter, or pixels of a flattened channel.
    """
    try:
        graph = _Tracer().trace(model)
    except Exception:  # code that cannot be traced shows no pairs, whatever stopped it
        return []
    uses = Counter(id(p) for m in model.modules() for p in m._parameters.values() if p is not None)
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    at = {
        id(m.module): i
        for i, m in enumerate(maps)
        if m.kind in ("linear", "conv") and m.parameter is not None and uses[id(m.parameter)] == 1
    }
    pairs: list[tuple[int, int]] = []
    for node in graph.nodes:
        first = _map_at(model, node, at)
        if first is None or calls[node.target] > 1:
            continue
        channels = maps[first].kind == "conv"
        end, channels = _reader(model, node, at, channels=channels)
        second = None if end is None or calls[end.target] > 1 else _map_at(model, end, at)
        if second is not None and channels == (maps[second].kind == "conv"):
            each, rest = divmod(maps[second].d_a, maps[first].d_b)
            # The columns of a neuron are neighbours; of flattened positions they would not be.
            if not rest and (each == 1 or maps[first].kind == "conv"):
                pairs.append((first, second))
    return pairs


def _reader(
    model: nn.Module, node: fx.Node, at: dict[int, int], *, channels: bool
) -> tuple[fx.Node | None, bool]:
    """The map that alone reads this node, through nothing but homogeneous steps.

    channels: whether neurons are channels, with positions of their own, or the last dimension;
    given of the node, returned of what the reader reads.
    """
    while len(node.users) == 1:
        node = next(iter(node.users))
        if _map_at(model, node, at) is not None:
            return node, channels
        step = type(model.get_submodule(str(node.target))) if _is_module(node) else node.target
        if step in FLATTENING and _keeps_samples(model, node):
            channels = False
        elif step not in ELEMENTWISE and not (channels and step in POOLING):
            return None, channels
    return None, channels


def _map_at(model: nn.Module, node: fx.Node, at: dict[int, int]) -> int | None:
    if not _is_module(node):
        return None
    return at.get(id(model.get_submodule(str(node.target))))


def _is_module(node: fx.Node) -> bool:
    return node.op == "call_module"


def _keeps_samples(model: nn.Module, node: fx.Node) -> bool:
    """Whether all but the first dimension is flattened."""
    if _is_module(node):
        m = model.get_submodule(str(node.target))
        return (m.start_dim, m.end_dim) == (1, -1)
    return (*node.args[1:], *node.kwargs.values()) == (1,)
