"""Stationarity against hand-run SGD and exact critical points; squares of noisy gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from lawful.instruments.readings import Label
from lawful.instruments.steadiness import Steadiness

LABEL = Label(step=3, layer="fc", n=0)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def balance(s: Steadiness, W: Tensor, *, decays: bool = True) -> dict[str, tuple[float, float]]:
    return {m.quantity: (m.value, m.stderr) for m in s.balance(LABEL, W, decays=decays)}


def cross(s: Steadiness, W: Tensor, *, decays: bool = True) -> dict[str, tuple[float, float]]:
    return {m.quantity: (m.value, m.stderr) for m in s.cross(LABEL, W, decays=decays)}


def steadiness(W: Tensor, gradients: list[Tensor], eta: float, gamma: float) -> Steadiness:
    s = Steadiness(W.shape[1], seed=0)
    for gradient in gradients:
        s.add(W, gradient, eta, gamma)
    return s


class Ridge:
    """A linear layer with mean squared error and γ‖W‖²/2, whose minimum is in closed form."""

    def __init__(self, gamma: float = 0.1, n: int = 200) -> None:
        self.gamma, self.x = gamma, draw(n, 6, seed=1)
        self.y = self.x[:, :4] @ draw(4, 4, seed=2) + draw(n, 4, seed=3)
        gram, both = self.x.T @ self.x / n, self.x.T @ self.y / n
        self.W = torch.linalg.solve(gram + gamma * torch.eye(6), both).T.contiguous()

    def gradient(self, W: Tensor, rows: slice | Tensor = slice(None)) -> Tensor:
        """∂L/∂W of the mini-batch `rows`, by autograd."""
        W = W.clone().requires_grad_()
        loss = 0.5 * (self.x[rows] @ W.T - self.y[rows]).square().sum(1).mean()
        return torch.autograd.grad(loss, W)[0]


# -- the cross term -----------------------------------------------------------------------------


def test_cross_term_vanishes_at_an_exact_critical_point_only() -> None:
    world = Ridge()
    there = cross(steadiness(world.W, [world.gradient(world.W)], 0.1, world.gamma), world.W)
    elsewhere = world.W + 0.3 * draw(4, 6, seed=4)
    off = cross(steadiness(elsewhere, [world.gradient(elsewhere)], 0.1, world.gamma), elsewhere)
    for side in "ab":
        assert abs(there[f"cross_{side}"][0]) < 1e-4
        assert there[f"cross_{side}_alignment"][0] == pytest.approx(1, abs=1e-6)
        assert off[f"cross_{side}"][0] > 1
        assert math.isnan(there[f"cross_{side}"][1])  # one gradient says nothing about its noise


def test_cross_term_is_the_formula_written_out() -> None:
    world = Ridge()
    W = draw(4, 6, seed=5)
    gradient = world.gradient(W)
    got = cross(steadiness(W, [gradient, gradient], 0.1, 0.2), W)
    Z_b, Z_a = W @ W.T, W.T @ W
    expected_b = (gradient @ W.T + 0.2 * Z_b).norm() / (0.2 * Z_b).norm()
    expected_a = (W.T @ gradient + 0.2 * Z_a).norm() / (0.2 * Z_a).norm()
    assert got["cross_b"] == (pytest.approx(float(expected_b), rel=1e-5), 0.0)
    assert got["cross_a"] == (pytest.approx(float(expected_a), rel=1e-5), 0.0)
    correlation = np.corrcoef(-(gradient @ W.T).flatten(), Z_b.flatten())[0, 1]
    assert got["cross_b_alignment"][0] == pytest.approx(correlation, abs=1e-5)


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_squared_residual_is_unbiased_under_gradient_noise(count: int) -> None:
    """Signed squares over 800 repetitions, for even and odd numbers of mini-batches."""
    W, gamma = draw(4, 6, seed=6) / 2, 0.1
    signal, noise = draw(4, 6, seed=7) * 0.05, torch.Generator().manual_seed(8)
    squares: dict[str, list[float]] = {"cross_b": [], "cross_a": []}
    for _ in range(800):
        batches = [signal + 0.5 * torch.randn(4, 6, generator=noise) for _ in range(count)]
        table = cross(steadiness(W, batches, 0.1, gamma), W)
        for name, seen in squares.items():
            seen.append(table[name][0] * abs(table[name][0]))
    for name, Z, term in (
        ("cross_b", W @ W.T, signal @ W.T),
        ("cross_a", W.T @ W, W.T @ signal),
    ):
        scale = float((gamma * Z).norm()) ** 2
        truth = float((term + gamma * Z).norm()) ** 2 / scale
        error = np.std(squares[name]) / math.sqrt(800)
        assert abs(np.mean(squares[name]) - truth) < 3 * error
        # What a plain square would have added, σ²‖W‖² times the other dimension, is in sight.
        naive = 0.25 / count * float(W.square().sum()) * (4 if name == "cross_b" else 6) / scale
        assert naive > 5 * error


def test_error_of_the_cross_term_is_an_upper_bound() -> None:
    """At the critical point with mini-batch gradients: the value lies within its errors of 0."""
    world = Ridge(n=512)
    within, sample = 0, torch.Generator().manual_seed(9)
    values, errors = [], []
    for _ in range(100):
        batches = [
            world.gradient(world.W, torch.randint(512, (32,), generator=sample)) for _ in range(8)
        ]
        value, stderr = cross(steadiness(world.W, batches, 0.1, world.gamma), world.W)["cross_b"]
        values.append(value)
        errors.append(stderr)
        within += abs(value) <= 2 * stderr
    assert within >= 95
    squares = np.sign(values) * np.square(values)
    assert abs(squares.mean()) < 4 * squares.std() / 10  # around zero, on both sides


def test_no_cross_term_without_decay_or_gradients() -> None:
    W = draw(3, 2, seed=10)
    assert cross(steadiness(W, [W], 0.1, 0.0), W) == {}
    assert cross(steadiness(W, [], 0.1, 0.1), W) == {}
    assert cross(steadiness(W, [W], 0.1, 0.1), W, decays=False) == {}


@pytest.mark.parametrize("late", [1, 2])
def test_decay_that_begins_within_a_window_counts_from_there(late: int) -> None:
    ridge = Ridge()
    full = ridge.gradient(ridge.W)
    s = steadiness(ridge.W, [draw(4, 6, seed=7)] * late, 0.1, 0.0)
    for _ in range(3):
        s.add(ridge.W, full, 0.1, ridge.gamma)
    assert abs(cross(s, ridge.W)["cross_b"][0]) < 1e-4


def test_a_layer_without_weights_has_no_cross_term_to_compare() -> None:
    W = torch.zeros(3, 2)
    got = cross(steadiness(W, [W, W], 0.1, 0.1), W)
    assert all(math.isnan(x) for value in got.values() for x in value)


# -- the norm balance ---------------------------------------------------------------------------


def test_balance_is_what_one_step_of_sgd_does_to_the_norm() -> None:
    """Δ‖W‖² = −2ηγ‖W‖² · balance, exactly, for torch's own SGD."""
    world, eta, gamma = Ridge(), 0.05, 0.3
    W = torch.nn.Parameter(draw(4, 6, seed=11))
    optimizer = torch.optim.SGD([W], lr=eta, weight_decay=gamma)
    s, changes, norms = Steadiness(6, seed=0), [], []
    for step in range(12):
        W.grad = world.gradient(W.detach(), slice(16 * step, 16 * step + 16))
        before = float(W.detach().double().square().sum())
        s.add(W, W.grad, eta, gamma)
        optimizer.step()
        norms.append(before)
        changes.append(float(W.detach().double().square().sum()) - before)
    each = -np.array(changes) / (2 * eta * gamma * np.array(norms))
    value, stderr = balance(s, W)["norm_balance"]
    assert value == pytest.approx(each.mean(), abs=1e-4)
    assert stderr == pytest.approx(each.std(ddof=1) / math.sqrt(12), rel=1e-3)


