"""Rules of growth: identities at the base, products that must not move, depth at initialisation."""

import math

import pytest
import torch

from lawful.theory.parametrization import (
    Factors,
    Growth,
    branch_factor,
    depth_growth,
    maximal,
    ntk,
)

SIDES = {
    "input": Growth(1, 8),
    "hidden": Growth(8, 8),
    "output": Growth(8, 1),
    "fixed": Growth(1, 1),
}


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_nothing_changes_at_the_base(optimizer):
    assert maximal(Growth(1, 1), optimizer) == ntk(Growth(1, 1), optimizer) == Factors(1, 1, 1, 1)


@pytest.mark.parametrize("side", SIDES)
def test_the_published_table(side):
    init = {"input": 1, "hidden": 8**-0.5, "output": 1 / 8, "fixed": 1}
    adam = {"input": 1, "hidden": 1 / 8, "output": 1 / 8, "fixed": 1}
    sgd = {"input": 8, "hidden": 1, "output": 1 / 8, "fixed": 1}
    growth = SIDES[side]
    assert maximal(growth, "adam").init == pytest.approx(init[side])
    assert maximal(growth, "adam").rate == pytest.approx(adam[side])
    assert maximal(growth, "sgd").rate == pytest.approx(sgd[side])
    for optimizer in ("adam", "sgd"):
        f = maximal(growth, optimizer)
        assert f.rate * f.decay == pytest.approx(1)


def test_spectral_form():
    """Gaussian weights of fan-in n, fan-out m have norm σ(√n + √m): μP keeps it near √(m/n)."""
    for a, b in ((4, 4), (1, 4), (4, 1), (8, 2)):
        base = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) / 8
        wide = torch.randn(64 * b, 64 * a, generator=torch.Generator().manual_seed(0)) / 8
        norm = torch.linalg.matrix_norm(wide * maximal(Growth(a, b), "sgd").init, 2)
        ratio = norm / torch.linalg.matrix_norm(base, 2)
        assert 0.5 < ratio / math.sqrt(b / a) < 1.2


def test_depth():
    inside = maximal(Growth(2, 2), "adam", depth=4, alpha=0.5)
    assert (inside.rate, inside.eps, inside.decay) == (0.25, 0.25, 2)
    assert maximal(Growth(1, 1), "adam", depth=4, alpha=1).rate == 1
    assert maximal(Growth(1, 1), "sgd", depth=4, alpha=1).rate == 4
    assert branch_factor(16, 1.0) == 1 / 16


def test_growth_of_a_residual_stream_at_initialisation():
    """h ← h + W h/√L, W Gaussian: as the formula says, to the error of 16 draws."""
    draw = torch.Generator().manual_seed(0)
    layers, width = 16, 128
    h = torch.randn(64, width, generator=draw)
    before = h.square().sum()
    for _ in range(layers):
        W = torch.randn(width, width, generator=draw) / width**0.5
        h = h + layers**-0.5 * h @ W.T
    assert float(h.square().sum() / before) == pytest.approx(depth_growth(layers, 0.5), rel=0.1)
    assert depth_growth(10_000, 0.5) == pytest.approx(math.e, rel=1e-3)
    assert depth_growth(10_000, 1.0) == pytest.approx(1, abs=1e-3)


def test_what_has_no_rule_is_refused():
    with pytest.raises(ValueError, match="'adam' and 'sgd'"):
        maximal(Growth(1, 1), "lion")
    with pytest.raises(ValueError, match="'adam' and 'sgd'"):
        ntk(Growth(1, 1), "lion")
    with pytest.raises(ValueError, match="fan_in=0"):
        Growth(0, 1)
