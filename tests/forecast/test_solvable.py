"""Mode times, lazy or rich, kernel curves: foreseen before training, checked after it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lawful.forecast import Forecast, predict
from lawful.lab.models import MLP

RUN = {"lr": 0.05, "batch_size": 16}


def of(found: list[Forecast], theory: str) -> list[Forecast]:
    return [f for f in found if f.theory == theory]


def white(n: int, d: int) -> Tensor:
    x = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x - x.mean(0)
    return 1.5 * x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / n)).T


def small(depth: int, d: int = 6, std: float = 1e-3) -> nn.Sequential:
    torch.manual_seed(1)
    net = nn.Sequential(*(nn.Linear(d, d, bias=False, dtype=torch.float64) for _ in range(depth)))
    for layer in net:
        nn.init.normal_(layer.weight, std=std)
    return net


def test_half_times_are_those_of_training() -> None:
    x, net = white(300, 6), small(2)
    M = torch.diag(torch.tensor([2.0, 1.0, 0.5, 0, 0, 0], dtype=torch.float64))
    y = x @ M.T
    found = of(predict(net, (x, y), F.mse_loss, samples=300, **RUN), "mode times")
    half = [f for f in found if f.name == "half_time"]
    assert {f.applies for f in half[:3]} == {"yes"}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    seen: dict[int, int] = {}
    for step in range(3000):
        W = (net[1].weight @ net[0].weight).detach().diagonal()
        for k in range(3):
            if k not in seen and W[k] >= 0.5 * M[k, k]:
                seen[k] = step
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()
    for k in range(3):
        assert half[k].value == pytest.approx(seen[k], rel=0.05)
    (stages,) = (f for f in found if f.name == "separate_stages")
    assert stages.value >= 2


def test_coloured_inputs_and_depth_are_only_partly_covered() -> None:
    x = white(100, 6) * torch.tensor([3.0, 1, 1, 1, 1, 1])
    found = of(predict(small(3, std=0.3), (x, x), F.mse_loss, **RUN), "mode times")
    assert found
    assert {f.applies for f in found} <= {"partly", "no"}
    adam = predict(small(2), (x, x), F.mse_loss, optimizer="adam", **RUN)
    assert [f.applies for f in of(adam, "mode times")] == ["no"]


def world(n: int = 128) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(2)
    x = torch.randn(n, 5, generator=g)
    return x, torch.sin(x[:, :1]) + 0.3 * x[:, 1:2] * x[:, 2:3]


class Loud(nn.Module):
    """α(h − h_0)."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.h, self.alpha = MLP(5, 1, width=64, depth=2, activation="tanh"), alpha

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * self.h(x)


def test_loud_outputs_are_foreseen_to_be_lazy_and_are() -> None:
    x, y = world()
    rho = {}
    for alpha in (0.2, 30.0, 60.0):
        found = of(predict(Loud(alpha), (x, y * 1.0), F.mse_loss, **RUN), "lazy or rich")
        rho[alpha] = found[0].value
        assert found[1].value == pytest.approx(10 * rho[alpha])
    assert rho[0.2] > 5 * rho[30.0]
    found = of(predict(nn.Sequential(nn.Linear(5, 1)), (x, y), F.mse_loss, **RUN), "lazy or rich")
    assert found[0].value < 1e-5
    assert "lazy" in found[0].sentence


def test_classes_are_partly_covered() -> None:
    x, _ = world()
    y = (x[:, 0] > 0).long()
    found = of(
        predict(MLP(5, 2, width=16, depth=1), (x, y), F.cross_entropy, **RUN), "lazy or rich"
    )
    assert found[0].applies == "partly"
    assert "5 nats" in found[0].assumption


def test_kernel_curve_is_that_of_kernel_regression() -> None:
    from lawful.instruments.neural_tangent import tangent_kernel

    x, y = world(256)
    model = MLP(5, 1, width=64, depth=1, activation="tanh")
    found = of(predict(model, (x, y), F.mse_loss, **RUN), "kernel learning curve")
    said = {f.where: f.value for f in found if f.name == "kernel_error"}
    assert list(said) == ["n = 16", "n = 32", "n = 64"]
    theta = {n: p.detach() for n, p in model.named_parameters()}
    K = tangent_kernel(model, theta, x, outputs=1)[0].numpy()
    t = (y - y.mean()).double().numpy()[:, 0]
    rng, errors = np.random.default_rng(0), []
    ridge = 1e-6 * np.trace(K) / len(K)
    for _ in range(40):
        order = rng.permutation(256)
        own, rest = order[:64], order[64:]
        fit = K[np.ix_(rest, own)] @ np.linalg.solve(
            K[np.ix_(own, own)] + ridge * np.eye(64), t[own]
        )
        errors.append(np.mean((fit - t[rest]) ** 2) / np.mean(t**2))
    assert said["n = 64"] == pytest.approx(np.mean(errors), rel=0.25)
    (curve,) = (f for f in found if f.name == "curve_exponent")
    assert curve.value > 0


@pytest.mark.parametrize("y", [torch.ones(64, 1), torch.randint(2, (64, 3))])
def test_targets_without_a_curve_are_told(y: Tensor) -> None:
    x, _ = world(64)

    def loss(f: Tensor, y: Tensor) -> Tensor:
        return (f - y.float().mean()).square().mean()

    found = of(predict(MLP(5, 1, width=8, depth=1), (x, y), loss, **RUN), "kernel learning curve")
    assert [f.applies for f in found] == ["no"]
    assert math.isnan(found[0].value)
