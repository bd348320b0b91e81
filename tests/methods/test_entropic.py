"""The entropic loss: against enumeration of batches, against one finite step, and its refusals."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from lawful.methods.entropic import entropic_loss, entropy, sample_gradients

N = 6


def world(seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
        return model, torch.randn(N, 2).double(), torch.randn(N, 1).double()


def flat_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    value = mse_loss(model(x), y)
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))])


def rates(kind: str, size: int) -> float | Tensor:
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    diagonal = torch.linspace(0.1, 2.0, size, dtype=torch.float64)
    return {"number": 0.3, "diagonal": diagonal, "matrix": root @ root.T}[kind]


@pytest.mark.parametrize("batch", [1, 2, 4, N])
@pytest.mark.parametrize("replacement", [False, True])
@pytest.mark.parametrize("kind", ["number", "diagonal", "matrix"])
def test_entropy_is_the_mean_over_all_batches(batch: int, replacement: bool, kind: str) -> None:
    """Both sampling schemes by enumeration, relative error < 1e-10 (here < 1e-14)."""
    model, x, y = world()
    size = sum(p.numel() for p in model.parameters())
    lr = rates(kind, size)
    Lambda = {"number": lambda: lr * torch.eye(size).double(), "diagonal": lambda: lr.diag()}
    matrix = Lambda.get(kind, lambda: lr)()
    each = sample_gradients(model, mse_loss, x, y).detach()
    if replacement and batch > 4:
        pytest.skip("too many batches to enumerate")
    draws = (
        itertools.product(range(N), repeat=batch)
        if replacement
        else itertools.combinations(range(N), batch)
    )
    means = torch.stack([each[list(draw)].mean(0) for draw in draws])
    wanted = float((means @ matrix * means).sum(1).mean()) / 4
    found = entropy(model, mse_loss, x, y, lr=lr, batch=batch, replacement=replacement)
    assert found.item() == pytest.approx(wanted, rel=1e-12)


def test_sample_gradients_are_those_of_autograd() -> None:
    model, x, y = world()
    each = sample_gradients(model, mse_loss, x, y)
    for s in range(N):
        torch.testing.assert_close(each[s], flat_gradient(model, x[s : s + 1], y[s : s + 1]))


def test_its_gradient_is_that_of_the_formula_by_differences() -> None:
    model, x, y = world()
    arguments = {"lr": 0.2, "batch": 2, "weight_decay": 0.3}
    gradients = torch.autograd.grad(
        entropic_loss(model, mse_loss, x, y, **arguments), list(model.parameters())
    )
    for p, g in zip(model.parameters(), gradients, strict=True):
        entry, step = (0,) * p.dim(), 1e-5
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                p[entry] += sign * step
            values.append(entropic_loss(model, mse_loss, x, y, **arguments).item())
            with torch.no_grad():
                p[entry] -= sign * step
        assert float(g[entry]) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-6)


def flow(model: nn.Module, objective, time: float, substeps: int = 40) -> Tensor:
    """The end of gradient flow on `objective(model)`, by fourth-order Runge–Kutta."""
    start = nn.utils.parameters_to_vector(model.parameters()).detach()

    def force(theta: Tensor) -> Tensor:
        nn.utils.vector_to_parameters(theta, model.parameters())
        g = torch.autograd.grad(objective(model), list(model.parameters()))
        return -torch.cat([part.flatten() for part in g])

    theta, h = start, time / substeps
    for _ in range(substeps):
        a = force(theta)
        b = force(theta + h / 2 * a)
        c = force(theta + h / 2 * b)
        theta = theta + h / 6 * (a + 2 * b + 2 * c + force(theta + h * c))
    nn.utils.vector_to_parameters(start, model.parameters())
    return theta


def one_epoch(model: nn.Module, x: Tensor, y: Tensor, eta: float, batch: int) -> Tensor:
    """Mean end of one epoch over *all* orders of the samples."""
    start = nn.utils.parameters_to_vector(model.parameters()).detach()
    ends = []
    for order in itertools.permutations(range(len(x))):
        theta = start
        for part in torch.tensor(order).split(batch):
            nn.utils.vector_to_parameters(theta, model.parameters())
            theta = theta - eta * flat_gradient(model, x[part], y[part])
        ends.append(theta)
    nn.utils.vector_to_parameters(start, model.parameters())
    return torch.stack(ends).mean(0)


def test_one_reshuffled_epoch_follows_it_one_order_further_than_the_loss() -> None:
    """The error of the flow on F falls 8-fold as η is halved, that of the flow on L 4-fold."""
    model, x, y = world(1)
    x, y = x[:4], y[:4]
    errors = []
    for eta in (0.02, 0.01):
        mean = one_epoch(model, x, y, eta, batch=1)
        plain = flow(model, lambda m: mse_loss(m(x), y), 4 * eta)
        entropic = flow(
            model, lambda m, eta=eta: entropic_loss(m, mse_loss, x, y, lr=eta, batch=1), 4 * eta
        )
        errors.append([float((mean - end).norm()) for end in (plain, entropic)])
    (plain, entropic), (plain_half, entropic_half) = errors
    assert 3.3 < plain / plain_half < 4.7
    assert 6.5 < entropic / entropic_half < 9.5
    assert entropic_half < 0.1 * plain_half


@pytest.mark.parametrize("batch", [2, N])
def test_a_full_batch_has_the_backward_error_of_descent(batch: int) -> None:
    model, x, y = world()
    full = float(flat_gradient(model, x, y).square().sum()) * 0.3 / 4
    found = entropy(model, mse_loss, x, y, lr=0.3, batch=batch).item()
    assert (found == pytest.approx(full, rel=1e-12)) == (batch == N)


def test_weight_decay_is_that_of_torch() -> None:
    model, x, y = world()
    options = {"lr": 0.1, "batch": 2}
    with_decay = entropic_loss(model, mse_loss, x, y, weight_decay=0.2, **options)
    extra = 0.1 * sum(float(p.detach().square().sum()) for p in model.parameters())
    without = entropic_loss(model, mse_loss, x, y, **options)
    assert (with_decay - without).item() == pytest.approx(extra)


def test_what_it_refuses() -> None:
    model, x, y = world()
    with pytest.raises(
        ValueError, match="population=6: without replacement from N samples, N ≥ batch=9"
    ):
        entropy(model, mse_loss, x, y, lr=0.1, batch=9)
    with pytest.raises(ValueError, match="batch=0"):
        entropy(model, mse_loss, x, y, lr=0.1, batch=0)
    with pytest.raises(ValueError, match=r"lr has shape \(4,\)"):
        entropy(model, mse_loss, x, y, lr=torch.ones(4), batch=2)
    with pytest.raises(ValueError, match="not symmetric"):
        entropy(model, mse_loss, x, y, lr=torch.arange(169.0).double().reshape(13, 13), batch=2)
    mixing = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)).double()
    with pytest.raises(ValueError, match=r"'1' \(BatchNorm1d\) mixes the samples"):
        entropy(mixing, mse_loss, x, y, lr=0.1, batch=2)
    assert torch.isfinite(entropy(mixing.eval(), mse_loss, x, y, lr=0.1, batch=2))
