"""Tensors used twice (tied embeddings, a module called again): their uses must agree.

Use 1 asks entry (i, j) to grow by e^{a_1(i) + b_1(j)}, use 2 by e^{a_2(i) + b_2(j)}, with a, b
linear in the coefficients c. One tensor can only do one thing, so c is restricted to

    a_1(i) + b_1(j) = a_2(i) + b_2(j)   for all i, j,

the null space of a linear system. With an embedding that is also the head of a pre-norm
transformer, the scale of the residual stream and the gain of the last norm survive only together.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import scipy
import torch

from .action import Scaling
from .channels import Ledger
from .generator import Family


def shared(ledger: Ledger) -> set[str]:
    """Parameters with entries that more than one call uses."""
    uses: dict[str, dict[int, dict[int, set[int]]]] = {}
    for u in (*ledger.rows, *ledger.columns):
        at = set(np.flatnonzero(u.ids >= 0).tolist())
        axes = uses.setdefault(u.parameter, {}).setdefault(u.site, {})
        axes[u.axis] = axes.get(u.axis, set()) | at
    return {
        name
        for name, sites in uses.items()
        for one, two in combinations(sites.values(), 2)
        if all(one[axis] & two[axis] for axis in one.keys() & two.keys())
    }


def sites(ledger: Ledger, name: str) -> list[int]:
    """The calls that use a parameter, in order."""
    return sorted({u.site for u in (*ledger.rows, *ledger.columns) if u.parameter == name})


def agree(families: list[Family], ledger: Ledger, names: set[str], shapes: dict) -> Family | None:
    """The part of several scaling families under which all uses agree; None if nothing is left."""
    actions, start = [], 0
    for family in families:
        for a in family.actions:
            assert isinstance(a, Scaling)
            moved = torch.where(a.direction >= 0, a.direction + start, -1)
            actions.append(replace(a, direction=moved))
        start += family.size
    rows = [np.zeros((1, start))]
    touched = sorted(names & {a.parameter for a in actions})
    for name in touched:
        first, *others = sites(ledger, name)
        for other in others:
            rows.append(_difference(actions, name, first, other, start, shapes[name]))
    null = scipy.linalg.null_space(np.concatenate(rows), rcond=1e-10)
    if null.shape[1] == 0:
        return None
    keep = {name: sites(ledger, name)[0] for name in touched}
    once = tuple(a for a in actions if keep.get(a.parameter, a.site) == a.site)
    return Family(once, start, torch.from_numpy(_sparse(null)))


def _difference(
    actions: list[Scaling], name: str, one: int, two: int, size: int, shape: tuple[int, ...]
) -> np.ndarray:
    """Rows of the system for two uses of one tensor: (equations, size)."""
    along = []
    for axis, n in enumerate(shape):
        d = np.zeros((n, size))
        for a in actions:
            if a.parameter == name and a.axis == axis and a.site in (one, two):
                at = np.flatnonzero(a.direction.numpy() >= 0)
                d[at, a.direction.numpy()[at]] += a.degree * (1 if a.site == one else -1)
        along.append(d)
    varying = [d - d[:1] for d in along]
    return np.unique(np.concatenate([*varying, sum(d[:1] for d in along)]), axis=0)


def _sparse(null: np.ndarray) -> np.ndarray:
    """A basis of the same space with simple entries: reduced to echelon form."""
    basis, row = null.T.copy(), 0
    for column in range(basis.shape[1]):
        if row == len(basis):
            break
        best = row + int(np.abs(basis[row:, column]).argmax())
        if abs(basis[best, column]) < 1e-9:
            continue
        basis[[row, best]] = basis[[best, row]]
        basis[row] /= basis[row, column]
        rest = np.arange(len(basis)) != row
        basis[rest] -= np.outer(basis[rest, column], basis[row])
        row += 1
    basis[np.abs(basis) < 1e-9] = 0.0
    return basis.T.copy()


def same_everywhere(ledger: Ledger, name: str, component: np.ndarray, group: np.ndarray) -> bool:
    """Whether every use of a tensor knows the channels of a group at the same places."""
    seen: dict[int, set] = {site: set() for site in sites(ledger, name)}
    for u in (*ledger.rows, *ledger.columns):
        if u.parameter != name:
            continue
        of = np.where(u.ids >= 0, component[u.ids], -1)
        if np.isin(of, group).any():
            seen[u.site].add((u.axis, tuple(of.tolist())))
    return len({frozenset(s) for s in seen.values()}) == 1
