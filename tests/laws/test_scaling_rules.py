"""Scaling rules: paired runs that follow a rule, follow another, or take steps too large."""

import math

import pytest

LINEAR = {"batch_ratio": 8.0, "rate_ratio": 8.0, "rate_curvature": 0.2, "scaling_error": 0.01}
ROOT = {
    "batch_ratio": 4.0, "rate_ratio": 2.0, "rate_curvature_adam": 0.1, "scaling_error": 0.05,
    "signal_to_noise": 0.2,
}  # fmt: skip


def judged(world, law, numbers, floor=0.0, **changed):
    for name, value in (numbers | {"scaling_error_floor": floor} | changed).items():
        world.record(name, value, layer="pair", stderr=0.0, steps=(640,), n=1)
    return world.verdict(law, "pair")


@pytest.mark.parametrize(("law", "numbers"), [("linear_scaling", LINEAR), ("root_scaling", ROOT)])
def test_a_rule_holds_is_violated_or_hidden_by_chance(empty, law, numbers):
    tolerance = {"linear_scaling": 0.02, "root_scaling": 0.1}[law]
    found = judged(empty, law, numbers)
    assert found.status == "holds", found.sentence
    assert found.effect == numbers["scaling_error"]
    assert judged(empty, law, numbers, scaling_error=2 * tolerance).status == "violated"
    chance = judged(empty, law, numbers, scaling_error=2 * tolerance, floor=1.5 * tolerance)
    assert chance.status == "undetermined"
    assert "by chance" in chance.sentence
    assert judged(empty, law, numbers, scaling_error=math.nan).status == "undetermined"


@pytest.mark.parametrize(
    ("law", "numbers", "changed", "says"),
    [
        ("linear_scaling", LINEAR, {"rate_curvature": 0.5}, "too large a step"),
        ("linear_scaling", LINEAR, {"rate_ratio": 8**0.5}, "a control: the rate was multiplied"),
        ("linear_scaling", LINEAR, {"batch_ratio": 1.0, "rate_ratio": 1.0}, "same batch size"),
        ("root_scaling", ROOT, {"rate_ratio": 4.0}, "the rule says 2"),
        ("root_scaling", ROOT, {"signal_to_noise": 3.0}, "not mostly noise"),
        ("root_scaling", ROOT, {"rate_curvature_adam": 0.9}, "too large a step"),
    ],
)
def test_out_of_regime(empty, law, numbers, changed, says):
    found = judged(empty, law, numbers, scaling_error=1.0, **changed)
    assert found.status == "out of regime"
    assert says in found.sentence


def test_a_rule_whose_validity_was_not_recorded_is_undetermined(empty):
    assert judged(empty, "root_scaling", ROOT).status == "holds"
    found = empty.forget("signal_to_noise").verdict("root_scaling", "pair")
    assert found.status == "undetermined"
    assert "not recorded" in found.sentence
