"""Balance of deep linear nets: on chosen numbers, and where the live instrument reads it."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lawful.instruments.charges import Charges
from lawful.instruments.instrument import Rates
from lawful.instruments.tap import Scale
from lawful.symmetry import symmetries
from lawful.theory.linear_equilibrium import equilibrium

STEPS = tuple(range(0, 10_001, 500))


@pytest.fixture
def world(empty):
    """A simulated world, as an experiment writes it: gap 0.8 → 0.05."""
    empty.manifest = {"layers": [], "steps": 10_000}
    gaps = 0.05 + 0.75 * np.exp(-np.array(STEPS) / 1000)
    gaps += 0.002 * np.random.default_rng(0).normal(size=len(STEPS))
    return empty.record("balance_gap", gaps, layer="D=2", steps=STEPS)


def test_a_gap_that_closes_holds_and_one_that_stays_does_not(world):
    assert world.verdict("deep_linear_balance", "D=2").status == "holds"
    world.record("balance_gap", 0.7, layer="D=2", steps=STEPS)
    assert world.verdict("deep_linear_balance", "D=2").status == "violated"


def test_a_run_under_adam_or_too_short_is_not_judged(world):
    world.record("relaxation_steps", 1e5, layer="D=2", steps=STEPS)
    assert world.verdict("deep_linear_balance", "D=2").status == "undetermined"
    world.manifest["optimizer"] = {"class": "Adam", "groups": [{"lr": 0.1}]}
    assert world.verdict("deep_linear_balance", "D=2").status == "out of regime"


def test_singular_values_are_rho_or_not(world):
    world.record("singular_value", [1.4, 1.02], layer="D=3, used 1", steps=(0, 9))
    world.record("singular_value_predicted", 0.99, layer="D=3, used 1", steps=(0, 9))
    world.record("singular_value", [1.4, 1.3], layer="D=3, 5", steps=(0, 9))
    found = world.verdict("deep_linear_isometry", "D=3, used 1")
    assert (found.status, round(found.initial, 2)) == ("holds", 1.41)
    world.record("singular_value", [1.4, 1.3], layer="D=3, used 1", steps=(0, 9))
    assert world.verdict("deep_linear_isometry", "D=3, used 1").status == "violated"
    world.record("singular_value", [1.4, 1.05], layer="D=3, used 1", steps=(0, 9), stderr=0.1)
    assert world.verdict("deep_linear_isometry", "D=3, used 1").status == "undetermined"


@pytest.mark.parametrize("balanced", [True, False])
def test_the_instrument_reads_the_balance_of_a_live_net(balanced):
    """At theory's factorisation the noise of both sides agrees, elsewhere on the orbit not."""
    rng = np.random.default_rng(0)
    V, Sx, Se = rng.normal(size=(3, 3)), np.diag([1.5, 1.0, 0.5]), np.diag([1.0, 0.3, 0.1])
    W1, W2 = equilibrium(V, Sx, Se).weights
    if not balanced:
        M = np.eye(3) + 0.5 * rng.normal(size=(3, 3))
        W1, W2 = M @ W1, W2 @ np.linalg.inv(M)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)).double()
        for layer, W in zip(model, (W1, W2), strict=True):
            layer.weight.data = torch.from_numpy(W.copy())
        x = torch.randn(20_000, 3).double() * torch.tensor(np.sqrt(np.diag(Sx)))
        y = model(x).detach() + torch.randn(20_000, 3).double() * torch.tensor(np.sqrt(np.diag(Se)))

    def loss(f, t):
        return (f - t).square().sum(-1).mean()

    charges = Charges(model, symmetries(model, (x[:16], y[:16]), loss), Scale("mean", 1))
    charges.place()
    loss(model(x), y).backward()
    charges.before(0, dict.fromkeys(model.parameters(), Rates("SGD", 1e-3)), 1.0)
    charges.after(0)
    charges.lift()
    gap = [r.value for r in charges.read(0).rows if r.quantity == "balance_gap"]
    assert len(gap) == 1
    assert gap[0] < 0.1 if balanced else gap[0] > 0.4
    assert math.isfinite(gap[0])
