"""The walk over the graph: every operation in turn says what the channels in it survive.

    views move channels about        linear maps read channels and make new ones
    φ keeps scale, sign or neither   sums make channels one; products let each scale alone
    norms and softmax absorb scale or shift

An operation that no rule knows pins every channel that reaches it, so ignorance costs symmetries
and never invents one. The rules live beside their subject: `read_maps`, `read_elementwise`,
`read_norms`, `read_attention`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from .channels import CHANGES, Ids, Ledger, Strand, Use, varies
from .graph import Graph


@dataclass(frozen=True)
class View:
    """A parameter, or part of one: the flat index of each of its entries."""

    parameter: str
    shape: tuple[int, ...]
    index: Ids


@dataclass(frozen=True)
class Signal:
    """What is known of one tensor of the graph.

    root: the node this tensor is a linear function of, if it is. pending: channels (keys) whose
    offset this tensor shows as a shift common to its last axis, until a softmax removes it.
    """

    strands: tuple[Strand, ...] = ()
    root: Node | None = None
    pending: Ids | None = None
    view: View | None = None

    @property
    def mains(self) -> list[Strand]:
        """The strands the tensor scales with."""
        return [s for s in self.strands if s.degree != 0]


Rule = Callable[["Walk", Node], "Signal | list[Signal] | None"]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operations by their aten name (an in-place one shares it)."""

    def register(f: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, f))
        return f

    return register


def operation(node: Node) -> str:
    """`relu` for aten.relu.default and aten.relu_.default."""
    packet = getattr(node.target, "overloadpacket", None)
    name = getattr(packet, "__name__", None) or getattr(node.target, "__name__", str(node.target))
    return str(name).strip("_") if not str(name).startswith("__") else str(name)


