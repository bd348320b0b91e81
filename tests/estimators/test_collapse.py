"""NC1–NC4 against their definitions, their biases, and hopeless data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lawful.estimators import collapse
from lawful.theory.simplex import simplex_etf

K, D = 10, 64


def sample(
    per_class: int, noise: float, seed: int = 0, classes: int = K, d: int = D
) -> tuple[torch.Tensor, torch.Tensor]:
    """Simplex means plus isotropic noise of the given standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    means = simplex_etf(classes, d, torch.Generator().manual_seed(99)).T
    labels = torch.arange(classes).repeat(per_class)
    h = means[labels] + 3.0
    h = h + noise * torch.randn(h.shape, generator=generator, dtype=torch.float64)
    return h, labels


def sums(per_class: int, noise: float, seed: int = 0) -> collapse.ClassSums:
    return collapse.class_sums(*sample(per_class, noise, seed), K)


def test_nc1_equals_its_definition() -> None:
    h, labels = sample(30, 0.3)
    means = torch.stack([h[labels == c].mean(0) for c in range(K)])
    centred = h - means[labels]
    Sigma_W = centred.T @ centred / (len(h) - K)
    M = means - means.mean(0)
    expected = float((Sigma_W @ torch.linalg.pinv(M.T @ M / K, hermitian=True)).trace()) / K
    assert collapse.nc1(sums(30, 0.3)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("per_class", [50, 500, 5000])
def test_nc1_does_not_depend_on_the_number_of_samples(per_class: int) -> None:
    """Truth: K−1 directions of variance 1/(K−1) each, so NC1 = (K−1)² σ²/K."""
    noise = 0.1
    truth = (K - 1) ** 2 * noise**2 / K
    biased = truth / (1 + truth * D / ((K - 1) * per_class))
    got = collapse.nc1(sums(per_class, noise))
    assert got == pytest.approx(truth, rel=0.05)
    assert got == pytest.approx(biased, rel=0.04)


def test_nc1_bias_is_as_stated() -> None:
    noise, n = 1.0, 200
    truth = (K - 1) ** 2 * noise**2 / K
    got = np.mean([collapse.nc1(sums(n, noise, seed)) for seed in range(10)])
    assert got == pytest.approx(truth / (1 + truth * D / ((K - 1) * n)), rel=0.05)
    assert got < 0.85 * truth


def test_everything_is_zero_at_collapse() -> None:
    collapsed = sums(5, 0.0)
    assert collapse.nc1(collapsed) < 1e-12
    assert max(collapse.nc2(collapsed)) < 1e-9
    W = simplex_etf(K, D, torch.Generator().manual_seed(99)).T
    assert collapse.nc3(collapsed, 7 * W.float()) < 1e-6
    h, labels = sample(5, 0.0)
    assert collapse.nc4(h, labels, collapsed.means) == 0.0


def test_nc2_is_debiased_where_plug_in_means_fake_a_simplex() -> None:
    """Means along a line are no simplex; in 512 noisy dimensions the plug-in sees one."""
    generator, d = torch.Generator().manual_seed(5), 512
    true = 0.3 * torch.randn(K, d, generator=generator, dtype=torch.float64)
    true[:, 0] += torch.linspace(-6, 6, K).double()
    labels = torch.arange(K).repeat(60)
    exact = collapse.nc2(collapse.class_sums(true, torch.arange(K), K), debias=False)
    plain, clean = [], []
    for _ in range(10):
        h = true[labels] + 3 * torch.randn(600, d, generator=generator, dtype=torch.float64)
        s = collapse.class_sums(h, labels, K)
        plain.append(collapse.nc2(s, debias=False))
        clean.append(collapse.nc2(s))
    plain_gap = np.mean(plain, 0) - exact
    clean_gap = np.mean(clean, 0) - exact
    # Plug-in: nearly half the distance to a simplex is gone. Debiased: off by less than half as
    # much, and in the other direction, away from collapse.
    assert (plain_gap < -0.4 * np.array(exact)).all()
    assert (clean_gap > 0).all()
    assert (clean_gap < -0.5 * plain_gap).all()


def test_shuffled_labels_are_not_called_collapsed() -> None:
    h, labels = sample(200, 0.1)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    shuffled = collapse.class_sums(h, labels[order], K)
    assert collapse.nc1(shuffled) > 20
    variation, angle = collapse.nc2(shuffled)
    assert math.isnan(angle) or angle > 0.2 or variation > 0.2


def test_nc3_and_nc4_count_what_they_say() -> None:
    h, labels = sample(20, 0.05)
    s = collapse.class_sums(h, labels, K)
    M = s.means - s.means.mean(0)
    assert collapse.nc3(s, -M) == pytest.approx(2.0)
    wrong = labels.clone()
    wrong[:50] = (wrong[:50] + 1) % K
    assert collapse.nc4(h, wrong, s.means) == pytest.approx(50 / 200)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100), st.floats(-10, 10))
