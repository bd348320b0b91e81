"""The charges' world: its gradients, its gradient noise, and where its orbit leads."""

import math

import pytest
import torch

from lawful.lab.experiments import noise_equilibrium as world
from lawful.theory.noise_equilibrium import equilibrium, two_signs


def net(runs=1, seed=0):
    draw = torch.Generator().manual_seed(seed)
    W, u = torch.randn(runs, 2, 3, generator=draw).double(), torch.randn(runs, 2, generator=draw)
    return world.Neurons(W, u.double()), torch.randn(20, 3, generator=draw).double(), draw


def test_gradients_are_those_of_autograd():
    model, x, draw = net(runs=3)
    y = torch.randn(20, generator=draw).double()
    W, u = model.W.clone().requires_grad_(), model.u.clone().requires_grad_()
    ((((x @ W.mT).relu() * u[:, None]).sum(-1) - y).square().mean(1)).sum().backward()
    dW, du = model.gradients(x[None], y[None])
    assert torch.allclose(dW, W.grad, atol=1e-12)
    assert torch.allclose(du, u.grad, atol=1e-12)


def test_the_scalar_charge_is_multiplied_exactly():
    u, w, x, y = (torch.tensor(v, dtype=torch.float64) for v in (0.7, 1.9, 1.1, -0.4))
    u2, w2, G = world.scalar_step(u, w, x, y, 0.05)
    assert float(w2**2 - u2**2) == pytest.approx(float((w**2 - u**2) * (1 - 0.05**2 * G**2)))


def test_noise_is_the_covariance_of_single_gradients():
    model, x, draw = net()
    y = torch.randn(20, generator=draw).double()
    each = [model.gradients(a[None, None], b[None, None]) for a, b in zip(x, y, strict=True)]
    dW, du = (torch.cat(parts) for parts in zip(*each, strict=True))
    for j, orbit in enumerate(world.neuron_orbits(model, x, y)):
        assert orbit.noise[0] == pytest.approx(float(dW[:, j].var(0, correction=0).sum()))
        assert orbit.noise[1] == pytest.approx(float(du[:, j].var(correction=0)))
        assert orbit.theta2[0] == pytest.approx(float(model.W[0, j].square().sum()))


def test_a_path_leads_from_its_charge_to_the_equilibrium():
    orbit = two_signs(1.0, 2.0, 3.0, 1.0)
    (start,) = world.at_charge(orbit, torch.tensor([4.0]))
    assert start.a @ start.theta2 == pytest.approx(4.0)
    assert start.theta2.prod() == pytest.approx(2.0)  # the same orbit
    path = world.charge_path(start, [0, 10, 10_000], 0.1)
    rest = orbit.shifted(equilibrium(orbit))
    assert path[0] == pytest.approx(4.0)
    assert path[0] > path[1] > path[2] == pytest.approx(rest.a @ rest.theta2, rel=1e-4)


def test_a_charge_that_never_comes_closer_has_no_relaxation_time():
    assert math.isnan(world.efolding([0, 5], [2.0, 1.9], 0.0))
