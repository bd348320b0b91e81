"""Linear maps: they read channels at their columns and make new ones at their rows.

y_b = Σ_a W_ba x_a + b_b        x_a ← e^{s} x_a  is undone by  W_{·a} ← e^{−s·degree} W_{·a}
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch.fx import Node

from .channels import CHANGES, Strand, only_along
from .walk import Signal, View, Walk, operation, rule


def read(walk: Walk, x: Signal, axis: int, view: View, column_axis: int, site: int) -> None:
    """Note that `view` reads the channels of x that lie along `axis`."""
    walk.drop_pending(x)
    for s in x.strands:
        if s.members is not None:
            walk.restrict(s, "scale", "sign")
            continue
        ids = only_along(s.ids, axis)
        use = None
        if ids is not None and len(ids) == view.index.shape[column_axis]:
            use = walk.use(view, column_axis, ids, site, degree=s.degree)
        if use is None:
            walk.restrict(s, *CHANGES)
            walk.ledger.forbid(s.ids, "perm")
            continue
        walk.restrict(s, "shift", "offset")
        walk.ledger.columns.append(use)


def make(
    walk: Walk, node: Node, axis: int, view: View, row_axis: int, bias: Any, site: int
) -> Signal:
    """New channels along `axis` of the result, made by rows of `view` and by a bias."""
    ids = walk.ledger.space(view.parameter, view.index.shape[row_axis])
    use = walk.use(view, row_axis, ids, site)
    known = walk.of(bias).view if bias is not None else None
    if use is None or (bias is not None and known is None):
        walk.ledger.forbid(ids, *CHANGES)
    else:
        walk.ledger.rows.append(use)
    if known is not None and (b := walk.use(known, 0, ids, site, bias=True)) is not None:
        walk.ledger.rows.append(b)
    shape = walk.value[node].shape
    form = [1] * len(shape)
    form[axis] = -1
    spread = np.ascontiguousarray(np.broadcast_to(ids.reshape(form), shape))
    return Signal((Strand(spread),), node)


def _argument(node: Node, i: int, name: str, default: Any = None) -> Any:
    return node.args[i] if len(node.args) > i else node.kwargs.get(name, default)


@rule("linear")
def linear(walk: Walk, node: Node) -> Signal | None:
    x, w, bias = node.args[0], node.args[1], _argument(node, 2, "bias")
    view = walk.of(w).view
    if view is None:
        return None
    site = walk.site()
    read(walk, walk.labelled(x), -1, view, 1, site)  # type: ignore[arg-type]
    return make(walk, node, -1, view, 0, bias, site)


@rule("addmm")
def addmm(walk: Walk, node: Node) -> Signal | None:
    """b + x W, with W as (d_a, d_b)."""
    bias, x, w = node.args[:3]
    view = walk.of(w).view
    if view is None or node.kwargs:
        return None
    site = walk.site()
    read(walk, walk.labelled(x), -1, view, 0, site)  # type: ignore[arg-type]
    return make(walk, node, -1, view, 1, bias, site)


def product(walk: Walk, node: Node) -> Signal | None:
    """x @ W for a parameter W (d_a, d_b); None when W is no parameter."""
    x, w = node.args[:2]
    view = walk.of(w).view
    if view is None or view.index.ndim != 2:
        return None
    site = walk.site()
    read(walk, walk.labelled(x), -1, view, 0, site)  # type: ignore[arg-type]
    return make(walk, node, -1, view, 1, None, site)


@rule("conv1d", "conv2d", "conv3d", "convolution")
def convolution(walk: Walk, node: Node) -> Signal | None:
    """Channels on axis 1. groups = 1, or as many as channels (one filter each)."""
    x, w, bias = node.args[0], node.args[1], _argument(node, 2, "bias")
    view = walk.of(w).view
    groups = _argument(node, 8 if operation(node) == "convolution" else 6, "groups", 1)
    if view is None or (operation(node) == "convolution" and node.args[6]):
        return None
    site, signal = walk.site(), walk.labelled(x)  # type: ignore[arg-type]
    if groups == 1:
        read(walk, signal, 1, view, 1, site)
        return make(walk, node, 1, view, 0, bias, site)
    if view.index.shape[1] != 1 or view.index.shape[0] != groups:
        return None
    for s in signal.strands:
        walk.restrict(s, "mix")
    read(walk, signal, 1, view, 0, site)
    result = make(walk, node, 1, view, 0, bias, site)
    made = result.strands[0].ids
    walk.ledger.forbid(made, "mix")
    for s in signal.strands:
        if (ids := only_along(s.ids, 1)) is not None:
            walk.ledger.link("tie", ids, only_along(made, 1))  # type: ignore[arg-type]
    if not signal.strands:
        walk.ledger.forbid(made, "perm")
    return replace(result, root=None)


@rule("embedding")
def embedding(walk: Walk, node: Node) -> Signal | None:
    """A row of the table is an activation: its columns are the channels."""
    view = walk.of(node.args[0]).view
    if view is None or (len(node.args) > 3 and node.args[3]):
        return None
    return make(walk, node, -1, view, 1, None, walk.site())
