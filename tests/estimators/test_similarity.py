"""Similarity against its definitions written out, all pairings of few samples, and repetition."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lawful.estimators.similarity import (
    Similarity,
    canonical_correlations,
    cca,
    cka,
    hsic,
    most_alike,
    mutual_neighbours,
)

seeds = st.integers(0, 10_000)
MEASURES = {
    "cka": cka,
    "cca": cca,
    "neighbours": lambda X, Y: mutual_neighbours(X, Y, 3),
}
everywhere = pytest.mark.parametrize("name", list(MEASURES))


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def alike(seed: int, n: int, shared: float, d: int = 5, e: int = 4) -> tuple[Tensor, Tensor]:
    """X and Y see the same hidden variable, Y through noise; the maps are those of every seed."""
    z = draw(seed, n, 4)
    X = z @ draw(1, 4, d) + 0.1 * draw(seed + 10_000, n, d)
    hidden = shared * z + math.sqrt(1 - shared**2) * draw(seed + 20_000, n, 4)
    return X, hidden @ draw(2, 4, e)


# -- definitions --------------------------------------------------------------------------------


def test_hsic_is_the_mean_over_four_different_samples() -> None:
    K, L = (x @ x.T for x in (draw(0, 6, 2), draw(1, 6, 3)))
    terms = [
        K[i, j] * (L[i, j] + L[q, r] - 2 * L[i, q]) for i, j, q, r in permutations(range(6), 4)
    ]
    hollow = [M.clone().fill_diagonal_(0)[None] for M in (K, L)]
    assert float(hsic(*hollow)) == pytest.approx(float(torch.stack(terms).mean()))


def test_plugin_cka_is_that_of_features() -> None:
    X, Y = alike(0, 30, 0.8)
    x, y = X - X.mean(0), Y - Y.mean(0)
    direct = (x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm())
    assert cka(X, Y).plugin == pytest.approx(float(direct))


def test_neighbours_one_sample_at_a_time() -> None:
    X, Y = alike(0, 20, 0.8)
    common = 0
    for i in range(20):
        near = []
        for M in (X, Y):
            cosines = torch.nn.functional.cosine_similarity(M, M[i : i + 1])
            cosines[i] = -2
            near.append(set(cosines.argsort(descending=True)[:3].tolist()))
        common += len(near[0] & near[1])
    found = mutual_neighbours(X, Y, 3)
    assert found.plugin == pytest.approx(common / 60)
    assert found.value == pytest.approx((common / 60 - 3 / 19) / (1 - 3 / 19))


def test_canonical_correlations_of_known_ones() -> None:
    """Eigenvalues of S_xx⁻¹ S_xy S_yy⁻¹ S_yx are ρ²."""
    X, Y = alike(0, 40, 0.6, d=3, e=2)
    x, y = X - X.mean(0), Y - Y.mean(0)
    A = torch.linalg.solve(x.T @ x, x.T @ y) @ torch.linalg.solve(y.T @ y, y.T @ x)
    want = torch.linalg.eigvals(A).real.sort(descending=True).values[:2]
    torch.testing.assert_close(canonical_correlations(X, Y).square(), want)


# -- chance -------------------------------------------------------------------------------------


def test_chance_is_the_mean_over_all_pairings() -> None:
    """All 120 orders of five samples: plug-ins average to `chance`, HSIC_u and values to 0."""
    X, Y = draw(0, 5, 3) + 1, draw(1, 5, 2)
    orders = [list(order) for order in permutations(range(5))]
    hollow = [(M @ M.T).fill_diagonal_(0)[None] for M in (X, Y)]
    products = [float(hsic(hollow[0], hollow[1][:, o][:, :, o])) for o in orders]
    assert np.mean(products) == pytest.approx(0, abs=1e-12)
    for measure in MEASURES.values():
        found = [measure(X, Y[order]) for order in orders]
        assert np.mean([s.plugin for s in found]) == pytest.approx(found[0].chance, abs=1e-10)
        assert np.mean([s.value for s in found]) == pytest.approx(0, abs=1e-10)


def test_wide_unrelated_layers_look_alike_to_the_plugin_only() -> None:
    found = [cka(draw(2 * i, 64, 512), draw(2 * i + 1, 64, 512)) for i in range(10)]
    assert np.mean([s.plugin for s in found]) == pytest.approx(8 / 9, abs=0.01)
    assert np.mean([s.chance for s in found]) == pytest.approx(8 / 9, abs=0.02)
    assert np.mean([s.value for s in found]) == pytest.approx(0, abs=0.01)


@everywhere
@pytest.mark.parametrize("shared", [0.0, 0.7])
def test_errors_are_those_of_repetition(name: str, shared: float) -> None:
    """Smooth ones within a third of it; at chance, and for neighbours, too wide, up to twice."""
    found = [MEASURES[name](*alike(i, 100, shared)) for i in range(60)]
    spread = np.std([s.value for s in found], ddof=1)
    told = math.sqrt(np.mean([s.stderr**2 for s in found]))
    low, high = (0.95, 2) if name == "neighbours" or shared == 0 else (0.7, 1.4)
    assert low < told / spread < high


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8])
def test_adjusted_squares_are_low_by_what_is_said(rho: float) -> None:
    """Three equal canonical correlations ρ, 60 samples: ρ² − ρ²(1 − ρ²)·4/60."""
    found = []
    for seed in range(300):
        X, noise = draw(seed, 60, 3), draw(seed + 1000, 60, 3)
        found.append(cca(X, rho * X + math.sqrt(1 - rho**2) * noise).value)
    error = float(np.std(found)) / 300**0.5
    assert np.mean(found) == pytest.approx(rho**2 * (1 - (1 - rho**2) * 4 / 60), abs=4 * error)


# -- what must not matter -----------------------------------------------------------------------


@everywhere
@settings(max_examples=20, deadline=None)
@given(seed=seeds, scale=st.floats(0.1, 10))
def test_turned_scaled_swapped_and_reordered(name: str, seed: int, scale: float) -> None:
    measure = MEASURES[name]
    X, Y = alike(seed, 40, 0.7)
    turn = torch.linalg.qr(draw(seed, 5, 5)).Q
    order = torch.randperm(40, generator=torch.Generator().manual_seed(seed))
    want = measure(X, Y)
    for x, y in ((scale * X @ turn, Y), (Y, X), (X[order], Y[order])):
        got = measure(x, y)
        assert got.value == pytest.approx(want.value, abs=1e-9)
        assert got.plugin == pytest.approx(want.plugin, abs=1e-9)
        assert got.chance == pytest.approx(want.chance, abs=1e-9)


@everywhere
def test_equals_are_one(name: str) -> None:
    X = draw(0, 50, 5)
    same = MEASURES[name](X, X @ torch.linalg.qr(draw(1, 5, 5)).Q)
    assert (same.value, same.plugin) == (pytest.approx(1), pytest.approx(1))
    assert same.stderr == pytest.approx(0, abs=1e-9)


def test_any_invertible_map_keeps_canonical_correlations() -> None:
    X, Y = alike(0, 40, 0.7)
    there = cca(X @ draw(3, 5, 5) + 4, Y)
    assert there.value == pytest.approx(cca(X, Y).value)
    doubled = cca(torch.cat([X, X], 1), Y)
    assert doubled.value == pytest.approx(cca(X, Y).value)


# -- searches -----------------------------------------------------------------------------------


def test_a_search_among_unrelated_layers_is_rarely_sure() -> None:
    p = []
    for seed in range(100):
        X, Y = ([draw(8 * seed + i + s, 30, 6) for i in range(4)] for s in (0, 4))
        p.append(most_alike(X, Y, torch.Generator().manual_seed(seed), draws=39).p)
    assert np.mean(np.array(p) <= 0.05) <= 0.12  # 5 ± 2.2 of 100 expected
    assert np.mean(p) == pytest.approx(0.5, abs=0.1)


def test_a_search_finds_the_layers_that_are_alike() -> None:
    X, Y = alike(0, 60, 0.9)
    found = most_alike([draw(5, 60, 4), X], [Y, draw(6, 60, 3)], torch.Generator().manual_seed(0))
    assert found.layers == (1, 0)
    assert found.p == pytest.approx(1 / 200)
    assert found.value == pytest.approx(cka(X, Y).value)
    assert found.value > found.level > 0


# -- where nothing can be said ------------------------------------------------------------------


def unknown(s: Similarity) -> bool:
    return math.isnan(s.value) and math.isnan(s.stderr)


@pytest.mark.parametrize("name", ["cka", "cca"])
def test_no_answer_is_made_up(name: str) -> None:
    measure, X = MEASURES[name], draw(0, 30, 4)
    assert unknown(measure(X[:3], X[:3]))
    assert unknown(measure(X, torch.full((30, 2), 0.1)))
    assert unknown(measure(X, torch.where(torch.arange(30)[:, None] == 2, math.nan, X)))
    assert unknown(measure(X, torch.where(torch.arange(30)[:, None] == 2, math.inf, X)))


def test_a_layer_as_wide_as_the_samples_are_many_contains_all_others() -> None:
    wide = cca(draw(0, 20, 30), draw(1, 20, 3))
    assert unknown(wide)
    assert (wide.plugin, wide.chance) == (pytest.approx(1), pytest.approx(1))


def test_neighbours_of_what_is_not_finite_are_unknown() -> None:
    X = draw(0, 30, 4)
    assert unknown(mutual_neighbours(X, X * math.nan))
    assert math.isnan(mutual_neighbours(X[:12], X[:12], 10).stderr)


def test_arguments_are_checked() -> None:
    X, some = draw(0, 30, 4), torch.Generator()
    with pytest.raises(ValueError, match=r"same n samples, got \(30, 4\) and \(29, 4\)"):
        cka(X, X[1:])
    with pytest.raises(ValueError, match="average the positions"):
        cca(X.view(5, 6, 4), X)
    for k in (0, 29):
        with pytest.raises(ValueError, match="give a k from 1 to 28"):
            mutual_neighbours(X, X, k)
    for layers in ([], [X * 0], [X * math.nan], [X[:3]]):
        with pytest.raises(ValueError, match="at least one layer a side"):
            most_alike(layers, [X[:3] if layers and len(layers[0]) == 3 else X], some)
