"""Alignment of two linear networks: formed, not formed, and outside of what the theorem covers."""

import pytest


@pytest.fixture
def pair(empty):
    """Least CKA from 0.5 to 0.998, noise on the labels, no decay."""
    empty.record("platonic_alignment", [0.5, 0.998], stderr=0.0)
    empty.record("label_noise", 1.75, stderr=0.0)
    return empty.record("decay_over_rate", 0.0, stderr=0.0)


def test_aligned_networks_hold(pair):
    found = pair.verdict("platonic")
    assert found.status == "holds"
    assert found.effect == pytest.approx(0.998)


def test_stretched_labels_violate(pair):
    assert pair.record("platonic_alignment", [0.4, 0.78], stderr=0.0).verdict(
        "platonic"
    ).status == ("violated")


def test_networks_alike_from_the_start_are_trivial(pair):
    pair.record("platonic_alignment", [0.995, 0.998], stderr=0.0)
    assert pair.verdict("platonic").status == "out of regime"


@pytest.mark.parametrize(("quantity", "value"), [("label_noise", 0.0), ("decay_over_rate", 3.0)])
def test_without_noise_or_with_heavy_decay_nothing_is_claimed(pair, quantity, value):
    assert pair.record(quantity, value, stderr=0.0).verdict("platonic").status == "out of regime"
    assert pair.forget(quantity).verdict("platonic").status == "undetermined"


def test_the_null_is_what_descent_scores(pair):
    pair.record("platonic_alignment", [0.5, 0.45], layer="descent", stderr=0.0)
    assert pair.verdict("platonic").null == pytest.approx(0.45)
