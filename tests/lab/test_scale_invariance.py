"""The scale-invariance world: gradients across θ, angles, Adam as in torch."""

import numpy as np
import pytest
import torch

from lawful.lab.experiments import scale_invariance as world


def test_the_normalised_gradient_is_autograds_and_has_no_radial_part():
    rng = np.random.default_rng(0)
    theta, z = rng.normal(size=(2, 3, 6))
    free = torch.as_tensor(theta).requires_grad_()
    (-(torch.as_tensor(z) * free).sum(1) / free.norm(dim=1)).sum().backward()
    found = world.gradient(theta, z, normalised=True)
    assert np.allclose(found, free.grad)
    assert np.abs((found * theta).sum(1)).max() < 1e-14
    assert np.abs((world.gradient(theta, z, normalised=False) * theta).sum(1)).max() > 0.1


@pytest.mark.parametrize("angle", [1e-7, 0.1, 2.0])
def test_angles_are_exact_also_where_they_are_small(angle):
    before, after = np.array([2.0, 0.0]), 3 * np.array([np.cos(angle), np.sin(angle)])
    assert float(world.angle2(before, after)) == pytest.approx(angle**2, rel=1e-6)


def test_adam_is_torchs():
    rng = np.random.default_rng(1)
    theta, p = np.ones(3), torch.ones(3, dtype=torch.float64, requires_grad=True)
    ours, theirs = world.Adam(0.1), torch.optim.Adam([p], lr=0.1)
    for _ in range(5):
        g = rng.normal(size=3)
        theta = theta - ours.step(g)
        p.grad = torch.as_tensor(g)
        theirs.step()
    assert np.allclose(theta, p.detach())
