"""Rank, thresholds and equilibrium of linear networks, against training and closed forms."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lawful.forecast import Forecast, predict
from lawful.theory import deep_linear_minima, linear_equilibrium

RUN = {"lr": 0.05, "batch_size": 4}


def world(n: int = 400, *, white: bool = True, noise: float = 0.3) -> tuple[Tensor, Tensor]:
    """x (n, 4) with Σ_x = I exactly (or strongly unequal), y = Mx + ε with residual ⊥ x."""
    g = torch.Generator().manual_seed(0)
    x, e = (torch.randn(n, d, generator=g, dtype=torch.float64) for d in (4, 3))
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / n)).T
    e = e - x @ (x.T @ e) / n
    M = torch.tensor([[2.0, 0.3, 0, 0], [0, 0.9, 0.2, 0], [0.1, 0, 0.25, 0]], dtype=torch.float64)
    if not white:
        x = x * torch.tensor([1.5, 1.0, 0.6, 0.3])
    return x, x @ M.T + noise * e


def linear(*sizes: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        pairs = pairwise(sizes)
        net = nn.Sequential(*(nn.Linear(a, b, bias=False, dtype=torch.float64) for a, b in pairs))
    for layer in net:
        nn.init.orthogonal_(layer.weight, generator=torch.Generator().manual_seed(1))
    return net


def trained(net: nn.Sequential, x: Tensor, y: Tensor, decay: float, steps: int) -> np.ndarray:
    """Singular values of the product after full-batch SGD with torch's weight decay."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=decay, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.mse_loss(net(x), y).backward()
        optimizer.step()
    product = torch.linalg.multi_dot([layer.weight for layer in reversed(net)])
    return torch.linalg.svdvals(product.detach()).numpy()


def one(found: list[Forecast], name: str, theory: str = "linear network") -> Forecast:
    (chosen,) = (f for f in found if (f.theory, f.name) == (theory, name))
    return chosen


@pytest.mark.parametrize("white", [True, False])
@pytest.mark.parametrize(("decay", "rank"), [(0.05, 3), (0.3, 2), (0.8, 1)])
def test_the_rank_that_training_ends_with(white: bool, decay: float, rank: int) -> None:
    """Two layers: prediction before, singular values after; white inputs give (s_i − γ)₊."""
    x, y = world(white=white)
    net = linear(4, 5, 3)
    found = one(predict(net, (x, y), F.mse_loss, weight_decay=decay, samples=400, **RUN), "rank")
    after = trained(net, x, y, decay, 2500)
    assert found.applies == "yes"
    assert found.value == np.sum(after > 1e-4)
    if white:
        s = torch.linalg.svdvals(y.T @ x / len(x)).numpy()
        assert after == pytest.approx(np.clip(s - 3 * decay / 2, 0, None), abs=1e-4)
        assert found.value == rank


@pytest.mark.parametrize("depth", [2, 3])
def test_the_decay_at_which_nothing_is_left(depth: int) -> None:
    """5 % below there is a network better than zero, 5 % above there is none."""
    x, y = world()
    net = linear(4, *[4] * (depth - 1), 3)
    data = (x, y)
    critical = one(predict(net, data, F.mse_loss, samples=400, **RUN), "critical_weight_decay")
    s = torch.linalg.svdvals(y.T @ x / len(x)).numpy()
    gamma = deep_linear_minima.thresholds(float(s[0]), 1.0, depth).gamma_c
    assert critical.value == pytest.approx(2 * gamma / 3, rel=1e-6)
    ranks = [
        one(
            predict(net, data, F.mse_loss, weight_decay=f * critical.value, samples=400, **RUN),
            "rank",
        ).value
        for f in (0.95, 1.05)
    ]
    assert ranks == [1, 0]


def test_the_noise_equilibrium_needs_data_only() -> None:
    """Spectrum of cov(h₁) from the least-squares map and its residual, whatever the weights."""
    x, y = world(white=False)
    found = predict(linear(4, 3, 3), (x, y), F.mse_loss, samples=400, **RUN)
    Sigma_x, V = (x.T @ x / 400).numpy(), torch.linalg.lstsq(x, y).solution.T.numpy()
    rest = y.numpy() - x.numpy() @ V.T
    expected = linear_equilibrium.hidden_spectrum(V, Sigma_x, rest.T @ rest / 396)
    variance = one(found, "hidden_variance")
    assert variance.value == pytest.approx(expected[0], rel=1e-9)
    assert variance.applies == "yes"
    ratio = one(found, "trace_equilibrium")
    assert ratio.value >= 1


def test_relaxation_is_that_of_the_gradients_of_the_equilibrium() -> None:
    """1/rate from per-sample gradients by autograd at the predicted weights, Gaussian data."""
    x, y = world(4000)
    net = linear(4, 3, 3)
    found = one(predict(net, (x, y), F.mse_loss, samples=4000, **RUN), "relaxation_steps")
    V = torch.linalg.lstsq(x, y).solution.T.numpy()
    rest = y.numpy() - x.numpy() @ V.T
    there = linear_equilibrium.equilibrium(V, np.eye(4), rest.T @ rest / 3996, width=3)
    noise = 0.0
    with torch.no_grad():
        for layer, W in zip(net, there.weights, strict=True):
            layer.weight.copy_(torch.from_numpy(W))
    for i in range(1000):
        g = torch.autograd.grad(F.mse_loss(net(x[i : i + 1]), y[i : i + 1]), list(net.parameters()))
        noise += sum(float(t.square().sum()) for t in g) / 1000
    size = sum(float(layer.weight.detach().square().sum()) for layer in net)
    assert found.value == pytest.approx(4 * size / (0.05**2 * noise), rel=0.1)


def test_where_it_has_nothing_to_say() -> None:
    x, y = world(noise=0.0)
    exact = predict(linear(4, 3, 3), (x, y), F.mse_loss, samples=400, **RUN)
    assert any("fit a linear map exactly" in f.sentence for f in exact if f.applies == "no")
    x, y = world()
    relu = nn.Sequential(*linear(4, 3), nn.ReLU(), *linear(3, 3))
    for net, loss in ((relu, F.mse_loss), (linear(4, 3, 3), F.l1_loss)):
        found = predict(net, (x, y), loss, samples=64, **RUN)
        assert not [f for f in found if f.theory == "linear network"]


def test_other_optimisers() -> None:
    """Adam with coupled decay has the same minima but no noise equilibrium; AdamW has neither."""
    x, y = world()
    how = {"weight_decay": 0.3, "samples": 400, **RUN}
    adam = predict(linear(4, 3, 3), (x, y), F.mse_loss, optimizer="adam", **how)
    assert one(adam, "rank").value == 2
    assert one(adam, "none").applies == "no"
    adamw = predict(linear(4, 3, 3), (x, y), F.mse_loss, optimizer="adamw", **how)
    assert {f.applies for f in adamw} == {"no"}
