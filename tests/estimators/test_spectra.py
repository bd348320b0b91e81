"""Ranks and exponents: exact identities, traps, and honest errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lawful.estimators import spectra


def orthogonal(d: int, k: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, k, generator=generator, dtype=torch.float64))[0]


def slope(x: torch.Tensor, y: torch.Tensor) -> float:
    return float(np.polyfit(x.log().numpy(), y.log().numpy(), 1)[0])


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_identities_of_a_linear_layer(dtype: torch.dtype, bound: float) -> None:
    """H_b = W H_a Wᵀ and G_a = Wᵀ G_b W, from samples."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(30, 50, generator=generator, dtype=dtype)
    h_a = torch.randn(400, 50, generator=generator, dtype=dtype)
    g_b = torch.randn(400, 30, generator=generator, dtype=dtype)
    h_b, g_a = h_a @ W.T, g_b @ W
    for derived, sampled in (
        (W @ (h_a.T @ h_a) @ W.T, h_b.T @ h_b),
        (W.T @ (g_b.T @ g_b) @ W, g_a.T @ g_a),
    ):
        assert float((derived - sampled).norm() / sampled.norm()) < bound


def test_sorted_spectra_are_a_trap() -> None:
    """Unrelated bases, sorted slope 3, slope in a common basis about 0."""
    d, i = 200, torch.arange(1, 201, dtype=torch.float64)
    A = (U := orthogonal(d, d, 1)) * i**-3 @ U.T
    B = (V := orthogonal(d, d, 2)) * i**-1 @ V.T
    lam, mu = torch.linalg.eigvalsh(A).flip(0), torch.linalg.eigvalsh(B).flip(0)
    assert slope(mu, lam) == pytest.approx(3.0, abs=0.05)
    # The same question asked as the estimator asks it: W has the basis and spectrum of B.
    fit = spectra.fit_exponents(*spectra.singular_basis_powers(V * i**-0.5 @ V.T, A, B))
    assert abs(fit.p) / 2 < 0.3
    assert fit.q == pytest.approx(2.0, abs=1e-6)


def test_economy_basis_matches_the_singular_value_decomposition() -> None:
    for shape in ((20, 33), (33, 20)):
        W = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        U, s, V = spectra.singular_basis(W)
        torch.testing.assert_close(s, torch.linalg.svdvals(W))
        torch.testing.assert_close(U * s @ V.T, W)
        torch.testing.assert_close(U.T @ U, torch.eye(20, dtype=torch.float64))


@pytest.mark.parametrize("d", [1, 127, 128, 129, 300])
def test_powers_along_any_directions_are_a_diagonal(d: int) -> None:
    some = torch.Generator().manual_seed(d)
    M, basis = (torch.randn(d, k, generator=some, dtype=torch.float64) for k in (d, 5))
    M = M + M.T
    want = (basis.T @ M @ basis).diagonal()
    torch.testing.assert_close(spectra.directional_power(M, basis), want, rtol=1e-12, atol=1e-10)


def test_powers_of_a_float32_layer_keep_six_digits_down_to_the_cutoff() -> None:
    s = torch.logspace(0, -3, 100, dtype=torch.float64)
    U, V = orthogonal(120, 100, 4), orthogonal(140, 100, 5)
    W, H, G = ((U * s) @ V.T).float(), ((V * s**2) @ V.T).float(), ((U * s) @ U.T).float()
    got_s, power_h, power_g = spectra.singular_basis_powers(W, H, G)
    keep = s > 0.03
    assert float((got_s[:100] / s - 1)[keep].abs().max()) < 1e-5
    assert float((power_h[:100] / s**2 - 1)[keep].abs().max()) < 1e-3
    assert float((power_g[:100] / s - 1)[keep].abs().max()) < 1e-3


@settings(max_examples=20, deadline=None)
@given(st.floats(-2, 4), st.floats(-2, 4), st.floats(0.01, 100), st.integers(0, 100))
def test_exponents_ignore_rotations_and_scales(p: float, q: float, scale: float, seed: int) -> None:
    s = torch.logspace(0, -1, 12, dtype=torch.float64)
    U, V = orthogonal(15, 12, seed), orthogonal(13, 12, seed + 1)
    W, H, G = (U * s) @ V.T * scale, (V * s**p) @ V.T / scale, (U * s**q) @ U.T * scale
    fit = spectra.fit_exponents(*spectra.singular_basis_powers(W, H, G), draws=20)
    assert fit.p == pytest.approx(p, abs=1e-5)
    assert fit.q == pytest.approx(q, abs=1e-5)
    assert fit.directions == 12
    assert fit.decades == pytest.approx(2.0, abs=1e-6)


def test_bootstrap_over_samples_has_the_right_size() -> None:
    """Its standard error equals the spread of p over repeated experiments."""
    k, n, generator = 20, 300, torch.Generator().manual_seed(6)
    s = torch.logspace(0, -1, k, dtype=torch.float64)
    fits = []
    for _ in range(60):
        h = torch.randn(n, k, generator=generator, dtype=torch.float64).square() * s**2
        g = torch.randn(n, k, generator=generator, dtype=torch.float64).square()
        fits.append(
            spectra.fit_exponents(
                s, h.mean(0), g.mean(0), samples=n, squares_h=h, squares_g=g, generator=generator
            )
        )
    p = np.array([f.p for f in fits])
    stderr = np.mean([f.p_stderr for f in fits])
    assert p.mean() == pytest.approx(2.0, abs=4 * stderr / 60**0.5)
    assert stderr == pytest.approx(p.std(), rel=0.25)
    covered = np.mean([f.p_interval[0] < 2 < f.p_interval[1] for f in fits])
    assert covered > 0.85


