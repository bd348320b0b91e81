"""Phases of polynomial alignment: vertices, no vertex, no telling."""

import math

import pytest

from lawful.theory.master_theorem import vertices


@pytest.fixture
def plane(aligned):
    """Starts isotropic, at the origin; W has 20 directions over 2 decades."""
    aligned.record("directions", 20, stderr=0.0).record("decades", 2.0, stderr=0.0)
    return aligned.record("exponent_p", [0.02, 0.17]).record("exponent_q", [0.05, 2.29])


@pytest.mark.parametrize(
    "vertex", [v for v in vertices() if (v.p, v.q) != (0, 0)], ids=lambda v: v.name
)
def test_every_phase_is_recognised(plane, vertex):
    plane.record("exponent_p", [0.0, vertex.p + 0.2], stderr=0.1)
    plane.record("exponent_q", [0.0, vertex.q - 0.2], stderr=0.1)
    found = plane.verdict("pah_phase")
    assert found.status == "holds"
    assert vertex.name.lower() in found.sentence.lower()
    assert vertex.forward in found.sentence
    assert found.effect == pytest.approx(math.hypot(0.2, 0.2))
    assert found.null == pytest.approx(math.hypot(vertex.p, vertex.q))


def test_far_from_every_vertex_is_unassigned(plane):
    found = plane.record("exponent_p", [0, 1.0]).record("exponent_q", [0, 1.2]).verdict("pah_phase")
    assert found.status == "violated"
    assert "Unassigned" in found.sentence


def test_wide_intervals_tell_nothing(plane):
    plane.record("exponent_p", [0, 1.0], stderr=0.8).record("exponent_q", [0, 1.2], stderr=0.8)
    assert plane.verdict("pah_phase").status == "undetermined"
    plane.record("exponent_q", [0, 2.2], stderr=math.nan)
    assert plane.verdict("pah_phase").status == "undetermined"


def test_flat_spectra_and_few_directions(plane):
    assert plane.record("decades", 0.4, stderr=0.0).verdict("pah_phase").status == "out of regime"
    plane.record("decades", 2.0, stderr=0.0).record("directions", 5, stderr=0.0)
    assert plane.verdict("pah_phase").status == "undetermined"
    assert plane.forget("exponent_p").verdict("pah_phase").status == "undetermined"


def test_a_layer_that_started_in_its_phase_formed_nothing(plane):
    plane.record("exponent_p", [0.1, 0.0]).record("exponent_q", [1.9, 2.1])
    assert plane.verdict("pah_phase").status == "out of regime"
    plane.record("exponent_p", [0.0, 0.0]).record("exponent_q", [0.0, 0.1])  # untrained
    assert plane.verdict("pah_phase").status == "out of regime"
    plane.forget("exponent_q", step=0)
    assert plane.verdict("pah_phase").status == "undetermined"


def test_the_origin_must_be_confirmed_by_its_alignments(plane):
    plane.record("exponent_p", [2.0, 0.0]).record("exponent_q", [2.0, 0.1])
    assert plane.verdict("pah_phase").status == "holds"
    plane.record("gwa_a", [0.1, 0.2])
    assert plane.verdict("pah_phase").status == "undetermined"
