"""The mirror constraint: theory's threshold against where the state ends."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lawful.instruments.critical_decay import CriticalDecay
from lawful.instruments.instrument import Rates
from lawful.instruments.mirrors import Mirrors
from lawful.instruments.probe import Probe
from lawful.symmetry import symmetries

STEPS = (0, 500, 700, 1000)


@pytest.fixture
def collapsed(empty):
    """λ = 3e-3 above λ_c = 2e-3; the order parameter has gone to zero."""
    empty.record("order_parameter", [0.4, 1e-3, 1e-4, 1e-6], stderr=0.0, steps=STEPS)
    empty.record("critical_decay_predicted", [9.0, 2e-3, 2e-3, 2e-3], stderr=0.0, steps=STEPS)
    return empty.record("plane_gradient", [0.8, 0.05, 0.01, 0.0], stderr=0.0, steps=STEPS)


def test_above_the_threshold_and_collapsed(collapsed):
    found = collapsed.verdict("mirror_collapse")
    assert (found.status, found.effect, found.initial) == ("holds", 1e-6, 0.4)
    assert "λ_c = 0.002 of step 500" in found.sentence  # not that of step 0, far from rest
    collapsed.record("order_parameter", [0.4, 0.4, 0.4, 0.4], stderr=0.0, steps=STEPS)
    assert collapsed.verdict("mirror_collapse").status == "violated"


def test_below_the_threshold(collapsed):
    collapsed.record("weight_decay", 1e-3, layer="", stderr=0.0)
    assert collapsed.verdict("mirror_collapse").status == "violated"
    collapsed.record("order_parameter", [0.01, 0.2, 0.4, 0.41], stderr=0.0, steps=STEPS)
    assert collapsed.verdict("mirror_collapse").status == "holds"


def test_near_the_threshold_or_on_the_way(collapsed):
    collapsed.record("weight_decay", 2.05e-3, layer="", stderr=0.0)
    assert collapsed.verdict("mirror_collapse").status == "undetermined"
    collapsed.record("weight_decay", 3e-3, layer="", stderr=0.0)
    collapsed.record("order_parameter", [0.4, 0.3, 0.2, 0.1], stderr=0.0, steps=STEPS)
    found = collapsed.verdict("mirror_collapse")
    assert (found.status, "still on its way" in found.sentence) == ("undetermined", True)


def test_never_at_rest(collapsed):
    collapsed.record("plane_gradient", 0.7, stderr=0.0, steps=STEPS)
    found = collapsed.verdict("mirror_collapse")
    assert found.status == "undetermined"
    assert "never seen at rest" in found.sentence


def test_out_of_regime(collapsed):
    collapsed.manifest["optimizer"] = {"class": "AdamW", "groups": [{"weight_decay": 3e-3}]}
    assert collapsed.verdict("mirror_collapse").status == "out of regime"
    collapsed.manifest["optimizer"] = {"class": "Adam", "groups": [{"weight_decay": 3e-3}]}
    assert collapsed.verdict("mirror_collapse").status == "holds"  # swaps are fine
    collapsed.record("rotation_distance", 0.1, stderr=0.0, steps=STEPS)
    found = collapsed.verdict("mirror_collapse")
    assert found.status == "out of regime"
    assert "rotation mirror" in found.sentence


def test_exactly_on_the_mirror_nothing_is_tested(collapsed):
    collapsed.record("order_parameter", 0.0, stderr=0.0, steps=STEPS)
    assert collapsed.verdict("mirror_collapse").status == "out of regime"


def test_a_simulation_predicts_the_order_parameter_itself(collapsed):
    collapsed.manifest["optimizer"] = None
    collapsed.record("order_parameter_predicted", 0.0, stderr=0.0, steps=STEPS)
    assert collapsed.verdict("mirror_collapse").status == "holds"
    collapsed.record("order_parameter_predicted", 0.3, stderr=0.0, steps=STEPS)
    assert collapsed.verdict("mirror_collapse").status == "violated"


@pytest.mark.parametrize(
    ("edge", "status"),
    [(2.05e-3, "holds"), (3e-3, "violated"), (float("nan"), "undetermined")],
)
def test_the_edge_beside_its_prediction(collapsed, edge, status):
    collapsed.record("critical_decay", edge, stderr=0.0, steps=(1000,))
    assert collapsed.verdict("mirror_threshold").status == status


def test_an_edge_with_a_wide_error_and_a_state_symmetric_without_decay(collapsed):
    collapsed.record("critical_decay", 2.5e-3, stderr=5e-4, steps=(1000,))
    assert collapsed.verdict("mirror_threshold").status == "undetermined"
    collapsed.record("critical_decay", 2.05e-3, stderr=5e-4, steps=(1000,))
    assert collapsed.verdict("mirror_threshold").status == "undetermined"  # near by chance
    collapsed.record("critical_decay_predicted", -1.0, stderr=0.0, steps=STEPS)
    assert collapsed.verdict("mirror_threshold").status == "out of regime"


def train(empty, decay, steps=2400):
    """Two tanh neurons, 0.05 off equality, under SGD with momentum and torch's weight decay."""
    x = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
    y = torch.tanh(2.5 * x) - 0.6 * torch.tanh(0.7 * x)
    model = nn.Sequential(nn.Linear(1, 2, False), nn.Tanh(), nn.Linear(2, 1, False)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [1.05]]))
        model[2].weight.copy_(torch.tensor([[0.5, 0.45]]))
    found = symmetries(model, (x, y), F.mse_loss, samples=41)
    eyes = Mirrors(found), CriticalDecay(found)
    solver = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=decay)
    rates = {p: Rates("SGD", 0.1, decay, 0.9) for p in model.parameters()}
    empty.manifest["optimizer"] = {"class": "SGD", "groups": [{"weight_decay": decay}]}
    for step in range(steps + 1):
        if step % (steps // 8) == 0:
            probe = Probe([(x, y)], F.mse_loss, whole=True)
            for eye in eyes:
                empty.rows += eye.measure(step, model, probe, rates).rows
        solver.zero_grad()
        F.mse_loss(model(x), y).backward()
        solver.step()
    return empty.verdict("mirror_collapse", "0")


@pytest.mark.parametrize(("factor", "collapses"), [(0.8, False), (1.2, True)])
def test_a_real_network_on_either_side(empty, factor, collapses):
    """λ_c = 0.1707 at the threshold itself (the root-finding test of the theory)."""
    found = train(empty, factor * 0.1707)
    assert found.status == "holds", found.sentence
    assert (found.effect < 1e-3) is collapses
