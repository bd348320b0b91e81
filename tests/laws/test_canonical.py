"""The six relations, all of them together, and what two imply of a third."""

import math

import numpy as np
import pytest

from lawful.record.vocabulary import RELATIONS


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_relation_that_formed_holds(aligned, relation):
    found = aligned.verdict(relation)
    assert found.status == "holds"
    assert (found.effect, found.initial, found.null, found.step) == (0.95, 0.15, 0.25, 1000)
    low, high = found.interval
    assert low == pytest.approx(0.93, abs=2e-3)
    assert high == pytest.approx(0.97, abs=2e-3)
    assert "up from 0.15 at initialisation, null 0.25" in found.sentence


def test_the_sentence_reads_as_a_sentence(aligned):
    assert aligned.verdict("rga_b").sentence == (
        "H_b ∝ G_b: α = 0.95 [0.93, 0.97], up from 0.15 at initialisation, null 0.25."
    )


@pytest.mark.parametrize(
    ("start", "end", "status"),
    [
        (0.14, 0.31, "violated"),  # γ = 0: a little structure, no law
        (0.85, 0.50, "violated"),  # there at first, lost
        (0.14, 0.70, "undetermined"),  # the interval straddles the threshold
        (0.81, 0.95, "out of regime"),  # trivial: there already
        (0.69, 0.73, "out of regime"),  # crossed the line without moving
        (0.61, 0.73, "undetermined"),  # moved, perhaps by less than counts
    ],
)
def test_status_follows_the_interval_and_the_start(aligned, start, end, status):
    aligned.record("rga_b", [start, end])
    assert aligned.verdict("rga_b").status == status


def test_trivial_alignment_is_called_trivial(aligned):
    sentence = aligned.record("rga_b", [0.81, 0.83]).verdict("rga_b").sentence
    assert "trivial: already 0.81 at initialisation (nothing formed)" in sentence


def test_an_untrained_run_holds_nothing(aligned):
    """Any value at all, measured at step 0 only, or the same within its error ever after."""
    for value in np.linspace(-0.2, 1.0, 13):
        aligned.record("rga_b", [value, value])
        assert aligned.verdict("rga_b").status in ("violated", "out of regime", "undetermined")
    for m in list(aligned.rows):
        aligned.forget(m.quantity, step=1000)
    assert aligned.verdict("rga_b").status == "out of regime"
    assert "nothing has been trained" in aligned.verdict("rga_b").sentence


def test_noise_around_an_unchanging_value_is_not_formation(aligned):
    """A permuted-label run whose α does not move: no `holds` in 100 draws of its noise."""
    rng = np.random.default_rng(0)
    statuses = set()
    for value in rng.uniform(0.5, 0.95, 100):
        start, end = value + 0.05 * rng.normal(size=2)
        aligned.record("rga_b", [start, end], stderr=0.05)
        statuses.add(aligned.verdict("rga_b").status)
    assert "holds" not in statuses
    assert "violated" in statuses


@pytest.mark.parametrize(
    ("quantity", "value", "word"),
    [
        ("samples", 60, "60 rows for a layer of width 64, 256 needed"),
        ("effective_samples", 40, "worth 40 independent ones: 128 needed"),
        ("clusters", 4, "4 independent samples, 8 needed"),
        ("drift", 0.3, "moved by 0.30 of their norm"),
    ],
)
def test_poor_evidence_is_undetermined(aligned, quantity, value, word):
    found = aligned.record(quantity, value, stderr=0.0).verdict("rga_b")
    assert found.status == "undetermined"
    assert word in found.sentence


def test_missing_pieces_are_undetermined(aligned):
    aligned.record("rga_b", 0.95, steps=(1000,), stderr=math.nan)
    assert aligned.verdict("rga_b").status == "undetermined"
    assert "error is not known" in aligned.verdict("rga_b").sentence
    aligned.record("rga_b", 0.95, steps=(1000,)).forget("rga_b", step=0)
    assert "no measurement at initialisation" in aligned.verdict("rga_b").sentence
    assert math.isnan(aligned.verdict("rga_b").initial)
    aligned.record("rwa_b", [0.1, math.nan])
    assert "no finite estimate at the last measured step, 1000" in aligned.verdict("rwa_b").sentence
    aligned.forget("gwa_b_permutation")
    assert "no permutation null" in aligned.verdict("gwa_b").sentence
    aligned.forget("gwa_a")
    assert "gwa_a was never recorded here" in aligned.verdict("gwa_a").sentence
    for relation in ("rga_b", "rwa_b", "gwa_b", "gwa_a"):
        assert aligned.verdict(relation).status == "undetermined"


