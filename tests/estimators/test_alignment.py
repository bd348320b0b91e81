"""Alignment against brute force, its bias against zero, its errors against repetition.

Everything here is float64 and small, so that the double sums over pairs of clusters, the
deletion of one cluster and the repetition of a whole experiment can be written out.
"""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lawful.estimators.alignment import (
    METRICS,
    PAIRS,
    Estimate,
    G,
    H,
    Products,
    Side,
    Z,
    correlation,
    forms,
    participation,
    pearson,
    products,
    residual,
)
from lawful.estimators.linear_map import output_side
from lawful.estimators.moments import merge, moments
from lawful.estimators.uncertainty import delete_block_jackknife, interval

RGA, RWA = PAIRS["rga"], PAIRS["rwa"]
SAMPLED = ((H, H), (H, G), (G, G))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class World:
    """Gaussian h, and g that depends on it: g = B h + noise, with known second moments.

    Rows of one cluster share a part: h_t = √ρ u + √(1−ρ) e_t, and so does the noise.
    """

    def __init__(self, d: int = 5, *, seed: int = 0, mean: float = 0.0) -> None:
        some = generator(seed)
        self.d = d
        self.root = torch.randn(d, d, generator=some, dtype=torch.float64).tril()
        self.B = torch.randn(d, d, generator=some, dtype=torch.float64) / d**0.5
        self.Z = moment(torch.randn(2 * d, d, generator=some, dtype=torch.float64))
        self.mean = torch.full((d,), mean, dtype=torch.float64)
        self.H = self.root @ self.root.T + torch.outer(self.mean, self.mean)
        self.G = self.B @ self.H @ self.B.T + 0.3 * torch.eye(d, dtype=torch.float64)

    def draw(self, n: int, T: int, rho: float, some: torch.Generator) -> tuple[Tensor, Tensor]:
        """h and g, each (n, T, d)."""

        def rows() -> Tensor:
            shared, own = (
                torch.randn(n, k, self.d, generator=some, dtype=torch.float64) for k in (1, T)
            )
            return math.sqrt(rho) * shared + math.sqrt(1 - rho) * own

        h = rows() @ self.root.T + self.mean
        return h, h @ self.B.T + math.sqrt(0.3) * rows()

    def side(self, h: Tensor, g: Tensor) -> Side:
        return output_side(moments(h, g), self.Z)

    def alpha(self, metric: str, pair: tuple[int, int]) -> float:
        A, B = (project((self.H, self.G, self.Z)[i], metric) for i in pair)
        return float((A * B).sum() / (A.norm() * B.norm()))


def moment(x: Tensor) -> Tensor:
    return x.T @ x / len(x)


def project(M: Tensor, metric: str) -> Tensor:
    d = len(M)
    if metric == "pearson":
        return M - M.mean()
    return M - M.trace() / d * torch.eye(d, dtype=M.dtype) if metric == "tracefree" else M


