"""The noise equilibrium on chosen numbers, and on a scalar net that SGD carries there."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lawful.instruments.charges import Charges
from lawful.instruments.instrument import Rates
from lawful.instruments.tap import Scale
from lawful.laws.relaxation import elapsed, late
from lawful.laws.snapshot import Snapshot
from lawful.symmetry import symmetries
from lawful.theory.noise_equilibrium import equilibrium, orbit_change, two_signs

LAYER = "rescaling of 0, 2"
STEPS = tuple(range(0, 10_001, 500))


@pytest.fixture
def world(empty):
    """Five relaxation times; the gap falls from 0.5 to 0.02."""
    empty.manifest = empty.manifest | {
        "optimizer": {"class": "SGD", "groups": [{"lr": 0.1, "momentum": 0.0}]}, "steps": 10_000,
    }  # fmt: skip
    ripple = 0.001 * np.random.default_rng(0).normal(size=len(STEPS))
    gaps = 0.02 + 0.48 * np.exp(-np.array(STEPS) / 1000) + ripple
    empty.record("charge_gap", gaps, layer=LAYER, stderr=math.nan, steps=STEPS)
    empty.record("relaxation_steps", 2000.0, layer=LAYER, steps=STEPS)
    empty.record("charge", 1.0, layer=LAYER).record("charge_predicted", 1.1, layer=LAYER)
    return empty.record("learning_rate", 0.1, layer="")


def test_a_gap_that_closes_holds_and_prints_the_clock(world):
    found = world.verdict("noise_equilibrium", LAYER)
    assert found.status == "holds"
    assert "η²·steps = 100.00" in found.sentence
    assert "5.00 relaxation times" in found.sentence


def test_a_gap_that_stays_is_violated(world):
    found = world.record("charge_gap", 0.5, layer=LAYER, steps=STEPS)
    assert found.verdict("noise_equilibrium", LAYER).status == "violated"


def test_a_run_that_began_there_shows_nothing(world):
    world.record("charge_gap", 0.02, layer=LAYER, steps=STEPS)
    assert world.verdict("noise_equilibrium", LAYER).status == "out of regime"


def test_a_run_that_is_too_short_is_undetermined_and_says_how_short(world):
    world.record("relaxation_steps", 20_000.0, layer=LAYER, steps=STEPS)
    found = world.verdict("noise_equilibrium", LAYER)
    assert found.status == "undetermined"
    assert "η²·steps" in found.sentence
    assert "0.50 relaxation times" in found.sentence


@pytest.mark.parametrize(
    "optimiser",
    [
        {"class": "Adam", "groups": [{"lr": 0.1}]},
        {"class": "AdamW", "groups": [{"lr": 0.1, "decoupled_weight_decay": True}]},
        {"class": "SGD", "groups": [{"lr": 0.1, "momentum": 0.9}]},
    ],
)
def test_other_optimisers_are_out_of_regime(world, optimiser):
    world.manifest = world.manifest | {"optimizer": optimiser}
    assert world.verdict("noise_equilibrium", LAYER).status == "out of regime"


def test_elapsed_time_follows_a_changing_rate(world):
    tau = np.linspace(1000, 3000, len(STEPS))
    world.record("relaxation_steps", tau, layer=LAYER, steps=STEPS)
    want = 10_000 * math.log(3) / 2000
    run = Snapshot(world)
    assert elapsed(run, LAYER) == pytest.approx(want, rel=2e-3)
    assert late(run, "relaxation_steps", LAYER).value == pytest.approx(tau[-6:].mean())


@pytest.mark.parametrize(("times", "status"), [(3.1, "undetermined"), (4.5, "holds")])
def test_what_is_left_of_the_start_is_no_violation(world, times, status):
    """After three relaxation times the last quarter still shows a tenth of a gap above one."""
    steps = range(0, 10_001, 10)
    gaps = [1.9 * math.exp(-times * step / 10_000) for step in steps]
    world.record("charge_gap", gaps, layer=LAYER, steps=steps)
    world.record("relaxation_steps", 10_000 / times, layer=LAYER, steps=STEPS)
    assert world.verdict("noise_equilibrium", LAYER).status == status


def test_no_time_passes_where_nothing_relaxes(world):
    """Without noise for half of the run τ is infinite there: half of the time has passed."""
    tau = [2000.0 if step <= 5000 else math.inf for step in STEPS]
    world.record("relaxation_steps", tau, layer=LAYER, steps=STEPS)
    assert elapsed(Snapshot(world), LAYER) == pytest.approx(2.5, abs=0.15)
    world.record("relaxation_steps", math.inf, layer=LAYER, steps=STEPS)
    assert elapsed(Snapshot(world), LAYER) == 0


def test_the_mean_at_rest_knows_that_neighbours_are_correlated(world):
    gaps = [0.1 + 0.05 * math.sin(step / 700) for step in STEPS]
    world.record("charge_gap", gaps, layer=LAYER, steps=STEPS)
    found, tail = late(Snapshot(world), "charge_gap", LAYER), np.array(gaps[15:])
    assert found.stderr > 1.3 * tail.std(ddof=1) / math.sqrt(len(tail))


def test_lambda_star_is_where_the_drift_vanishes_with_its_sign():
    """Check 5."""
    point = two_signs(2.0, 1.0, noise_plus=0.3, noise_minus=1.2)
    for decay, bar in ((0.0, 1e-10), (0.01, 1e-12)):
        settings = {"eta": 0.01, "batch": 4, "weight_decay": decay}
        star = equilibrium(point, **settings)
        below, there, above = (orbit_change(point, star + d, **settings) for d in (-0.2, 0, 0.2))
        assert below > 0 > above
        assert abs(there) <= bar * min(below, -above) + 1e-18


def observed(world_class, eta, steps, shift, *, seed=0, every=200):
    """Neurons u relu(wx) with label noise, batch 1, seen through the instrument."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = nn.Sequential(
            nn.Linear(3, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False)
        ).double()
        x = torch.randn(256, 3).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.5, 0.0]]) * math.exp(shift))
        model[2].weight.fill_(1.2 * math.exp(-shift))
        clean = model(x)
    generator = torch.Generator().manual_seed(seed)
    found = symmetries(model, (x, clean), F.mse_loss)
    charges = Charges(model, found, Scale("mean", 1))
    opt = torch.optim.SGD(model.parameters(), lr=eta)
    rates = dict.fromkeys(model.parameters(), Rates("SGD", eta))
    rows = []
    for k in range(steps):
        measured = k % every < 8
        if measured:
            charges.place()
        at = torch.randint(256, (16,), generator=generator)
        y = clean[at] + 1.5 * torch.randn(16, 1, generator=generator).double()
        opt.zero_grad()
        F.mse_loss(model(x[at]), y).backward()
        if measured:
            charges.before(k, rates, 1.0)
        opt.step()
        if measured:
            charges.after(k)
            charges.lift()
        if k % every == 7:
            rows += charges.read(k - 7).rows
    optimizer = {"class": "SGD", "groups": [{"lr": eta, "momentum": 0.0}]}
    manifest = {"layers": [], "steps": steps, "optimizer": optimizer}
    return world_class(manifest, rows), charges.accounts[0].form.name


