"""The space θ ∈ R^D: a model's named tensors, laid end to end.

    θ = (vec θ_1, vec θ_2, …),   vec in row-major order, tensors in the order of the names

A change of view only: no number is altered, and `named(flat(θ)) = θ`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

Named = Mapping[str, Tensor]


@dataclass(frozen=True)
class ParameterSpace:
    """Names and shapes, in order; a tensor shared by two modules appears once.

    >>> space = ParameterSpace.of(nn.Linear(3, 2))
    >>> space.names, space.dimension
    (('weight', 'bias'), 8)
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, source: nn.Module | Named) -> ParameterSpace:
        """The space of a model's parameters, or of named tensors."""
        named = dict(source.named_parameters()) if isinstance(source, nn.Module) else dict(source)
        return cls(tuple(named), tuple(tuple(t.shape) for t in named.values()))

    @property
    def dimension(self) -> int:
        """D, the number of numbers."""
        return sum(prod(shape) for shape in self.shapes)

    def slice(self, name: str) -> slice:
        """Where the tensor `name` lies in the flat vector."""
        if name not in self.names:
            known = ", ".join(self.names[:6])
            raise KeyError(f"no parameter {name!r} in this space; it has {known}, …")
        i = self.names.index(name)
        start = sum(prod(shape) for shape in self.shapes[:i])
        return slice(start, start + prod(self.shapes[i]))

    def flat(self, theta: Named) -> Tensor:
        """Named tensors → (D,). Tensors that `theta` lacks count as zero."""
        some = next(iter(theta.values()))
        parts = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            t = theta.get(name)
            if t is not None and tuple(t.shape) != shape:
                raise ValueError(f"{name} has shape {tuple(t.shape)}; this space has {shape}")
            parts.append(some.new_zeros(prod(shape)) if t is None else t.reshape(-1))
        return torch.cat(parts)

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """(D,) → named tensors, views of `vector`."""
        if vector.shape != (self.dimension,):
            raise ValueError(
                f"vector has shape {tuple(vector.shape)}; this space has ({self.dimension},)"
            )
        pieces = vector.split([prod(shape) for shape in self.shapes])
        cut = zip(self.names, pieces, self.shapes, strict=True)
        return {name: piece.view(shape) for name, piece, shape in cut}
