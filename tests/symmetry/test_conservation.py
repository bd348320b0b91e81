"""Counts of independent laws, against the closed forms of Marcotte et al. and the sheet."""

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


@pytest.mark.parametrize(("n", "r", "m"), [(1, 1, 1), (2, 2, 2), (2, 3, 1), (1, 3, 1), (3, 2, 1)])
def test_two_layer_linear(n, r, m):
    model = net(linear(m, r), linear(r, n))
    assert independent_laws(model, draw(m)).laws == two_layer(n, r, m)


@pytest.mark.parametrize("bias", [False, True])
def test_relu_conserves_one_quantity_a_hidden_neuron(bias):
    model = net(linear(2, 3, bias), nn.ReLU, linear(3, 2, bias))
    found = independent_laws(model, draw(2))
    assert (found.laws, found.gap > 1e3) == (3, True)


def test_tanh_conserves_nothing():
    assert independent_laws(net(linear(2, 2), nn.Tanh, linear(2, 2)), draw(2)).laws == 0


def test_a_large_model_is_refused():
    with pytest.raises(SymmetryError, match="needs at most 200"):
        independent_laws(nn.Linear(30, 30), draw(30))
