"""Null distributions against sampling, and permutation moments against enumeration."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lawful.estimators import nulls
from lawful.estimators.alignment import pearson


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moment(d: int, n: int, seed: int, scale: torch.Tensor | None = None) -> torch.Tensor:
    x = torch.randn(n, d, generator=generator(seed), dtype=torch.float64)
    x = x if scale is None else x * scale
    return x.T @ x / n


@pytest.mark.parametrize(("n", "expected"), [(20, 0.17), (100, 0.50), (400, 0.80)])
def test_sampling_null(n: int, expected: float) -> None:
    """n/(n+d) ± .03, and the trace-free cosine is near zero."""
    A, B = moment(100, n, 1), moment(100, n, 2)
    assert nulls.sampling_null(n, 100) == pytest.approx(expected, abs=0.005)
    assert pearson(A, B) == pytest.approx(expected, abs=0.03)
    a, b = nulls._trace_free(A), nulls._trace_free(B)
    assert abs(float((a * b).sum() / (a.norm() * b.norm()))) < 0.05


def test_haar_mean_and_std_match_the_sample() -> None:
    d = 40
    scale = torch.arange(1, d + 1, dtype=torch.float64) ** -0.5
    A, B = moment(d, 400, 3, scale), moment(d, 100, 4, scale.sqrt())
    replay = generator(5)
    Q = torch.stack([nulls._haar(d, replay) for _ in range(400)])
    rotated = Q @ B @ Q.mT
    cosine = (A * rotated).sum((-2, -1)) / (A.norm() * B.norm())
    error = float(cosine.std()) / 20
    assert float(nulls.haar_mean(A, B)) == pytest.approx(float(cosine.mean()), abs=4 * error)
    assert float(nulls.haar_std(A, B)) == pytest.approx(float(cosine.std()), rel=0.15)


def test_haar_null_equals_rotating_the_matrix_itself() -> None:
    d = 12
    A, B = moment(d, 30, 6), moment(d, 30, 7)
    sample = nulls.haar_null(A, B, 1500, generator(8))
    replay = generator(9)
    rotations = (nulls._haar(d, replay) for _ in range(1500))
    direct = torch.tensor([pearson(A, Q @ B @ Q.T) for Q in rotations], dtype=torch.float64)
    error = float(direct.std()) * (2 / 1500) ** 0.5
    assert float(sample.mean()) == pytest.approx(float(direct.mean()), abs=4 * error)
    assert float(sample.std()) == pytest.approx(float(direct.std()), rel=0.15)


@pytest.mark.parametrize(("d", "rounds"), [(2, 3), (9, 1), (9, 2), (12, 2)])
def test_permutation_null_is_pearson_of_relabelled_neurons(d: int, rounds: int) -> None:
    """Draw k of round r: M_j with its own new labels and k shifts, against M_i with its own."""
    M = torch.stack([moment(d, 20, seed) for seed in (10, 11, 12)])
    pairs = [(0, 1), (2, 1)]
    sample = nulls.permutation_null(M, pairs, d * rounds - 1, generator(12))
    assert sample.shape == (2, d * rounds)
    replay = generator(12)
    labels = [[torch.randperm(d, generator=replay) for _ in range(rounds)] for _ in M]
    for found, (i, j) in zip(sample, pairs, strict=True):
        for r in range(rounds):
            A = M[i][labels[i][r]][:, labels[i][r]]
            for k in range(d):
                order = labels[j][r].roll(-k)
                B = M[j][order][:, order]
                assert float(found[r * d + k]) == pytest.approx(pearson(A, B), abs=1e-12)


def test_permutation_null_counts_as_independent_draws_do() -> None:
    """Its 99th percentile, of neurons that differ in scale, against uniform draws one by one."""
    d = 64
    M = torch.stack([torch.diag(torch.randn(d, generator=generator(i)).exp()) for i in (1, 2)])
    each = generator(3)
    orders = torch.stack([torch.randperm(d, generator=each) for _ in range(20_000)])
    a, b = (m.diagonal() for m in M)
    independent = a @ b[orders].T
    scaled = (independent - a.sum() * b.sum() / d**2) / (
        ((a @ a - a.sum() ** 2 / d**2) * (b @ b - b.sum() ** 2 / d**2)).sqrt()
    )
    sample = nulls.permutation_null(M, [(0, 1)], 20_000, generator(4))[0]
    for percent in (50, 90, 99):
        bar = float(nulls.percentile(scaled, percent))
        assert float(nulls.percentile(sample, percent)) == pytest.approx(bar, abs=0.02)


@pytest.mark.parametrize("d", [2, 3, 4, 5])
def test_permutation_moments_against_enumeration(d: int) -> None:
    """All d! relabellings, written out."""
    A, B = moment(d, 3, 13) + 0.3, moment(d, 7, 14) - torch.eye(d) * 0.2
    every = torch.tensor(
        [pearson(A, B[list(o)][:, list(o)]) for o in itertools.permutations(range(d))]
    )
    mean, std = nulls.permutation_moments(A, B)
    assert float(mean) == pytest.approx(float(every.mean()), abs=1e-7)
    assert float(std) == pytest.approx(float(every.std(correction=0)), abs=1e-7)


def test_permutation_sample_agrees_with_its_exact_moments() -> None:
    scale = torch.arange(1, 31, dtype=torch.float64) ** -0.5
    A, B = moment(30, 60, 15, scale), moment(30, 60, 16, scale)
    sample = nulls.permutation_null(torch.stack([A, B]), [(0, 1)], 2000, generator(17))
    mean, std = nulls.permutation_moments(A, B)
    assert float(sample.mean()) == pytest.approx(float(mean), abs=4 * float(std) / 2000**0.5)
    assert float(sample.std()) == pytest.approx(float(std), rel=0.1)


def test_the_tail_is_not_gaussian_where_neurons_differ_in_scale() -> None:
    tails, normal = [], []
    for seed in range(4):
        scales = torch.randn(2, 512, generator=generator(seed), dtype=torch.float64).exp()
        M = torch.diag_embed(scales.square())
        mean, std = nulls.permutation_moments(*M)
        tails.append(nulls.percentile(nulls.permutation_null(M, [(0, 1)], 2048, generator()), 99))
        normal.append(mean + 2.33 * std)
    assert float(torch.stack(tails).mean()) == pytest.approx(0.25, abs=0.02)
    assert float(torch.stack(normal).mean()) == pytest.approx(0.17, abs=0.02)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 8), st.floats(0.1, 50), st.floats(-5, 5), st.integers(0, 1000))
def test_nulls_ignore_scale_and_a_constant(d: int, scale: float, shift: float, seed: int) -> None:
    A, B = moment(d, 12, seed), moment(d, 12, seed + 1)
    M, scaled = torch.stack([A, B]), torch.stack([A * scale + shift, B])
    first = nulls.permutation_null(M, [(0, 1)], 4, generator(seed))
    torch.testing.assert_close(
        nulls.permutation_null(scaled, [(0, 1)], 4, generator(seed)), first, atol=1e-7, rtol=1e-7
    )
    torch.testing.assert_close(
        torch.stack(nulls.permutation_moments(A, B)),
        torch.stack(nulls.permutation_moments(A * scale + shift, B)),
        atol=1e-6, rtol=1e-6,
    )  # fmt: skip
    torch.testing.assert_close(nulls.haar_mean(A, B), nulls.haar_mean(A * scale, B))


def test_same_seed_same_sample() -> None:
    A, B = moment(6, 9, 20).float(), moment(6, 9, 21).float()
    M = torch.stack([A, B])
    one = nulls.permutation_null(M, [(0, 1)], 7, generator(3))
    both = nulls.permutation_null(M, [(0, 1), (1, 0)], 7, generator(3))
    assert one.dtype == torch.float32
    assert both.shape == (2, 12)
    torch.testing.assert_close(one[0], both[0])
    assert torch.equal(
        nulls.haar_null(A, B, 3, generator(3)), nulls.haar_null(A, B, 3, generator(3))
    )


def test_percentile_and_p_value() -> None:
    sample = torch.arange(100.0)
    assert float(nulls.percentile(sample, 50)) == 49.5
    assert float(nulls.p_value(sample, 95.0)) == pytest.approx(6 / 101)
    assert float(nulls.p_value(sample, 1e9)) == pytest.approx(1 / 101)
    assert nulls.percentile(torch.rand(3, 10), 99).shape == (3,)
    assert nulls.p_value(torch.rand(3, 10), torch.zeros(3)).tolist() == [1.0, 1.0, 1.0]


def test_degenerate_matrices_give_nan_and_wrong_shapes_an_error() -> None:
    A = moment(4, 9, 22)
    constant = torch.stack([A, torch.ones(4, 4).double()])
    assert nulls.permutation_null(constant, [(0, 1)], 2, generator()).isnan().all()
    assert nulls.haar_mean(A, torch.zeros(4, 4).double()).isnan()
    with pytest.raises(ValueError, match=r"\(4, 4\) and \(3, 3\)"):
        nulls.permutation_moments(A, A[:3, :3])
    with pytest.raises(ValueError, match=r"\(1, 4, 3\)"):
        nulls.permutation_null(A[None, :, :3], [(0, 0)], 2, generator())
    with pytest.raises(ValueError, match="percent=101"):
        nulls.percentile(A, 101)
    with pytest.raises(ValueError, match="n=-1"):
        nulls.sampling_null(-1, 3)
    with pytest.raises(ValueError, match="one pair"):
        nulls.haar_null(A[None], A[None], 1, generator())
