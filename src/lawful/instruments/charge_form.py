"""The charges of one symmetry as quadratic forms, evaluated without ever forming A.

    C_i = θᵀ A_i θ = Σ_a  form_a( M_a(θ) )_i,      M_a(x) = what action a sees of x xᵀ:

    Scaling by e^{deg·c_i}   M = Σ x² over the entries of direction i       form = deg · M
    Mixing by e^X, X k × k   M = Σ x xᵀ over the mixed vectors, k × k       form = ± M, or its
                                                                             part along a basis

M is linear in x xᵀ, so one table serves θ, a gradient g, a step Δθ and a covariance Σ₁ = Σ_s g_s
g_sᵀ/n: θᵀA_iθ, gᵀA_ig and Tr[Σ₁A_i] are the same form of three different moments. Only symmetric
A_i have a charge: of a family with a basis (rotary positions) the symmetric combinations are kept.

Sums are taken in float64: a charge is a small difference of large squares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..symmetry import Family, Mixing, Scaling, Symmetry
from .sample_sums import widened

Named = Mapping[str, Tensor]
Moments = list[Tensor]


class Squares:
    """Moments of named tensors, each tensor squared once for all the forms that ask.

    exact: in float64, as a charge needs; the source terms of its budget are small beside it, and
    their own precision is enough, but for half precision, whose squares underflow.
    """

    def __init__(self, x: Named, *, exact: bool = True) -> None:
        self.x, self.exact = x, exact
        self._along: dict[tuple[str, int], Tensor] = {}

    def moment(self, a: Scaling | Mixing, size: int) -> Tensor:
        """M_a(x)."""
        if isinstance(a, Scaling):
            return scattered(a, self._sums(a.parameter, a.axis), size)
        vectors = self.x[a.parameter].movedim(a.axis, -1)[..., a.at.to(self.x[a.parameter].device)]
        vectors = self._wide(vectors).reshape(-1, a.at.shape[1])
        return (vectors.T @ vectors).double()

    def _sums(self, name: str, axis: int) -> Tensor:
        """Σ x² over all but one axis; a matrix is summed along both while it is at hand."""
        if (name, axis) not in self._along:
            square = self._wide(self.x[name]).square()
            for kept in range(min(square.dim(), 2)):
                rest = [i for i in range(square.dim()) if i != kept]
                self._along[name, kept] = (square.sum(rest) if rest else square).double()
        return self._along[name, axis]

    def _wide(self, x: Tensor) -> Tensor:
        return x.double() if self.exact else widened(x)


@dataclass(frozen=True, eq=False)
class ChargeForm:
    """name: of the symmetry;  actions: one moment each;  symmetric: (size, n) or None, which
    combinations of the coefficients have a charge."""

    name: str
    kind: str
    violation: float
    family: Family
    actions: tuple[Scaling | Mixing, ...]
    symmetric: Tensor | None

    @property
    def parameters(self) -> tuple[str, ...]:
        return self.family.parameters

    def moments(self, x: Squares) -> Moments:
        """M_a(x) of every action, float64: (size,) for a scaling, (k, k) for a mixing."""
        return [x.moment(a, self.family.size) for a in self.actions]

    def values(self, moments: Sequence[Tensor]) -> Tensor:
        """Σ_a form_a(M_a): (n,), the charges when the moments are those of θ."""
        size = self.family.size
        return self._kept(
            sum(
                (form(a, m, size) for a, m in zip(self.actions, moments, strict=True)),
                start=moments[0].new_zeros(size),
            )
        )

    def sizes(self, moments: Sequence[Tensor]) -> Tensor:
        """The same with every term positive, (n,): ‖θ‖² of the parts that a charge compares."""
        size = self.family.size
        return self._kept(
            sum(
                (_gross(a, m, size) for a, m in zip(self.actions, moments, strict=True)),
                start=moments[0].new_zeros(size),
            ),
            gross=True,
        )

    def paired(self, x: Named, y: Named, weights: Sequence[float]) -> Tensor:
        """Σ_a weight_a · ⟨A_i x, y⟩ restricted to action a: (n,)."""
        size = self.family.size
        total = torch.zeros(size, dtype=torch.float64, device=x[self.actions[0].parameter].device)
        for a, weight in zip(self.actions, weights, strict=True):
            if weight:
                total += weight * a.pairing(x[a.parameter].double(), y[a.parameter].double(), size)
        return self._kept(total)

    def _kept(self, raw: Tensor, gross: bool = False) -> Tensor:
        for columns in (self.family.embed, self.symmetric):
            if columns is None:
                continue
            if columns.dim() == 1:
                raw = raw[columns.to(raw.device)]
            else:
                raw = (columns.abs() if gross else columns).T.to(raw) @ raw
        return raw


def charge_forms(
    model: nn.Module, symmetries: Sequence[Symmetry], *, tolerance: float = 1e-3
) -> list[ChargeForm]:
    """The forms of all symmetries that have a quadratic charge and move trained tensors only.

    tolerance: largest violation that still counts; a symmetry that the ε of a norm breaks has a
    violation of 1e-5, and its charge is conserved as nearly.
    """
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    forms = []
    for s in symmetries:
        family = s.generator
        if not isinstance(family, Family) or not s.violation <= tolerance:
            continue
        actions = tuple(a for a in family.actions if isinstance(a, Scaling | Mixing))
        if len(actions) < len(family.actions) or not trained.issuperset(family.parameters):
            continue
        kept = _symmetric(family, actions)
        if kept is None or kept.shape[1]:
            forms.append(ChargeForm(s.name, s.kind, s.violation, family, actions, kept))
    return forms


def moment_shape(a: Scaling | Mixing, size: int) -> tuple[int, ...]:
    """The shape of M_a."""
    return (size,) if isinstance(a, Scaling) else (a.at.shape[1], a.at.shape[1])


def scattered(a: Scaling, along: Tensor, size: int) -> Tensor:
    """Squares along the axis of a scaling, summed by direction: (size,)."""
    direction = a.direction.to(along.device)
    if len(direction) == size and torch.equal(direction, torch.arange(size, device=along.device)):
        return along
    total = along.new_zeros(size + 1)  # direction −1 falls into the last place
    return total.index_add(0, direction.remainder(size + 1), along)[:size]


def form(a: Scaling | Mixing, m: Tensor, size: int) -> Tensor:
    """form_a(M): (size,)."""
    if isinstance(a, Scaling):
        return a.degree * m
    return _placed(a, -m.T if a.dual else m, a.basis, size)


def _gross(a: Scaling | Mixing, m: Tensor, size: int) -> Tensor:
    if isinstance(a, Scaling):
        return abs(a.degree) * m
    lengths = m.diagonal().clamp(min=0).sqrt()
    return _placed(
        a, torch.outer(lengths, lengths), None if a.basis is None else a.basis.abs(), size
    )


def _placed(a: Mixing, m: Tensor, basis: Tensor | None, size: int) -> Tensor:
    mine = m.reshape(-1) if basis is None else torch.einsum("iab,ab->i", basis.to(m), m)
    if len(mine) == size:
        return mine
    total = m.new_zeros(size)
    total[a.start : a.start + a.count] = mine
    return total


def _symmetric(family: Family, actions: Sequence[Scaling | Mixing]) -> Tensor | None:
    """Which combinations of the directions are symmetric matrices: (dimension, n); None: all.

    A full k × k mixing needs no choice: its charges are the entries of one symmetric matrix.
    """
    bases = [a for a in actions if isinstance(a, Mixing) and a.basis is not None]
    if not bases:
        return None
    odd = torch.cat([_odd(a, family.size) for a in bases], 1)
    if family.embed is not None:
        odd = odd[family.embed] if family.embed.dim() == 1 else family.embed.T.to(odd) @ odd
    # Left null vectors: combinations whose antisymmetric part vanishes on every tensor.
    u, s, _ = torch.linalg.svd(odd)
    rank = int((s > 1e-9 * s.max().clamp(min=1e-300)).sum())
    return u[:, rank:]


def _odd(a: Mixing, size: int) -> Tensor:
    assert a.basis is not None
    basis = a.basis.double()
    parts = basis.new_zeros(size, basis[0].numel())
    parts[a.start : a.start + a.count] = (basis - basis.mT).flatten(1)
    return parts