@dataclass
class Walk:
    """One pass over a graph, with real numbers beside the signals."""

    graph: Graph
    ledger: Ledger = field(default_factory=Ledger)
    value: dict[Node, Any] = field(default_factory=dict)
    signal: dict[Node, Any] = field(default_factory=dict)

    def run(self) -> Ledger:
        for node in self.graph.nodes:
            if node.op == "placeholder":
                self.value[node] = self.graph.leaves[node].detach()
                self.signal[node] = self._leaf_signal(node)
            elif node.op == "get_attr":
                self.value[node] = self.graph.constant(node)
                self.signal[node] = Signal()
            elif node.op == "call_function":
                self.value[node] = self.compute(node, self.value)
                self.signal[node] = self._apply(node)
            else:  # the output: nothing may change there
                for n in node.all_input_nodes:
                    self.pin(self.of(n))
        return self.ledger

    def compute(self, node: Node, value: dict[Node, Any]) -> Any:
        args = map_arg(node.args, lambda n: value[n])
        with torch.no_grad():
            return node.target(*args, **map_arg(node.kwargs, lambda n: value[n]))  # type: ignore[operator]

    def _leaf_signal(self, node: Node) -> Signal:
        name = self.graph.names.get(node)
        if name is None:
            return Signal()
        shape = tuple(self.value[node].shape)
        return Signal(view=View(name, shape, np.arange(prod(shape)).reshape(shape)))

    def _apply(self, node: Node) -> Any:
        found = RULES.get(operation(node))
        result = found(self, node) if found else None
        if result is not None:
            return result
        for n in node.all_input_nodes:
            self.pin(self.of(n))
        return Signal()

    def of(self, arg: Any) -> Signal:
        """The signal of an argument; a number or a list of signals has none of its own."""
        known = self.signal.get(arg) if isinstance(arg, Node) else None
        if isinstance(known, list):
            joined = [s for item in known for s in item.strands]
            return Signal(tuple(joined))
        return known if known is not None else Signal()

    def labelled(self, node: Node, *, added: bool = False) -> Signal:
        """The signal; a bare parameter becomes a channel for each entry of its last axis."""
        signal = self.of(node)
        return self.leaf(signal.view, added=added) if signal.view is not None else signal

    def leaf(self, view: View, *, added: bool) -> Signal:
        wide = [d for d in range(view.index.ndim) if view.index.shape[d] > 1]
        axis = wide[-1] if wide else view.index.ndim - 1
        if axis < 0:
            return Signal()
        ids = self.ledger.space(view.parameter, view.index.shape[axis])
        spread = np.broadcast_to(
            ids.reshape([-1 if d == axis else 1 for d in range(view.index.ndim)]), view.index.shape
        )
        use = self.use(view, axis, ids, self.site(), bias=added and len(wide) <= 1)
        if use is None:
            self.ledger.forbid(ids, *CHANGES)
        else:
            self.ledger.rows.append(use)
        return Signal((Strand(np.ascontiguousarray(spread)),))

    def site(self) -> int:
        self.ledger.sites += 1
        return self.ledger.sites

    def use(
        self, view: View, axis: int, ids: Ids, site: int, *, degree: float = 1.0, bias: bool = False
    ) -> Use | None:
        """`ids` along `axis` of the view, as ids along an axis of the parameter itself."""
        coordinates = np.unravel_index(view.index, view.shape)
        for own, where in enumerate(coordinates):
            moving = varies(where)
            if moving == [axis] or (view.index.shape[axis] == 1 and view.shape[own] == 1):
                at = _along(where, axis)
                full = np.full(view.shape[own], -1, np.int64)
                full[at] = ids
                return Use(view.parameter, own, full, site, degree, bias)
        return None

    def pin(self, signal: Signal) -> None:
        """Nothing may happen to these channels any more."""
        for s in signal.strands:
            self.restrict(s, *CHANGES)
        self.drop_pending(signal)
        # A bare parameter that meets an unknown operation has no channels to pin.

    def restrict(self, strand: Strand, *changes: str) -> None:
        """Forbid; a strand of degree 0 no longer shows any change but a permutation."""
        ids = strand.ids if strand.members is None else strand.members
        shown = changes if strand.degree != 0 else [c for c in changes if c == "perm"]
        self.ledger.forbid(ids, *shown)

    def drop_pending(self, signal: Signal) -> None:
        if signal.pending is not None:
            self.ledger.forbid(signal.pending, "offset")

    def fate(self, signal: Signal, name: str) -> None:
        for s in signal.mains:
            self.ledger.fate(s.ids, name)

    def move(self, node: Node, signal: Signal, main: Node) -> Signal | list[Signal]:
        """Let the operation act on the channel numbers themselves."""

        def moved(ids: Ids) -> list[Ids]:
            env = {**self.value, main: torch.from_numpy(np.array(ids))}
            out = self.compute(node, env)
            outs = out if isinstance(out, list | tuple) else [out]
            return [o.numpy().astype(np.int64) for o in outs]

        value = self.value[node]
        outs = value if isinstance(value, list | tuple) else [value]
        strands = [moved(s.ids) for s in signal.strands]
        views = moved(signal.view.index) if signal.view is not None else None
        result = []
        for i, _ in enumerate(outs):
            cut = tuple(s.moved(m[i]) for s, m in zip(signal.strands, strands, strict=True))
            view = (
                None
                if views is None or signal.view is None
                else replace(signal.view, index=views[i])
            )
            result.append(Signal(cut, signal.root, signal.pending, view))
        return result if isinstance(value, list | tuple) else result[0]


def _along(where: Ids, axis: int) -> Ids:
    index: list[Any] = [0] * where.ndim
    index[axis] = slice(None)
    return where[tuple(index)]


def scalar(walk: Walk, arg: Any) -> bool:
    """A number, or a constant tensor of one number."""
    if not isinstance(arg, Node):
        return True
    value, known = walk.value[arg], walk.of(arg)
    plain = not known.strands and known.view is None
    return plain and isinstance(value, Tensor) and value.numel() == 1
