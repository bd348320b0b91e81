"""From what the channels survive to the symmetries proposed. Numbers decide afterwards.

a channel that may scale      rows e^{s}, columns e^{−s·degree}       rescaling, gain, norms
channels that may mix         rows e^{X}, columns e^{−Xᵀ}             GL(k): linear, VO, LoRA
channels paired by scores     rows e^{X} and e^{Y}                    QK
channels that may shift       rows + c                                LayerNorm, softmax
channels that may gain a constant   bias + c                          BatchNorm, key bias
channels that may be exchanged, or change sign                        permutation, sign
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from .action import Action, Mixing, Scaling, Shifting
from .channels import Ids, Ledger, Pairing, Use, some
from .commutant import key_side, query_side
from .discrete import Discrete, Move
from .generator import Family
from .shared import agree, same_everywhere, shared

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Proposal:
    """A symmetry that the graph suggests; `absorbed` names what makes it one."""

    kind: str
    act: Family | Discrete
    absorbed: str = ""


def propose(ledger: Ledger, shapes: Shapes) -> list[Proposal]:
    """All that the ledger suggests, each once, in the order in which channels were made."""
    if not ledger.size:
        return []
    tied = shared(ledger)
    found = [*_scalings(ledger, shapes, tied), *_mixings(ledger, tied), *_pairs(ledger, tied)]
    found += [*_shifts(ledger, shapes), *_offsets(ledger)]
    return [*found, *_discrete(ledger, tied)]


def _groups(ledger: Ledger, component: Ids, chosen: Iterable[int], by: Ids) -> list[Ids]:
    """Component numbers gathered by the spaces they come from, in order."""
    members: dict[int, list[int]] = {}
    wanted = set(map(int, chosen))
    for channel, c in enumerate(component.tolist()):
        if c in wanted:
            members.setdefault(c, []).append(channel)
    homes = ledger.home(np.arange(ledger.size))
    grouped: dict[tuple, list[int]] = {}
    for c, channels in members.items():
        key = tuple(sorted({(int(homes[i]), int(by[i])) for i in channels}))
        grouped.setdefault(key, []).append(c)
    return [np.array(g) for g in grouped.values()]


def _numbers(use: Use, component: Ids, group: Ids) -> torch.Tensor:
    """For each index of the use's axis, its place in the group, or −1."""
    place = np.full(component.max() + 2, -1)
    place[group] = np.arange(len(group))
    return torch.from_numpy(place[np.where(use.ids >= 0, component[use.ids], -1)])


def _touching(uses: list[Use], component: Ids, group: Ids) -> list[tuple[Use, torch.Tensor]]:
    numbered = [(u, _numbers(u, component, group)) for u in uses]
    return [(u, n) for u, n in numbered if bool((n >= 0).any())]


def _alive(ledger: Ledger, change: str, component: Ids) -> Ids:
    return np.unique(component[ledger.all_of(change, component)])


def _no_blocks(ledger: Ledger) -> Ids:
    return np.zeros(ledger.size, np.int64)


# Scale -----------------------------------------------------------------------------------------


def _scalings(ledger: Ledger, shapes: Shapes, tied: set[str]) -> list[Proposal]:
    component = ledger.components("same", "joint")
    mixable = ledger.all_of("mix", ledger.components("same")) & _mix_uses(ledger)
    free = np.unique(component[ledger.all_of("scale", component) & ~mixable])
    found, bound = [], []
    for group in _groups(ledger, component, free, _no_blocks(ledger)):
        rows = _touching(ledger.rows, component, group)
        columns = [(u, n) for u, n in _touching(ledger.columns, component, group) if u.degree]
        channels = np.flatnonzero(np.isin(component, group))
        absorbed = _absorber(ledger, channels)
        if not rows or not (columns or absorbed):
            continue
        actions = [Scaling(u.parameter, u.axis, n, 1.0, u.site) for u, n in rows]
        actions += [Scaling(u.parameter, u.axis, n, -u.degree, u.site) for u, n in columns]
        family = Family(tuple(actions), len(group))
        if tied & set(family.parameters):
            bound.append(family)
        else:
            kind = "rescaling" if columns else "scale invariance"
            found.append(Proposal(kind, family, _through(ledger, channels) or absorbed))
    joint = agree(bound, ledger, tied, shapes) if bound else None
    return found + ([Proposal("rescaling", joint, "shared tensors")] if joint else [])


