"""The radius and the angle of BatchNorm weights, against brute force and a run of SGD."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lawful.forecast import Forecast, predict

BATCH = 16


def normed(eps: float = 1e-30) -> nn.Sequential:
    """One row of weights and a BatchNorm: the output has unit variance whatever the radius."""
    net = nn.Sequential(
        nn.Linear(4, 1, bias=False), nn.BatchNorm1d(1, eps=eps, affine=False)
    ).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[0.6, -0.3, 0.2, 0.4]]))
    return net


def noise_only(n: int = 4096) -> tuple[Tensor, Tensor]:
    """Targets without any relation to x: E‖ĝ‖² is the same everywhere on the sphere."""
    g = torch.Generator().manual_seed(0)
    return tuple(torch.randn(n, d, generator=g, dtype=torch.float64) for d in (4, 1))


def of(found: list[Forecast], name: str) -> Forecast:
    (chosen,) = (f for f in found if f.theory == "scale invariance" and f.name == name)
    return chosen


def test_radius_and_angle_are_those_of_a_run() -> None:
    """From radius .8: r⁴ settles within 10 % of r*⁴ and each step turns by √(2ηw)."""
    net, (x, y) = normed(), noise_only()
    how = {"lr": 0.1, "weight_decay": 0.02, "batch_size": BATCH}
    found = predict(net, (x, y), F.mse_loss, samples=4096, **how)
    g = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.02)
    fourth, angles = [], []
    for step in range(4000):
        drawn = torch.randint(len(x), (BATCH,), generator=g)
        before = net[0].weight.detach().flatten().clone()
        optimizer.zero_grad()
        F.mse_loss(net(x[drawn]), y[drawn]).backward()
        optimizer.step()
        after = net[0].weight.detach().flatten()
        if step > 1000:
            fourth.append(float(after.square().sum()) ** 2)
            angles.append(1 - float(F.cosine_similarity(before, after, dim=0)))
    assert of(found, "equilibrium_radius").value ** 4 == pytest.approx(np.mean(fourth), rel=0.1)
    turned = math.acos(1 - float(np.mean(angles)))
    assert of(found, "angular_step").value == pytest.approx(turned, rel=0.03)
    assert of(found, "radius_steps").value == pytest.approx(1 / (4 * 0.1 * 0.02))
    assert of(found, "equilibrium_radius").applies == "yes"


def test_the_radius_at_rest_does_not_know_the_radius_now() -> None:
    how = {"lr": 0.1, "weight_decay": 0.02, "batch_size": BATCH}
    rest, now = [], []
    for factor in (1.0, 5.0):
        net = normed()
        with torch.no_grad():
            net[0].weight.mul_(factor)
        found = predict(net, noise_only(512), F.mse_loss, samples=512, **how)
        rest.append(of(found, "equilibrium_radius").value)
        now.append(of(found, "radius").value)
    assert rest[0] == pytest.approx(rest[1])
    assert now[1] == pytest.approx(5 * now[0])


def test_without_decay_there_is_no_rest() -> None:
    found = predict(normed(), noise_only(512), F.mse_loss, lr=0.1, batch_size=BATCH)
    assert math.isinf(of(found, "equilibrium_radius").value)
    assert math.isinf(of(found, "radius_steps").value)
    assert "for ever" in of(found, "equilibrium_radius").sentence


def test_eps_is_told_by_its_violation() -> None:
    how = {"lr": 0.1, "weight_decay": 0.02, "batch_size": BATCH}
    found = predict(normed(1e-4), noise_only(512), F.mse_loss, **how)
    assert of(found, "equilibrium_radius").applies == "partly"
    assert "because of the eps of the norm" in of(found, "radius").assumption


def test_weights_without_a_norm_have_no_radius() -> None:
    net = nn.Sequential(nn.Linear(4, 1, bias=False), nn.Tanh()).double()
    found = predict(net, noise_only(64), F.mse_loss, lr=0.1, batch_size=BATCH)
    assert not [f for f in found if f.theory == "scale invariance"]
