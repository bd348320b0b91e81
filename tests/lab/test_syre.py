"""The clones' world: exact equality of clones, and decay to θ₀ is what `methods.syre` does."""

import pytest
import torch
from torch import nn

from lawful.lab.experiments import syre as world
from lawful.methods import fold, parameter_groups, syre


def draws(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_gradients_are_autograds_and_clones_have_equal_ones_to_the_bit():
    W, u = draws(2, 32, 5), draws(2, 32, 1, seed=1)
    W[:, 3:], u[:, 3:] = W[:, 3:4].clone(), u[:, 3:4].clone()
    data = world.Data(draws(2, 50, 5, seed=2), draws(2, 50, seed=3))
    free = W.clone().requires_grad_(), u.clone().requires_grad_()
    (world.predict(*free, data.x) - data.y).square().mean(1).sum().backward()
    for found, p in zip(world.gradients(W, u, data), free, strict=True):
        assert torch.allclose(found, p.grad, atol=1e-12)
        assert bool((found[:, 3:] == found[:, 3:4]).all())


def test_decay_to_a_point_is_syre():
    """The same start, θ₀ and λ through torch's SGD on a model under `methods.syre`."""
    model = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 1, bias=False))
    model.double()
    W, u = (p.detach().clone() for p in (model[0].weight, model[2].weight))
    x, y, decay, eta = draws(30, 5), draws(30, seed=1), 0.05, 0.1
    syre(model, sigma=0.3, generator=torch.Generator().manual_seed(4))
    home = [m.parametrizations.weight[0].offset for m in (model[0], model[2])]
    optimizer = torch.optim.SGD(parameter_groups(model, decay), lr=eta)
    W, u = W[None], u.T[None].clone()
    for _ in range(30):
        optimizer.zero_grad()
        (model(x)[:, 0] - y).square().mean().backward()
        optimizer.step()
        dW, du = world.gradients(W, u, world.Data(x[None], y[None]))
        W = W - eta * (dW + decay * (W - home[0]))
        u = u - eta * (du + decay * (u - home[1].T))
    fold(model)
    assert torch.allclose(W[0], model[0].weight.detach(), atol=1e-12)
    assert torch.allclose(u[0].T, model[2].weight.detach(), atol=1e-12)


@pytest.mark.parametrize(("gap", "kinds"), [(0.0, 2), (5e-4, 2), (2e-3, 3)])
def test_classes_are_counted_to_a_thousandth(gap, kinds):
    W = torch.tensor([[[1.0, 0.0], [1.0, gap], [0.0, 1.0]]])
    assert world.neuron_classes(W).tolist() == [kinds]
