"""The critical decay of a mirror, against the dense Hessian and against training."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor, nn
from torch.nn import functional as F

from lawful.forecast import Forecast, predict

X = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
Y = torch.tanh(2.5 * X) - 0.6 * torch.tanh(0.7 * X)
RUN = {"lr": 0.1, "batch_size": 8, "samples": 41}


def neurons(w: list[float], v: list[float], activation: nn.Module | None = None) -> nn.Sequential:
    """v_1 φ(w_1 x) + v_2 φ(w_2 x)."""
    net = nn.Sequential(
        nn.Linear(1, 2, bias=False), activation or nn.Tanh(), nn.Linear(2, 1, bias=False)
    )
    net = net.double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor(w)[:, None])
        net[2].weight.copy_(torch.tensor(v)[None])
    return net


def descended(net: nn.Sequential, decay: float) -> nn.Sequential:
    """The minimum of L + (λ/2)‖θ‖² that gradient descent finds."""
    solver = torch.optim.LBFGS(
        net.parameters(), max_iter=2000, line_search_fn="strong_wolfe", tolerance_grad=1e-11,
        tolerance_change=0,
    )  # fmt: skip

    def closure() -> Tensor:
        solver.zero_grad()
        squares = torch.stack([p.square().sum() for p in net.parameters()]).sum()
        value = F.mse_loss(net(X), Y) + decay / 2 * squares
        value.backward()
        return value

    solver.step(closure)
    return net


def of(found: list[Forecast]) -> Forecast:
    (chosen,) = (f for f in found if f.theory == "mirror collapse")
    return chosen


def critical() -> float:
    """weight_decay_c: where the forecast at the symmetric minimum of a decay is that decay."""

    def excess(decay: float) -> float:
        symmetric = descended(neurons([1.0, 1.0], [0.5, 0.5]), decay)
        return decay - of(predict(symmetric, (X, Y), F.mse_loss, **RUN)).value

    return float(brentq(excess, 2e-4, 0.3, xtol=1e-6))


def test_two_tanh_neurons_merge_at_the_forecast() -> None:
    """Known answer here γ_c = .08533, torch's decay twice that; training on either side."""
    decay = critical()
    assert decay == pytest.approx(2 * 0.08533, rel=1e-4)
    apart = []
    for factor in (0.95, 1.05):
        net = descended(neurons([1.3, 0.8], [0.7, 0.3]), factor * decay)
        apart.append(float(net[0].weight.detach().diff(dim=0).abs()))
    assert apart[0] > 0.1
    assert apart[1] < 1e-3


def test_at_a_symmetric_minimum_the_assumption_is_met() -> None:
    net = descended(neurons([1.0, 1.0], [0.5, 0.5]), 0.02)
    found = of(predict(net, (X, Y), F.mse_loss, weight_decay=0.02, **RUN))
    assert found.applies == "yes"
    assert "a saddle at yours" in found.sentence
    fresh = of(predict(neurons([1.0, 0.9], [0.5, 0.4]), (X, Y), F.mse_loss, **RUN))
    assert fresh.applies == "partly"


@pytest.mark.parametrize(
    ("w", "v", "kind", "O"),
    [
        ([1.0, 0.9], [0.5, 0.6], "swap of", [[1, -1, 0, 0], [0, 0, 1, -1]]),
        ([1.0, -0.9], [0.5, -0.6], "swap and flip of", [[1, 1, 0, 0], [0, 0, 1, 1]]),
        ([1.0, 0.05], [0.5, 0.02], "flip of", [[0, 1, 0, 0], [0, 0, 0, 1]]),
    ],
)
def test_every_mirror_against_the_dense_hessian(w: list, v: list, kind: str, O: list) -> None:
    net = neurons(w, v)
    found = of(predict(net, (X, Y), F.mse_loss, **RUN))
    assert found.where.startswith(kind)
    basis = torch.tensor(O, dtype=torch.float64)
    basis = basis / basis.norm(dim=1, keepdim=True)
    theta = torch.cat([p.detach().flatten() for p in net.parameters()])
    theta = theta - basis.T @ (basis @ theta)

    def loss(theta: Tensor) -> Tensor:
        return F.mse_loss(torch.tanh(X @ theta[None, :2]) @ theta[2:, None], Y)

    H = torch.autograd.functional.hessian(loss, theta)
    least = float(torch.linalg.eigvalsh(basis @ H @ basis.T)[0])
    assert found.value == pytest.approx(-least, rel=1e-6)
    assert math.isfinite(found.value)


def test_coupled_decay_is_what_it_asks_for() -> None:
    net = neurons([1.0, 0.9], [0.5, 0.6])
    adam = predict(net, (X, Y), F.mse_loss, optimizer="adam", **RUN)
    assert of(adam).value == of(predict(net, (X, Y), F.mse_loss, **RUN)).value
    adamw = of(predict(net, (X, Y), F.mse_loss, optimizer="adamw", **RUN))
    assert (adamw.applies, math.isnan(adamw.value)) == ("no", True)


def test_a_loss_without_a_second_derivative_is_said() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
            return x.clone()

        @staticmethod
        def backward(ctx, g: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
            return torch.from_numpy(g.numpy().copy())  # refuses to be recorded

    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Once.apply(torch.tanh(x))

    net = neurons([1.0, 0.9], [0.5, 0.6], Layer())
    found = predict(net, (X, Y), F.mse_loss, **RUN)
    assert "no second derivative" in next(f.sentence for f in found if f.theory == "warm-up")
