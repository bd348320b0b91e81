"""Distance to the nearest mirror of a whole group."""

import pytest
import torch
from torch import nn

from lawful.symmetry import nearest_mirror, symmetries


def layer(phi):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), phi(), nn.Linear(4, 2))
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    found = {s.kind: s.generator for s in symmetries(model, x, lambda f: f.square().mean())}
    return {n: p.detach().clone() for n, p in model.named_parameters()}, found


def test_neurons_equal_up_to_sign_are_on_a_mirror_of_the_whole_group():
    """A trap: far from every swap, yet symmetric under swap and flip."""
    theta, found = layer(nn.Tanh)
    theta["0.weight"][2] = -theta["0.weight"][1]
    theta["0.bias"][2] = -theta["0.bias"][1]
    theta["2.weight"][:, 2] = -theta["2.weight"][:, 1]
    alone = nearest_mirror(theta, permutation=found["permutation"])
    whole = nearest_mirror(theta, permutation=found["permutation"], sign=found["sign"])
    assert alone.distance > 0.1
    assert (whole.distance, whole.kind, whole.neurons) == (0.0, "swap and flip", (1, 2))


def test_distance_is_that_to_the_fixed_set():
    theta, found = layer(nn.Tanh)
    mirror = nearest_mirror(theta, permutation=found["permutation"])
    i, j = mirror.neurons
    swap = torch.arange(4)
    swap[[i, j]] = swap[[j, i]]
    there = found["permutation"].act(theta, swap)
    half = sum(float((there[n] - theta[n]).square().sum()) for n in theta) ** 0.5 / 2
    assert mirror.distance == pytest.approx(half, rel=1e-6)


def test_a_lost_rank_is_a_rotation_mirror():
    theta, found = layer(nn.Identity)
    assert nearest_mirror(theta, rotation=found["GL"]).distance > 1e-3
    n = torch.nn.functional.normalize(torch.tensor([1.0, 2.0, -1.0, 0.5]), dim=0)
    off = torch.eye(4) - torch.outer(n, n)
    theta = theta | {
        "0.weight": off @ theta["0.weight"],
        "0.bias": off @ theta["0.bias"],
        "2.weight": theta["2.weight"] @ off,
    }
    mirror = nearest_mirror(theta, rotation=found["GL"])
    assert mirror.distance < 1e-6
    assert abs(float(mirror.normal @ n)) == pytest.approx(1.0, abs=1e-5)


def test_no_symmetry_given():
    with pytest.raises(ValueError, match="pass permutation="):
        nearest_mirror({})
