"""Symmetry classes in time."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lawful.instruments.mirrors import Mirrors
from lawful.laws.snapshot import Snapshot
from lawful.laws.symmetry_breaking import jumps
from lawful.symmetry import symmetries

STEPS = (0, 10, 100, 1000)


@pytest.fixture
def cloned(empty):
    """32 neurons, 29 of them clones of 3, and so they stay."""
    for quantity in ("symmetry_classes", "symmetry_classes_exact"):
        empty.record(quantity, 3.0, stderr=0.0, steps=STEPS)
    empty.record("neurons", 32.0, stderr=0.0, steps=STEPS)
    return empty.record("neurons_off", 0.0, stderr=0.0, steps=STEPS)


def test_clones_that_stay_clones(cloned):
    found = cloned.verdict("symmetry_class")
    assert (found.status, found.effect, found.null, found.initial) == ("holds", 3, 32, 3)
    assert found.sentence == "Trains as a layer of 3 neurons, not 32."


def test_breaking_is_dated(cloned):
    cloned.record("symmetry_classes_exact", [3.0, 3.0, 5.0, 32.0], stderr=0.0, steps=STEPS)
    cloned.record("symmetry_classes", [3.0, 3.0, 3.0, 32.0], stderr=0.0, steps=STEPS)
    found = cloned.verdict("symmetry_class")
    assert found.status == "violated"
    assert "broke by step 100: 3 classes became 32" in found.sentence
    assert "Jumps: broke at 1000 (3 → 32 different)." in found.sentence


def test_a_generic_start_keeps_nothing_but_its_jumps_are_told(cloned):
    cloned.record("symmetry_classes_exact", [32.0, 32.0, 32.0, 9.0], stderr=0.0, steps=STEPS)
    cloned.record("symmetry_classes", [32.0, 30.0, 9.0, 7.0], stderr=0.0, steps=STEPS)
    cloned.record("neurons_off", [0.0, 2.0, 2.0, 3.0], stderr=0.0, steps=STEPS)
    found = cloned.verdict("symmetry_class")
    assert found.status == "out of regime"
    events = [(j.what, j.step, j.start, j.end) for j in jumps(Snapshot(cloned), "fc")]
    # 32 → 30 at step 10 is the two neurons that went off, not a merger too.
    assert events == [
        ("went off", 10, 0, 2),
        ("restored", 100, 30, 9),
        ("went off", 1000, 2, 3),
        ("restored", 1000, 9, 7),
    ]
    assert "restored at 100 (30 → 9 different)" in found.sentence


def test_a_run_that_diverged_is_undetermined(cloned):
    for quantity in ("symmetry_classes", "symmetry_classes_exact"):
        cloned.record(quantity, [3.0, 3.0, float("nan"), float("nan")], stderr=0.0, steps=STEPS)
    found = cloned.verdict("symmetry_class")
    assert (found.status, found.effect) == ("undetermined", 3)
    assert "diverged" in found.sentence


@pytest.mark.parametrize("between", [[nn.ReLU()], []])
def test_weights_that_are_not_finite_have_no_classes(between):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(16, d, generator=generator) for d in (3, 2))
    model = nn.Sequential(nn.Linear(3, 3, bias=False), *between, nn.Linear(3, 2, bias=False))
    eye = Mirrors(symmetries(model, (x, y), F.mse_loss, samples=16))
    with torch.no_grad():
        model[0].weight[0, 0] = float("inf")
    found = {m.quantity: m.value for m in eye.measure(1, model, None, {}).rows}
    assert found.keys() >= {"symmetry_classes_exact", "order_parameter"}
    assert all(value != value for value in found.values())


def test_one_look_or_no_start_is_not_enough(cloned):
    late = cloned.forget("symmetry_classes_exact", step=0)
    assert late.verdict("symmetry_class").status == "undetermined"
    for step in STEPS[1:]:
        cloned.forget("symmetry_classes_exact", step=step)
    cloned.record("symmetry_classes_exact", 3.0, stderr=0.0, steps=(0,))
    assert cloned.verdict("symmetry_class").status == "undetermined"


def linear(empty, optimizer):
    """A 4-4-4 linear net of rank 2, trained towards one of rank 4."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 4, generator=g).double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4, False), nn.Linear(4, 4, False)).double()
    with torch.no_grad():
        u = torch.tensor([[1.0, 2, 0, -1], [0, 1, 1, 1]], dtype=torch.float64)
        P = u.T @ torch.linalg.solve(u @ u.T, u)
        model[0].weight.copy_(P @ model[0].weight)
        model[1].weight.copy_(model[1].weight @ P)
    found = symmetries(model, (x, x), F.mse_loss)
    eye = Mirrors(found)
    solver = optimizer(model.parameters())
    empty.manifest["optimizer"] = {"class": type(solver).__name__, "groups": []}
    for step in range(201):
        if step % 50 == 0:
            empty.rows += eye.measure(step, model, None, {}).rows
        solver.zero_grad()
        F.mse_loss(model(x), x).backward()
        solver.step()
    return empty.verdict("symmetry_class", found[0].name)


def test_a_rank_stays_lost_under_sgd_and_adam_is_not_asked(empty):
    found = linear(empty, lambda p: torch.optim.SGD(p, 0.1))
    assert (found.status, found.effect, found.null) == ("holds", 2, 4)
    empty.rows.clear()
    found = linear(empty, lambda p: torch.optim.Adam(p, 0.01))
    assert (found.status, found.effect) == ("out of regime", 4)  # it leaves the plane indeed
    assert "rotation mirror" in found.sentence


def train(empty, kick):
    """Eight tanh neurons, six of them clones of two; Adam, 200 steps."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, generator=g)
    y = torch.sin(2 * x).sum(1, keepdim=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    with torch.no_grad():
        for t in (model[0].weight, model[0].bias, model[2].weight.T):
            t[2:5], t[5:8] = t[0].clone(), t[1].clone()
        model[0].weight[2] += kick
    eye = Mirrors(symmetries(model, (x, y), F.mse_loss, samples=16))
    solver = torch.optim.Adam(model.parameters(), 0.02)
    for step in range(201):
        if step % 50 == 0:
            empty.rows += eye.measure(step, model, None, {}).rows
        solver.zero_grad()
        F.mse_loss(model(x.double()), y.double()).backward()
        solver.step()
    return empty.verdict("symmetry_class", "0")


def test_a_cloned_network_trains_as_a_smaller_one(empty):
    found = train(empty, 0.0)
    assert (found.status, found.effect, found.null) == ("holds", 2, 8)


def test_a_small_kick_to_one_clone_is_seen_to_grow(empty):
    """1e-7 of a clone's weights is below round-off to the eye, and training amplifies it."""
    found = train(empty, 1e-7)
    assert found.status == "violated"
    assert found.initial == 2
    assert found.effect == 3
