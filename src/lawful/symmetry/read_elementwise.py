"""Entry by entry: views, activations, sums and products.

φ(e^s x) = e^s φ(x)     ReLU, leaky ReLU, |x|: scale and permutation survive
φ(−x) = −φ(x)           tanh, sin, erf: sign and permutation
neither                 GELU, SiLU, sigmoid, softplus, …: permutation only
(e^s x)^p = e^{ps} x^p  powers: scale, with another degree
x + y                   one channel from now on;     x · y   two, each free to scale
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.fx import Node

from .channels import CHANGES, Ids, Strand, only_along, some, varies
from .walk import Signal, Walk, operation, rule, scalar

VIEWS = [
    "view",
    "reshape",
    "unsafe_view",
    "permute",
    "transpose",
    "t",
    "unsqueeze",
    "squeeze",
    "expand",
    "flatten",
    "unflatten",
    "select",
    "slice",
    "split",
    "split_with_sizes",
    "chunk",
    "unbind",
    "repeat_interleave",
    "repeat",
    "movedim",
    "narrow",
    "flip",
    "roll",
    "contiguous",
    "clone",
    "alias",
    "swapaxes",
    "tensor_split",
    "expand_as",
    "numpy_T",
    "broadcast_to",
]
ODD = [
    "tanh",
    "sin",
    "erf",
    "asinh",
    "atan",
    "tan",
    "sinh",
    "softsign",
    "hardshrink",
    "softshrink",
]
HOMOGENEOUS = [
    "relu",
    "leaky_relu",
    "abs",
]
BARE = [
    "gelu",
    "silu",
    "sigmoid",
    "exp",
    "softplus",
    "elu",
    "mish",
    "log",
    "hardswish",
    "relu6",
    "selu",
    "celu",
    "hardsigmoid",
    "log1p",
    "expm1",
    "cos",
    "cosh",
    "log_sigmoid",
    "hardtanh",
    "clamp",
    "clamp_min",
    "clamp_max",
    "threshold",
    "rrelu",
]
POWERS = {"sqrt": 0.5, "rsqrt": -0.5, "reciprocal": -1.0, "square": 2.0}


@rule(*VIEWS)
def view(walk: Walk, node: Node) -> Signal | list[Signal]:
    return walk.move(node, walk.of(node.args[0]), node.args[0])  # type: ignore[arg-type]


@rule("to", "to_copy", "dropout", "lift_fresh", "detach_copy")
def same(walk: Walk, node: Node) -> Signal:
    return walk.of(node.args[0])


@rule("getitem")
def item(walk: Walk, node: Node) -> Signal | None:
    known, i = walk.signal.get(node.args[0]), node.args[1]  # type: ignore[arg-type]
    return known[i] if isinstance(known, list) and isinstance(i, int) else None


@rule("broadcast_tensors")
def broadcast(walk: Walk, node: Node) -> list[Signal]:
    result = []
    for part, out in zip(node.args[0], walk.value[node], strict=True):  # type: ignore[arg-type]
        known = walk.of(part)
        cut = tuple(s.moved(np.broadcast_to(s.ids, out.shape)) for s in known.strands)
        result.append(Signal(cut, known.root, known.pending))
    return result


@rule("cat", "stack", "concat")
def joined(walk: Walk, node: Node) -> Signal | None:
    """Channels side by side; only for parts that carry one strand each, of one degree."""
    parts: list[Any] = list(node.args[0])  # type: ignore[arg-type]
    known = [walk.of(p) for p in parts]
    if any(len(k.strands) > 1 or k.view is not None or k.pending is not None for k in known):
        return None
    degrees = {s.degree for k in known for s in k.strands}
    if len(degrees) != 1 or any(s.members is not None for k in known for s in k.strands):
        return None
    blank = [np.full(walk.value[p].shape, -1, np.int64) for p in parts]
    ids = [k.strands[0].ids if k.strands else b for k, b in zip(known, blank, strict=True)]
    axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    stitch = np.stack if operation(node) == "stack" else np.concatenate
    roots = {k.root for k in known}
    root = roots.pop() if len(roots) == 1 else None
    merged = stitch([np.asarray(i) for i in ids], axis=int(axis))  # type: ignore[arg-type]
    return Signal((Strand(merged, degrees.pop()),), root)


def _through(walk: Walk, node: Node, lost: tuple[str, ...], fate: str, factor: float = 1) -> Signal:
    x = walk.labelled(node.args[0], added=True)  # type: ignore[arg-type]
    for s in x.strands:
        summed = ("scale",) if s.members is not None and "scale" in lost else ()
        walk.restrict(s, *lost, *summed)
    walk.drop_pending(x)
    walk.fate(x, fate)
    return Signal(tuple(Strand(s.ids, s.degree * factor, s.members) for s in x.strands))


@rule(*HOMOGENEOUS)
def homogeneous(walk: Walk, node: Node) -> Signal:
    return _through(walk, node, ("sign", "mix", "shift", "offset"), operation(node))


@rule(*ODD)
def odd(walk: Walk, node: Node) -> Signal:
    return _through(walk, node, ("scale", "mix", "shift", "offset"), operation(node))


@rule(*BARE)
def bare(walk: Walk, node: Node) -> Signal:
    lost = ("scale", "sign", "mix", "shift", "offset")
    x = _through(walk, node, lost, operation(node))
    # Pinned in scale, the result shows nothing of its channels but their order.
    return Signal(tuple(Strand(s.ids, 0.0, s.members) for s in x.strands))


@rule(*POWERS)
def power(walk: Walk, node: Node) -> Signal:
    lost = ("sign", "mix", "shift", "offset")
    return _through(walk, node, lost, "power", POWERS[operation(node)])


@rule("pow")
def pow_(walk: Walk, node: Node) -> Signal | None:
    exponent = node.args[1]
    if not isinstance(exponent, int | float):
        return None
    return _through(walk, node, ("sign", "mix", "shift", "offset"), "power", float(exponent))


@rule("neg")
def negative(walk: Walk, node: Node) -> Signal:
    x = walk.of(node.args[0])
    walk.drop_pending(x)
    return Signal(x.strands, x.root)


@rule("add", "sub", "rsub")
def add(walk: Walk, node: Node) -> Signal | None:
    a, b = node.args[0], node.args[1]
    if scalar(walk, a) or scalar(walk, b):
        return _plus_number(walk, b if scalar(walk, a) else a)
    x, y = walk.labelled(a, added=True), walk.labelled(b, added=True)  # type: ignore[arg-type]
    shape = walk.value[node].shape
    if not x.strands or not y.strands:
        return _plus_unknown(walk, x if x.strands else y, b if x.strands else a, x, y)
    walk.drop_pending(x)
    walk.drop_pending(y)
    one, two = _spread(x.mains, shape), _spread(y.mains, shape)
    if len(one) == len(two) == 1 and one[0].degree == two[0].degree:
        return _merge(walk, node, one[0], two[0], x, y)
    for s in (*x.strands, *y.strands):
        walk.restrict(s, "scale", "sign", "mix", "shift", "offset")
    orders = [s for s in _spread([*x.strands, *y.strands], shape) if s.members is None]
    for s in orders[1:]:
        walk.ledger.link("tie", orders[0].ids, s.ids)
    return Signal(tuple(Strand(s.ids, 0.0) for s in orders[:1]))


def _merge(walk: Walk, node: Node, a: Strand, b: Strand, x: Signal, y: Signal) -> Signal | None:
    """x + y, both of channels of their own: from here on they move as one."""
    if a.members is not None or b.members is not None:
        return _minus_mean(walk, a, b)
    half = (a.ids < 0) != (b.ids < 0)
    if half.any():
        walk.ledger.forbid(np.where(half, np.maximum(a.ids, b.ids), -1), *CHANGES)
    result = (Strand(a.ids, a.degree),)
    if x.root is not None and x.root is y.root:
        # A linear map of one tensor, such as a rotation of planes: no channel stays itself.
        walk.ledger.link("joint", a.ids, b.ids)
        for s in (a, b) if not np.array_equal(a.ids, b.ids) else ():
            walk.restrict(s, "sign", "mix", "perm", "shift", "offset")
        return Signal(result, x.root)
    walk.ledger.link("same", a.ids, b.ids)
    return Signal(result, node if x.root is not None and y.root is not None else None)


def _minus_mean(walk: Walk, a: Strand, b: Strand) -> Signal | None:
    """x − mean(x): a sum over channels that x has in common with its own mean."""
    own, total = (a, b) if b.members is not None else (b, a)
    for s in (own, total):
        walk.restrict(s, "mix", "shift", "offset", "sign")
    if total.members is None or own.members is not None:
        walk.restrict(own, "scale")
        walk.restrict(total, "scale")
    elif not np.isin(some(own.ids), total.members).all():
        walk.restrict(own, "scale", "perm")
        walk.restrict(total, "scale", "perm")
    return Signal((Strand(own.ids, own.degree),))


def _plus_number(walk: Walk, arg: Any) -> Signal:
    x = walk.labelled(arg, added=True)
    for s in x.strands:
        # The ε of a hand-written norm: it is left to the violation number.
        if s.members is None:
            walk.restrict(s, "scale", "sign", "mix")
    return Signal(x.strands, None, x.pending)


def _plus_unknown(walk: Walk, known: Signal, other: Any, x: Signal, y: Signal) -> Signal:
    for s in known.strands:
        walk.restrict(s, "scale", "sign", "mix")
        if _crosses(walk, s, other):
            walk.restrict(s, "perm")
    return Signal(known.strands, None, x.pending if x.pending is not None else y.pending)


def _crosses(walk: Walk, strand: Strand, other: Any) -> bool:
    """Whether a tensor broadcast against a strand may differ between its channels."""
    value = walk.value[other]
    shape = list(value.shape) if isinstance(value, Tensor) else []
    lead = strand.ids.ndim - len(shape)
    return any(d - lead >= 0 and shape[d - lead] > 1 for d in varies(strand.ids))


def _spread(strands: list[Strand] | tuple[Strand, ...], shape: tuple[int, ...]) -> list[Strand]:
    return [s.moved(np.broadcast_to(s.ids, shape)) for s in strands]


@rule("mul", "div")
def multiply(walk: Walk, node: Node) -> Signal | None:
    a, b = node.args[0], node.args[1]
    over = -1.0 if operation(node) == "div" else 1.0
    if scalar(walk, b) or (over > 0 and scalar(walk, a)):
        x = walk.of(a) if scalar(walk, b) else walk.of(b)
        return x if x.view is None else walk.labelled(a if scalar(walk, b) else b, added=True)  # type: ignore[arg-type]
    x, y = walk.labelled(a), walk.labelled(b)  # type: ignore[arg-type]
    walk.drop_pending(x)
    walk.drop_pending(y)
    shape = walk.value[node].shape
    if x.strands and y.strands:
        return _product(walk, _spread(x.strands, shape), _spread(y.strands, shape), over)
    known, other = (x, b) if x.strands else (y, a)
    factor = 1.0 if x.strands else over
    for s in known.strands:
        crossed = ("mix", "perm", "shift") if _crosses(walk, s, other) else ()
        walk.restrict(s, "offset", "shift", *crossed)
    strands = [Strand(s.ids, s.degree * factor, s.members) for s in known.strands]
    root = known.root if factor > 0 else None
    return Signal(tuple(_spread(strands, shape)), root)


def _product(walk: Walk, x: list[Strand], y: list[Strand], over: float) -> Signal:
    ordinary = all(s.members is None for s in (*x, *y))
    for s in (*x, *y):
        walk.restrict(s, "mix", "shift", "offset")
        if s.degree != 0 and ordinary:
            walk.ledger.fate(s.ids, "product")
    result: list[Strand] = list(x)
    for s in y:
        twin = next((i for i, r in enumerate(result) if _alike(r, s)), None)
        if twin is None:
            result.append(Strand(s.ids, over * s.degree, s.members))
        else:
            keep = result[twin] if result[twin].members is None else s
            degree = result[twin].degree + over * s.degree
            result[twin] = Strand(keep.ids, degree, keep.members)
    ordered = [s for s in result if s.members is None]
    for s in ordered[1:]:
        walk.ledger.link("tie", ordered[0].ids, s.ids)
    return Signal(tuple(result))


def _alike(a: Strand, b: Strand) -> bool:
    """Whether two factors scale with the same channels, so that their degrees add."""
    if a.members is None and b.members is None:
        return bool(np.array_equal(a.ids, b.ids))
    members = a.members if a.members is not None else b.members
    assert members is not None
    rest = [s.ids if s.members is None else s.members for s in (a, b)]
    return all(bool(np.isin(some(r), members).all()) for r in rest)


@rule("mean", "sum", "adaptive_avg_pool2d", "avg_pool2d", "avg_pool1d", "adaptive_avg_pool1d")
def reduce(walk: Walk, node: Node) -> Signal | None:
    """Over positions a channel stays itself; over channels only their common scale is left."""
    x, out = walk.of(node.args[0]), walk.value[node]
    if not x.strands or x.view is not None:
        return None
    walk.drop_pending(x)
    result = [_reduced(walk, s, node, tuple(out.shape)) for s in x.strands]
    return None if any(r is None for r in result) else Signal(tuple(r for r in result if r))


def _reduced(walk: Walk, s: Strand, node: Node, shape: tuple[int, ...]) -> Strand | None:
    pooled = "pool" in operation(node)
    dims: Any = None if pooled else (node.args[1] if len(node.args) > 1 else None)
    if dims is None and not pooled:
        return None
    listed = dims if isinstance(dims, list | tuple) else [dims]
    axes = {-1, -2} if pooled else {int(d) for d in listed}
    axes = {d % s.ids.ndim for d in axes}
    if pooled and "1d" in operation(node):
        axes = {s.ids.ndim - 1}
    first = s.ids
    for d in axes:
        first = first.take([0], axis=d)
    over_channels = bool(axes & set(varies(s.ids)))
    if over_channels and (pooled or s.members is not None):
        return None
    first = np.broadcast_to(
        first,
        [
            n if pooled else m
            for n, m in zip(
                (*first.shape[: -len(axes)], *shape[first.ndim - len(axes) :])
                if pooled
                else first.shape,
                first.shape,
                strict=True,
            )
        ],
    )
    ids = first if len(shape) == first.ndim else first.reshape(shape)
    if not over_channels:
        walk.restrict(s, "shift") if "sum" in operation(node) else None
        return Strand(ids, s.degree, s.members)
    walk.restrict(s, "mix", "shift", "offset", *(("sign",) if s.degree % 2 else ()))
    walk.ledger.together("joint", s.ids)
    walk.ledger.fate(s.ids, "norm")
    return Strand(ids, s.degree, some(s.ids))


@rule("max_pool2d", "max_pool1d", "adaptive_max_pool2d")
def max_pool(walk: Walk, node: Node) -> Signal | None:
    x = walk.of(node.args[0])
    value = walk.value[node]
    if isinstance(value, list | tuple) or any(only_along(s.ids, 1) is None for s in x.strands):
        return None
    walk.fate(x, "max_pool")
    for s in x.strands:
        walk.restrict(s, "sign", "mix", "shift")
    ids: list[Ids] = [s.ids[:, :, *([slice(0, 1)] * (s.ids.ndim - 2))] for s in x.strands]
    spread = [np.broadcast_to(i, value.shape) for i in ids]
    return Signal(tuple(s.moved(i) for s, i in zip(x.strands, spread, strict=True)))


@rule("masked_fill", "where")
def masked(walk: Walk, node: Node) -> Signal | None:
    """A mask on scores leaves what is common to a row common, where the mask is a constant."""
    known = [walk.of(n) for n in node.all_input_nodes]
    if any(k.strands or k.view is not None for k in known):
        return None
    pending = [k.pending for k in known if k.pending is not None]
    return Signal((), None, pending[0] if len(pending) == 1 else None)
