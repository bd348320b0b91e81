"""Channels: what a network computes with, and which changes each of them survives.

A channel is one row of a weight (one neuron). It gets a number when it is made, and a *strand*
is an array shaped like an activation that says which channel each entry belongs to. Operations
move the numbers about (a view, a transpose, a slice act on a strand as on the tensor itself) or
take from a channel some of the changes it may undergo:

    scale   ×e^s, s > 0      what ReLU keeps        sign    ×(−1)       what tanh keeps
    mix     any matrix       what linear maps keep  perm    swap two    what any φ(x_i) keeps
    shift   +c(x)            what LayerNorm and softmax remove when common to all channels
    offset  +c               the same for constants; BatchNorm removes it channel by channel

`same`, `joint`, `tie`, `even` are pairs of channels that must move as one: equal in everything
(a sum), equal in scale (a norm over both), equal in permutation (a product), equal in shift.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import scipy
from numpy.typing import NDArray

Ids = NDArray[np.int64]
CHANGES = ("scale", "sign", "mix", "perm", "shift", "offset")


@dataclass(frozen=True)
class Strand:
    """ids: channel of every entry, −1 for none; degree: the entry grows as e^{degree · s}.

    members: None; or the channels that were summed into each entry (a mean square, say), whose
    common scale it follows. Such a strand has no channel of its own.
    """

    ids: Ids
    degree: float = 1.0
    members: Ids | None = None

    def moved(self, ids: Ids) -> Strand:
        return Strand(ids, self.degree, self.members)


@dataclass(frozen=True, eq=False)
class Use:
    """A parameter that makes (row) or reads (column) channels: ids along one of its axes.

    site: the call it belongs to; degree: how the channel enters; bias: it adds a constant.
    """

    parameter: str
    axis: int
    ids: Ids
    site: int
    degree: float = 1.0
    bias: bool = False


@dataclass(frozen=True)
class Pairing:
    """Σ_i q_i k_i, head by head: q = P_t u, k = R_s w. K_ts = P_tᵀ R_s must be kept.

    q, k: (heads, d) channels; kernels: (heads, pairs, d, d).
    """

    q: Ids
    k: Ids
    kernels: NDArray[np.float64]


@dataclass
class Ledger:
    """Everything the walk over the graph finds out."""

    spaces: list[tuple[str, int, int]] = field(default_factory=list)  # maker, first, count
    rows: list[Use] = field(default_factory=list)
    columns: list[Use] = field(default_factory=list)
    pairings: list[Pairing] = field(default_factory=list)
    pairs: dict[str, list[NDArray[np.int64]]] = field(
        default_factory=lambda: {"same": [], "joint": [], "tie": [], "even": []}
    )
    can: dict[str, NDArray[np.bool_]] = field(
        default_factory=lambda: {c: np.ones(0, bool) for c in CHANGES}
    )
    block: Ids = field(default_factory=lambda: np.zeros(0, np.int64))
    fates: dict[str, set[int]] = field(default_factory=dict)
    sites: int = 0

    @property
    def size(self) -> int:
        return len(self.block)

    def space(self, maker: str, count: int) -> Ids:
        """New channels first … first + count − 1."""
        first = self.size
        self.spaces.append((maker, first, count))
        for change in CHANGES:
            self.can[change] = np.append(self.can[change], np.ones(count, bool))
        self.block = np.append(self.block, np.full(count, first))
        return np.arange(first, first + count)

    def home(self, ids: Ids) -> Ids:
        """The index of the space of each channel."""
        return np.searchsorted([first for _, first, _ in self.spaces], ids, side="right") - 1

    def forbid(self, ids: Ids, *changes: str) -> None:
        mine = some(ids)
        for change in changes:
            self.can[change][mine] = False

    def fate(self, ids: Ids, name: str) -> None:
        self.fates.setdefault(name, set()).update(some(ids).tolist())

    def met(self, ids: Ids, name: str) -> bool:
        return not self.fates.get(name, set()).isdisjoint(ids.tolist())

    def link(self, kind: str, a: Ids, b: Ids) -> None:
        pairs = np.unique(np.stack([a.ravel(), b.ravel()], 1), axis=0)
        self.pairs[kind].append(pairs[(pairs >= 0).all(1)])

    def together(self, kind: str, ids: Ids) -> None:
        """All of these channels, with the first of them."""
        mine = some(ids)
        if len(mine):
            self.link(kind, np.full_like(mine, mine[0]), mine)

    def components(self, *kinds: str) -> Ids:
        """A number for each channel, equal for channels that must move as one."""
        pairs = [np.zeros((0, 2), np.int64), *(p for k in kinds for p in self.pairs[k])]
        edges = np.concatenate(pairs)
        n = self.size
        ends = (edges[:, 0], edges[:, 1])
        graph = scipy.sparse.coo_matrix((np.ones(len(edges)), ends), shape=(n, n))
        _, found = scipy.sparse.csgraph.connected_components(graph, directed=False)
        return found.astype(np.int64)

    def all_of(self, change: str, component: Ids) -> NDArray[np.bool_]:
        """For each channel, whether every channel that moves with it may change so."""
        bad = np.zeros(component.max(initial=-1) + 1, bool)
        bad[component[~self.can[change]]] = True
        return ~bad[component]


def some(ids: Ids) -> Ids:
    """The distinct channels in an array, without −1."""
    found = np.unique(ids)
    return found[found >= 0]


def varies(ids: Ids) -> list[int]:
    """The axes along which the channel changes."""
    return [d for d in range(ids.ndim) if (ids != ids.take([0], axis=d)).any()]


def only_along(ids: Ids, axis: int) -> Ids | None:
    """The channels along `axis`, or None when they depend on another axis too."""
    if any(d != axis % ids.ndim for d in varies(ids)):
        return None
    index = [0] * ids.ndim
    index[axis] = slice(None)  # type: ignore[call-overload]
    return ids[tuple(index)]
