"""Discrete symmetries: neurons change places or sign, and the loss stays as it is.

    permutation   θ[…, at_i, …] ← θ[…, at_{π(i)}, …]     on every tensor that knows the neurons
    sign          θ[…, at_i, …] ← s_i θ[…, at_i, …],     s_i = ±1
    ℓ(Pθ) = ℓ(θ)  ⇒  g(Pθ) = P g(θ)

P is orthogonal, so the gradient turns with θ: this is what is certified.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .parameter_space import Named


@dataclass(frozen=True)
class Move:
    """Where one tensor knows the n neurons: at (m, n), along `axis`, m copies of the list."""

    parameter: str
    axis: int
    at: Tensor


@dataclass(frozen=True)
class Discrete:
    """The group of all permutations, or all signs, of `size` neurons."""

    kind: str  # "permutation" | "sign"
    moves: tuple[Move, ...]
    size: int

    @property
    def parameters(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(m.parameter for m in self.moves))

    def act(self, theta: Named, element: Tensor) -> dict[str, Tensor]:
        """Pθ; element (size,): a permutation (integers) or signs ±1, as the kind says."""
        if element.shape != (self.size,):
            raise ValueError(f"element has shape {tuple(element.shape)}; it needs ({self.size},)")
        moved = {name: t for name, t in theta.items()}
        for m in self.moves:
            t = moved[m.parameter].clone()
            seen = t.movedim(m.axis, -1)
            if self.kind == "permutation":
                seen[..., m.at] = seen[..., m.at[:, element]].clone()
            else:
                seen[..., m.at] = seen[..., m.at] * element.to(t.dtype)
            moved[m.parameter] = t
        return moved

    def random(self, generator: torch.Generator) -> Tensor:
        """A random element that moves every neuron (a cyclic shift of a random order; all signs
        flipped on a random half and at least one)."""
        if self.kind == "sign":
            signs = 1 - 2 * torch.randint(2, (self.size,), generator=generator)
            signs[0] = -1
            return signs
        order = torch.randperm(self.size, generator=generator)
        element = torch.empty_like(order)
        element[order] = order.roll(1)
        return element

    def only(self, chosen: Tensor) -> Discrete:
        """The same group acting on some of the neurons."""
        moves = tuple(Move(m.parameter, m.axis, m.at[:, chosen]) for m in self.moves)
        return Discrete(self.kind, moves, len(chosen))

    def neurons(self, theta: Named) -> Tensor:
        """All the numbers that belong to neuron i, in one row: (size, p)."""
        rows = []
        for m in self.moves:
            picked = theta[m.parameter].movedim(m.axis, -1)[..., m.at]
            rows.append(picked.reshape(-1, self.size).T)
        return torch.cat(rows, 1)
