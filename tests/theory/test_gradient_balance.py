"""Gradient balance: the orbit has one balanced point, and a network relaxes to it at this rate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lawful.theory import noise_equilibrium as ne
from lawful.theory.gradient_balance import Balance

square = st.floats(0.01, 100)


@given(square, square, square, square, st.floats(0, 1))
def test_the_balanced_point_of_the_orbit(p, q, v, w, decay):
    pair = Balance(p, q, v, w, eta=0.1, weight_decay=decay)
    c = pair.balancing_scale
    there = pair.scaled(c)
    assert there.noise == pytest.approx(there.decay, abs=1e-9 * there.pull)
    for factor in (0.9, 1.1):  # more noise than decay where layer i is too small, and less beyond
        off = pair.scaled(c * factor)
        assert (off.noise > off.decay) == (factor < 1)


@given(square, square, square, square, st.floats(0, 1))
def test_it_is_the_noise_equilibrium_of_a_rescaling(p, q, v, w, decay):
    pair = Balance(p, q, v, w, eta=0.01, weight_decay=decay)
    shift = ne.equilibrium_two_signs(v, w, p, q, eta=0.01, batch=1, weight_decay=decay)
    assert np.log(pair.balancing_scale) == pytest.approx(shift, abs=2e-3)  # κ = 2λ − ηλ²
    rate = 1 / ne.relaxation_steps(ne.two_signs(v, w, p, q), eta=0.01, batch=1, weight_decay=decay)
    assert 1 / pair.relaxation_steps == pytest.approx(rate, rel=6e-3)


def test_nothing_pulls():
    still = Balance(0, 0, 1, 2, eta=0.1)
    assert still.relaxation_steps == float("inf")
    assert np.isnan(still.balancing_scale)
    with pytest.raises(ValueError, match="negative"):
        Balance(-1, 0, 1, 2, eta=0.1)
