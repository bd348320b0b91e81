"""The deep linear world: its step, its averages and its starts against theory and autograd."""

import numpy as np
import pytest
import torch

from lawful.lab.experiments import deep_linear_equilibrium as world
from lawful.theory import linear_equilibrium as theory
from lawful.theory.sharpness import stability_metric


def test_a_step_is_that_of_autograd():
    draw = torch.Generator().manual_seed(0)
    shapes = ((4, 3), (4, 4), (3, 4))
    weights = [torch.randn(2, *s, generator=draw).double() for s in shapes]
    x, y = (torch.randn(2, 3, 1, generator=draw).double() for _ in range(2))
    free = [W.clone().requires_grad_() for W in weights]
    (free[2] @ free[1] @ free[0] @ x - y).square().sum().backward()
    wanted = [W.detach() - 0.1 * W.grad for W in free]
    world.sgd_step(weights, x, y, 0.1)
    for W, right in zip(weights, wanted, strict=True):
        assert torch.allclose(W, right, atol=1e-12)


@pytest.mark.parametrize(("depth", "width"), [(2, 4), (3, 3), (3, 5)])
def test_averages_of_one_moment_are_those_of_theory(depth, width):
    start = world.far(depth, width, 0.2, np.random.default_rng(1))
    weights = [torch.as_tensor(W)[None] for W in start]
    window = world.Window()
    window.add(
        weights, torch.as_tensor(world.SIGMA_X**0.5), torch.as_tensor(world.UNEVEN**0.5)[None]
    )
    mean = window.mean(slice(0, 1))
    A, B = theory.signals(start, world.SIGMA_X, world.UNEVEN)
    for i in range(depth + 1):
        assert np.allclose(mean[f"A{i}"][0], A[i])
        assert np.allclose(mean[f"B{i}"][0], B[i])
    assert float(mean["sharpness"]) == pytest.approx(stability_metric(start, world.SIGMA_X))
    for normalised in (True, False):
        found = [float(world.gap(mean, i, normalised)) for i in range(1, depth)]
        right = theory.gaps(start, world.SIGMA_X, world.UNEVEN, normalised=normalised)
        assert found == pytest.approx(list(right))


@pytest.mark.parametrize(("depth", "width"), [(2, 4), (3, 3), (3, 5)])
def test_every_start_is_near_a_minimum_and_far_from_balance(depth, width):
    weights = world.far(depth, width, 0.3, np.random.default_rng(2))
    product = np.eye(3)
    for W in weights:
        product = W @ product
    assert np.linalg.norm(product - world.V) < 0.5
    assert theory.gaps(weights, world.SIGMA_X, world.UNEVEN).max() > 0.3