def test_rotation_scale_shift_and_order_do_not_matter(
    seed: int, scale: float, shift: float
) -> None:
    h, labels = sample(8, 0.3, seed, classes=4, d=6)
    generator = torch.Generator().manual_seed(seed)
    Q, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator, dtype=torch.float64))
    W = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    order = torch.randperm(len(h), generator=generator)
    moved = (scale * h @ Q + shift)[order]
    first = collapse.class_sums(h, labels, 4)
    second = collapse.class_sums(moved, labels[order], 4)
    assert collapse.nc1(second) == pytest.approx(collapse.nc1(first), rel=1e-5)
    assert collapse.nc2(second) == pytest.approx(collapse.nc2(first), rel=1e-5, abs=1e-8)
    assert collapse.nc3(second, W @ Q) == pytest.approx(collapse.nc3(first, W), rel=1e-5)


def test_streaming_equals_one_pass_and_the_jackknife_has_the_right_size() -> None:
    values, errors = [], []
    for seed in range(25):
        h, labels = sample(100, 0.3, seed)
        parts = zip(h.split(50), labels.split(50), strict=True)
        blocks = [collapse.class_sums(x, y, K) for x, y in parts]
        value, stderr = collapse.jackknife(collapse.nc1, blocks)
        assert value == pytest.approx(collapse.nc1(collapse.class_sums(h, labels, K)), rel=1e-9)
        values.append(value)
        errors.append(stderr)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.4)


def test_float32_features_are_accumulated_in_float64() -> None:
    h, labels = sample(50, 1e-3)
    s = collapse.class_sums(h.float(), labels, K)
    assert s.scatter.dtype == torch.float64
    assert collapse.nc1(s) == pytest.approx(collapse.nc1(sums(50, 1e-3)), rel=1e-2)


def test_shortfalls_are_nan() -> None:
    h, labels = sample(5, 0.1)
    one_class = collapse.class_sums(h[labels == 0], labels[labels == 0], K)
    assert math.isnan(collapse.nc1(one_class))
    assert all(math.isnan(v) for v in collapse.nc2(one_class))
    one_each = collapse.class_sums(h[:K], labels[:K], K)
    assert math.isnan(collapse.nc1(one_each))
    assert all(math.isnan(v) for v in collapse.nc2(one_each))
    assert not any(math.isnan(v) for v in collapse.nc2(one_each, debias=False))
    missing = collapse.class_sums(h[labels < 9], labels[labels < 9], K)
    assert math.isfinite(collapse.nc1(missing))
    assert max(collapse.nc2(missing)) < 0.3
    assert math.isnan(collapse.nc3(missing, missing.means.nan_to_num(1.0)))
    assert collapse.nc4(h[labels < 9], labels[labels < 9], missing.means) == 0.0
    empty = collapse.class_sums(h[:0], labels[:0], K)
    assert math.isnan(collapse.nc1(empty))
    assert math.isnan(collapse.nc4(h[:0], labels[:0], empty.means))
    same = collapse.class_sums(torch.tensor([[0.0], [1.0]] * 2), torch.tensor([0, 0, 1, 1]), 2)
    assert collapse.nc1(same) == math.inf


def test_misuse_is_named() -> None:
    h, labels = sample(2, 0.1)
    with pytest.raises(ValueError, match="classes=5 allows 0 to 4"):
        collapse.class_sums(h, labels, 5)
    with pytest.raises(ValueError, match=r"features must be \(n, d\)"):
        collapse.class_sums(h, labels[:3], K)
    with pytest.raises(ValueError, match=r"W must be \(K, d\)"):
        collapse.nc3(sums(2, 0.1), torch.zeros(3, 3))
