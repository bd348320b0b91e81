"""The sign of the learning signal: against sampling, and the virial against a run."""

from __future__ import annotations

import numpy as np
import pytest

from lawful.theory import hebbian


@pytest.mark.parametrize(("gamma", "relative"), [(0.1, 0.0), (0.1, 0.3), (0.1, 3.0), (0.5, 2.0)])
def test_the_product_of_ridge_regression(gamma: float, relative: float) -> None:
    """2 million samples: within 3 % of the formula, noise at a multiple of σ_c²."""
    rng, d, n = np.random.default_rng(1), 8, 2_000_000
    target = rng.normal(size=d)
    noise = relative * hebbian.critical_noise(target @ target, d, gamma=gamma)
    x = rng.normal(size=(n, d))
    out = x @ target / (1 + gamma) + (x * rng.normal(size=(n, d))).sum(1) * np.sqrt(noise)
    signal_dot_hebb = -(out - x @ target) * out * (x**2).sum(1)
    wanted = hebbian.mean_product(target @ target, d, gamma=gamma, noise=noise)
    assert signal_dot_hebb.mean() == pytest.approx(wanted, rel=0.03)
    assert (wanted > 0) == (relative < 1)


def test_the_product_vanishes_at_the_critical_noise() -> None:
    for gamma in (0.01, 0.04, 1.0, 3.0):
        noise = hebbian.critical_noise(2.0, 8, gamma=gamma)
        assert hebbian.mean_product(2.0, 8, gamma=gamma, noise=noise) == pytest.approx(0)
    ratio = hebbian.critical_noise(1.0, 4, gamma=0.04) / hebbian.critical_noise(1.0, 4, gamma=0.01)
    assert ratio == pytest.approx(4, rel=0.06)


def test_the_general_critical_noise_is_that_of_the_regression() -> None:
    """c = d_b‖Σ_a‖²: for d_b = 1 and Σ_a = I, γ⟨W, Hebb⟩/c is γ‖w*‖²/(d(1 + γ)²)."""
    target, gamma = np.array([1.0, -2.0, 0.5]), 0.3
    v = target / (1 + gamma)
    found = hebbian.flipping_noise(gamma * (v @ v), 3.0)
    assert found == pytest.approx(hebbian.critical_noise(target @ target, 3, gamma=gamma))
    assert hebbian.flipping_noise(1.0, 0.0) == np.inf


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_the_product_of_a_linear_map_at_rest(share: float) -> None:
    """Inputs that are not white, three outputs: γ⟨W, WΣ⟩ − d_bσ²‖Σ‖², by sampling the noise."""
    rng, gamma = np.random.default_rng(2), 0.2
    root = rng.normal(size=(5, 5))
    Sigma, C = root @ root.T / 5, rng.normal(size=(3, 5))
    W = C @ np.linalg.inv(Sigma + gamma * np.eye(5))
    restoring, response = gamma * np.sum(W * (W @ Sigma)), 3 * np.sum(Sigma**2)
    noise = share * hebbian.flipping_noise(restoring, response)
    noisy = W + np.sqrt(noise) * rng.normal(size=(200_000, 3, 5))
    hebb = noisy @ Sigma
    product = ((C - hebb) * hebb).sum((1, 2)).mean()
    assert product == pytest.approx(restoring - response * noise, rel=0.03)
    assert (product > 0) == (share < 1)


def test_the_virial_of_a_stationary_walk() -> None:
    """U = a − W − γW + ξ: an Ornstein–Uhlenbeck walk, 4,000 copies, within 1 %."""
    rng, eta, gamma = np.random.default_rng(0), 0.2, 0.3
    W, kept = np.zeros((4000, 5)), []
    for step in range(300):
        signal = 1.0 - W + 2 * rng.normal(size=W.shape)
        U = signal - gamma * W
        if step >= 100:
            kept.append([(W**2).sum(1).mean(), (U**2).sum(1).mean(), (W * signal).sum(1).mean()])
        W = W + eta * U
    norm2, update2, product = np.mean(kept, 0)
    assert hebbian.virial(norm2, update2, gamma=gamma, eta=eta) == pytest.approx(product, rel=0.01)
    assert product != pytest.approx(gamma * norm2, rel=0.1)  # the second term is needed


def test_batches_hide_the_signal() -> None:
    cosines = [
        hebbian.batch_cosine(0.85, 3.0, 2.0, gamma=0.05, kappa=k) for k in (1 / 64, 1 / 256, 0.0)
    ]
    assert cosines == sorted(cosines)
    assert cosines[-1] == pytest.approx(0.85)


def test_what_it_refuses() -> None:
    with pytest.raises(ValueError, match="gamma=-1"):
        hebbian.critical_noise(1.0, 4, gamma=-1)
    with pytest.raises(ValueError, match="no signal"):
        hebbian.batch_cosine(0.8, 1.0, 0.0, gamma=0.0, kappa=0.1)
