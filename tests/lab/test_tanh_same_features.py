"""tanh-same-features: its gradients against autograd, its statistics against numpy."""

import numpy as np
import pytest
import torch

from lawful.lab.experiment import experiment, last
from lawful.lab.experiments import tanh_same_features as tf

SMALL = tf.SameFeatures(worlds=2, samples=20, gain=(0.0, 1.0))


def test_a_step_of_descent_is_that_of_autograd():
    world = tf.make(SMALL, torch.Generator().manual_seed(0))
    path = tf.fit(world, 0.01, 1, None)
    W, U = (p.clone().requires_grad_() for p in next(path))
    loss = (tf.phi(world.x @ W.mT, world.gain) @ U.mT - world.y).square().sum(-1).mean(1).sum()
    dW, dU = torch.autograd.grad(loss, (W, U))
    new_W, new_U = next(path)
    assert torch.allclose(new_W, W - 0.01 * dW)
    assert torch.allclose(new_U, U - 0.01 * dU)


def test_sgd_takes_one_sample_a_step():
    world = tf.make(SMALL, torch.Generator().manual_seed(0))
    path = tf.fit(world, 0.01, 1, torch.Generator().manual_seed(1))
    _, (W, _) = next(path), next(path)
    change = (W - world.W)[0]
    assert torch.linalg.matrix_rank(change) == 1


def test_gain_zero_is_linear_and_small_gain_nearly_so():
    z, gains = torch.linspace(-1, 1, 5, dtype=tf.REAL), torch.tensor([0.0, 0.01, 1.0])
    for gain, wanted in zip(gains, (z, z, torch.tanh(z)), strict=True):
        assert torch.allclose(tf.phi(z, gain), wanted, atol=1e-4)


def test_statistics_are_what_they_are_called():
    draw = torch.Generator().manual_seed(0)
    X, Y = torch.randn(2, 3, 5, 5, generator=draw, dtype=tf.REAL)
    A, B = X @ X.mT, Y @ Y.mT
    for i in range(3):
        pearson = np.corrcoef(A[i].flatten(), B[i].flatten())[0, 1]
        assert float(tf.similarity(A, B)[i]) == pytest.approx(pearson)
    assert torch.allclose(tf.similarity(A, 3 * A + 1), torch.ones(3, dtype=tf.REAL))
    assert torch.allclose(tf.distance(2 * A, A), torch.ones(3, dtype=tf.REAL))
    assert (tf.rotated(A, A) < 0.95).all()


def test_a_toy_run_claims_similarity_of_sgd_only(tmp_path):
    chosen = experiment("tanh-same-features")
    pairs = ["steps=40", "worlds=2", "samples=20", "gain=0,1", "measurements=3"]
    run = chosen.run(chosen.configure(pairs), tmp_path / "out", progress=False)
    assert run.manifest["status"] == "finished"
    assert last("feature_similarity_predicted", "a=1, SGD", run) == 1.0
    assert run.at("feature_similarity_predicted", "a=1, GD") is None
    difference = run.at("feature_similarity", "a=0, SGD less GD")
    assert difference.n == 2
    assert -2 <= difference.value <= 2
