"""How many independent quantities does gradient flow conserve, whatever the data and loss?

    θ̇ = −Σ_i a_i(t) ∇φ_i(θ),  φ_i = the outputs of the model on all possible inputs
    laws = D − dim Lie(∇φ_1, ∇φ_2, …)(θ),    [χ, ξ] = J_ξ χ − J_χ ξ

A function is conserved iff its gradient is orthogonal to every ∇φ_i and so to every bracket of
them; by Frobenius' theorem the count is exact where the rank is locally constant. The rank is
numerical: fields are random combinations of outputs at random inputs, brackets are taken level
by level until the rank stops growing.
Source: S. Marcotte, R. Gribonval, G. Peyré, arXiv:2307.00144.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.utils._pytree import tree_map

from .errors import SymmetryError
from .graph import arguments
from .parameter_space import ParameterSpace
from .refuse import check_model

Field = Callable[[Tensor], Tensor]
LARGEST = 200


@dataclass(frozen=True)
class LawCount:
    """laws = dimension − rank; gap: the ratio of the singular values on either side of the cut."""

    laws: int
    dimension: int
    rank: int
    gap: float


def independent_laws(
    model: nn.Module, draw: Callable[[torch.Generator], Any], *, depth: int = 3, seed: int = 0
) -> LawCount:
    """Count the conservation laws at the model's parameters (double precision, D ≤ 200).

    draw(generator): a random batch of inputs. depth: levels of brackets at most.
    Frozen parameters do not move and are not counted. Raises SymmetryError for a model too large
    to build a basis of R^D, and for one without a differentiable output (see `symmetries`).
    """
    check_model(model)
    model = copy.deepcopy(model).cpu().double()
    trained = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
    space = ParameterSpace.of(trained)
    if space.dimension > LARGEST:
        raise SymmetryError(
            f"the model has {space.dimension} parameters; counting laws by Lie brackets needs at "
            f"most {LARGEST}, so pass a smaller model of the same build"
        )
    generator = torch.Generator().manual_seed(seed)
    theta = space.flat(trained)
    fields = [_field(model, space, draw, theta, generator) for _ in range(space.dimension + 8)]
    with warnings.catch_warnings():
        # torch's first jvp compiles its own rules with a function it has deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        rank, gap = _saturated(fields, theta, depth, generator)
    return LawCount(space.dimension - rank, space.dimension, rank, gap)


def _saturated(
    fields: list[Field], theta: Tensor, depth: int, generator: torch.Generator
) -> tuple[int, float]:
    """The rank of the fields and their brackets, level by level until it stops growing."""
    vectors = torch.stack([f(theta) for f in fields])
    rank, gap = _rank(vectors)
    latest = fields
    for _ in range(depth):
        latest = [_bracket(f, g) for f, g in _couples(fields, latest, generator)]
        vectors = torch.cat([vectors, torch.stack([f(theta) for f in latest])])
        before, (rank, gap) = rank, _rank(vectors)
        if rank == before or rank == len(theta):
            break
    return rank, gap


def _field(
    model: nn.Module, space: ParameterSpace, draw: Any, theta: Tensor, generator: torch.Generator
) -> Field:
    """∇ of a random combination of the outputs at a random input, of length 1 at θ."""
    x = draw(generator)
    x = tree_map(lambda t: t.double() if t.is_floating_point() else t, arguments(x))
    weights = torch.randn(model(*x).shape, generator=generator, dtype=torch.float64)

    def phi(theta: Tensor) -> Tensor:
        return (functional_call(model, space.named(theta), x) * weights).sum()

    field = grad(phi)
    length = field(theta).norm()
    size = torch.where(length > 0, length, torch.ones_like(length))
    return lambda theta: field(theta) / size


def _bracket(chi: Field, xi: Field) -> Field:
    def bracket(theta: Tensor) -> Tensor:
        forward = jvp(xi, (theta,), (chi(theta),))[1]
        return forward - jvp(chi, (theta,), (xi(theta),))[1]

    return bracket


def _couples(
    fields: list[Field], latest: list[Field], generator: torch.Generator
) -> list[tuple[Field, Field]]:
    at = torch.randint(len(fields), (len(latest),), generator=generator).tolist()
    couples = [(fields[a], field) for a, field in zip(at, latest, strict=True)]
    return [(f, g) for f, g in couples if f is not g]


def _rank(vectors: Tensor) -> tuple[int, float]:
    """Numerical rank, and the drop of the spectrum behind it.

    The fields are of length 1 at θ, so a bracket of length 1e-9 is a zero bracket.
    """
    norms = vectors.norm(dim=1)
    kept = norms > 1e-9
    s = torch.linalg.svdvals(vectors[kept] / norms[kept, None])
    rank = int((s > 1e-9 * s[0]).sum()) if len(s) else 0
    gap = float(s[rank - 1] / s[rank]) if 0 < rank < len(s) and s[rank] > 0 else float("inf")
    return rank, gap