def test_balance_is_zero_where_sgd_rests() -> None:
    """The fixed point of gradient descent on L + γ‖W‖²/2: the norm does not move."""
    world = Ridge()
    s = steadiness(world.W, [world.gradient(world.W)] * 4, 0.1, world.gamma)
    assert balance(s, world.W)["norm_balance"][0] == pytest.approx(0, abs=1e-5)


def test_norms_are_means_over_mini_batches_with_their_error() -> None:
    W = draw(4, 6, seed=12)
    gradients = [draw(4, 6, seed=20 + i) for i in range(6)]
    got = balance(steadiness(W, gradients, 0.1, 0.01), W)
    dots = np.array([float((W * g).sum()) for g in gradients])
    squares = np.array([float(g.square().sum()) for g in gradients])
    for name, series in (("gradient_dot_weight", dots), ("gradient_norm2", squares)):
        assert got[name][0] == pytest.approx(series.mean(), rel=1e-5)
        assert got[name][1] == pytest.approx(series.std(ddof=1) / math.sqrt(6), rel=1e-4)
    assert got["weight_norm2"] == (pytest.approx(float(W.square().sum())), 0.0)


def test_what_cannot_be_balanced_is_left_out() -> None:
    W = draw(3, 2, seed=13)
    assert set(balance(steadiness(W, [], 0.1, 0.1), W)) == {"weight_norm2"}
    without = {"weight_norm2", "gradient_dot_weight", "gradient_norm2"}
    assert set(balance(steadiness(W, [W], 0.1, 0.0), W)) == without
    assert set(balance(steadiness(W, [W], 0.1, 0.1), W, decays=False)) == without
    assert set(balance(steadiness(0 * W, [W], 0.1, 0.1), 0 * W)) == without
    assert math.isnan(balance(steadiness(W, [W], 0.1, 0.1), W)["norm_balance"][1])


