"""Collapse by noise: the sign of the Lyapunov exponent decides."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lawful.theory import lyapunov as ly

H, P = np.array([-1.2, 0.8]), np.array([0.45, 0.55])


def collapsed(eta: float, *, gamma: float = 0.0, runs: int = 4000, steps: int = 4000) -> float:
    """Fraction of runs with |s| < 1e-6, s bounded by a quartic term, started at 0.1."""
    rng, s = np.random.default_rng(0), np.full(runs, 0.1)
    for _ in range(steps):
        h = np.where(rng.random(runs) < P[0], H[0], H[1])
        s = np.clip(s * (1 - eta * (h + 2 * gamma)), -1, 1)
    return float(np.mean(np.abs(s) < 1e-6))


def test_a_saddle_turns_attractive_at_the_predicted_learning_rate() -> None:
    assert float(np.dot(H, P)) == pytest.approx(-0.1)
    critical = ly.critical_eta(H, probabilities=P)
    assert critical == pytest.approx(0.210, abs=5e-4)
    assert critical == pytest.approx(-2 * (H @ P) / (H**2 @ P), rel=0.05)
    for eta, low, high in ((0.05, 0, 0.05), (0.15, 0, 0.05), (0.3, 0.95, 1), (0.6, 0.95, 1)):
        assert low <= collapsed(eta) <= high
        assert (ly.exponent(H, eta, probabilities=P) < 0) == (eta > critical)
        # Mean-square stability cannot see it: a saddle never has it.
        assert ly.mean_square_factor(H, eta, probabilities=P) > 1


def test_weight_decay_moves_the_threshold() -> None:
    assert ly.critical_eta(H, probabilities=P, gamma=0.04) < 0.06
    assert ly.critical_eta(H, probabilities=P, gamma=0.06) == 0.0  # no saddle any more
    assert ly.exponent(H, 0.15, probabilities=P, gamma=0.04) < 0
    assert collapsed(0.15, gamma=0.04) > 0.9


def test_without_noise_a_saddle_collapses_only_past_two_over_its_curvature() -> None:
    """A constant negative h never collapses; a constant positive h does at once."""
    assert math.isnan(ly.critical_eta(np.array([-0.5])))
    assert ly.critical_eta(np.array([0.5])) == 0.0
    assert ly.exponent(np.array([1.0, 1.0]), 1.0) == -math.inf
    with pytest.raises(ValueError, match="not 1"):
        ly.exponent(H, 0.1, probabilities=np.array([0.5, 0.6]))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=2, max_size=10), st.floats(0.01, 0.3))
def test_stability_in_mean_square_is_the_stronger_demand(h: list[float], eta: float) -> None:
    """Jensen: 2Λ ≤ ln E(1 − ηh)²."""
    values = np.array(h)
    assert 2 * ly.exponent(values, eta) <= math.log(ly.mean_square_factor(values, eta)) + 1e-12


def test_matrix_exponent_reduces_to_the_scalar_one_and_to_simulation() -> None:
    rng, eta = np.random.default_rng(1), 0.3
    h = rng.choice(H, size=(40_000, 2), p=P)
    diagonal = np.zeros((40_000, 2, 2))
    diagonal[:, 0, 0], diagonal[:, 1, 1] = (1 - eta * h).T
    scalar = ly.exponent(H, eta, probabilities=P)
    assert ly.top_exponent(diagonal) == pytest.approx(scalar, abs=0.004)
    # The top exponent of a Gaussian product is known: ½(ψ(k/2) + ln 2) for standard k × k.
    gaussian = rng.normal(size=(40_000, 2, 2))
    assert ly.top_exponent(gaussian) == pytest.approx((math.log(2) - 0.5772157) / 2, abs=0.02)
    assert ly.top_exponent(np.zeros((3, 2, 2))) == -math.inf


def test_a_plane_without_curvature_has_no_critical_rate() -> None:
    assert math.isnan(ly.critical_eta(np.zeros(3)))
    assert math.isnan(ly.critical_eta(np.full(3, -0.2), gamma=0.1))
