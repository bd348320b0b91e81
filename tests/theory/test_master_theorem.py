"""The phase plane: the table against its derivation, and against matrices."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lawful.estimators.alignment import pearson
from lawful.estimators.spectra import fit_exponents, singular_basis_powers
from lawful.theory import master_theorem as mt

SUPERSCRIPT = str.maketrans("⁻¹²³", "-123")


@pytest.mark.parametrize("row", mt.vertices(), ids=lambda row: row.name)
def test_table_row_follows_from_its_assumptions(row: mt.Phase) -> None:
    first, *others = row.assume
    assert {mt.intersect(first, other) for other in others} == {(row.p, row.q)}
    assert tuple(mt.exponents(row.p, row.q).values()) == row.exponents
    assert mt.relations_at(row.p, row.q) == tuple(r for r in mt.RELATIONS if r in row.assume)
    assert row.nfa == ("gwa_a" in row.assume)
    assert row.cu == ("rwa_a" in row.assume)
    assert not row.nc
    slope = mt.llm_slope(row.p, row.q)
    assert slope == row.llm_slope or (math.isnan(slope) and math.isnan(row.llm_slope))


@pytest.mark.parametrize("row", mt.vertices(), ids=lambda row: row.name)
@pytest.mark.parametrize("side", ["a", "b"])
def test_printed_laws_say_what_the_exponents_say(row: mt.Phase, side: str) -> None:
    power = {k[0]: e for k, e in mt.exponents(row.p, row.q).items() if k.endswith(side)}
    power["P"] = 0.0
    for law in (row.backward if side == "a" else row.forward).split(", "):
        sides = [re.fullmatch(r"([HZGP])([⁻¹²³]*)", term) for term in law.split("∝")]
        values = {power[m[1]] * int(m[2].translate(SUPERSCRIPT) or 1) for m in sides if m}
        assert None not in sides
        assert len(values) == 1


def test_two_relations_of_a_side_imply_the_third() -> None:
    for side, corner in (("a", (2, 0)), ("b", (0, 2))):
        kinds = [f"{kind}_{side}" for kind in ("rga", "rwa", "gwa")]
        pairs = [(x, y) for x in kinds for y in kinds if x < y]
        assert {mt.intersect(*pair) for pair in pairs} == {corner}


def test_same_kind_on_both_sides_needs_a_flat_spectrum() -> None:
    rows = {row.name: row for row in mt.PHASES if row.flat}
    assert set(rows) == {"CRH", "1", "2", "3"}
    for name in "123":
        assert mt.intersect(*rows[name].assume) is None
    assert all((rows["CRH"].nc, rows["CRH"].nfa, rows["CRH"].cu))
    assert len(mt.PHASES) == 12
    assert len(mt.vertices()) == 8


def test_exponents_of_all_vertices_lie_in_minus_two_to_six_and_slopes_in_one_to_three() -> None:
    slopes = [row.llm_slope for row in mt.vertices()]
    assert sorted(k for k in slopes if math.isfinite(k)) == [-1, 1, 1, 2, 3]


def test_vertices_are_two_apart() -> None:
    points = [(v.p, v.q) for v in mt.vertices()]
    gaps = [math.dist(x, y) for x in points for y in points if x != y]
    assert min(gaps) == 2


def _layer(row: mt.Phase, d_b: int = 60, d_a: int = 72, k: int = 48, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    U, _ = torch.linalg.qr(torch.randn(d_b, k, generator=generator, dtype=torch.float64))
    V, _ = torch.linalg.qr(torch.randn(d_a, k, generator=generator, dtype=torch.float64))
    s = torch.logspace(0, -1.2, k, dtype=torch.float64)
    return s, U, V, *mt.realise(row.p, row.q, s, U, V)


@pytest.mark.parametrize("row", mt.vertices(), ids=lambda row: row.name)
def test_exactly_the_stated_relations_hold_in_matrices(row: mt.Phase) -> None:
    """min_c ‖A − cB‖/‖A‖ vanishes for the assumed relations and for no other."""
    _, _, _, W, H_a, G_b = _layer(row)
    M = {"H_a": H_a, "G_a": W.T @ G_b @ W, "Z_a": W.T @ W}
    M |= {"H_b": W @ H_a @ W.T, "G_b": G_b, "Z_b": W @ W.T}
    for relation in mt.RELATIONS:
        kind, side = relation.split("_")
        first, second = {"rga": "HG", "rwa": "HZ", "gwa": "GZ"}[kind]
        A, B = M[f"{first}_{side}"], M[f"{second}_{side}"]
        residual = float((A - (A * B).sum() / (B * B).sum() * B).norm() / A.norm())
        assert (residual < 1e-8) == (relation in row.assume)
        if relation in row.assume:
            assert pearson(A, B) == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize("row", mt.vertices(), ids=lambda row: row.name)
def test_synthetic_phase_is_recovered_exactly_and_from_2000_samples(row: mt.Phase) -> None:
    """Within .01 exact, .1 at n = 2000, classified right both times."""
    s, U, V, W, H_a, G_b = _layer(row)
    exact = fit_exponents(*singular_basis_powers(W, H_a, G_b))
    assert (exact.p, exact.q) == (pytest.approx(row.p, abs=0.01), pytest.approx(row.q, abs=0.01))
    assert exact.directions == 48
    assert exact.decades == pytest.approx(2.4)
    found = mt.classify(exact.p, exact.q, exact.p_interval, exact.q_interval)
    assert found is row

    n, generator = 2000, torch.Generator().manual_seed(1)
    h = torch.randn(n, 48, generator=generator, dtype=torch.float64) * s ** (row.p / 2) @ V.T
    g = torch.randn(n, 48, generator=generator, dtype=torch.float64) * s ** (row.q / 2) @ U.T
    fit = fit_exponents(*singular_basis_powers(W, h.T @ h / n, g.T @ g / n), samples=n)
    assert (fit.p, fit.q) == (pytest.approx(row.p, abs=0.1), pytest.approx(row.q, abs=0.1))
    assert mt.classify(fit.p, fit.q, fit.p_interval, fit.q_interval) is row


def test_classify_leaves_the_middle_of_the_plane_unassigned() -> None:
    for p, q in ((0.8, 0.9), (1.2, 1.4), (1.0, 3.0), (0.67, 1.53)):
        assert mt.classify(p, q) is None
    assert mt.classify(0.04, 2.28) is mt.phase("forward CRH")


def test_classify_refuses_what_it_cannot_know() -> None:
    nan = math.nan
    assert mt.classify(nan, 0.0) is None
    assert mt.classify(0.0, 0.0, (nan, nan), (0.0, 0.0)) is None
    assert mt.classify(0.0, 0.0, (-1.2, 1.2), (-0.1, 0.1)) is None
    assert mt.classify(0.0, 0.0, (-0.3, 0.3), (-0.1, 0.1)) is mt.phase("9")


def test_flat_needs_eight_directions_and_a_decade() -> None:
    assert mt.flat(7, 3.0)
    assert mt.flat(20, 0.9)
    assert mt.flat(20, math.nan)
    assert not mt.flat(8, 1.0)


@given(st.lists(st.floats(-3, 3), min_size=9, max_size=9))
def test_transitivity_holds_for_every_triple(entries: list[float]) -> None:
    rows = torch.tensor(entries, dtype=torch.float64).reshape(3, 3)
    generator = torch.Generator().manual_seed(int(abs(sum(entries)) * 1000))
    A, B, C = rows @ torch.randn(3, 16, generator=generator, dtype=torch.float64) + torch.randn(
        3, 16, generator=generator, dtype=torch.float64
    )
    matrix = [v.reshape(4, 4) for v in (A, B, C)]
    ab, bc, ac = (pearson(matrix[i], matrix[j]) for i, j in ((0, 1), (1, 2), (0, 2)))
    low, high = mt.transitivity_bounds(ab, bc)
    assert low - 1e-9 <= ac <= high + 1e-9


def test_errors_name_the_culprit() -> None:
    with pytest.raises(KeyError, match="rga_c"):
        mt.line("rga_c")
    with pytest.raises(KeyError, match="forward CRH"):
        mt.phase("10")
    with pytest.raises(ValueError, match=r"alignment_BC=1\.5"):
        mt.transitivity_bounds(0.5, 1.5)
    eye = torch.eye(2)
    with pytest.raises(ValueError, match="singular_values"):
        mt.realise(0, 0, [1.0, 0.0], eye, eye)