# -- drift --------------------------------------------------------------------------------------


def test_drift_of_known_moves() -> None:
    W, s = draw(5, 4, seed=14), Steadiness(4, seed=1)
    assert s.drift(W) == 0.0
    s.begin(W)
    assert s.drift(W) == 0.0
    assert s.drift(2 * W) == pytest.approx(0.5)
    s.begin(2 * W)  # a window remembers where it began
    assert s.drift(2 * W) == pytest.approx(0.5)
    assert s.drift(-W) == pytest.approx(2.0)
    s.reset()
    s.begin(2 * W)
    assert s.drift(2 * W) == 0.0
    assert math.isfinite(s.drift(0 * W))


def test_drift_estimates_the_distance() -> None:
    """On eight random directions, of a large matrix: within a few per cent."""
    W, move, s = draw(300, 200, seed=15), draw(300, 200, seed=16), Steadiness(200, seed=2)
    s.begin(W)
    now = W + 0.1 * move
    assert s.drift(now) == pytest.approx(0.1 * float(move.norm() / now.norm()), rel=0.05)


def test_training_tensors_are_left_alone() -> None:
    """No global random state, no graph, no change to the gradient that comes in."""
    state = torch.get_rng_state()
    W = torch.nn.Parameter(draw(3, 2, seed=17))
    gradient = draw(3, 2, seed=18)
    kept = gradient.clone()
    s = Steadiness(2, seed=0)
    s.begin(W)
    for _ in range(4):
        s.add(W, gradient, 0.1, 0.1)
    cross(s, W)
    assert torch.equal(gradient, kept)
    assert not any(half.requires_grad for half in s._halves)
    assert torch.equal(torch.get_rng_state(), state)


def test_pieces_of_the_whole_training_set_give_its_gradient_exactly() -> None:
    """At the ridge solution ∂L/∂W = −γW over all samples, though not over any chunk of them."""
    torch.manual_seed(0)
    x, y, gamma = torch.randn(30, 4).double(), torch.randn(30, 3).double(), 0.1
    W = y.T @ x / 30 @ torch.linalg.inv(x.T @ x / 30 + gamma * torch.eye(4).double())
    steady = Steadiness(4, seed=0)
    steady.exact = True
    for part in (slice(0, 17), slice(17, 30)):
        residual = x[part] @ W.T - y[part]
        steady.add(W, residual.T @ x[part] / len(x[part]), 0.0, gamma, weight=len(x[part]))
    cross = {m.quantity: m for m in steady.cross(Label(0, "fc", 30), W, decays=True)}
    assert abs(cross["cross_b"].value) < 1e-5
    assert cross["cross_b"].stderr < 1e-5
