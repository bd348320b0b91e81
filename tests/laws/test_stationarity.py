"""The cross term and the weight norm, on SGD simulated where the answer is known."""

import copy
import math

import numpy as np
import pytest

from lawful.laws.snapshot import Snapshot
from lawful.laws.stationarity import norm_balance

STEPS = tuple(range(0, 20_001, 500))


@pytest.fixture
def critical(empty):
    """Residual of the cross term 40 at initialisation, 0.02 at the end."""
    for side in "ab":
        empty.record(f"cross_{side}", [40.0, 0.02], stderr=0.005)
        empty.record(f"cross_{side}_alignment", [0.1, 0.999])
    empty.record("gradient_dot_weight", [0.5, -0.03]).record("gradient_norm2", [2.0, 0.01])
    return empty.record("weight_norm2", [9.0, 10.0])


def optimiser(world, name="SGD", **fields):
    world.manifest = copy.deepcopy(world.manifest)
    world.manifest["optimizer"]["class"] = name
    world.manifest["optimizer"]["groups"][0] |= fields
    return world


@pytest.mark.parametrize("side", ["a", "b"])
def test_cross_term_holds_at_a_critical_point(critical, side):
    found = critical.verdict(f"cross_term_{side}")
    assert found.status == "holds"
    assert (found.effect, found.null, found.initial) == (0.02, 1.0, 40.0)
    assert "Pearson 1.00" in found.sentence


def test_cross_term_fails_on_a_snapshot_of_noisy_training(critical):
    assert critical.record("cross_b", [40.0, 0.6], stderr=0.05).verdict("cross_term_b").status == (
        "violated"
    )
    critical.record("cross_b", [40.0, 0.1], stderr=0.05)
    assert critical.verdict("cross_term_b").status == "undetermined"
    assert critical.record("cross_b", 0.02, stderr=0.0).verdict("cross_term_b").status == (
        "out of regime"
    )


@pytest.mark.parametrize(
    ("name", "fields", "status"),
    [
        ("Adam", {}, "holds"),  # decay enters the gradient
        ("SGD", {"momentum": 0.9}, "holds"),  # the fixed point is the same
        ("Adam", {"decoupled_weight_decay": True}, "out of regime"),
        ("AdamW", {}, "out of regime"),
        ("SGD", {"weight_decay": 0.0}, "out of regime"),
    ],
)
def test_cross_term_speaks_of_decay_in_the_gradient(critical, name, fields, status):
    assert optimiser(critical, name, **fields).verdict("cross_term_b").status == status


def test_cross_term_needs_weights_whose_scale_matters(critical):
    found = critical.record("gradient_dot_weight", 1e-7).verdict("cross_term_b")
    assert found.status == "out of regime"
    assert "scale of W" in found.sentence


def test_unknown_optimiser_is_undetermined(critical):
    critical.manifest["optimizer"] = None
    for law in ("cross_term_b", "norm_stationarity", "fdt_b"):
        assert critical.verdict(law).status == "undetermined"


# The norm --------------------------------------------------------------------------------------


def norms(world, balance, *, noise=0.0, seed=0):
    """‖W‖² under d log‖W‖²/dt = −2γη b after a transient, with b given and η = 0.1."""
    steps = np.array(STEPS)
    time = 2 * 3e-3 * 0.1 * steps
    log = math.log(10) - balance * time - np.exp(-3 * time)
    log += noise * np.random.default_rng(seed).normal(size=len(steps))
    world.record("weight_norm2", list(np.exp(log)), steps=STEPS)
    world.record("norm_balance", 0.9, steps=(0,))
    return world.record("learning_rate", 0.1, layer="", steps=STEPS)


def test_a_norm_that_stands_still(empty):
    found = norms(empty, 0.0, noise=0.01).verdict("norm_stationarity")
    assert found.status == "holds"
    assert abs(found.effect) < 0.03
    assert found.initial == 0.9


def test_a_norm_that_decays_is_not_stationary(empty):
    found = norms(empty, 0.85, noise=0.001).verdict("norm_stationarity")
    assert found.status == "violated"
    assert found.effect == pytest.approx(0.85, abs=0.02)


def test_a_norm_too_noisy_to_tell(empty):
    assert norms(empty, 0.0, noise=1.0).verdict("norm_stationarity").status == "undetermined"


def test_the_balance_is_the_time_average_of_the_update(empty):
    """The slope equals (2⟨∇L,W⟩ + 2γ‖W‖² − η‖∇L+γW‖²)/2γ‖W‖² averaged over unseen steps."""
    rng = np.random.default_rng(0)
    eta, gamma, W = 0.01, 3e-3, rng.normal(size=(6, 5))
    balances, norm2 = [], []
    for _ in range(2001):
        update = 0.01 * (W - 0.5) + 0.1 * rng.normal(size=W.shape) + gamma * W
        norm2.append(float((W**2).sum()))
        excess = 2 * (update * W).sum() - eta * (update**2).sum()
        balances.append(excess / (2 * gamma * norm2[-1]))
        W = W - eta * update
    steps = tuple(range(0, 2001, 20))
    empty.record("weight_norm2", norm2[::20], steps=steps, stderr=0.0)
    empty.record("learning_rate", eta, layer="", steps=steps, stderr=0.0)
    balance = norm_balance(Snapshot(empty), "fc")
    assert balance.value == pytest.approx(np.mean(balances[1400:2000]), abs=3 * balance.stderr)
    assert np.std(balances[1400::20]) / 30**0.5 > 5 * balance.stderr  # the gain over sampling


def test_norm_regimes(empty):
    norms(empty, 0.0)
    assert optimiser(empty, momentum=0.9).verdict("norm_stationarity").status == "out of regime"
    assert optimiser(empty, momentum=0.0, weight_decay=0.0).verdict("norm_stationarity").status == (
        "out of regime"
    )
    assert optimiser(empty, "AdamW", weight_decay=0.1).verdict("norm_stationarity").status == (
        "out of regime"
    )
    optimiser(empty, weight_decay=3e-3).record("weight_norm2", 10.0, steps=STEPS)
    frozen = empty.verdict("norm_stationarity")
    assert frozen.status == "out of regime"
    assert "never moved" in frozen.sentence
    empty.forget("weight_norm2").record("weight_norm2", [9.0, 10.0])
    assert empty.verdict("norm_stationarity").status == "undetermined"
