"""How one tensor moves under an infinitesimal symmetry: it is scaled, mixed or shifted.

    Scaling   (Bθ)_i = ± c_{k(i)} θ_i                 i runs over one axis of the tensor
    Mixing    (Bθ)_a = Σ_b X_ab θ_b,  X = Σ_i c_i X_i  on chosen indices of one axis
    Shifting  (Bθ)_i = c_{k(i)}                       the same amount for every i of a group

The coefficients c are shared by all the tensors that a symmetry moves. Each action gives, without
ever forming the D × D matrix B_c:

    velocity(c, θ) = B_c θ    adjoint(c, g) = B_cᵀ g    flow(c, θ) = e^{B_c} θ
    pairing(θ, g)_i = ⟨B_i θ, g⟩,  B_c = Σ_i c_i B_i
    gross(θ, g)_i   = Σ |terms of ⟨B_i θ, g⟩|     what the pairing is before anything cancels
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scaling:
    """Entry i along `axis` is multiplied by exp(degree · c[direction[i]]); direction −1: not."""

    parameter: str
    axis: int
    direction: Tensor
    degree: float
    site: int = -1

    def exponents(self, c: Tensor, like: Tensor) -> Tensor:
        e = torch.where(self.direction >= 0, self.degree * c[self.direction], 0.0)
        shape = [1] * like.dim()
        shape[self.axis] = -1
        return e.to(like.dtype).view(shape)

    def velocity(self, c: Tensor, theta: Tensor) -> Tensor:
        return self.exponents(c, theta) * theta

    def adjoint(self, c: Tensor, g: Tensor) -> Tensor:
        return self.exponents(c, g) * g

    def flow(self, c: Tensor, theta: Tensor) -> Tensor:
        return self.exponents(c, theta).exp() * theta

    def pairing(self, theta: Tensor, g: Tensor, size: int) -> Tensor:
        along = (theta * g).movedim(self.axis, 0).reshape(len(self.direction), -1).sum(1)
        moved = self.direction >= 0
        zero = theta.new_zeros(size)
        return zero.index_add(0, self.direction[moved], self.degree * along[moved])

    def gross(self, theta: Tensor, g: Tensor, size: int) -> Tensor:
        one = Scaling(self.parameter, self.axis, self.direction, abs(self.degree))
        return one.pairing(theta.abs(), g.abs(), size)

    def symmetric(self, c: Tensor) -> bool:
        return True


@dataclass(frozen=True)
class Mixing:
    """Vectors θ[…, at[r], …] ∈ R^k, r = 1 … m, become e^X θ with one k × k matrix X.

    at: (m, k) distinct indices along `axis`.
    basis: (n, k, k), X = Σ_i c_i basis_i over c[start : start + n]; None: X holds k² coefficients.
    dual: X is replaced by −Xᵀ, as on the other side of a product that must not change.
    """

    parameter: str
    axis: int
    at: Tensor
    start: int = 0
    dual: bool = False
    basis: Tensor | None = None
    site: int = -1

    @property
    def count(self) -> int:
        k = self.at.shape[1]
        return k * k if self.basis is None else len(self.basis)

    def matrix(self, c: Tensor) -> Tensor:
        k, mine = self.at.shape[1], c[self.start : self.start + self.count]
        if self.basis is None:
            x = mine.view(k, k)
        else:
            x = torch.einsum("i,iab->ab", mine, self.basis.to(c.dtype))
        return -x.T if self.dual else x

    def apply(self, x: Tensor, theta: Tensor, into: Tensor) -> Tensor:
        vectors = theta.movedim(self.axis, -1)[..., self.at]
        into.movedim(self.axis, -1)[..., self.at] = vectors @ x.to(theta.dtype).T
        return into

    def velocity(self, c: Tensor, theta: Tensor) -> Tensor:
        return self.apply(self.matrix(c), theta, torch.zeros_like(theta))

    def adjoint(self, c: Tensor, g: Tensor) -> Tensor:
        return self.apply(self.matrix(c).T, g, torch.zeros_like(g))

    def flow(self, c: Tensor, theta: Tensor) -> Tensor:
        return self.apply(torch.linalg.matrix_exp(self.matrix(c)), theta, theta.clone())

    def _outer(self, theta: Tensor, g: Tensor) -> Tensor:
        """Σ g_a θ_b over everything but the mixed axis: (k, k)."""
        k = self.at.shape[1]
        rows = g.movedim(self.axis, -1)[..., self.at].reshape(-1, k)
        return rows.T @ theta.movedim(self.axis, -1)[..., self.at].reshape(-1, k)

    def _contracted(self, outer: Tensor, basis: Tensor | None, size: int) -> Tensor:
        if basis is None:
            mine = outer.reshape(-1)
        else:
            mine = torch.einsum("iab,ab->i", basis.to(outer.dtype), outer)
        total = outer.new_zeros(size)
        total[self.start : self.start + self.count] = mine
        return total

    def pairing(self, theta: Tensor, g: Tensor, size: int) -> Tensor:
        outer = self._outer(theta, g)
        return self._contracted(-outer.T if self.dual else outer, self.basis, size)

    def gross(self, theta: Tensor, g: Tensor, size: int) -> Tensor:
        outer = self._outer(theta.abs(), g.abs())
        basis = None if self.basis is None else self.basis.abs()
        return self._contracted(outer.T if self.dual else outer, basis, size)

    def symmetric(self, c: Tensor) -> bool:
        x = self.matrix(c)
        return bool((x - x.T).abs().max() <= 1e-12 * x.abs().max())


@dataclass(frozen=True)
class Shifting:
    """θ gains c at every index of a group along `axis`, one c for each index of the other axes.

    group: group number of each index along `axis`, −1 where nothing moves; groups: how many.
    Coefficients lie at c[start : start + groups · rest], group by group.
    companion: (name, axis) of the weight made with a bias. The gradient of the bias is judged
    against the weight's: where the symmetry holds the former is nothing but round-off.
    """

    parameter: str
    axis: int
    group: Tensor
    groups: int
    start: int = 0
    companion: tuple[str, int] | None = None
    site: int = -1

    def velocity(self, c: Tensor, theta: Tensor) -> Tensor:
        v = torch.zeros_like(theta)
        rows = v.movedim(self.axis, 0)
        rest = rows[0].numel()
        amounts = c[self.start : self.start + self.groups * rest].to(theta.dtype)
        moved = self.group >= 0
        rows[moved] = amounts.view(self.groups, *rows.shape[1:])[self.group[moved]]
        return v

    def adjoint(self, c: Tensor, g: Tensor) -> Tensor:
        """The linear part of a translation is zero."""
        return torch.zeros_like(g)

    def flow(self, c: Tensor, theta: Tensor) -> Tensor:
        return theta + self.velocity(c, theta)

    def pairing(self, theta: Tensor, g: Tensor, size: int) -> Tensor:
        rows = g.movedim(self.axis, 0).reshape(len(self.group), -1)
        moved = self.group >= 0
        sums = g.new_zeros(self.groups, rows.shape[1])
        sums.index_add_(0, self.group[moved], rows[moved])
        total = g.new_zeros(size)
        total[self.start : self.start + sums.numel()] = sums.reshape(-1)
        return total

    def gross(self, theta: Tensor, g: Tensor, size: int) -> Tensor:
        return self.pairing(theta, g.abs(), size)

    def symmetric(self, c: Tensor) -> bool:
        return True


Action = Scaling | Mixing | Shifting