def test_part_of_the_samples_gives_the_error_of_all() -> None:
    k, n, generator = 20, 4000, torch.Generator().manual_seed(7)
    s = torch.logspace(0, -1, k, dtype=torch.float64)
    h = torch.randn(n, k, generator=generator, dtype=torch.float64).square() * s**2
    whole = spectra.fit_exponents(s, h.mean(0), h.mean(0), samples=n, squares_h=h, squares_g=h)
    part = spectra.fit_exponents(
        s, h.mean(0), h.mean(0), samples=n, squares_h=h[:400], squares_g=h[:400]
    )
    assert part.p == whole.p
    assert part.p_stderr == pytest.approx(whole.p_stderr, rel=0.25)


def test_bootstrap_over_directions_sees_scatter() -> None:
    """Scatter σ in log power gives the error σ/√Σ(x−x̄)² of a regression slope."""
    generator = torch.Generator().manual_seed(8)
    s = torch.logspace(0, -1, 30, dtype=torch.float64)
    assert spectra.fit_exponents(s, s**2, s).p_stderr < 1e-9
    stderr = []
    for _ in range(20):
        noise = torch.randn(30, generator=generator, dtype=torch.float64) * 0.3
        fit = spectra.fit_exponents(s, s**2 * noise.exp(), s)
        assert fit.p_interval[0] < fit.p < fit.p_interval[1]
        stderr.append(fit.p_stderr)
    expected = 0.3 / float((s.log() - s.log().mean()).square().sum().sqrt())
    assert np.mean(stderr) == pytest.approx(expected, rel=0.15)


def test_directions_below_the_cutoff_or_the_floor_are_left_out() -> None:
    s = torch.tensor([1.0, 0.5, 0.2, 0.1, 0.02], dtype=torch.float64)
    power = s**2
    assert spectra.fit_exponents(s, power, power).directions == 4
    dead = power.clone()
    dead[1] = 1e-9
    assert spectra.fit_exponents(s, dead, power).directions == 3
    negative = power.clone()
    negative[1] = -1e-3
    assert spectra.fit_exponents(s, negative, power).directions == 3
    assert spectra.fit_exponents(s, power, power, samples=8) is spectra.NO_FIT


@pytest.mark.parametrize("case", ["zero", "rank one", "nan weight", "nan moment", "one output"])
def test_hopeless_input_gives_a_clean_nothing(case: str) -> None:
    W = torch.randn(5, 8, generator=torch.Generator().manual_seed(9))
    H, G = torch.eye(8), torch.eye(5)
    if case == "zero":
        W = torch.zeros(5, 8)
    elif case == "rank one":
        W = W[:, :1] @ W[:1]
    elif case == "nan weight":
        W[0, 0] = math.nan
    elif case == "nan moment":
        H = H * math.nan
    elif case == "one output":
        W, G = W[:1], G[:1, :1]
    fit = spectra.fit_exponents(*spectra.singular_basis_powers(W, H, G))
    assert fit.directions == 0
    assert fit.decades == 0
    assert all(math.isnan(v) for v in (fit.p, fit.q, fit.p_stderr, *fit.q_interval))


def test_two_directions_have_a_slope_but_no_error() -> None:
    s = torch.tensor([1.0, 0.5])
    fit = spectra.fit_exponents(s, s**2, s)
    assert fit.p == pytest.approx(2.0)
    assert math.isnan(fit.p_stderr)


def test_ranks() -> None:
    H = torch.diag(torch.tensor([4.0, 4.0, 0.0]))
    assert float(spectra.participation_ratio(H)) == 2.0
    assert spectra.participation_ratio(torch.zeros(3, 3)).isnan()
    assert float(spectra.entropy_rank(torch.tensor([4.0, 4.0, -1e-9]))) == pytest.approx(2.0)
    assert spectra.entropy_rank(torch.zeros(3)).isnan()
    assert spectra.numerical_rank(torch.zeros(3), 0.01).item() == 0
    assert spectra.numerical_rank(torch.ones(2, 3), 0.01).tolist() == [3, 3]


@settings(max_examples=30)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12), st.floats(1e-3, 1e3))
def test_ranks_are_ordered_and_scale_free(values: list[float], scale: float) -> None:
    lam = torch.tensor(values, dtype=torch.float64)
    participation = float(spectra.participation_ratio(torch.diag(lam)))
    entropy = float(spectra.entropy_rank(lam))
    assert 1 - 1e-9 <= participation <= entropy + 1e-9 <= len(values) + 1e-6
    assert float(spectra.entropy_rank(lam * scale)) == pytest.approx(entropy)
    assert float(spectra.entropy_rank(lam.flip(0))) == pytest.approx(entropy)


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"H_a must be \(8, 8\)"):
        spectra.singular_basis_powers(torch.zeros(5, 8), torch.zeros(5, 5), torch.zeros(5, 5))
