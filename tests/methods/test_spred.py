"""spred against scikit-learn's lasso, the L_{2/K} penalty by enumeration, and the sign trap."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from sklearn.linear_model import Lasso
from torch import Tensor, nn

from lawful.methods import (
    SignTrapWarning,
    fold,
    matched_decay,
    parameter_groups,
    sign_trap,
    spred,
)
from lawful.methods.spred import factorise


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def regression(p: int = 20, n: int = 200) -> tuple[Tensor, Tensor]:
    """Sparse linear data: a quarter of the weights are not zero."""
    g = generator(1)
    X = torch.randn(n, p, generator=g, dtype=torch.float64)
    w = torch.randn(p, generator=g, dtype=torch.float64) * 2
    w[p // 4 :] = 0
    return X, X @ w + 0.5 * torch.randn(n, generator=g, dtype=torch.float64)


def linear(p: int, seed: int = 2) -> nn.Linear:
    layer = nn.Linear(p, 1, bias=False, dtype=torch.float64)
    nn.init.normal_(layer.weight, std=0.5, generator=generator(seed))
    return layer


def train(model: nn.Module, X: Tensor, y: Tensor, decay: float, steps: int, lr: float) -> None:
    optimiser = torch.optim.SGD(parameter_groups(model, decay), lr=lr, momentum=0.9)
    for _ in range(steps):
        optimiser.zero_grad()
        nn.functional.mse_loss(model(X)[:, 0], y).backward()
        optimiser.step()


def lasso_objective(w: Tensor, X: Tensor, y: Tensor, decay: float) -> float:
    return float((X @ w - y).square().mean() + decay * w.abs().sum())


@pytest.mark.parametrize("init", ["preserving", "independent"])
def test_two_factors_are_the_lasso_of_scikit_learn(init: str) -> None:
    """Relative gap ≤ 1e-6 and the same zeros, at the matched decay."""
    X, y = regression()
    alpha = 0.1
    decay = matched_decay(alpha, loss_factor=2)
    model = spred(linear(20), "weight", init=init, generator=generator(3))
    train(model, X, y, decay, steps=4000, lr=0.02)
    w = fold(model).weight.detach()[0]
    sk = torch.from_numpy(Lasso(alpha=alpha, fit_intercept=False, tol=1e-12).fit(X, y).coef_)
    exact = lasso_objective(sk, X, y, decay)
    assert abs(lasso_objective(w, X, y, decay) / exact - 1) <= 1e-6
    assert torch.equal(w.abs() < 1e-4, sk == 0)
    assert 5 <= int((sk == 0).sum()) <= 18
    assert float((w - sk).abs().max()) < 1e-4


def test_the_unmatched_decay_is_another_lasso() -> None:
    """The factor trap: λ = α with MSELoss gives the lasso of α/2, visibly not that of α."""
    X, y = regression()
    model = spred(linear(20), "weight", generator=generator(3))
    train(model, X, y, 0.1, steps=3000, lr=0.02)
    w = fold(model).weight.detach()[0]
    half, full = (
        torch.from_numpy(Lasso(alpha=a, fit_intercept=False, tol=1e-12).fit(X, y).coef_)
        for a in (0.05, 0.1)
    )
    assert float((w - half).abs().max()) < 1e-3
    assert float((w - full).abs().max()) > 0.03


@pytest.mark.parametrize("depth", [3, 4])
def test_depth_gives_the_two_over_depth_penalty(depth: int) -> None:
    """min over the factors = min over w of (w−a)² + (K/2) λ |w|^{2/K}, found on a fine grid."""
    decay = 0.2
    targets = torch.tensor([0.6, 1.0, -1.5, 3.0], dtype=torch.float64)
    X = torch.eye(4, dtype=torch.float64) * 2  # mean over 4 rows: the loss is Σ (w − a)²
    model = spred(linear(4), "weight", depth=depth)
    model.weight = targets.clone()[None]  # the basin of the data: 0 is a minimum too
    train(model, X, 2 * targets, decay, steps=3000, lr=0.01)
    w = fold(model).weight.detach()[0]
    grid = torch.linspace(0.02, 4, 400_001, dtype=torch.float64)
    for found, target in zip(w, targets, strict=True):
        objective = (grid - target.abs()) ** 2 + depth / 2 * decay * grid ** (2 / depth)
        # The local minimum that descends from the target, not the one at zero.
        falling = (objective[1:] < objective[:-1]) & (grid[1:] <= target.abs())
        best = grid[1:][falling].max() if bool(falling.any()) else torch.tensor(0.0)
        assert float(found.abs()) == pytest.approx(float(best), abs=2e-5)
    kept = w.abs() > 1e-3
    assert torch.equal(w.sign()[kept], targets.sign()[kept])


def test_the_least_squares_of_the_factors_are_the_penalty() -> None:
    W = torch.tensor([0.3, -2.0, 1.5], dtype=torch.float64)
    for depth in (2, 3, 5):
        factors = factorise(W, depth, init="balanced")
        least = 0.5 * sum(float(f.square().sum()) for f in factors)
        assert least == pytest.approx(depth / 2 * float((W.abs() ** (2 / depth)).sum()))
        other = factorise(W, depth, init="preserving", generator=generator())
        assert 0.5 * sum(float(f.square().sum()) for f in other) > least
        assert torch.allclose(math.prod(other[1:], start=other[0]), W, atol=1e-14)


def test_a_balanced_start_is_warned_about_and_freezes_signs() -> None:
    """Plain SGD from |u| = |v|: no sign changes, and the objective stays far above the lasso."""
    X, y = regression()
    start = -(X.T @ y).sign()  # every sign wrong
    stuck, free = linear(20), linear(20)
    for layer in (stuck, free):
        with torch.no_grad():
            layer.weight.copy_(start[None])
    with pytest.warns(SignTrapWarning, match=r"100% .*balanced"):
        spred(stuck, "weight", init="balanced")
    spred(free, "weight", generator=generator(5))
    assert sign_trap(stuck) == {"weight": 1.0}
    assert sign_trap(free) == {"weight": 0.0}
    sk = torch.from_numpy(Lasso(alpha=0.1, fit_intercept=False, tol=1e-12).fit(X, y).coef_)
    exact = lasso_objective(sk, X, y, 0.2)
    for model in (stuck, free):
        optimiser = torch.optim.SGD(parameter_groups(model, 0.2), lr=0.02)
        for _ in range(3000):
            optimiser.zero_grad()
            nn.functional.mse_loss(model(X)[:, 0], y).backward()
            optimiser.step()
    trapped, found = fold(stuck).weight.detach()[0], fold(free).weight.detach()[0]
    assert bool((trapped * start >= 0).all())
    assert lasso_objective(trapped, X, y, 0.2) > 3 * exact
    assert lasso_objective(found, X, y, 0.2) == pytest.approx(exact, rel=1e-4)


def test_three_factors_are_trapped_only_where_the_smallest_two_agree() -> None:
    layer = spred(nn.Linear(1, 2, bias=False), "weight", depth=3)
    values = ([1.0, 1.0], [1.0, 2.0], [2.0, 2.0])  # smallest twice; smallest once
    with torch.no_grad():
        for p, value in zip(layer.parameters(), values, strict=True):
            p.copy_(torch.tensor(value)[:, None])
    assert sign_trap(layer) == {"weight": 0.5}


def test_a_zero_weight_can_still_learn() -> None:
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    spred(layer, "weight")
    assert float(layer.weight.detach().abs().max()) == 0
    layer(torch.ones(1, 3)).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert max(float(p.grad.abs().max()) for p in layer.parametrizations.weight.parameters()) > 0


def test_a_generator_makes_it_reproducible_and_leaves_the_global_one_alone() -> None:
    models = [linear(4), linear(4)]
    state = torch.get_rng_state()
    for model in models:
        spred(model, "weight", generator=generator(7))
    assert torch.equal(torch.get_rng_state(), state)
    first, second = (m.parametrizations.weight.original1 for m in models)
    assert torch.equal(first, second)


def test_ordinary_starts_do_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spred(nn.Sequential(nn.Linear(3, 4), nn.Conv2d(1, 2, 3)), "*", depth=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 1}, "depth=1: a product needs at least 2"),
        ({"init": "kaiming"}, "init='kaiming': choose one of preserving"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spred(linear(3), "weight", **arguments)  # type: ignore[arg-type]


def test_matched_decay_refuses_what_makes_no_sense() -> None:
    assert matched_decay(0.3, depth=3) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="strength=-1"):
        matched_decay(-1)