def _absorber(ledger: Ledger, channels: Ids) -> str:
    for name in ("LayerNorm", "RMSNorm", "BatchNorm", "norm", "softmax", "key"):
        if ledger.met(channels, name):
            return name
    return ""


def _through(ledger: Ledger, channels: Ids) -> str:
    """What the channels pass between the maps that make and read them."""
    for name in ("relu", "leaky_relu", "abs", "product", "power", "value", "max_pool"):
        if ledger.met(channels, name):
            return "a product" if name == "product" else name
    return ""


# Mixing ----------------------------------------------------------------------------------------


def _mix_uses(ledger: Ledger) -> np.ndarray:
    """Channels that some linear map reads."""
    read = np.zeros(ledger.size, bool)
    component = ledger.components("same")
    for u in ledger.columns:
        read[some(u.ids)] = True
    return np.isin(component, component[read])


def _places(use: Use, component: Ids, group: Ids) -> torch.Tensor | None:
    """(m, k): where the use knows the k members, m times over; None if unevenly."""
    numbers = _numbers(use, component, group).numpy()
    lists = [np.flatnonzero(numbers == i) for i in range(len(group))]
    if len({len(at) for at in lists}) != 1:
        return None
    return torch.from_numpy(np.stack(lists, 1))


def _mixing(
    uses: list[Use], component: Ids, group: Ids, dual: bool, basis: np.ndarray | None = None
) -> list[Mixing] | None:
    made: list[Mixing] = []
    for u, _ in _touching(uses, component, group):
        at = _places(u, component, group)
        if at is None:
            return None
        matrices = None if basis is None else torch.from_numpy(basis)
        made.append(Mixing(u.parameter, u.axis, at, 0, dual, matrices, u.site))
    return made


def _mixings(ledger: Ledger, tied: set[str]) -> list[Proposal]:
    component = ledger.components("same")
    chosen = np.unique(component[ledger.all_of("mix", component) & _mix_uses(ledger)])
    found = []
    for group in _groups(ledger, component, chosen, ledger.block):
        rows = _mixing(ledger.rows, component, group, dual=False)
        columns = _mixing(ledger.columns, component, group, dual=True)
        if not rows or not columns or tied & {a.parameter for a in (*rows, *columns)}:
            continue
        channels = np.flatnonzero(np.isin(component, group))
        values = ledger.met(channels, "value")
        family = Family((*rows, *columns), len(group) ** 2)
        found.append(Proposal("GL", family, "attention values (VO)" if values else "linear maps"))
    return found


def _pairs(ledger: Ledger, tied: set[str]) -> list[Proposal]:
    component = ledger.components("same")
    found = []
    for p in ledger.pairings:
        for key in np.unique(p.k, axis=0):
            proposal = _pair(ledger, component, p, (p.k == key).all(1), tied)
            found += [proposal] if proposal is not None else []
    return found


def _pair(
    ledger: Ledger, component: Ids, p: Pairing, heads: np.ndarray, tied: set[str]
) -> Proposal | None:
    kernels = p.kernels[heads]
    y = key_side(kernels)
    if y is not None and not len(y):
        return None
    d = kernels.shape[-1]
    plain = y is None and all(np.abs(k[0] - k[0, 0, 0] * np.eye(d)).max() < 1e-12 for k in kernels)
    if y is None and not plain:
        if d > 32:  # d⁴ numbers a head: a fixed change of basis that no one has asked for
            return None
        y = np.eye(d * d).reshape(-1, d, d)
    key = component[p.k[heads][0]]
    actions = _mixing(ledger.rows, component, key, dual=False, basis=y)
    for q, kernel in zip(p.q[heads], kernels, strict=True):
        x = None if y is None else query_side(y, kernel)
        more = _mixing(ledger.rows, component, component[q], dual=y is None, basis=x)
        actions = None if actions is None or more is None else actions + more
    if not actions or tied & {a.parameter for a in actions}:
        return None
    positions = "" if plain else " with positions"
    return Proposal(
        "QK", Family(tuple(actions), d * d if y is None else len(y)), f"scores{positions}"
    )


# Shift -----------------------------------------------------------------------------------------