def test_a_null_that_passes_the_threshold_leaves_nothing_to_find(aligned):
    assert aligned.record("rga_b_haar", 0.8).verdict("rga_b").status == "out of regime"
    assert aligned.record("rga_b_haar", 0.99).verdict("rga_b").status == "violated"


def test_one_neuron_is_out_of_regime(aligned):
    aligned.record("width_b", 1, stderr=0.0)
    assert aligned.verdict("rga_b").status == "out of regime"
    assert aligned.verdict("rga_a").status == "holds"


# All six -----------------------------------------------------------------------------------


def test_crh_holds_when_all_six_do_and_one_formed(aligned):
    assert aligned.verdict("crh").status == "holds"
    aligned.record("rwa_b", [0.9, 0.96])  # trivially there: does not speak against
    assert aligned.verdict("crh").status == "holds"
    for relation in RELATIONS:
        aligned.record(relation, [0.9, 0.96])
    assert aligned.verdict("crh").status == "out of regime"


def test_crh_names_what_fails_and_asks_more_of_each(aligned):
    found = aligned.record("rga_a", [0.1, 0.3]).verdict("crh")
    assert found.status == "violated"
    assert found.effect == 0.3
    assert "because H_a ∝ G_a fails" in found.sentence
    # 0.725 ± 0.01 clears 0.7 alone (1.96 errors) and not among six (2.64 errors)
    aligned.record("rga_a", [0.1, 0.725])
    assert aligned.verdict("rga_a").status == "holds"
    assert aligned.verdict("crh").status == "undetermined"


def test_crh_with_one_relation_unknown(aligned):
    aligned.record("gwa_b", [0.1, math.nan])
    assert aligned.verdict("crh").status == "undetermined"
    assert "G_b ∝ Z_b: no finite estimate" in aligned.verdict("crh").sentence
    assert aligned.record("rga_a", [0.1, 0.3]).verdict("crh").status == "violated"
    assert aligned.verdict("crh").effect == 0.3


def test_crh_reports_a_spectrum_that_contradicts_it(aligned):
    flat = aligned.record("decades", 0.3, stderr=math.nan).verdict("crh").sentence
    steep = aligned.record("decades", 2.1, stderr=math.nan).verdict("crh").sentence
    assert "nearly flat (0.30 decades" in flat
    assert "Yet s² of W spans 2.10 decades" in steep


# Directional redundancy ------------------------------------------------------------------------


def test_two_relations_imply_the_third(aligned):
    found = aligned.verdict("redundancy")
    assert found.status == "holds"
    assert found.null == pytest.approx(math.cos(2 * math.acos(0.95)))


def test_a_third_that_stays_away_violates_redundancy(aligned):
    aligned.record("rga_b", [0.1, 0.78]).record("rwa_b", [0.1, 0.78]).record("gwa_b", [0.1, 0.35])
    for name, value in {"rga_b": 0.78, "rwa_b": 0.78, "gwa_b": 0.35}.items():
        aligned.record(name + "_plugin", value)
    found = aligned.verdict("redundancy")
    assert found.status == "violated"
    assert found.effect == 0.35
    assert "H_b ∝ G_b and H_b ∝ Z_b imply G_b ∝ Z_b fails" in found.sentence


def test_an_impossible_third_is_a_fault_of_measurement(aligned):
    aligned.record("gwa_b_plugin", 0.5)  # two at 0.95 force 0.805
    found = aligned.verdict("redundancy")
    assert found.status == "violated"
    assert "measurement is at fault" in found.sentence


def test_redundancy_without_two_relations_is_out_of_regime(aligned):
    for relation in RELATIONS:
        aligned.record(relation, [0.1, 0.3]).record(relation + "_plugin", 0.3)
    assert aligned.verdict("redundancy").status == "out of regime"
    for relation in RELATIONS:  # present from the start: nothing formed
        aligned.record(relation, [0.9, 0.9]).record(relation + "_plugin", 0.9)
    assert aligned.verdict("redundancy").status == "out of regime"


def test_a_layer_that_decay_left_with_one_direction_is_out_of_regime(aligned):
    """Rank one makes H_b ∝ Z_b and G_a ∝ Z_a algebra: nothing has formed."""
    dead = aligned.record("participation_Z", [40, 1.01])
    for law in ("rwa_b", "gwa_a", "crh"):
        verdict = dead.verdict(law)
        assert verdict.status == "out of regime"
        assert "one direction" in verdict.sentence


def test_debiasing_beyond_one_is_not_evidence(aligned):
    """α̂ = 1.44 says that the correction outweighs the samples, not that α is high."""
    verdict = aligned.record("rga_b", [0.1, 1.44]).verdict("rga_b")
    assert verdict.status == "undetermined"
    assert "debiasing" in verdict.sentence
