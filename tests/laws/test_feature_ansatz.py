"""The neural feature ansatz in its three forms."""

import pytest


@pytest.fixture
def ansatz(aligned):
    aligned.record("nfa", [0.2, 0.9]).record("nfa_sqrt", [0.3, 0.95]).record("nfa_haar", 0.2)
    return aligned.record("participation_Z", [40, 10])


@pytest.mark.parametrize("law", ["nfa", "nfa_sqrt", "enfa"])
def test_the_ansatz_forms(ansatz, law):
    assert ansatz.verdict(law).status == "holds"


@pytest.mark.parametrize(
    ("law", "quantity"), [("nfa", "nfa"), ("nfa_sqrt", "nfa_sqrt"), ("enfa", "gwa_a")]
)
def test_the_ansatz_fails_or_was_there_already(ansatz, law, quantity):
    assert ansatz.record(quantity, [0.2, 0.4]).verdict(law).status == "violated"
    assert ansatz.record(quantity, [0.8, 0.9]).verdict(law).status == "out of regime"


def test_the_root_is_held_to_a_higher_null(ansatz):
    found = ansatz.verdict("nfa_sqrt")
    assert found.null == pytest.approx((10 / 64) ** 0.5)
    assert ansatz.record("participation_Z", 40).verdict("nfa_sqrt").status == "out of regime"


@pytest.mark.parametrize("law", ["nfa", "nfa_sqrt"])
def test_without_a_null_nothing_holds(ansatz, law):
    assert ansatz.forget("nfa_haar", "participation_Z").verdict(law).status == "undetermined"


def test_a_run_without_the_agop_gets_one_answer(aligned):
    found = aligned.verdict("nfa", layer="")
    assert found.status == "undetermined"
    assert "nfa was never recorded" in found.sentence
