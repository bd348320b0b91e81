"""Readings: the numbers of the estimators under the names of the vocabulary."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from lawful.estimators import alignment, nulls
from lawful.estimators.alignment import PAIRS, Side
from lawful.estimators.linear_map import Canonical, canonical, output_side
from lawful.estimators.moments import Moments, moments
from lawful.instruments.readings import (
    VIEW,
    Depth,
    Label,
    alignment_readings,
    deeper_readings,
    exponent_readings,
    permutation_readings,
    view,
)
from lawful.record import RELATIONS, VOCABULARY, Measurement
from lawful.theory import fluctuation_dissipation as fd

LABEL = Label(step=5, layer="fc", n=40)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer(n: int = 40, T: int = 1, d_a: int = 5, d_b: int = 4) -> tuple[Moments, Canonical]:
    h = draw(n, T, d_a, seed=1) + 0.5
    W, bias = draw(d_b, d_a, seed=2), draw(d_b, seed=3)
    g = 0.5 * (h @ W.T) + draw(n, T, d_b, seed=4)
    m = moments(h, g)
    return m, canonical(m, W, bias)


def named(rows: Iterable[Measurement]) -> dict[str, Measurement]:
    rows = list(rows)
    table = {m.quantity: m for m in rows}
    assert len(table) == len(rows)  # no quantity twice
    return table


def read(c: Canonical) -> dict[str, Measurement]:
    return named(alignment_readings(LABEL, c.sides()))


# -- alignment ----------------------------------------------------------------------------------


def test_every_relation_in_every_variant_under_a_known_name() -> None:
    _, c = layer()
    table = read(c)
    for relation in RELATIONS:
        for suffix in ("", "_plugin", "_centred", "_tracefree", "_residual", "_haar"):
            assert math.isfinite(table[relation + suffix].value)
        for suffix in ("", "_centred", "_tracefree", "_residual"):
            assert table[relation + suffix].stderr > 0
    assert set(table) <= set(VOCABULARY)
    assert {(m.step, m.layer, m.n) for m in table.values()} == {(5, "fc", 40)}


def test_values_are_those_of_the_estimators() -> None:
    _, c = layer()
    table = read(c)
    for name, side in (("a", c.a), ("b", c.b)):
        f, centred = alignment.forms(side)
        pearson = alignment.products(f, "pearson")
        for relation, pair in PAIRS.items():
            e = alignment.correlation(pearson, pair)
            m = table[f"{relation}_{name}"]
            assert (m.value, m.stderr) == (e.value, e.stderr)
            A, B = (side.M[i] for i in pair)
            plugin = table[f"{relation}_{name}_plugin"].value
            assert plugin == pytest.approx(alignment.pearson(A, B))
            mean_a, mean_b = (side.means[i] for i in pair)
            without = alignment.pearson(
                A - torch.outer(mean_a, mean_a), B - torch.outer(mean_b, mean_b)
            )
            of_centred = alignment.correlation(alignment.products(centred, "pearson"), pair)
            assert of_centred.plugin == pytest.approx(without)
            assert table[f"{relation}_{name}_centred"].value == of_centred.value
        PR = [alignment.participation(f, i).value for i in range(3)]
        for relation, (i, j) in PAIRS.items():
            expected = math.sqrt(PR[i] * PR[j]) / f.d
            assert table[f"{relation}_{name}_haar"].value == pytest.approx(expected)
        assert table[f"participation_H_{name}"].value == PR[0]
        assert table[f"participation_G_{name}"].value == PR[1]
    assert table["participation_Z"].value == pytest.approx(PR[2])


def test_traces_with_the_error_of_a_mean() -> None:
    m, c = layer()
    table = read(c)
    norms = m.kept_h.square().sum((1, 2))
    assert table["trace_H_a"].value == pytest.approx(float(norms.mean()))
    assert table["trace_H_a"].stderr == pytest.approx(float(norms.std()) / math.sqrt(40))
    assert table["trace_G_b"].value == pytest.approx(float(m.G.trace()) / 40)


def test_effective_samples_are_those_of_the_worse_side() -> None:
    _, c = layer(n=200)
    assert read(c)["effective_samples"].value == pytest.approx(200)
    h, g = (x.expand(200, 6, -1) for x in (draw(200, 1, 5, seed=5), draw(200, 1, 4, seed=6)))
    repeated = canonical(moments(h, g), c.W)  # six equal rows are one
    assert read(repeated)["effective_samples"].value == pytest.approx(200)


def test_an_embedding_has_an_output_side_only() -> None:
    m = moments(draw(30, 4, seed=7), draw(30, 4, seed=8))
    table = named(alignment_readings(LABEL, [("b", output_side(m, torch.eye(4).double()))]))
    assert not [q for q in table if "_a" in q.replace("_alignment", "")]
    assert {"rga_b", "participation_Z", "trace_G_b", "fdt_b_residual"} <= set(table)


# -- fluctuation–dissipation --------------------------------------------------------------------


def test_fitted_relation_is_the_fit_of_the_matrices_when_samples_abound() -> None:
    _, c = layer(n=20_000)
    table = read(c)
    b = fd.fit(c.b.M[0], c.b.M[2], c.b.M[1])
    a = fd.fit(c.a.M[1], c.a.M[2], c.a.M[0])
    for side, exact in (("b", b), ("a", a)):
        assert table[f"fdt_{side}_residual"].value == pytest.approx(exact.residual, abs=2e-3)
        assert table[f"fdt_{side}_weight"].value == pytest.approx(exact.weight, abs=5e-3)
        assert table[f"fdt_{side}_noise"].value == pytest.approx(exact.noise, rel=5e-3, abs=5e-3)


def test_error_of_the_fitted_residual_is_calibrated() -> None:
    """Mean error over spread of 300 repetitions, both coefficients positive."""
    generator = torch.Generator().manual_seed(9)
    W = draw(4, 5, seed=20)
    values, errors = [], []
    for _ in range(300):
        h, z = (torch.randn(300, 5, generator=generator, dtype=torch.float64) for _ in range(2))
        g = (0.3 * h + 0.5 * z) @ (W + 1.0).T
        table = read(canonical(moments(h * torch.arange(1, 6), g), W))
        assert min(table["fdt_b_weight"].value, table["fdt_b_noise"].value) > 0
        values.append(table["fdt_b_residual"].value)
        errors.append(table["fdt_b_residual"].stderr)
    assert np.mean(errors) / np.std(values, ddof=1) == pytest.approx(1, abs=0.15)


# -- where nothing can be said ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("what", ["one sample", "dead output", "dead input", "no weights"])
def test_degenerate_layers_are_nan_without_a_warning(what: str, dtype: torch.dtype) -> None:
    n = 1 if what == "one sample" else 20
    h, g, W = (draw(*s, seed=11).to(dtype) for s in ((n, 5), (n, 4), (4, 5)))
    h, g, W = h * (what != "dead input"), g * (what != "dead output"), W * (what != "no weights")
    m = moments(h, g)
    c = canonical(m, W)
    table = read(c)
    assert math.isnan(table["rga_b"].value)
    assert math.isnan(table["rga_b"].stderr)
    assert math.isnan(table["rga_a_haar"].value)
    assert "effective_samples" not in table
    readings, arrays = deeper_readings(LABEL, m, c, Depth.SPECTRA, seed=0)
    assert math.isnan(named(readings)["exponent_p"].value)
    assert named(readings)["directions"].value == 0
    assert arrays["singular_values"].shape == (4,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_output_neuron(dtype: torch.dtype) -> None:
    """A regression head: side b is one number, about which no alignment can be said."""
    h, g, W = (draw(*s, seed=12).to(dtype) for s in ((30, 5), (30, 1), (1, 5)))
    m = moments(h, g)
    c = canonical(m, W)
    table = read(c)
    for relation in PAIRS:
        for suffix in ("", "_plugin", "_centred", "_tracefree"):
            assert math.isnan(table[f"{relation}_b{suffix}"].value)
    assert math.isfinite(table["rga_a"].value)
    readings, arrays = deeper_readings(LABEL, m, c, Depth.SPECTRA, seed=0)
    assert not [q for q in named(readings) if q.endswith("_b_permutation")]
    assert arrays["view"].shape == (6, VIEW, VIEW)


# -- spectra ------------------------------------------------------------------------------------


def test_exponents_built_into_the_samples_are_read_back() -> None:
    """H_a ~ s², G_b ~ s along the singular directions of W: p = 2, q = 1."""
    U, V = (torch.linalg.qr(draw(12, 12, seed=s))[0] for s in (13, 14))
    s = torch.logspace(0, -1.2, 12, dtype=torch.float64)
    h, g = draw(3000, 12, seed=15) * s @ V.T, draw(3000, 12, seed=16) * s.sqrt() @ U.T
    m = moments(h, g)
    readings, arrays = deeper_readings(
        Label(0, "fc", 3000), m, canonical(m, (U * s) @ V.T), Depth.SPECTRA, seed=0
    )
    table = named(readings)
    for name, expected in (("exponent_p", 2), ("exponent_q", 1)):
        assert table[name].value == pytest.approx(expected, abs=4 * table[name].stderr)
        assert 0.001 < table[name].stderr < 0.05
    assert table["directions"].value == 12
    assert table["decades"].value == pytest.approx(2.4)
    assert table["rank_W"].value == 12
    np.testing.assert_allclose(arrays["singular_values"], s, rtol=1e-5)
    np.testing.assert_allclose(arrays["power_H_a"], s**2, rtol=0.15)


def test_exponents_alone_are_those_among_the_spectra() -> None:
    m, c = layer()
    alone, arrays = exponent_readings(LABEL, m, c.W, seed=3)
    table = named(deeper_readings(LABEL, m, c, Depth.SPECTRA, seed=3)[0])
    assert {"exponent_p", "exponent_q", "directions", "rank_W"} <= set(named(alone))
    assert all(repr(table[x.quantity]) == repr(x) for x in alone)
    assert set(arrays) == {"singular_values", "power_H_a", "power_G_b"}


def test_spectra_are_falling_eigenvalues_in_single_precision() -> None:
    m, c = layer()
    readings, arrays = deeper_readings(LABEL, m, c, Depth.SPECTRA, seed=0)
    for name, M in (("H_a", c.a.M[0]), ("G_a", c.a.M[1]), ("H_b", c.b.M[0]), ("G_b", c.b.M[1])):
        spectrum = arrays[f"spectrum_{name}"]
        assert spectrum.dtype == np.float32
        assert (np.diff(spectrum) <= 0).all()
        assert spectrum.sum() == pytest.approx(float(M.trace()), rel=1e-5)
    assert set(named(readings)) | set(arrays) <= set(VOCABULARY)
    assert {f"{r}_permutation" for r in RELATIONS} <= set(named(readings))
    assert all(VOCABULARY[name].array for name in arrays)


def test_what_is_deeper_holds_everything_before_it() -> None:
    h, g = draw(200, 6, seed=21), draw(200, 5, seed=22)
    m = moments(h, g)
    taken = [
        deeper_readings(LABEL, m, canonical(m, draw(5, 6, seed=23)), depth, seed=0)
        for depth in Depth
    ]
    for (less, arrays), (more, further) in pairwise(taken):
        assert {(r.quantity, r.value) for r in less} < {(r.quantity, r.value) for r in more}
        assert set(arrays) <= set(further)
    assert taken[0] == ([], {})


def test_same_seed_same_readings_and_the_global_generator_rests() -> None:
    m, c = layer()
    state = torch.get_rng_state()
    first, second, other = (
        deeper_readings(LABEL, m, c, Depth.SPECTRA, seed=s)[0] for s in (1, 1, 2)
    )
    assert repr(first) == repr(second) != repr(other)
    assert torch.equal(torch.get_rng_state(), state)


def bars(side: Side, seed: int = 0) -> dict[str, float]:
    generator = torch.Generator().manual_seed(seed)
    return {m.quantity: m.value for m in permutation_readings(LABEL, "b", side, generator)}


def test_permutation_bar_is_passed_by_one_relabelling_in_a_hundred() -> None:
    """Unrelated matrices stay under their own bar, a matrix and itself pass it."""
    h, g = (draw(160, 40, seed=s) * draw(40, seed=s + 2).exp() for s in (17, 18))
    m = moments(h, g)
    side = output_side(m, m.H)
    bar, M = bars(side), side.M
    assert alignment.pearson(M[0], M[1]) < bar["rga_b_permutation"] < 1
    assert alignment.pearson(M[0], M[2]) > bar["rwa_b_permutation"]
    one = moments(h[:, :1], g[:, :1])
    assert bars(output_side(one, one.H)) == {}


def test_permutation_bar_knows_no_sampling_noise() -> None:
    """From four rows a dimension the bar is that of the matrices themselves; plug-in it is low."""
    d = 40
    scales = torch.stack([(draw(d, seed=seed) / 2).exp() for seed in (1, 2, 3)])  # of h, g and Z
    exact = torch.stack([torch.diag(scale**2) for scale in scales])
    sample = nulls.permutation_null(exact, list(PAIRS.values()), 4000,
                                    torch.Generator().manual_seed(0))  # fmt: skip
    known = nulls.percentile(sample, 99).tolist()
    found, plugin = [], []
    for seed in range(20):
        h, g = (draw(4 * d, d, seed=100 * k + seed) * scales[k] for k in (0, 1))
        side = output_side(moments(h, g), torch.diag(scales[2] ** 2))
        bar, share = bars(side, seed), alignment.norm_shares(side)
        found.append([bar[f"{name}_b_permutation"] for name in PAIRS])
        plugin.append([x * (share[i] * share[j]) ** 0.5 for x, (i, j) in
                       zip(found[-1], PAIRS.values(), strict=True)])  # fmt: skip
    mean, low = torch.tensor(found).mean(0), torch.tensor(plugin).mean(0)
    torch.testing.assert_close(mean, torch.tensor(known), rtol=0.05, atol=0)
    assert bool((low < mean).all())


# -- the view -----------------------------------------------------------------------------------


def test_view_shows_small_matrices_whole() -> None:
    m, c = layer()
    shown = view(c.b.M)
    assert shown.shape == (3, VIEW, VIEW)
    for matrix, M in zip(shown, c.b.M, strict=True):
        torch.testing.assert_close(matrix[:4, :4], M / M.diagonal().max())
    assert shown[:, 4:].isnan().all()
    assert shown[:, :, 4:].isnan().all()
    both = deeper_readings(LABEL, m, c, Depth.SPECTRA, seed=0)[1]["view"]
    expected = torch.cat([view(c.a.M), view(c.b.M)]).float().numpy()
    np.testing.assert_array_equal(both, expected)


def test_view_of_large_matrices_picks_neurons_evenly() -> None:
    x = draw(50, 311, seed=19)
    M = (x.T @ x).expand(3, -1, -1)
    pick = torch.arange(0, 311, 10)
    assert len(pick) == VIEW
    torch.testing.assert_close(view(M)[2], (M[2] / M[2].diagonal().max())[pick][:, pick])


def test_view_of_nothing_is_zero() -> None:
    assert not view(torch.zeros(3, 4, 4))[:, :4, :4].any()
