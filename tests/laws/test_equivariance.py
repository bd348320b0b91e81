"""Identities as verdicts: round-off holds, anything else does not."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lawful import laws
from lawful.instruments.identities import Identities
from lawful.instruments.probe import Probe
from lawful.laws.equivariance import tolerance
from lawful.symmetry import Family, Scaling, Symmetry, symmetries

DOUBLE = 2.0**-52
ALL = [law.name for law in laws.select("equivariance")]


@pytest.fixture
def exact(empty):
    """Every identity of one symmetry at round-off."""
    for name in ALL:
        quantity = name.replace("equivariance", "identity")
        empty.record(quantity, [3e-16, 1e-15], layer="rescaling", stderr=0.0)
    return empty.record("identity_precision", DOUBLE, layer="rescaling", stderr=0.0)


@pytest.mark.parametrize("name", ALL)
def test_round_off_holds_and_a_wrong_symmetry_violates(exact, name):
    found = exact.verdict(name, "rescaling")
    assert (found.status, found.effect, found.initial) == ("holds", 1e-15, 3e-16)
    quantity = name.replace("equivariance", "identity")
    exact.record(quantity, 2e-3, layer="rescaling", stderr=0.0)
    assert exact.verdict(name, "rescaling").status == "violated"


def test_between_round_off_and_ten_times_it(exact):
    limit = DOUBLE**0.5
    assert tolerance(laws.snapshot.Snapshot(exact), "rescaling") == pytest.approx(limit)
    exact.record("identity_hessian", 3 * limit, layer="rescaling", stderr=0.0)
    assert exact.verdict("equivariance_hessian", "rescaling").status == "undetermined"
    exact.record("identity_hessian", 11 * limit, layer="rescaling", stderr=0.0)
    assert exact.verdict("equivariance_hessian", "rescaling").status == "violated"


def test_a_kink_on_the_way_of_the_chord_decides_nothing(exact):
    exact.record("identity_chord", 0.4, layer="rescaling", stderr=0.4)
    found = exact.verdict("equivariance_chord", "rescaling")
    assert found.status == "undetermined"
    assert "a kink lies on the way" in found.sentence
    exact.record("identity_chord", 0.4, layer="rescaling", stderr=0.1)
    assert exact.verdict("equivariance_chord", "rescaling").status == "violated"


def test_half_precision_is_out_of_regime(exact):
    eps = float(torch.finfo(torch.bfloat16).eps)
    exact.record("identity_precision", eps, layer="rescaling", stderr=0.0)
    assert exact.verdict("equivariance_orbit", "rescaling").status == "out of regime"
    exact.forget("identity_precision")
    assert exact.verdict("equivariance_orbit", "rescaling").status == "undetermined"


def test_nothing_tested_and_nothing_recorded(exact):
    exact.record("identity_gradient", math.nan, layer="rescaling", stderr=0.0)
    assert exact.verdict("equivariance_gradient", "rescaling").status == "undetermined"
    exact.forget("identity_gradient")
    assert exact.verdict("equivariance_gradient", "").status == "undetermined"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_real_network_and_a_false_claim_about_it(empty, dtype):
    """Beside the symmetries of a GELU network: the rescaling it does not have."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(16, 4, generator=g, dtype=dtype), torch.arange(16) % 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)).to(dtype)
    i = torch.arange(6)
    act = Family((Scaling("0.weight", 0, i, 1.0), Scaling("2.weight", 1, i, -1.0)), 6)
    false = Symmetry("false", "rescaling", ("0",), act, "", 6, 6, 0.0, True, "by hand", "")
    found = [*symmetries(model, (x, y), F.cross_entropy), false]
    probe = Probe([(x, y)], F.cross_entropy)
    empty.rows += Identities(found, seed=0).measure(1000, model, probe, {}).rows
    verdicts = [v for v in laws.test(empty, "equivariance") if v.layer]
    assert {v.status for v in verdicts if v.layer != "false"} == {"holds"}
    wrong = {v.law: v.status for v in verdicts if v.layer == "false"}
    assert wrong["equivariance_gradient"] == "violated"
    assert wrong["equivariance_hessian"] == "violated"
    assert wrong["equivariance_orbit"] == "violated"
