"""Solvable theory: measured beside predicted, in each way a law can answer."""

import pytest

from lawful.laws import select

SLOPES = {
    "lazy_weight_change": ("alpha_slope_weight_change", -1.0),
    "lazy_ntk_change": ("alpha_slope_ntk_change", -1.0),
    "lazy_ntk_turn": ("alpha_slope_ntk_turn", -2.0),
    "wide_ntk_deviation": ("width_slope_ntk_deviation", -0.5),
    "wide_ntk_change": ("width_slope_ntk_change", -1.0),
    "wide_feature_change": ("width_slope_feature_change", -0.5),
    "wide_kernel_distance": ("width_slope_kernel_distance", -0.5),
}
RATIOS = {
    "kernel_generalization": ("kernel_test_error", 0.02, {"pool_share": 0.0}),
    "kernel_train": ("kernel_train_error", 0.02, {"pool_share": 0.0}),
    "kernel_generalization_pool": ("kernel_test_error", 0.10, {"pool_share": 0.1}),
    "mode_half_time": ("half_time", 0.025, {"input_condition": 1.0, "start_scale": 1e-3}),
    "double_descent": ("excess_risk", 0.03, {"parameter_ratio": 2.0}),
}
OUTSIDE = {
    "kernel_generalization": {"pool_share": 0.1},
    "kernel_train": {"pool_share": 0.1},
    "kernel_generalization_pool": {"pool_share": 0.4},
    "mode_half_time": {"start_scale": 0.05},
    "double_descent": {"parameter_ratio": 1.05},
}


def test_the_family_is_complete():
    names = {law.name for law in select("solvable")}
    assert {*SLOPES, *RATIOS, "mode_dynamics", "sequential_stages", "lazy_linear"} <= names


@pytest.fixture(params=SLOPES)
def slope(request, empty):
    quantity, said = SLOPES[request.param]
    empty.record(f"{quantity}_predicted", said, layer="case", stderr=0.0)
    empty.record("smooth", 1.0, layer="case").record("sweep_span", 16.0, layer="case")

    def measure(value, stderr=0.01):
        return empty.record(quantity, value, layer="case", stderr=stderr).verdict(
            request.param, "case"
        )

    return empty, measure, said, request.param


def test_slopes(slope):
    world, measure, said, name = slope
    assert measure(said + 0.05).status == "holds"
    assert measure(said + 0.4).status == "violated"
    assert measure(said + 0.1, stderr=0.5).status == "undetermined"
    world.record("sweep_span", 4.0, layer="case")
    assert measure(said).status == "out of regime"
    world.record("sweep_span", 16.0, layer="case").record("smooth", 0.0, layer="case")
    assert measure(said).status == ("out of regime" if name.startswith("lazy") else "holds")


@pytest.mark.parametrize("law", RATIOS)
def test_ratios(law, empty):
    quantity, tolerance, facts = RATIOS[law]
    empty.record(f"{quantity}_predicted", 2.0, layer="case", stderr=0.0)
    for fact, value in facts.items():
        empty.record(fact, value, layer="case", stderr=0.0)

    def measure(ratio, stderr=1e-4):
        return empty.record(quantity, 2.0 * ratio, layer="case", stderr=stderr).verdict(law, "case")

    assert measure(1 + 0.5 * tolerance).status == "holds"
    assert measure(1 - 3 * tolerance).status == "violated"
    assert measure(1 + tolerance, stderr=tolerance).status == "undetermined"
    for fact, value in OUTSIDE[law].items():
        empty.record(fact, value, layer="case", stderr=0.0)
    assert measure(1.0).status == "out of regime"
    empty.forget(*OUTSIDE[law])
    assert measure(1.0).status == "undetermined"


def test_modes(empty):
    empty.record("mode_error_bound", 0.01, layer="mode 0", stderr=0.0)
    empty.record("input_condition", 1.0, layer="mode 0", stderr=0.0)
    empty.record("mode_reached", 0.9, layer="mode 0", stderr=0.0)
    for error, status in ((0.014, "holds"), (0.016, "violated")):
        empty.record("mode_error", error, layer="mode 0", stderr=0.0)
        assert empty.verdict("mode_dynamics", "mode 0").status == status
    empty.record("mode_reached", 0.4, layer="mode 0", stderr=0.0)
    early = empty.verdict("mode_dynamics", "mode 0")
    assert early.status == "undetermined"
    assert "0.40 of its strength" in early.sentence
    empty.record("input_condition", 2.0, layer="mode 0", stderr=0.0)
    assert empty.verdict("mode_dynamics", "mode 0").status == "out of regime"


@pytest.mark.parametrize(("seen", "status"), [(3.0, "holds"), (2.0, "violated")])
def test_stages(empty, seen, status):
    empty.record("separate_stages", seen, layer="small", stderr=0.0)
    empty.record("separate_stages_predicted", 3.0, layer="small", stderr=0.0)
    empty.record("input_condition", 1.0, layer="small", stderr=0.0)
    assert empty.verdict("sequential_stages", "small").status == status


@pytest.mark.parametrize(
    ("kernel", "distance", "status"),
    [
        (0.02, 0.01, "holds"),
        (0.02, 0.4, "violated"),
        (0.5, 0.4, "out of regime"),
        (0.02, float("nan"), "undetermined"),
    ],
)
def test_lazy_is_linear(empty, kernel, distance, status):
    empty.record("linearisation_distance", distance, layer="", stderr=0.0)
    empty.record("ntk_change", kernel, layer="", stderr=0.0)
    assert empty.verdict("lazy_linear", "").status == status
