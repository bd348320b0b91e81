"""Neuron noise in a deep linear net: the averaged loss against sampling and autograd."""

from itertools import pairwise

import pytest
import torch

from lawful.lab.experiments import neuron_noise as world
from lawful.theory.deep_linear_minima import minimum, thresholds


def weights(layers, runs=2, seed=0):
    draw = torch.Generator().manual_seed(seed)
    sizes = [world.INPUTS, *[world.WIDTH] * (layers - 1), 1]
    return [
        0.7 * torch.randn(runs, out, into, generator=draw, dtype=torch.float64)
        for into, out in pairwise(sizes)
    ]


@pytest.mark.parametrize("layers", [2, 3, 4])
def test_the_gradient_is_that_of_the_averaged_loss(layers):
    free = [W.requires_grad_() for W in weights(layers)]
    world.objective(free, 0.8, torch.zeros(2).double()).sum().backward()
    with torch.no_grad():
        found = world.gradients(free, 0.8)
    for W, g in zip(free, found, strict=True):
        assert torch.allclose(g, W.grad, atol=1e-12)


@pytest.mark.parametrize("layers", [2, 3])
def test_the_average_is_the_exact_one_over_all_masks(layers):
    """Every D of ±σ counted: 16 for one hidden layer, 256 for two."""
    ours, sigma = weights(layers, runs=1), 0.8
    masks = torch.cartesian_prod(*[torch.tensor([1 - sigma, 1 + sigma]).double()] * 4)[..., None]
    total, count = 0.0, 0
    for first in masks:
        for second in masks if layers == 3 else [torch.ones(4, 1).double()]:
            masked = [first * ours[0], *[second * W for W in ours[1:-1]], ours[-1]]
            total += float(world.objective(masked, 0.0, torch.zeros(1).double()))
            count += 1
    exact = float(world.objective(ours, sigma**2, torch.zeros(1).double()))
    assert total / count == pytest.approx(exact)


@pytest.mark.parametrize("layers", [2, 3, 4])
@pytest.mark.parametrize("variance", [0.0, 1.0])
def test_even_nets_at_the_foreseen_size_are_stationary_and_reach_the_bound(layers, variance):
    case = world.Case(layers, variance)
    gamma = case.limits.gamma_c / 2
    found = case.size(gamma)
    b, second = world.target().numpy(), world.SECOND * torch.eye(world.INPUTS).numpy()
    right = minimum(b, second, gamma, layers, noise=case.factor)
    assert found == pytest.approx(float((right**2).sum() ** 0.5), abs=1e-5)
    net = world.even(case, [found], torch.Generator().manual_seed(0))
    force = [g + 2 * gamma * W for g, W in zip(world.gradients(net, variance), net, strict=True)]
    assert max(float(f.abs().max()) for f in force) < 1e-4


def test_noise_leaves_the_threshold_of_one_hidden_layer_alone_and_lowers_the_others():
    for layers in (2, 3, 4):
        quiet, loud = (world.Case(layers, v).limits.gamma_c for v in (0.0, 1.0))
        factor = world.Case(layers, 1.0).factor
        assert loud / quiet == pytest.approx(factor ** (-(layers - 2) / layers))
        assert quiet == thresholds(1.0, world.SECOND, layers).gamma_c