def double_sum(h: Tensor, g: Tensor, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Plug-in and debiased inner products of H and G, pair of clusters by pair of clusters."""
    mean = [[project(moment(x), metric) for x in z] for z in (h, g)]
    n = len(h)
    plugin, debiased = np.zeros((2, 2)), np.zeros((2, 2))
    for i in (H, G):
        for j in (H, G):
            for k in range(n):
                for other in range(n):
                    product = float((mean[i][k] * mean[j][other]).sum())
                    plugin[i, j] += product / n**2
                    debiased[i, j] += product / (n * (n - 1)) * (k != other)
    return plugin, debiased


# -- against brute force ------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("n", "T"), [(7, 1), (6, 4), (2, 3)])
def test_debiased_products_are_the_double_sum(metric: str, n: int, T: int) -> None:
    world = World()
    h, g = world.draw(n, T, 0.5, generator(1))
    p = products(forms(world.side(h, g))[0], metric)
    plugin, debiased = double_sum(h, g, metric)
    np.testing.assert_allclose(p.plugin[:2, :2], plugin, rtol=1e-10)
    np.testing.assert_allclose(p.value[:2, :2], debiased, rtol=1e-10, atol=1e-12)
    exact = project(world.Z, metric)
    for i, M in ((H, moment(h.flatten(0, 1))), (G, moment(g.flatten(0, 1)))):
        against = float((project(M, metric) * exact).sum())
        assert p.value[i, Z] == p.plugin[i, Z] == pytest.approx(against, rel=1e-10)
    assert p.value[Z, Z] == pytest.approx(float((exact * exact).sum()))


@pytest.mark.parametrize("T", [1, 4])
def test_centred_numbers_are_the_raw_ones_of_centred_samples(T: int) -> None:
    world = World(mean=2.0)
    h, g = world.draw(6, T, 0.5, generator(2))
    centred = forms(world.side(h, g))[1]
    direct = forms(world.side(h - h.mean((0, 1)), g - g.mean((0, 1))))[0]
    for field in fields(centred):
        np.testing.assert_allclose(
            getattr(centred, field.name), getattr(direct, field.name), rtol=1e-9, atol=1e-10
        )


@pytest.mark.parametrize("d", [127, 128, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_of_rows_add_up(d: int, dtype: torch.dtype) -> None:
    """Wide layers are summed a block of rows at a time, centred ones without losing digits."""
    world = World(d, mean=3.0)
    h, g = world.draw(20, 1, 0, generator(18))
    g = g + 5.0
    m = moments(h.to(dtype), g.to(dtype))
    side = output_side(m, world.Z.to(dtype))
    for numbers, (x, y) in zip(forms(side), ((h, g), (h - h.mean(0), g - g.mean(0))), strict=True):
        M = torch.stack([moment(x[:, 0]), moment(y[:, 0]), world.Z])
        flat = M.flatten(1)
        rtol = 1e-9 if dtype == torch.float64 else 3e-4
        np.testing.assert_allclose(numbers.inner, flat @ flat.T, rtol=rtol)
        np.testing.assert_allclose(numbers.trace, M.diagonal(dim1=1, dim2=2).sum(1), rtol=rtol)
        scale = float(flat.abs().sum(1).max())
        np.testing.assert_allclose(numbers.total, flat.sum(1), rtol=rtol, atol=rtol * scale)
        for got, z in zip(numbers.quadratic, (x, y), strict=True):
            rows = z[:, 0]
            np.testing.assert_allclose(
                got.squeeze(2), torch.einsum("ki,jil,kl->jk", rows, M, rows), rtol=rtol
            )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("T", [1, 3])
def test_influence_is_what_deleting_a_cluster_does(metric: str, T: int) -> None:
    """For a double sum exactly: ψ_k = (C−2)(U − U₍ₖ₎); for a mean, (C−1)(U − U₍ₖ₎)."""
    world, n = World(), 8
    h, g = world.draw(n, T, 0.5, generator(3))
    whole = products(forms(world.side(h, g))[0], metric)
    for k in range(n):
        rest = torch.arange(n) != k
        less = products(forms(world.side(h[rest], g[rest]))[0], metric)
        change = whole.value - less.value
        psi = whole.psi[:, :, k].mean(2)
        for i, j in SAMPLED:
            assert psi[i, j] == pytest.approx((n - 2) * change[i, j], rel=1e-9)
        for i in (H, G):
            assert psi[i, Z] == psi[Z, i] == pytest.approx((n - 1) * change[i, Z], rel=1e-9)
    assert not whole.psi[Z, Z].any()


@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("relation", PAIRS)
def test_both_jackknives_agree(relation: str, T: int) -> None:
    world, pair = World(), PAIRS[relation]
    h, g = world.draw(150, T, 0.5, generator(4))

    def alpha(blocks: list[tuple[Tensor, Tensor]] | tuple) -> float:
        x, y = (torch.stack(b) for b in zip(*blocks, strict=True))
        return correlation(products(forms(world.side(x, y))[0], "pearson"), pair).value

    here = correlation(products(forms(world.side(h, g))[0], "pearson"), pair)
    deleted, _ = delete_block_jackknife(alpha, list(zip(h, g, strict=True)))
    assert here.stderr == pytest.approx(deleted, rel=0.06)


def test_residual_is_the_least_squares_misfit() -> None:
    world = World()
    h, g = world.draw(9, 1, 0, generator(5))
    A, B = moment(h[:, 0]), moment(g[:, 0])
    c = float((A * B).sum() / (B * B).sum())
    p = products(forms(world.side(h, g))[0], "cosine")
    assert residual(p, RGA).plugin == pytest.approx(float((A - c * B).norm() / A.norm()))
    cos = correlation(p, RGA).value
    assert residual(p, RGA).value == pytest.approx(math.sqrt(1 - cos**2))


# -- no bias ------------------------------------------------------------------------------------

KEPT = {
    "rows": (10, 1, 0.0, slice(None), slice(None)),
    "clusters": (8, 5, 0.5, slice(None), slice(None)),
    "some clusters kept": (10, 1, 0.0, slice(0, 4), slice(None)),
    "some rows kept": (8, 5, 0.5, slice(None), slice(0, 2)),
    "some of both kept": (8, 5, 0.5, slice(0, 5), slice(0, 3)),
}


@pytest.mark.parametrize("case", KEPT)
def test_inner_products_are_unbiased(case: str) -> None:
    """|bias| < 3 errors over 1,500 repetitions, H and G from the same samples; plug-in fails."""
    n, T, rho, clusters, rows = KEPT[case]
    world, some = World(), generator(60)
    values: dict[str, list[np.ndarray]] = {m: [] for m in METRICS}
    plugins: list[float] = []
    for _ in range(1500):
        m = moments(*world.draw(n, T, rho, some))
        m = replace(m, kept_h=m.kept_h[clusters, rows], kept_g=m.kept_g[clusters, rows])
        f, _ = forms(output_side(m, world.Z))
        for metric in METRICS:
            p = products(f, metric)
            values[metric].append(p.value)
        plugins.append(p.plugin[H, H])
    for metric in METRICS:
        P = [project(M, metric) for M in (world.H, world.G, world.Z)]
        truth = np.array([[float((A * B).sum()) for B in P] for A in P])
        sample = np.stack(values[metric])
        error = sample.std(0, ddof=1) / math.sqrt(1500)
        assert (np.abs(sample.mean(0) - truth) < 3 * error)[:2].all()
        np.testing.assert_allclose(sample[:, Z, Z], truth[Z, Z])  # Z is known, not sampled
    norm2 = float((world.H**2).sum())
    assert np.mean(plugins) - norm2 > 5 * np.std(plugins) / math.sqrt(1500)


def test_bias_of_the_ratio_is_small_beside_the_plugin_bias() -> None:
    """Isotropic samples, n = d = 30: plug-in n/(n+d), debiased around 0."""
    d, some = 30, generator(7)
    eye = torch.eye(d, dtype=torch.float64)
    sample: list[tuple[float, float, float]] = []
    for _ in range(60):
        h, g = (torch.randn(d, 1, d, generator=some, dtype=torch.float64) for _ in range(2))
        f, _ = forms(output_side(moments(h, g), eye))
        alpha = correlation(products(f, "pearson"), RGA)
        free = correlation(products(f, "tracefree"), RGA)
        sample.append((alpha.plugin, alpha.value, free.plugin))
    plugin, debiased, free_plugin = np.mean(sample, 0)
    assert plugin == pytest.approx(0.5, abs=0.03)
    assert debiased == pytest.approx(1.0, abs=0.03)  # H = G = 1 in truth
    assert free_plugin == pytest.approx(0.0, abs=0.03)


def test_more_samples_bring_the_plugin_to_the_debiased_value() -> None:
    world = World()
    h, g = world.draw(20_000, 1, 0, generator(8))
    for metric in METRICS:
        p = products(forms(world.side(h, g))[0], metric)
        for pair in PAIRS.values():
            alpha = correlation(p, pair)
            assert alpha.value == pytest.approx(alpha.plugin, abs=2e-3)
            assert alpha.value == pytest.approx(world.alpha(metric, pair), abs=4 * alpha.stderr)


# -- honest errors ------------------------------------------------------------------------------

SAMPLES = {
    "iid": (250, 1, 0.0, slice(None), slice(None)),
    "tokens": (150, 6, 0.6, slice(None), slice(None)),
    "tokens, some rows kept": (150, 6, 0.6, slice(None), slice(0, 3)),
    "some clusters kept": (400, 2, 0.3, slice(0, 128), slice(None)),
}


def readings(world: World, side: Side) -> dict[str, tuple[Estimate, float]]:
    """Estimates with their true values."""
    raw, _ = forms(side)
    cos = products(raw, "cosine")
    truth = world.alpha("cosine", RGA)
    PR = float(world.H.trace() ** 2 / (world.H**2).sum())
    return {
        "rga": (correlation(products(raw, "pearson"), RGA), world.alpha("pearson", RGA)),
        "rwa": (correlation(products(raw, "pearson"), RWA), world.alpha("pearson", RWA)),
        "free": (correlation(products(raw, "tracefree"), RGA), world.alpha("tracefree", RGA)),
        "residual": (residual(cos, RGA), math.sqrt(1 - truth**2)),
        "participation": (participation(raw, H), PR),
    }


@pytest.mark.parametrize("case", SAMPLES)
def test_errors_are_calibrated_and_intervals_cover(case: str) -> None:
    """Mean error / spread over 400 repetitions in 1 ± .15, 95 % intervals cover 90–98 %."""
    n, T, rho, clusters, rows = SAMPLES[case]
    world, some = World(6, seed=1), generator(9)
    table: dict[str, list[tuple[float, float, bool]]] = {}
    for _ in range(400):
        m = moments(*world.draw(n, T, rho, some))
        m = replace(m, kept_h=m.kept_h[clusters, rows], kept_g=m.kept_g[clusters, rows])
        for name, (e, truth) in readings(world, output_side(m, world.Z)).items():
            low, high = interval(e.value, e.stderr, len(m.kept_h) - 1)
            table.setdefault(name, []).append((e.value, e.stderr, low <= truth <= high))
    for name, repeated in table.items():
        value, stderr, covered = np.array(repeated).T
        assert stderr.mean() / value.std(ddof=1) == pytest.approx(1, abs=0.15), name
        assert 0.90 <= covered.mean() <= 0.98, name


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8, 1.0])
def test_effective_samples_of_tokens(rho: float) -> None:
    """CT/(1 + (T−1)ρ_ψ): the influence is a square of the row, so its correlation is ρ²."""
    C, T = 3000, 6
    world = World()
    h, g = world.draw(C, T, rho, generator(10))
    p = products(forms(world.side(h, g))[0], "pearson")
    for pair in (RGA, RWA):
        expected = C * T / (1 + (T - 1) * rho**2)
        assert correlation(p, pair).effective == pytest.approx(expected, rel=0.15)


# -- invariances --------------------------------------------------------------------------------


def everything(h: Tensor, g: Tensor, M: Tensor) -> dict[str, np.ndarray]:
    """All estimates of a side: value, plug-in, error and effective samples."""
    out = {}
    raw, centred = forms(output_side(moments(h, g), M))
    for where, f in (("raw", raw), ("centred", centred)):
        for metric in METRICS:
            p = products(f, metric)
            for name, pair in PAIRS.items():
                e = correlation(p, pair)
                out[f"{name} {metric} {where}"] = e
        out[f"residual {where}"] = residual(products(f, "cosine"), RGA)
        for which in (H, G, Z):
            out[f"participation {which} {where}"] = participation(f, which)
    return {k: np.array([e.value, e.plugin, e.stderr, e.effective]) for k, e in out.items()}


def close(first: dict[str, np.ndarray], second: dict[str, np.ndarray], only: str = "") -> None:
    for name in first:
        if only in name:
            np.testing.assert_allclose(
                first[name], second[name], rtol=1e-6, atol=1e-7, err_msg=name
            )


seeds = st.integers(0, 10_000)


@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(1, 3), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_order_and_scale_do_not_matter(
    seed: int, T: int, h_scale: float, g_scale: float, Z_scale: float
) -> None:
    world = World(4, seed=seed)
    h, g = world.draw(30, T, 0.4, generator(seed))
    first = everything(h, g, world.Z)
    order = torch.randperm(30, generator=generator(seed))
    rows = torch.randperm(T, generator=generator(seed))
    close(first, everything(h[order][:, rows], g[order][:, rows], world.Z))
    close(first, everything(h_scale * h, g_scale * g, Z_scale * world.Z))


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_neurons_may_be_relabelled_together(seed: int) -> None:
    world = World(5, seed=seed, mean=0.5)
    h, g = world.draw(30, 2, 0.4, generator(seed))
    p = torch.randperm(5, generator=generator(seed))
    close(everything(h, g, world.Z), everything(h[..., p], g[..., p], world.Z[p][:, p]))


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_all_but_pearson_may_be_rotated(seed: int) -> None:
    world = World(5, seed=seed, mean=0.5)
    h, g = world.draw(30, 2, 0.4, generator(seed))
    Q, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator(seed), dtype=torch.float64))
    first, second = everything(h, g, world.Z), everything(h @ Q, g @ Q, Q.T @ world.Z @ Q)
    for name in ("tracefree", "cosine", "residual", "participation"):
        close(first, second, only=name)


@settings(max_examples=15, deadline=None)
@given(seeds, st.lists(st.integers(1, 12), min_size=2, max_size=4))
def test_merged_moments_give_the_same_estimates(seed: int, sizes: list[int]) -> None:
    world = World(4, seed=seed)
    h, g = world.draw(20 + sum(sizes), 2, 0.4, generator(seed))
    pieces = zip(h.split([20, *sizes]), g.split([20, *sizes]), strict=True)
    first, *rest = (moments(x, y) for x, y in pieces)
    for other in rest:
        first = merge(other, first)
    raw, _ = forms(output_side(first, world.Z))
    whole, _ = forms(world.side(h, g))
    for metric in METRICS:
        here, there = (correlation(products(f, metric), RGA) for f in (raw, whole))
        assert here.value == pytest.approx(there.value, rel=1e-9)
        assert here.stderr == pytest.approx(there.stderr, rel=1e-9)


# -- known answers ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_proportional_moments_align_perfectly(dtype: torch.dtype) -> None:
    h, _ = World().draw(50, 1, 0, generator(11))
    h = h.to(dtype)
    m = moments(h, -3 * h)
    f, centred = forms(output_side(m, m.H * 0.2))
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for metric in METRICS:
        p = products(f, metric)
        for pair in PAIRS.values():
            assert correlation(p, pair).plugin == pytest.approx(1, abs=tolerance)
        assert correlation(p, RGA).value == pytest.approx(1, abs=tolerance)
        assert correlation(p, RGA).stderr == pytest.approx(0, abs=100 * tolerance)
        assert correlation(products(centred, metric), RGA).value == pytest.approx(1, abs=tolerance)
    assert residual(products(f, "cosine"), RGA).value == pytest.approx(0, abs=tolerance**0.5)


def test_pearson_ignores_scale_and_a_constant_only() -> None:
    A = moment(torch.randn(9, 6, generator=generator(12), dtype=torch.float64))
    assert pearson(A, 3 * A + 2.0) == 1.0
    assert pearson(A, -A) == -1.0
    assert pearson(A, A + torch.eye(6, dtype=torch.float64)) < 0.999
    world = World()
    h, g = world.draw(30, 1, 0, generator(13))
    f, _ = forms(output_side(moments(h, g), 3 * moment(h[:, 0]) + 2.0))
    assert correlation(products(f, "pearson"), RWA).plugin == pytest.approx(1, abs=1e-12)
    assert correlation(products(f, "cosine"), RWA).plugin < 0.999


def test_participation_of_known_spectra() -> None:
    h = math.sqrt(4) * torch.eye(4, dtype=torch.float64)[:, None] * torch.ones(4, 1, 1).double()
    f, _ = forms(output_side(moments(h, h), torch.diag(torch.tensor([2.0, 1.0, 1.0, 0.0]))))
    assert participation(f, H).plugin == pytest.approx(4)
    exact = participation(f, Z)
    assert (exact.value, exact.stderr, exact.effective) == (pytest.approx(16 / 6), 0.0, math.inf)


# -- where nothing can be said ------------------------------------------------------------------


def undefined(p: Products, pair: tuple[int, int]) -> bool:
    e = correlation(p, pair)
    return all(map(math.isnan, (e.value, e.stderr, e.effective)))


def test_one_cluster_says_nothing() -> None:
    world = World()
    for T in (1, 5):
        f, centred = forms(world.side(*world.draw(1, T, 0.5, generator(14))))
        for numbers in (f, centred):
            for metric in METRICS:
                assert all(undefined(products(numbers, metric), pair) for pair in PAIRS.values())
            assert math.isnan(participation(numbers, H).value)
            assert math.isnan(residual(products(numbers, "cosine"), RGA).value)
        assert math.isfinite(correlation(products(f, "pearson"), RGA).plugin)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dead_layer_is_not_aligned_with_anything(dtype: torch.dtype) -> None:
    world = World()
    h, g = (x.to(dtype) for x in world.draw(20, 1, 0, generator(15)))
    f, _ = forms(output_side(moments(h, 0 * g), world.Z.to(dtype)))
    for metric in METRICS:
        assert undefined(products(f, metric), RGA)
        assert undefined(products(f, metric), PAIRS["gwa"])
        assert not undefined(products(f, metric), RWA)
    assert math.isnan(participation(f, G).value)
    assert math.isnan(residual(products(f, "cosine"), RGA).value)


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from([torch.float32, torch.float64]), st.booleans())
def test_rounding_is_never_an_alignment(seed: int, dtype: torch.dtype, single: bool) -> None:
    """One neuron, or one value on all neurons: removing the mean entry leaves rounding only."""
    d, some = (1, generator(seed)) if single else (7, generator(seed))
    h, g = (torch.randn(40, 1, 1, generator=some, dtype=dtype).expand(40, 1, d) for _ in range(2))
    side = output_side(moments(h, g), torch.full((d, d), 0.3, dtype=dtype))
    f, _ = forms(side)
    for pair in PAIRS.values():
        assert undefined(products(f, "pearson"), pair)
        assert math.isnan(correlation(products(f, "pearson"), pair).plugin)
        if single:
            assert undefined(products(f, "tracefree"), pair)
        assert correlation(products(f, "cosine"), pair).plugin == pytest.approx(1, abs=1e-6)


def test_constant_matrices_have_no_pearson() -> None:
    A = moment(torch.randn(9, 6, generator=generator(16)))
    for constant in (torch.zeros(6, 6), torch.full((6, 6), 0.1), torch.full((6, 6), 1e6 / 3)):
        assert math.isnan(pearson(A, constant))
        assert math.isnan(pearson(constant, A))


def test_constant_rows_have_no_error() -> None:
    """The same sample over and over: nothing varies, so the plug-in value is the value."""
    h = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64).expand(12, 1, 3)
    g = torch.tensor([0.3, 1.0, 1.0], dtype=torch.float64).expand(12, 1, 3)
    f, centred = forms(output_side(moments(h, g), torch.eye(3, dtype=torch.float64)))
    alpha = correlation(products(f, "pearson"), RGA)
    assert alpha.value == pytest.approx(alpha.plugin)
    assert alpha.value == pytest.approx(pearson(torch.outer(h[0, 0], h[0, 0]), moment(g[:, 0])))
    assert alpha.stderr == pytest.approx(0, abs=1e-9)
    assert math.isnan(correlation(products(centred, "pearson"), RGA).value)


def test_too_few_samples_to_see_a_matrix_at_all() -> None:
    """Two orthogonal samples: the debiased norm is zero, and the ratio is not invented."""
    h = torch.eye(2, dtype=torch.float64).unsqueeze(1)
    p = products(forms(output_side(moments(h, h), torch.eye(2, dtype=torch.float64)))[0], "cosine")
    assert p.value[H, H] == pytest.approx(0, abs=1e-12)
    assert undefined(p, RGA)


def test_unknown_metric() -> None:
    world = World()
    f, _ = forms(world.side(*world.draw(4, 1, 0, generator(17))))
    with pytest.raises(ValueError, match="'spearman': choose one of pearson, tracefree, cosine"):
        products(f, "spearman")
