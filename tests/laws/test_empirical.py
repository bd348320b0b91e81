"""Scaling, transfer, power laws, connectivity, greedy rank: held, violated, out of regime."""

import pytest

SPAN = {"sweep_span": 8.0}

# law, quantity, what else was recorded, holds at, violated at, what is out of regime
BOUNDED = [
    ("coordinate_stability", "coordinate_slope", SPAN, 0.05, 0.9, {"sweep_span": 4.0}),
    ("rate_transfer", "rate_drift", SPAN, -0.3, -2.4, {"sweep_span": 4.0}),
    ("power_law_data", "power_bend", {"power_exponent": 1.0, "window_decades": 1.5}, 0.1, -1.5,
     {"window_decades": 0.5}),
    ("mode_connectivity", "barrier_left", {"barrier": 0.2}, 0.02, 0.6, {"barrier": 0.005}),
    ("greedy_rank", "stage_ratio", {"stage_ratio_predicted": 1.4}, 1.35, 0.8,
     {"stage_ratio_predicted": 0.9}),
]  # fmt: skip


@pytest.mark.parametrize("case", BOUNDED, ids=lambda case: case[0])
def test_a_number_in_its_bounds(empty, case):
    law, quantity, others, inside, outside, beyond = case
    for name, value in others.items():
        empty.record(name, value, stderr=0.001)
    assert empty.record(quantity, inside, stderr=0.01).verdict(law).status == "holds"
    found = empty.record(quantity, outside, stderr=0.01).verdict(law)
    assert (found.status, found.effect) == ("violated", outside)
    assert empty.record(quantity, inside, stderr=2.0).verdict(law).status == "undetermined"
    empty.record(quantity, inside, stderr=float("nan"))
    assert "error is not known" in empty.verdict(law).sentence
    for name, value in beyond.items():
        empty.record(name, value, stderr=0.001)
    assert empty.verdict(law).status == "out of regime"
    empty.forget(*beyond)
    assert empty.verdict(law).status == "undetermined"


@pytest.fixture
def sweep(empty):
    for name, value in {"sweep_span": 16.0, "fit_residual": 0.004}.items():
        empty.record(name, value, stderr=0.0)
    empty.record("scaling_loss_predicted", 2.0, stderr=0.01)
    return empty.record("scaling_loss", 2.01, stderr=0.005)


def test_a_larger_run_as_foreseen(sweep):
    found = sweep.verdict("neural_scaling")
    assert found.status == "holds"
    assert found.effect == pytest.approx(1.005)
    assert sweep.record("scaling_loss", 2.3, stderr=0.005).verdict("neural_scaling").status == (
        "violated"
    )


def test_a_short_or_untuned_sweep_foresees_nothing(sweep):
    assert sweep.record("fit_residual", 0.1).verdict("neural_scaling").status == "out of regime"
    sweep.record("fit_residual", 0.004).record("sweep_span", 3.0)
    assert "a factor of 3" in sweep.verdict("neural_scaling").sentence


STEPS = (0, 50, 100, 500, 600, 1000)


@pytest.fixture
def grokked(empty):
    """Fitted at 50, waves at 500, kernel at 500, test accuracy at 600."""
    empty.record("participation_null", 0.125, steps=STEPS)
    empty.record("inverse_participation", [0.12, 0.13, 0.15, 0.33, 0.5, 0.93], steps=STEPS)
    empty.record("ntk_turn", [0, 0.05, 0.1, 0.4, 0.5, 0.6], steps=STEPS)
    empty.record("train_accuracy", [0.03, 1, 1, 1, 1, 1], steps=STEPS)
    return empty.record("test_accuracy", [0.03, 0.03, 0.05, 0.3, 0.8, 1.0], steps=STEPS)


def test_the_representation_comes_first(grokked):
    found = grokked.verdict("grokking")
    assert (found.status, found.effect) == ("holds", pytest.approx(500 / 600))


def test_test_accuracy_before_any_wave_violates(grokked):
    grokked.record("inverse_participation", [0.12, 0.12, 0.12, 0.12, 0.12, 0.93], steps=STEPS)
    assert grokked.verdict("grokking").status == "violated"
    grokked.record("inverse_participation", 0.12, steps=STEPS)
    assert "without waves" in grokked.verdict("grokking").sentence


@pytest.mark.parametrize("quantity", ["ntk_turn", "participation_null"])
def test_what_was_not_watched_does_not_violate(grokked, quantity):
    assert grokked.forget(quantity).verdict("grokking").status == "undetermined"


def test_a_run_that_logs_accuracies_alone_does_not_violate(empty):
    empty.record("train_accuracy", [0.03, 1, 1, 1, 1, 1], steps=STEPS, layer="")
    empty.record("test_accuracy", [0.03, 0.03, 0.05, 0.3, 0.8, 1.0], steps=STEPS, layer="")
    assert empty.verdict("grokking", "").status == "undetermined"


def test_no_delay_and_no_generalisation_are_out_of_regime(grokked):
    grokked.record("train_accuracy", [0.03, 0.1, 0.3, 0.4, 0.99, 1], steps=STEPS)
    assert grokked.verdict("grokking").status == "out of regime"
    grokked.record("test_accuracy", 0.03, steps=STEPS)
    assert "never generalised" in grokked.verdict("grokking").sentence
    grokked.forget("test_accuracy")
    assert grokked.verdict("grokking").status == "undetermined"
