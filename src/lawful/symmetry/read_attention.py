"""Attention: scores pair two sets of channels, values pass through them head by head.

    a_ts = q_tᵀ k_s,  q_t = P_t u_t,  k_s = R_s w_s         P, R: everything linear after W_Q, W_K
    u ← e^X u, w ← e^Y w  leaves every score as it was  ⇔  XᵀK_ts + K_ts Y = 0,  K_ts = P_tᵀR_s

Without positions K is the identity: Y = −Xᵀ, all of GL(d_h). Under rotary positions K_ts are
plane rotations and X must commute with them. So P and R are measured, by sending one channel at
a time along the recorded path, and no position scheme has to be recognised.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.fx import Node

from .channels import CHANGES, Ids, Pairing, some, varies
from .read_maps import product
from .walk import Signal, Walk, rule


@rule("scaled_dot_product_attention")
def attention(walk: Walk, node: Node) -> Signal | None:
    q, k, v = node.args[:3]
    if len(node.args) > 3 and isinstance(node.args[3], Node) and walk.of(node.args[3]).strands:
        return None
    scores(walk, q, k, transposed=False, softmax=True)  # type: ignore[arg-type]
    return values(walk, node, v)  # type: ignore[arg-type]


@rule("matmul", "bmm", "mm")
def matmul(walk: Walk, node: Node) -> Signal | None:
    a, b = node.args[:2]
    if walk.of(b).view is not None:
        return product(walk, node)
    x, y = walk.of(a), walk.of(b)
    if x.view is not None or x.pending is not None or y.pending is not None:
        return None
    if x.strands and y.strands:
        return scores(walk, a, b, transposed=True, softmax=False)  # type: ignore[arg-type]
    return values(walk, node, b) if y.strands else None  # type: ignore[arg-type]


@rule("baddbmm")
def baddbmm(walk: Walk, node: Node) -> Signal | None:
    bias, a, b = node.args[:3]
    if walk.of(bias).strands or walk.of(bias).view is not None:
        return None
    return scores(walk, a, b, transposed=True, softmax=False)  # type: ignore[arg-type]


def values(walk: Walk, node: Node, v: Node) -> Signal | None:
    """A v: positions are averaged, so a channel must be the same at all of them."""
    signal, out = walk.of(v), walk.value[node]
    for s in signal.strands:
        if s.members is not None or s.ids.ndim < 2 or s.ids.ndim - 2 in varies(s.ids):
            return None
    strands = []
    for s in signal.strands:
        ids = _heads_like(s.ids, out.dim(), out.shape[-3] if out.dim() > 2 else 1)
        _part(walk, ids)
        walk.restrict(s, "shift", "offset")
        several = any(d != ids.ndim - 1 for d in varies(ids))
        walk.restrict(s, *(("perm",) if several else ()))
        walk.ledger.fate(s.ids, "value")
        strands.append(s.moved(np.broadcast_to(ids[..., :1, :], out.shape)))
    return Signal(tuple(strands), signal.root)


def _heads_like(ids: Ids, ndim: int, heads: int) -> Ids:
    """Grouped-query attention: one key or value head serves several queries."""
    if ids.ndim == ndim and ndim > 2 and ids.shape[-3] not in (1, heads):
        return ids.repeat(heads // ids.shape[-3], axis=-3)
    return ids


def _part(walk: Walk, ids: Ids) -> None:
    """Channels that go through different attention patterns may not be mixed."""
    for row in np.unique(ids[..., 0, :].reshape(-1, ids.shape[-1]), axis=0):
        mine = some(row)
        before = walk.ledger.block[mine]
        # A common refinement: the new block is named after its first member, old block by block.
        for old in np.unique(before):
            walk.ledger.block[mine[before == old]] = mine[before == old][0]


def scores(walk: Walk, q: Node, k: Node, *, transposed: bool, softmax: bool) -> Signal | None:
    """Note a pairing, and whether constants added to the keys will be absorbed."""
    x, y = walk.of(q), walk.of(k)
    found = _pairing(walk, q, k, x, y, transposed)
    others = tuple(c for c in CHANGES if c != "offset")
    for s in x.strands:
        walk.restrict(s, *CHANGES)
    for s in y.strands:
        walk.restrict(s, *others)
    ids = np.concatenate([np.zeros(0, np.int64), *(s.ids.ravel() for s in y.strands)])
    if found is None or not found[1]:
        walk.ledger.forbid(ids, "offset")
        keys = None
    else:
        keys = some(ids)
        walk.ledger.fate(keys, "key")
    if found is not None:
        walk.ledger.pairings.append(found[0])
    return Signal((), None, None if softmax else keys)


def _pairing(
    walk: Walk, q: Node, k: Node, x: Signal, y: Signal, transposed: bool
) -> tuple[Pairing, bool] | None:
    if x.root is None or y.root is None or len(x.strands) != 1 or len(y.strands) != 1:
        return None
    one = x.strands[0].ids
    two = np.swapaxes(y.strands[0].ids, -1, -2) if transposed else y.strands[0].ids
    if one.ndim != two.ndim or one.ndim < 2:
        return None
    many = one.shape[-3] if one.ndim > 2 else 1
    a, b = _by_head(one), _by_head(_heads_like(two, one.ndim, many))
    if a is None or b is None or a.shape != b.shape:
        return None
    _, first = np.unique(np.concatenate([a, b], 1), axis=0, return_index=True)
    p = _responses(walk, x, q, a, transposed=False, heads=many)[first]
    r = _responses(walk, y, k, b, transposed=transposed, heads=many)[first]
    kernels = np.einsum("htic,hsid->htscd", p, r)
    flat = kernels.reshape(len(first), -1, *kernels.shape[-2:])
    steady = bool(np.abs(r - r[:, :1]).max() <= 1e-12 * np.abs(r).max())
    return Pairing(a[first], b[first], flat), steady


def _by_head(ids: Ids) -> Ids | None:
    """(…, T, d) → (heads, d): the channels of each head, sorted; None if positions disagree."""
    d = ids.shape[-1]
    rows = np.sort(ids.reshape(-1, *ids.shape[-2:]), axis=-1)
    first = rows[:, 0]
    whole = (rows == first[:, None]).all() and (first >= 0).all()
    distinct = d == 1 or bool((np.diff(first, axis=1) > 0).all())
    return first if whole and distinct else None


def _responses(
    walk: Walk, signal: Signal, node: Node, heads_ids: Ids, *, transposed: bool, heads: int
) -> NDArray[np.float64]:
    """P[head, position, i, c]: entry i of this tensor when channel c of its root is 1."""
    assert signal.root is not None
    root_ids = walk.signal[signal.root].strands[0].ids
    path = _path(signal.root, node, walk)
    columns = []
    for c in range(heads_ids.shape[1]):
        u = torch.from_numpy(np.isin(root_ids, heads_ids[:, c]).astype(np.float64))
        env = {**walk.value, signal.root: u.to(walk.value[signal.root].dtype)}
        for step in path:
            env[step] = walk.compute(step, env)
        out = env[node].mT if transposed else env[node]
        wide = _heads_like(out.double().numpy(), out.dim(), heads)
        flat = wide.reshape(-1, *wide.shape[-2:])
        at = sorted({0, min(1, flat.shape[1] - 1), flat.shape[1] // 2, flat.shape[1] - 1})
        columns.append(flat[:, at])
    return np.stack(columns, -1)


def _path(root: Node, node: Node, walk: Walk) -> list[Node]:
    """The operations between root and node that depend on root, in order."""
    reached, order = {root}, []
    for n in walk.graph.nodes:
        if n is not root and any(i in reached for i in n.all_input_nodes):
            reached.add(n)
            order.append(n)
        if n is node:
            break
    return order
