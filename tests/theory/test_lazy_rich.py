"""Regimes and exponents; that ρ falls as 1/α is checked where it is measured."""

import pytest

from lawful.theory.lazy_rich import LAZY, SLOPES, rate_exponent, regime, scale_to_be_lazy


def test_scaling_by_what_is_asked_makes_it_lazy():
    rho = 3.7
    alpha = scale_to_be_lazy(rho)
    assert regime(rho) == "rich"
    assert rho / alpha == pytest.approx(LAZY)
    assert regime(rho / (1.01 * alpha)) == "lazy"


def test_a_turn_is_of_second_order():
    assert SLOPES["ntk_turn"] == 2 * SLOPES["ntk_change"]


def test_best_rates_grow_slower_in_deep_rich_networks():
    assert rate_exponent(0.5, 1) == rate_exponent(2.0, 1)
    assert rate_exponent(2.0, 4) < rate_exponent(0.5, 4)


def test_a_ratio_that_is_no_number_has_no_regime():
    with pytest.raises(ValueError, match="nonlinearity=nan"):
        regime(float("nan"))
