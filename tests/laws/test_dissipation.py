"""The fitted fluctuation–dissipation relation."""

import pytest


@pytest.fixture
def balanced(empty):
    """Residual 0.7 at initialisation, 0.15 at the end; Z alone leaves 0.25."""
    for side, whole, alone in (("b", "H", "rwa_b_residual"), ("a", "G", "gwa_a_residual")):
        empty.record(f"fdt_{side}_residual", [0.7, 0.15], stderr=0.01)
        empty.record(f"fdt_{side}_weight", 1.3).record(f"fdt_{side}_noise", 0.0)
        empty.record(f"participation_{whole}_{side}", 8.0).record(alone, [0.8, 0.25])
    return empty


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_small_residual_that_fell_holds(balanced, side):
    found = balanced.verdict(f"fdt_{side}")
    assert found.status == "holds"
    assert found.null == pytest.approx((1 - 8 / {"a": 64, "b": 32}[side]) ** 0.5)
    assert "Z alone leaves 0.25" in found.sentence


def test_a_large_residual_violates(balanced):
    assert balanced.record("fdt_b_residual", [0.9, 0.58]).verdict("fdt_b").status == "violated"


def test_a_residual_small_from_the_start_is_trivial(balanced):
    assert balanced.record("fdt_b_residual", [0.16, 0.15]).verdict("fdt_b").status == (
        "out of regime"
    )


def test_an_isotropic_layer_has_nothing_to_explain(balanced):
    found = balanced.record("participation_H_b", 31.5).verdict("fdt_b")
    assert found.status == "violated"
    assert "null 0.12" in found.sentence


def test_too_few_rows_and_other_optimisers(balanced):
    assert balanced.record("samples", 40).verdict("fdt_b").status == "undetermined"
    balanced.record("samples", 1024).manifest["optimizer"] = {"class": "Adam", "groups": []}
    assert balanced.verdict("fdt_b").status == "out of regime"
