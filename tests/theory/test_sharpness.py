"""The stability metric against the Hessian; its minimum against optimisation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lawful.theory import linear_equilibrium as le
from lawful.theory import sharpness as sh

V = np.array([[1.2, 0.2, 0.0], [-0.1, 0.8, 0.1]])
SIGMA_X = np.diag([1.5, 1.0, 0.5])


@pytest.mark.parametrize("depth", [2, 3])
def test_metric_is_the_trace_of_the_hessian_anywhere(depth: int) -> None:
    rng = np.random.default_rng(0)
    sizes = (3, *[4] * (depth - 1), 2)
    weights = [rng.normal(size=(o, i)) for i, o in itertools.pairwise(sizes)]
    root = torch.as_tensor(np.sqrt(SIGMA_X))

    def loss(flat: torch.Tensor) -> torch.Tensor:
        product, at = root, 0
        for o, i in (W.shape for W in weights):
            product = flat[at : at + o * i].reshape(o, i) @ product
            at += o * i
        return (product - torch.as_tensor(V) @ root).square().sum()

    flat = torch.as_tensor(np.concatenate([W.ravel() for W in weights]))
    trace = torch.autograd.functional.hessian(loss, flat).trace()
    assert sh.stability_metric(weights, SIGMA_X) == pytest.approx(float(trace))


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_flattest_is_attained_under_isotropic_noise_and_never_beaten(depth: int) -> None:
    least = sh.flattest(V, SIGMA_X, depth=depth)
    assert sh.at_equilibrium(V, SIGMA_X, 0.7 * np.eye(2), depth=depth) == pytest.approx(least)
    # Minimise S over invertible changes of every hidden basis, from random starts.
    generator = torch.Generator().manual_seed(depth)
    rest = le.equilibrium(V, SIGMA_X, np.eye(2), depth=depth).weights
    base = [torch.as_tensor(W) for W in rest]
    for _ in range(3):
        M = [
            (torch.eye(2) + 0.4 * torch.randn(2, 2, generator=generator)).double().requires_grad_()
            for _ in range(depth - 1)
        ]
        solver = torch.optim.LBFGS(M, max_iter=300, line_search_fn="strong_wolfe")
        values: list[float] = []

        def closure(
            M: list[torch.Tensor] = M,
            values: list[float] = values,
            solver: torch.optim.LBFGS = solver,
        ) -> torch.Tensor:
            solver.zero_grad()
            ends = [None, *M, None]
            weights = []
            for W, into, out in zip(base, ends[:-1], ends[1:], strict=True):
                W = W if into is None else W @ torch.linalg.inv(into)
                weights.append(W if out is None else out @ W)
            total, A = torch.zeros((), dtype=torch.float64), torch.as_tensor(SIGMA_X)
            for i, W in enumerate(weights):
                after = torch.eye(2, dtype=torch.float64)
                for later in reversed(weights[i + 1 :]):
                    after = after @ later
                total = total + 2 * A.trace() * after.square().sum()
                A = W @ A @ W.T
            total.backward()
            values.append(float(total.detach()))
            return total

        solver.step(closure)
        assert values[0] > 1.02 * least
        assert min(values) >= least * (1 - 1e-9)
        assert min(values) == pytest.approx(least, rel=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 1.0))
def test_anisotropic_noise_sharpens_within_the_bound(seed: int, smallest: float) -> None:
    rng = np.random.default_rng(seed)
    target, noise = rng.normal(size=(3, 3)), np.diag([1.0, 0.5, smallest])
    ratio = sh.at_equilibrium(target, SIGMA_X, noise) / sh.flattest(target, SIGMA_X)
    assert 1 - 1e-9 <= ratio <= sh.sharpening_bound(noise) * (1 + 1e-9)


def _sgd_sharpness(weights: tuple[np.ndarray, ...], noise: np.ndarray) -> float:
    """Time-averaged S of batch-1 SGD over the last half of η²·steps = 4."""
    rng, (W, U), eta, steps = np.random.default_rng(2), weights, 0.01, 40_000
    xs = rng.normal(size=(steps, 3)) * np.sqrt(np.diag(SIGMA_X))
    es = rng.normal(size=(steps, 2)) * np.sqrt(np.diag(noise))
    kept = []
    for step, (x, e) in enumerate(zip(xs, es, strict=True)):
        h = W @ x
        r = 2 * (U @ h - V @ x - e)
        W, U = W - eta * np.outer(U.T @ r, x), U - eta * np.outer(r, h)
        if step > steps // 2 and step % 100 == 0:
            kept.append(sh.stability_metric([W, U], SIGMA_X))
    return float(np.mean(kept))


def test_sgd_flattens_under_isotropic_and_sharpens_under_anisotropic_noise() -> None:
    flat = le.equilibrium(V, SIGMA_X, np.eye(2)).weights
    least, skewed = sh.flattest(V, SIGMA_X), np.diag([0.6, 0.05])
    sharp = (flat[0] * 2, flat[1] / 2)
    assert sh.stability_metric(sharp, SIGMA_X) > 2 * least
    assert _sgd_sharpness(sharp, 0.2 * np.eye(2)) == pytest.approx(least, rel=0.06)
    ends = [_sgd_sharpness(w, skewed) for w in (flat, le.equilibrium(V, SIGMA_X, skewed).weights)]
    assert ends[0] == pytest.approx(ends[1], rel=0.03)
    assert 1.05 < ends[0] / least < sh.sharpening_bound(skewed)
    assert ends[0] == pytest.approx(sh.at_equilibrium(V, SIGMA_X, skewed), rel=0.08)


def test_mean_square_stability_of_batch_one() -> None:
    """Gaussian x in d dimensions, one output: E‖δ‖² grows from η = 2d/((d+2)S) on, not 2/λ_max."""
    d, n = 20, 20_000
    S = 2.0 * d
    x = np.random.default_rng(0).normal(size=(n, d))
    for factor, stable in ((0.9, True), (1.1, False)):
        eta = factor * 2 * d / (d + 2) / S
        assert eta < 1.1 * sh.largest_stable_eta(S)
        delta = np.zeros((n, d))
        delta[:, 0] = 1.0
        after = delta - eta * 2 * x * (x * delta).sum(1, keepdims=True)
        assert ((after**2).sum(1).mean() < 1) == stable
    assert sh.largest_stable_eta(S) < 2 / 2.0 / 10


def test_noise_without_a_direction_is_refused() -> None:
    with pytest.raises(ValueError, match="without bound"):
        sh.sharpening_bound(np.diag([1.0, 0.0]))
