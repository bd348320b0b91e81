"""Actions and families against dense matrices on the flat parameter vector."""

import pytest
import torch
from torch import nn

from lawful.symmetry import Family, Mixing, ParameterSpace, Scaling, Shifting


@pytest.fixture
def theta():
    g = torch.Generator().manual_seed(0)
    return {
        "w": torch.randn(3, 4, generator=g, dtype=torch.float64),
        "b": torch.randn(3, generator=g, dtype=torch.float64),
        "v": torch.randn(2, 3, generator=g, dtype=torch.float64),
    }


def families():
    three = torch.arange(3)
    scale = Family(
        (Scaling("w", 0, three, 1.0), Scaling("b", 0, three, 1.0), Scaling("v", 1, three, -2.0)), 3
    )
    at = torch.tensor([[2, 0]])
    mix = Family((Mixing("w", 0, at), Mixing("b", 0, at), Mixing("v", 1, at, dual=True)), 4)
    group = torch.tensor([0, -1, 0])
    shift = Family((Shifting("w", 0, group, 1, 0), Shifting("b", 0, group, 1, 4)), 5)
    return {"scale": scale, "mix": mix, "shift": shift}


def dense(family, c, space):
    """B_c as a matrix, one unit vector at a time, and the constant part v of B_c θ + v."""
    zero = space.named(torch.zeros(space.dimension, dtype=torch.float64))
    v = space.flat(family.generator(c).velocity(zero) | {})
    columns = [
        space.flat(family.generator(c).velocity(space.named(e))) - v
        for e in torch.eye(space.dimension, dtype=torch.float64)
    ]
    return torch.stack(columns, 1), v


@pytest.mark.parametrize("name", ["scale", "mix", "shift"])
def test_matrix_free_forms_agree_with_the_dense_matrix(name, theta):
    family, space = families()[name], ParameterSpace.of(theta)
    g = torch.Generator().manual_seed(1)
    c = 0.3 * torch.randn(family.dimension, generator=g, dtype=torch.float64)
    B, v = dense(family, c, space)
    flat, generator = space.flat(theta), family.generator(c)
    x = torch.randn(space.dimension, generator=g, dtype=torch.float64)
    assert torch.allclose(space.flat(generator.adjoint(space.named(x))), B.T @ x, atol=1e-14)
    one = torch.linalg.matrix_exp(
        torch.cat([torch.cat([B, v[:, None]], 1), torch.zeros(1, len(v) + 1)]).double()
    )
    moved = one @ torch.cat([flat, torch.ones(1, dtype=torch.float64)])
    assert torch.allclose(space.flat(generator.transform(theta)), moved[:-1], atol=1e-13)
    pairing = family.pairing(theta, space.named(x))
    assert torch.allclose(pairing @ c, (B @ flat + v) @ x, atol=1e-13)
    assert bool((family.gross(theta, space.named(x)) >= pairing.abs() - 1e-14).all())
    assert generator.symmetric == torch.allclose(B, B.T)


def test_charges_are_quadratic_forms_and_antisymmetric_generators_have_none(theta):
    family, space = families()["mix"], ParameterSpace.of(theta)
    symmetric = torch.tensor([1.0, 0.5, 0.5, -2.0], dtype=torch.float64)
    B, _ = dense(family, symmetric, space)
    flat = space.flat(theta)
    assert torch.allclose(family.generator(symmetric).charge(theta), flat @ B @ flat)
    assert torch.allclose(family.charges(theta) @ symmetric, flat @ B @ flat)
    assert family.laws == 3
    with pytest.raises(ValueError, match="has no charge"):
        family.generator(torch.tensor([0.0, 1.0, -1.0, 0.0])).charge(theta)


def test_a_mixing_kept_in_part_has_the_charges_of_its_symmetric_part(theta):
    """Of the four entries of 2 × 2, one off the diagonal was never tested: two charges are left."""
    whole = families()["mix"]
    part = Family(whole.actions, whole.size, torch.tensor([0, 1, 3]))
    assert (part.dimension, part.laws) == (3, 2)


def test_a_family_kept_in_part(theta):
    whole = families()["scale"]
    part = Family(whole.actions, 3, torch.tensor([2]))
    assert part.dimension == 1
    assert torch.equal(part.charges(theta), whole.charges(theta)[2:])
    with pytest.raises(ValueError, match="takes"):
        part.generator(torch.zeros(3))


def test_parameter_space_round_trip_and_errors():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2, bias=False))
    space, named = ParameterSpace.of(model), dict(model.named_parameters())
    back = space.named(space.flat(named))
    assert all(torch.equal(back[n], named[n]) for n in named)
    assert space.slice("1.weight") == slice(8, 12)
    with pytest.raises(KeyError, match="no parameter 'x'"):
        space.slice("x")
    with pytest.raises(ValueError, match="this space has"):
        space.named(torch.zeros(3))
