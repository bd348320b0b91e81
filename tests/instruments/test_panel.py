"""The panel: which instruments are attached, when they look, and that they leave no trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import lawful
from lawful.instruments.curvature import Curvature

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(3, (64,), generator=torch.Generator().manual_seed(1))


def net() -> nn.Sequential:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    losses = []
    for k in range(steps):
        some = slice(16 * (k % 4), 16 * (k % 4) + 16)
        optimizer.zero_grad()
        loss = cross_entropy(model(X[some]), Y[some])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def observed(tmp_path, laws, steps=40, schedule=None, **options):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-2)
    with lawful.observe(
        model, tmp_path / "run", laws=laws, optimizer=optimizer,
        schedule=schedule or lawful.every(1), **options,
    ) as observation:  # fmt: skip
        losses = trained(model, optimizer, steps)
    return observation, losses


def probe() -> lawful.Probe:
    return lawful.Probe([(X, Y)], cross_entropy)


def test_every_instrument_of_the_laws_asked_for_records(tmp_path):
    families = ["symmetry", "noise", "equivariance", "mirror", "curvature"]
    observation, _ = observed(
        tmp_path, families, schedule=lawful.log_spaced(4, last=40), probe=probe()
    )
    run = observation.run
    for quantity, layer in (
        ("charge", "rescaling of 0, 2"), ("noise_trace", "0"), ("identity_hessian", "shift of 2"),
        ("order_parameter", "0"), ("sharpness", ""),
    ):  # fmt: skip
        assert len(run.series(quantity, layer)), quantity
    assert not len(run.table(quantity="rga_b")), "no law asked for the layers' moments"
    assert not len(run.events())
    assert {v.law for v in lawful.test(run)} >= {"charge_budget", "edge_of_stability"}


def test_training_is_bit_identical(tmp_path):
    families = ["symmetry", "noise", "equivariance", "mirror", "curvature", "canonical"]
    model = net()
    plain = trained(model, torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-2), 40)
    observation, losses = observed(tmp_path, families, probe=probe())
    assert losses == plain
    same = zip(model.parameters(), observation.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_the_budget_closes_through_the_door(tmp_path):
    symmetries = lawful.symmetries(net(), (X, Y), cross_entropy)
    observation, _ = observed(tmp_path, "charge_budget", symmetries=symmetries, steps=80)
    (verdict,) = [v for v in lawful.test(observation.run) if v.layer.startswith("rescaling")]
    assert verdict.status == "holds"
    assert verdict.effect < 1e-5


def test_laws_of_symmetry_ask_for_symmetries(tmp_path):
    with pytest.raises(ValueError, match=r"symmetries=lawful\.symmetries"):
        observed(tmp_path, "symmetry")


def test_laws_at_fixed_weights_ask_for_a_probe(tmp_path):
    with pytest.raises(ValueError, match=r"edge_of_stability.*pass probe="):
        observed(tmp_path, "edge_of_stability")


def test_where_one_probe_instrument_fails_the_others_still_look(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr(Curvature, "measure", broken)
    laws, probe = (
        ["edge_of_stability", "lazy_linear", "rga_b"],
        lawful.Probe([(X, Y)], cross_entropy),
    )
    with pytest.warns(lawful.LawfulWarning, match="a bug of ours"):
        observation, _ = observed(tmp_path, laws, steps=1, probe=probe)
    seen = set(observation.run.table().quantity)
    assert {"ntk_trace", "rga_b"} <= seen
    assert "sharpness" not in seen


def test_a_share_of_the_work_is_kept(tmp_path):
    schedule = lawful.log_spaced(40, share=0.02)
    observation, _ = observed(tmp_path, "virial", steps=400, schedule=schedule)
    (watch,) = observation._watches
    assert watch._spent <= 0.02 * 400 + watch.instrument.batches / 2


def test_hooks_are_lifted_between_windows_and_at_the_end(tmp_path):
    observation, _ = observed(tmp_path, "virial", steps=50, schedule=lawful.at([0]))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in observation.model.modules())
    assert observation.run.steps == [32]
