"""Normalisation and softmax: what they absorb.

    LN(e^s x + c·1) = LN(x)         scale and shift common to the row   (ε = 0)
    RMS(e^s x) = RMS(x)             common scale
    BN(e^{s_i} x_i + c_i) = BN(x)   scale and constant, channel by channel (batch statistics)
    softmax(x + c·1) = softmax(x)   common shift

The gain γ and bias β that follow make new channels, which scale as they like: x̂γ + β.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.fx import Node

from .channels import CHANGES, Ids, Strand, only_along
from .walk import Signal, Walk, operation, rule


def gain(walk: Walk, node: Node, axis: int, x: Signal, weight: Any, bias: Any) -> Signal:
    """x̂ γ + β: the channels of x keep their order only, those of γ and β are new."""
    shape = walk.value[node].shape
    still = tuple(Strand(s.ids, 0.0) for s in x.strands if s.members is None)
    views = [walk.of(p).view for p in (weight, bias) if p is not None]
    if not views:
        return Signal(still)
    site, first = walk.site(), views[0]
    count = shape[axis]
    ids = walk.ledger.space(first.parameter if first is not None else "gain", count)
    walk.ledger.forbid(ids, "mix", "shift")
    for p, view in ((weight, walk.of(weight).view), (bias, walk.of(bias).view)):
        use = None if view is None else walk.use(view, 0, ids, site, bias=p is bias)
        if use is not None:
            walk.ledger.rows.append(use)
        elif p is not None or p is weight:
            # β without γ, or a constant of the model: the product cannot be rescaled.
            walk.ledger.forbid(ids, "scale", "sign", "perm")
    form = [1] * len(shape)
    form[axis] = -1
    spread = np.ascontiguousarray(np.broadcast_to(ids.reshape(form), shape))
    if still:
        walk.ledger.link("tie", still[0].ids, spread)
    else:
        walk.ledger.forbid(ids, "perm")
    return Signal((*still, Strand(spread)))


def _get(node: Node, i: int, name: str) -> Any:
    return node.args[i] if len(node.args) > i else node.kwargs.get(name)


@rule("layer_norm", "rms_norm")
def over_features(walk: Walk, node: Node) -> Signal | None:
    x = walk.labelled(node.args[0], added=True)  # type: ignore[arg-type]
    if len(node.args[1]) != 1:  # type: ignore[arg-type]
        return None
    walk.drop_pending(x)
    centred = operation(node) == "layer_norm"
    for s in x.strands:
        if s.members is not None or only_along(s.ids, -1) is None or (s.ids < 0).any():
            walk.restrict(s, *CHANGES)
            continue
        walk.restrict(s, "mix", "sign", *(() if centred else ("shift", "offset")))
        if s.degree == 0:
            continue
        walk.ledger.together("joint", s.ids)
        walk.ledger.together("even", s.ids)
        walk.ledger.fate(s.ids, "LayerNorm" if centred else "RMSNorm")
    return gain(
        walk, node, -1, x, _get(node, 2, "weight"), _get(node, 3, "bias") if centred else None
    )


@rule("batch_norm")
def over_batch(walk: Walk, node: Node) -> Signal | None:
    x, training = walk.labelled(node.args[0]), bool(node.args[5])  # type: ignore[arg-type]
    walk.drop_pending(x)
    for s in x.strands:
        if s.members is not None or only_along(s.ids, 1) is None or not training:
            walk.restrict(s, *CHANGES)
            continue
        walk.restrict(s, "mix", "sign", "shift")
        if s.degree != 0:
            walk.ledger.fate(s.ids, "BatchNorm")
    return gain(walk, node, 1, x, node.args[1], node.args[2])


@rule("softmax", "log_softmax")
def softmax(walk: Walk, node: Node) -> Signal | None:
    return soft(walk, node, int(node.args[1]))  # type: ignore[arg-type]


def soft(walk: Walk, node: Node, axis: int) -> Signal | None:
    x = walk.labelled(node.args[0], added=True)  # type: ignore[arg-type]
    last = axis % max(walk.value[node].dim(), 1) == walk.value[node].dim() - 1
    if x.pending is not None and not last:
        walk.drop_pending(x)
    for s in x.strands:
        if s.members is not None or _ids(s, axis) is None:
            walk.restrict(s, *CHANGES)
            continue
        walk.restrict(s, "scale", "sign", "mix")
        walk.ledger.together("even", s.ids)
        walk.ledger.fate(s.ids, "softmax")
    return Signal(tuple(Strand(s.ids, 0.0) for s in x.strands if s.members is None))


def _ids(s: Strand, axis: int) -> Ids | None:
    return None if (s.ids < 0).any() else only_along(s.ids, axis)


@rule("cross_entropy_loss")
def cross_entropy(walk: Walk, node: Node) -> Signal:
    """−log softmax(x)_y: the classes have names, so they do not permute."""
    logits = walk.value[node.args[0]]  # type: ignore[index]
    x = walk.labelled(node.args[0], added=True)  # type: ignore[arg-type]
    axis = 1 if logits.dim() > 1 else 0
    walk.drop_pending(x)
    for s in x.strands:
        if s.members is not None or _ids(s, axis) is None:
            walk.restrict(s, *CHANGES)
            continue
        walk.restrict(s, "scale", "sign", "mix", "perm")
        walk.ledger.together("even", s.ids)
        walk.ledger.fate(s.ids, "softmax")
    return Signal()
