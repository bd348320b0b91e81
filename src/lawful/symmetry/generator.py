"""A continuous symmetry: the infinitesimal moves B_c of θ that leave the loss as it is.

    ℓ(e^{B_c} θ, x) = ℓ(θ, x) for every sample x  ⇒  ⟨B_c θ, g(x)⟩ = 0,  g = ∇ℓ

A family is a linear space of such moves, B_c = Σ_i c_i B_i. Where B_c is a symmetric matrix,
gradient flow conserves the charge (E. Noether 1918; for networks L. Ziyin et al.,
arXiv:2402.07193; D. Kunin et al., arXiv:2012.04728)

    Q_c = θᵀ B_c θ   (scaling, mixing),     Q_v = ⟨v, θ⟩   (shift along v).

An antisymmetric B_c (a rotation) constrains gradient and Hessian but has no charge.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .action import Action, Mixing
from .parameter_space import Named


@dataclass(frozen=True)
class Generator:
    """One B_c: matrix-free, on named tensors. Tensors it does not move are absent or unchanged."""

    actions: tuple[Action, ...]
    c: Tensor

    def velocity(self, theta: Named) -> dict[str, Tensor]:
        """B_c θ; for a shift its constant direction."""
        return self._sum(theta, "velocity")

    def adjoint(self, g: Named) -> dict[str, Tensor]:
        """B_cᵀ g."""
        return self._sum(g, "adjoint")

    def transform(self, theta: Named, amount: float = 1.0) -> dict[str, Tensor]:
        """e^{amount · B_c} θ, all of θ (the actions on one tensor commute)."""
        moved = {name: t for name, t in theta.items()}
        for a in self.actions:
            moved[a.parameter] = a.flow(amount * self.c, moved[a.parameter])
        return moved

    @property
    def symmetric(self) -> bool:
        """Whether B_c = B_cᵀ, and so whether gradient flow conserves `charge`."""
        return all(a.symmetric(self.c) for a in self.actions)

    def charge(self, theta: Named) -> Tensor:
        """Q_c, a scalar. Raises ValueError when B_c is not symmetric: there is no charge then."""
        if not self.symmetric:
            raise ValueError(
                "this generator is not a symmetric matrix and has no charge; "
                "take coefficients whose mixing matrix is symmetric"
            )
        v = self.velocity(theta)
        return torch.stack([(v[name] * theta[name]).sum() for name in v]).sum()

    def _sum(self, tensors: Named, what: str) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        for a in self.actions:
            part = getattr(a, what)(self.c, tensors[a.parameter])
            total[a.parameter] = total[a.parameter] + part if a.parameter in total else part
        return total


@dataclass(frozen=True)
class Family:
    """All B_c of one symmetry.

    size: how many coefficients the actions read. embed: None; or indices (n,) of the directions
    kept; or a matrix (size, n) whose columns are the allowed combinations (shared tensors).
    """

    actions: tuple[Action, ...]
    size: int
    embed: Tensor | None = None

    @property
    def dimension(self) -> int:
        """The number of independent directions."""
        return self.size if self.embed is None else self.embed.shape[-1]

    @property
    def parameters(self) -> tuple[str, ...]:
        """The tensors that move, each once."""
        return tuple(dict.fromkeys(a.parameter for a in self.actions))

    def generator(self, c: Tensor) -> Generator:
        """B_c for coefficients c of shape (dimension,)."""
        if c.shape != (self.dimension,):
            raise ValueError(f"c has shape {tuple(c.shape)}; this family takes ({self.dimension},)")
        return Generator(self.actions, self._full(c))

    def basis(self, i: int) -> Generator:
        """B_i."""
        c = torch.zeros(self.dimension, dtype=torch.float64)
        c[i] = 1.0
        return self.generator(c)

    def pairing(self, theta: Named, g: Named) -> Tensor:
        """⟨B_i θ, g⟩ for every i: (dimension,). Zero for a symmetry and a per-sample gradient."""
        sums = [a.pairing(theta[a.parameter], g[a.parameter], self.size) for a in self.actions]
        return self._restricted(torch.stack(sums).sum(0))

    def gross(self, theta: Named, g: Named) -> Tensor:
        """The same sums with every term taken positive: (dimension,). Zero: nothing was tested."""
        sums = [a.gross(theta[a.parameter], g[a.parameter], self.size) for a in self.actions]
        for a in self.actions:
            if (yardstick := getattr(a, "companion", None)) is not None:
                name, axis = yardstick
                made = g[name].movedim(axis, 0)
                size = made.reshape(len(made), -1).norm(dim=1)
                sums.append(a.pairing(theta[a.parameter], size.to(g[name].dtype), self.size))
        return self._restricted(torch.stack(sums).sum(0), absolute=True)

    def charges(self, theta: Named) -> Tensor:
        """θᵀ B_i θ (⟨v_i, θ⟩ for shifts), every i: (dimension,).

        For a mixing family these are the entries of a symmetric k × k matrix, row by row.
        """
        return self.pairing(theta, theta)

    @property
    def laws(self) -> int:
        """How many independent charges: the dimension of the symmetric matrices among B_c."""
        mixed = [a for a in self.actions if isinstance(a, Mixing)]
        if not mixed:
            return self.dimension
        if all(a.basis is None for a in mixed):
            k = mixed[0].at.shape[1]  # an entry (a, b) has a charge if (b, a) is kept as well
            kept = self._full(torch.ones(self.dimension)).view(k, k) > 0
            return int((kept & kept.T).triu().sum())
        odd = torch.cat(
            [(a.basis - a.basis.mT).flatten(1) for a in mixed if a.basis is not None], 1
        )
        return self.dimension - int(torch.linalg.matrix_rank(self._restricted(odd)))

    def _full(self, c: Tensor) -> Tensor:
        if self.embed is None:
            return c
        if self.embed.dim() == 2:
            return self.embed.to(c.dtype) @ c
        full = c.new_zeros(self.size)
        full[self.embed] = c
        return full

    def _restricted(self, raw: Tensor, absolute: bool = False) -> Tensor:
        if self.embed is None:
            return raw
        if self.embed.dim() == 2:
            z = self.embed.abs() if absolute else self.embed
            return z.T.to(raw.dtype) @ raw
        return raw[self.embed]