@pytest.mark.slow
def test_two_starts_come_to_one_charge(empty):
    """Attractive and unique: both ends of the orbit arrive where the instrument says.

    At η = 0.1 they meet as well, but elsewhere: η Tr H is 0.5 there, and the mean gradient of a
    fluctuating θ pushes as hard as the noise.
    """
    ends = []
    for shift in (-0.6, 0.6):
        world, name = observed(type(empty), 0.03, 24_000, shift)
        found = world.verdict("noise_equilibrium", name)
        assert found.status == "holds", found.sentence
        ends.append(late(Snapshot(world), "charge", name).value)
    assert ends[0] == pytest.approx(ends[1], rel=0.1)


def test_a_short_real_run_is_not_judged(empty):
    world, name = observed(type(empty), 0.01, 240, 0.6, every=40)
    found = world.verdict("noise_equilibrium", name)
    assert found.status == "undetermined"
    assert "relaxation times" in found.sentence


def test_scalar_balance_is_a_product_law():
    """Check 6: u² − w² is multiplied by 1 − η²G² a step, at the minimum by 1 − 4η²σ_x²σ_ε²."""
    rng, eta, noise = np.random.default_rng(0), 0.02, 0.5
    n, steps = 400, 1500
    u, w = np.full(n, 1.5), np.full(n, 1 / 1.5)
    product = np.ones(n)
    for _ in range(steps):
        x, e = rng.normal(size=(2, n))
        G = 2 * (u * w * x - x - noise * e) * x
        u, w, product = u - eta * G * w, w - eta * G * u, product * (1 - eta**2 * G**2)
    start = 1.5**2 - 1.5**-2
    assert np.abs((u**2 - w**2) / (start * product) - 1).max() < 1e-10
    rate = -math.log((u**2 - w**2).mean() / start) / steps
    assert 1.0 <= rate / (4 * eta**2 * noise**2) <= 1.2
