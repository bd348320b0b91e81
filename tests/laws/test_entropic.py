"""Drift of the mean, drift of a charge, curvature under noise: each where it must hold, or not."""

import pytest


@pytest.fixture
def drifting(empty):
    """Reshuffled: ends at 1.05 of what F predicts."""
    empty.record("entropic_drift", [0.0, 0.021], stderr=1e-4)
    empty.record("entropic_drift_predicted", [0.0, 0.020], stderr=0.0)
    empty.record("rate_curvature_batch", 0.08, stderr=0.0)
    return empty.record("reshuffled", 1.0, stderr=0.0)


def test_the_mean_of_reshuffled_runs_follows_the_entropic_loss(drifting):
    found = drifting.verdict("entropic_drift")
    assert found.status == "holds"
    assert found.effect == pytest.approx(1.05)
    assert found.interval[0] < 1.05 < found.interval[1]


def test_gradient_flow_on_the_loss_would_violate_it(drifting):
    assert drifting.record("entropic_drift", [0.0, 1e-3], stderr=1e-4).verdict(
        "entropic_drift"
    ).status == ("violated")


def test_a_drift_a_fifth_too_large_violates_it_unless_the_steps_are_large(drifting):
    drifting.record("entropic_drift", [0.0, 0.024], stderr=1e-4)
    assert drifting.verdict("entropic_drift").status == "violated"
    drifting.record("rate_curvature_batch", 0.3, stderr=0.0)
    found = drifting.verdict("entropic_drift")
    assert found.status == "out of regime"
    assert "first order in η" in found.sentence


def test_independent_batches_are_out_of_regime(drifting):
    found = drifting.record("reshuffled", 0.0, stderr=0.0).verdict("entropic_drift")
    assert found.status == "out of regime"
    assert "independently" in found.sentence
    assert drifting.forget("reshuffled").verdict("entropic_drift").status == "undetermined"


def test_a_drift_lost_in_noise_is_undetermined(drifting):
    assert drifting.record("entropic_drift", [0.0, 0.021], stderr=0.02).verdict(
        "entropic_drift"
    ).status == ("undetermined")


@pytest.fixture
def charged(empty):
    empty.record("charge_drift", [-2e-4, -1.02e-4], stderr=1e-6)
    return empty.record("charge_drift_predicted", [-2e-4, -1e-4], stderr=0.0)


def test_a_charge_that_drifts_as_predicted_holds(charged):
    assert charged.verdict("charge_drift").status == "holds"
    assert charged.verdict("charge_drift").initial == pytest.approx(1.0)


def test_a_charge_that_stays_where_it_should_drift_violates(charged):
    assert charged.record("charge_drift", [0.0, 0.0], stderr=1e-6).verdict(
        "charge_drift"
    ).status == ("violated")


def test_momentum_and_a_charge_at_rest(charged):
    charged.record("charge_drift_predicted", [0.0, 1e-7], stderr=0.0)
    assert charged.verdict("charge_drift").status == "undetermined"
    charged.manifest["optimizer"] = {"class": "SGD", "groups": [{"lr": 0.1, "momentum": 0.9}]}
    assert charged.verdict("charge_drift").status == "out of regime"


@pytest.fixture
def sharpened(empty):
    empty.record("sharpness_trace", [16.0, 19.2], stderr=0.05)
    empty.record("sharpness_trace_predicted", [16.0, 19.4], stderr=0.0)
    return empty.record("label_noise", 2.2, stderr=0.0)


def test_sharpening_as_predicted_holds_and_flattening_instead_violates(sharpened):
    assert sharpened.verdict("noise_curvature").status == "holds"
    sharpened.record("sharpness_trace", [16.0, 15.0], stderr=0.05)
    assert sharpened.verdict("noise_curvature").status == "violated"


def test_without_label_noise_nothing_is_selected(sharpened):
    found = sharpened.record("label_noise", 0.0, stderr=0.0).verdict("noise_curvature")
    assert found.status == "out of regime"
    assert "selects none" in found.sentence
