"""Counts of independent laws, against the closed forms of Marcotte et al."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from lawful.symmetry import SymmetryError, independent_laws


def net(*layers):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(*(make() for make in layers))


def linear(a, b, bias=False):
    return lambda: nn.Linear(a, b, bias=bias)


def draw(d):
    return lambda g: torch.randn(1, d, generator=g)


def two_layer(n, r, m):
    """U ∈ R^{n×r}, V ∈ R^{m×r}."""
    return r * (r + 1) // 2 if n + m >= r else (n + m) * r - (n + m) * (n + m - 1) // 2


@pytest.mark.parametrize(
    ("n", "r", "m"),
    [
        *((1, 1, 1), (2, 2, 2), (2, 3, 1), (1, 3, 1), (3, 2, 1)),
        *((1, 2, 1), (1, 4, 1), (1, 4, 2), (2, 3, 2)),
    ],
)
def test_two_layer_linear(n, r, m):
    model = net(linear(m, r), linear(r, n))
    assert independent_laws(model, draw(m)).laws == two_layer(n, r, m)


@pytest.mark.parametrize("bias", [False, True])
def test_relu_conserves_one_quantity_a_hidden_neuron(bias):
    model = net(linear(2, 3, bias), nn.ReLU, linear(3, 2, bias))
    found = independent_laws(model, draw(2))
    assert (found.laws, found.gap > 1e3) == (3, True)


@pytest.mark.parametrize("sizes", [(2, 2, 2, 2), (2, 1, 2, 1), (2, 2, 2, 1)])
def test_deep_linear_conserves_the_balance_of_neighbours(sizes):
    """No more and no less than what the charges W_{l+1}ᵀW_{l+1} − W_lW_lᵀ are: their rank."""
    model = net(*(linear(a, b) for a, b in pairwise(sizes)))
    weights = [layer.weight.detach().double().requires_grad_() for layer in model]
    charges = [
        (b.T @ b - a @ a.T)[i, j]
        for a, b in pairwise(weights)
        for i in range(len(a))
        for j in range(i + 1)
    ]
    rows = [
        torch.cat([
            torch.zeros_like(w).flatten() if g is None else g.flatten()
            for w, g in zip(
                weights,
                torch.autograd.grad(q, weights, allow_unused=True, retain_graph=True),
                strict=True,
            )
        ])
        for q in charges
    ]  # fmt: skip
    expected = int(torch.linalg.matrix_rank(torch.stack(rows)))
    assert independent_laws(model, draw(sizes[0])).laws == expected


def test_frozen_parameters_are_not_counted():
    """With the first map frozen every output depends on the second alone: nothing is conserved."""
    model = net(linear(2, 3), nn.ReLU, linear(3, 2))
    model[0].weight.requires_grad_(False)
    found = independent_laws(model, draw(2))
    assert (found.laws, found.dimension) == (0, 6)


def test_integer_buffers_and_normalisation_are_handled():
    """BatchNorm in eval mode is an affine map: the rescaling charges stay, in double precision."""
    model = net(linear(2, 3), lambda: nn.BatchNorm1d(3, affine=False), nn.ReLU, linear(3, 2))
    assert independent_laws(model.eval(), draw(2)).dimension == 12


def test_active_dropout_is_refused():
    with pytest.raises(SymmetryError, match=r"dropout p=0\.5 is active in 1"):
        independent_laws(net(linear(2, 3), nn.Dropout, linear(3, 2)), draw(2))


def test_tanh_conserves_nothing():
    assert independent_laws(net(linear(2, 2), nn.Tanh, linear(2, 2)), draw(2)).laws == 0


def test_a_large_model_is_refused():
    with pytest.raises(SymmetryError, match="needs at most 200"):
        independent_laws(nn.Linear(30, 30), draw(30))