def _shifts(ledger: Ledger, shapes: Shapes) -> list[Proposal]:
    """Every maker of shift-free channels is a symmetry of its own: W ← W + 1cᵀ, b ← b + c."""
    same, even = ledger.components("same"), ledger.components("same", "even")
    free = ledger.all_of("shift", same) & ledger.all_of("shift", even)
    found = []
    for site, uses in _by_site(ledger.rows).items():
        channels = np.concatenate([some(u.ids) for u in uses])
        lives = np.unique(even[channels[free[channels]]])
        absorbed = _absorber(ledger, np.flatnonzero(np.isin(even, lives)))
        if not len(lives) or absorbed not in ("LayerNorm", "softmax"):
            continue
        actions, start = [], 0
        for u in uses:
            groups = _numbers(u, even, lives)
            actions.append(Shifting(u.parameter, u.axis, groups, len(lives), start, None, site))
            rest = int(np.prod([n for i, n in enumerate(shapes[u.parameter]) if i != u.axis]))
            start += len(lives) * rest
        found.append(Proposal("shift", Family(tuple(actions), start), absorbed))
    return found


def _by_site(uses: list[Use]) -> dict[int, list[Use]]:
    sites: dict[int, list[Use]] = {}
    for u in uses:
        sites.setdefault(u.site, []).append(u)
    return sites


def _offsets(ledger: Ledger) -> list[Proposal]:
    """Biases whose constant is removed: before BatchNorm, of keys, β before the next LayerNorm."""
    same, even = ledger.components("same"), ledger.components("same", "even")
    free = ledger.all_of("offset", same) & ledger.all_of("offset", even)
    shifted = ledger.all_of("shift", same) & ledger.all_of("shift", even)
    found = []
    for site, uses in _by_site(ledger.rows).items():
        for u in (u for u in uses if u.bias):
            weight = _companion(ledger, u, same, site)
            channels = some(u.ids)
            lives = np.unique(even[channels[free[channels] & ~shifted[channels]]])
            absorbed = _absorber(ledger, np.flatnonzero(np.isin(even, lives)))
            if not len(lives) or not absorbed:
                continue
            groups = _numbers(u, even, lives)
            shift: Action = Shifting(u.parameter, u.axis, groups, len(lives), 0, weight, site)
            found.append(Proposal("offset", Family((shift,), len(lives)), absorbed))
    return found


def _companion(ledger: Ledger, bias: Use, same: Ids, site: int) -> tuple[str, int] | None:
    """The weight that makes the channels of a bias: of the same call, or of one added to it."""
    mine = set(same[some(bias.ids)].tolist())
    makers = [u for u in ledger.rows if not u.bias and mine & set(same[some(u.ids)].tolist())]
    makers.sort(key=lambda u: u.site != site)
    return (makers[0].parameter, makers[0].axis) if makers else None


# Discrete --------------------------------------------------------------------------------------


def _discrete(ledger: Ledger, tied: set[str]) -> list[Proposal]:
    same, order = ledger.components("same"), ledger.components("same", "tie")
    mixable = ledger.all_of("mix", same) & _mix_uses(ledger)
    perm = np.unique(order[ledger.all_of("perm", order) & ~mixable])
    sign = np.unique(same[ledger.all_of("sign", same) & ~mixable])
    found = []
    for kind, component, chosen in (("permutation", order, perm), ("sign", same, sign)):
        for group in _groups(ledger, component, chosen, _no_blocks(ledger)):
            proposal = _exchange(ledger, kind, component, group, tied)
            found += [proposal] if proposal is not None else []
    return found


def _exchange(
    ledger: Ledger, kind: str, component: Ids, group: Ids, tied: set[str]
) -> Proposal | None:
    columns = [u for u in ledger.columns if kind == "permutation" or u.degree % 2]
    uses = [u for u, _ in _touching([*ledger.rows, *columns], component, group)]
    read = any(u in columns for u in uses)
    if not read or (kind == "permutation" and len(group) < 2):
        return None
    moves: dict[tuple, Move] = {}
    for u in uses:
        at = _places(u, component, group)
        if at is None:
            return None
        key = (u.parameter, u.axis, tuple(at.flatten().tolist()))
        moves.setdefault(key, Move(u.parameter, u.axis, at))
    names = {m.parameter for m in moves.values()} & tied
    if names and (
        kind == "sign" or not all(same_everywhere(ledger, name, component, group) for name in names)
    ):
        return None
    act = Discrete(kind, tuple(moves.values()), len(group))
    return Proposal(kind, act, _through(ledger, np.flatnonzero(np.isin(component, group))))
