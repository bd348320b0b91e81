"""Neural collapse, its regime, and its relation to the canonical representation."""

import math

import numpy as np
import pytest

from lawful.estimators.uncertainty import share_error
from lawful.record.vocabulary import RELATIONS

LAWS = ("nc1", "nc2", "nc3", "nc4")
START = {"nc1": 12.0, "nc2_norm": 0.4, "nc2_angle": 0.3, "nc3": 1.35, "nc4": 0.4}
END = {"nc1": 0.02, "nc2_norm": 0.04, "nc2_angle": 0.03, "nc3": 0.1, "nc4": 0.0}


@pytest.fixture
def collapsed(empty):
    """A classifier 64 → 10 in its terminal phase."""
    empty.record("width_b", 10, stderr=0.0).record("classes", 10, stderr=0.0)
    empty.record("train_error", [0.9, 0.0], stderr=0.0)
    for name in START:
        empty.record(name, [START[name], END[name]], stderr=0.001)
    return empty


@pytest.mark.parametrize("law", LAWS)
def test_a_collapsed_classifier(collapsed, law):
    found = collapsed.verdict(law)
    assert found.status == "holds"
    assert "down from" in found.sentence


@pytest.mark.parametrize("law", LAWS)
def test_a_trained_classifier_that_did_not_collapse(collapsed, law):
    for name in START:
        collapsed.record(name, [START[name], 0.9 * START[name]], stderr=0.001)
    assert collapsed.verdict(law).status == "violated"


@pytest.mark.parametrize("law", LAWS)
def test_before_the_terminal_phase(collapsed, law):
    found = collapsed.record("train_error", [0.9, 0.2], stderr=0.0).verdict(law)
    assert found.status == "out of regime"
    assert "not the terminal phase" in found.sentence


@pytest.mark.parametrize("law", LAWS)
def test_collapse_without_error_bars_or_beginning_is_undetermined(collapsed, law):
    for name in START:
        collapsed.forget(name, step=0)
    assert collapsed.verdict(law).status == "undetermined"
    for name in START:
        collapsed.record(name, [START[name], END[name]], stderr=math.nan)
    assert collapsed.verdict(law).status == "undetermined"


@pytest.mark.parametrize(("n", "status"), [(80, "undetermined"), (1000, "holds")])
def test_no_disagreement_among_few_samples_is_no_collapse(collapsed, n, status):
    """None of 80 says "below 4 %", the law "below 1 %"."""
    collapsed.record("nc4", [0.4, 0.0], stderr=share_error(0.0, n), n=n)
    assert collapsed.verdict("nc4").status == status


def test_the_worse_half_of_nc2_decides(collapsed):
    found = collapsed.record("nc2_angle", [0.4, 0.35]).verdict("nc2")
    assert found.status == "violated"
    assert "angle deviation" in found.sentence
    assert found.null == pytest.approx(math.sqrt(2 / (math.pi * 64)))


def test_in_many_dimensions_random_class_means_are_no_collapse(collapsed):
    """They are as near a simplex as 0.031 in the norms, 0.035 in the angles, at d = 512."""
    collapsed.record("width_a", 512, stderr=0.0)
    collapsed.record("nc2_norm", [0.4, 0.05], stderr=0.001)
    found = collapsed.verdict("nc2")
    assert found.status == "violated"
    assert "stays above 0.03" in found.sentence
    collapsed.record("nc2_norm", [0.4, 0.02], stderr=0.001)
    assert collapsed.verdict("nc2").status == "holds"


def test_where_no_simplex_can_be(collapsed):
    assert collapsed.record("classes", 2, stderr=0.0).verdict("nc2").status == "out of regime"
    collapsed.record("classes", 100, stderr=0.0)
    assert collapsed.verdict("nc1").status == "out of regime"
    collapsed.record("classes", 20, stderr=0.0)
    assert collapsed.verdict("nc1").status == "holds"  # a hidden layer may collapse
    assert collapsed.verdict("nc3").status == "out of regime"  # but is not the classifier
    for name in START:
        collapsed.record(name, [START[name], END[name]], stderr=0.001, n=100)
    assert collapsed.verdict("nc1").status == "undetermined"  # 5 samples a class


def test_a_simplex_frame_satisfies_all_six_relations(collapsed):
    """Class means M on a simplex and W = Mᵀ: H, G, Z of both sides are one projector each."""
    K, d = 10, 64
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(d, K)))[0]
    M = basis @ (np.eye(K) - 1 / K)  # columns: class means, a simplex in d dimensions
    W = M.T
    h_a = M  # one sample a class, all classes equally frequent
    g_b = -(np.eye(K) - 1 / K)  # the residual of cross-entropy at equal logits, up to a factor
    H = {"a": h_a @ h_a.T / K, "b": W @ h_a @ h_a.T @ W.T / K}
    G = {"a": W.T @ g_b @ g_b.T @ W / K, "b": g_b @ g_b.T / K}
    Z = {"a": W.T @ W, "b": W @ W.T}
    pairs = {"rga": (H, G), "rwa": (H, Z), "gwa": (G, Z)}
    for relation in RELATIONS:
        left, right = pairs[relation[:3]]
        side = relation[-1]
        alpha = float(np.corrcoef(left[side].ravel(), right[side].ravel())[0, 1])
        assert alpha > 0.9999
        collapsed.record(relation, [0.2, alpha]).record(relation + "_plugin", [0.2, min(alpha, 1)])
        collapsed.record(relation + "_permutation", 0.3).record(relation + "_haar", 0.3)
    # the ansatz: for linear outputs f = W h the AGOP at this layer is WᵀW itself
    collapsed.record("nfa", [0.2, 1.0]).record("nfa_haar", 0.3)
    for law in ("crh", "redundancy", "nfa", "enfa"):
        assert collapsed.verdict(law).status == "holds"
