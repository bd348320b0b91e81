"""Charges on real loops through the instrument: the checks of gradient flow, account and Adam."""

import copy
import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lawful.instruments.charge_form import Squares
from lawful.instruments.charges import Charges
from lawful.instruments.instrument import Rates
from lawful.instruments.tap import Scale
from lawful.symmetry import symmetries


@pytest.fixture(scope="module")
def task():
    """A ReLU net in double precision, 64 samples of a teacher, and its symmetries."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).double()
        x = torch.randn(64, 4).double()
        y = torch.sin(x @ torch.randn(4, 2).double())
    return model, (x, y), symmetries(model, (x, y), F.mse_loss)


@pytest.fixture
def train(task, empty):
    return partial(trained, type(empty), task)


def trained(World, task, steps, *, batch=None, every=1, optimizer=torch.optim.SGD, seed=0, **rates):
    """A world as the instrument saw the training of a copy of the task's model."""
    model, (x, y), found = copy.deepcopy(task[0]), task[1], task[2]
    charges = Charges(model, found, Scale("mean", 1))
    opt = optimizer(model.parameters(), **rates)
    generator = torch.Generator().manual_seed(seed)
    known = {k: v for k, v in rates.items() if k != "nesterov"}
    mine = dict.fromkeys(model.parameters(), Rates(optimizer.__name__, **known))
    name = charges.accounts[0].form.name
    groups = [{"momentum": 0.0, "weight_decay": 0.0, **rates}]
    world = World({"layers": [], "steps": steps,
                   "optimizer": {"class": optimizer.__name__, "groups": groups}})  # fmt: skip
    for k in range(steps):
        at = slice(None) if batch is None else torch.randint(64, (batch,), generator=generator)
        measured = k % every == 0 or k == steps - 1
        if measured:
            charges.place()
        opt.zero_grad()
        F.mse_loss(model(x[at]), y[at]).backward()
        if measured:
            charges.before(k, mine, 1.0)
        opt.step()
        if measured:
            charges.after(k)
            charges.lift()
            if k % (8 * every) == 0 or k == steps - 1:
                world.rows += charges.read(k).rows
    return world, name


def drift(train, time, eta, **named):
    world, _ = train(round(time / eta), every=10**9, lr=eta, **named)
    return [r.value for r in world.rows if r.quantity == "charge_change"][-1]


def test_descent_drifts_in_proportion_to_the_rate_and_adam_does_not_care(train):
    etas = (0.04, 0.02, 0.01)
    descent = [drift(train, 8.0, eta) for eta in etas]
    assert all(1.9 <= a / b <= 2.2 for a, b in pairwise(descent))
    # In a unit of time Adam moves every weight by about one: enough to see it not slow down.
    adam = [drift(train, 1.0, eta / 4, optimizer=torch.optim.Adam) for eta in etas]
    assert all(abs(a / b - 1) < 0.2 for a, b in pairwise(adam))
    assert adam[-1] > 5 * descent[-1]


def test_flow_conserves_and_says_what_it_has_seen(train):
    world, name = train(1200, every=40, lr=0.02)
    found = world.verdict("charge_conservation", name)
    assert found.status == "holds"
    assert found.effect < found.null


def test_large_noisy_steps_do_not_conserve(train):
    world, name = train(4000, every=40, batch=1, lr=0.1)
    found = world.verdict("charge_conservation", name)
    assert found.status == "violated"
    assert world.verdict("charge_budget", name).status == "holds"


@pytest.mark.parametrize(
    ("rates", "word"),
    [
        ({"lr": 0.02, "weight_decay": 0.01}, "multiplies the charge"),
        ({"lr": 0.02, "momentum": 0.9, "nesterov": True}, "Nesterov"),
        ({"lr": 0.02, "optimizer": torch.optim.Adam}, "Adam changes them"),
    ],
)
def test_conservation_is_not_claimed_elsewhere(train, rates, word):
    world, name = train(60, every=10, **rates)
    world.record("charge_change", 0.01, layer=name, steps=(0, 59))
    world.record("charge_size", [1.0, 2.0], layer=name, steps=(0, 59))
    found = world.verdict("charge_conservation", name)
    assert found.status == "out of regime"
    assert word in found.sentence


@pytest.mark.parametrize(
    ("steps", "momentum"),
    [(400, 0.0), (400, 0.9), pytest.param(3000, 0.0, marks=pytest.mark.slow)],
)
def test_the_account_closes_to_1e_10(train, steps, momentum):
    """3000 steps: mini-batches with decay, double precision."""
    world, name = train(steps, batch=8, lr=0.02, weight_decay=0.01, momentum=momentum)
    found = world.verdict("charge_budget", name)
    assert found.status == "holds"
    assert found.effect < 1e-10
    assert found.null > 0.005  # there was something to account for


def test_the_account_fails_where_the_gradient_is_not_the_loss_s_own(train):
    world, name = train(200, lr=0.02, optimizer=torch.optim.Adam)
    assert world.verdict("charge_budget", name).status == "out of regime"
    world.manifest["optimizer"]["class"] = "SGD"  # the same numbers, if they had been SGD's
    assert world.verdict("charge_budget", name).status == "violated"


def test_noise_is_that_of_many_mini_batches(task):
    """Check 4: the mean push of many batches against Tr[Σ₁A]/S + ḡᵀAḡ of one full batch."""
    model, (x, y), found = task
    charges = Charges(model, found, Scale("mean", 1))
    form = charges.accounts[0].form
    charges.place()
    model.zero_grad()
    F.mse_loss(model(x), y).backward()
    charges.before(0, dict.fromkeys(model.parameters(), Rates("SGD", 0.1)), 1.0)
    charges.lift()
    mean = charges.accounts[0].pushes[0]
    # Drawn with replacement, 64 samples are all there is: divided by n, not n − 1.
    reading = charges.read(0)
    noise = torch.from_numpy(reading.arrays[form.name, "charge_noises"]) * 63 / 64
    generator = torch.Generator().manual_seed(0)
    names, parameters = zip(*model.named_parameters(), strict=True)
    for S in (1, 8, 64):
        total = torch.zeros_like(mean)
        for _ in range(4000):
            at = torch.randint(64, (S,), generator=generator)
            g = torch.autograd.grad(F.mse_loss(model(x[at]), y[at]), parameters)
            total += form.values(form.moments(Squares(dict(zip(names, g, strict=True)))))
        pair = torch.stack([total / 4000, noise / S + mean])
        assert float(torch.corrcoef(pair)[0, 1]) >= 0.995
        assert float((pair[0] - pair[1]).norm() / pair[1].norm()) <= 0.05


def test_a_run_that_diverged_is_undetermined(train):
    """Its charges are neither kept nor moved by noise: they are not numbers any more."""
    world, name = train(120, every=5, batch=4, lr=3.0)
    assert any(not math.isfinite(r.value) for r in world.rows)
    for law in ("charge_conservation", "charge_budget"):
        found = world.verdict(law, name)
        assert found.status == "undetermined", found.sentence


def test_what_was_not_measured_is_undetermined(empty):
    world = type(empty)(
        {"layers": [], "optimizer": {"class": "SGD", "groups": [{"lr": 0.1}]}, "steps": 9}
    )
    world.record("charge_change", [0.0], layer="s", steps=(0,))
    assert world.verdict("charge_conservation", "s").status == "undetermined"
    world.record("charge_closure", float("nan"), layer="s", steps=(0,))
    world.record("symmetry_violation", 0.0, layer="s", steps=(0,))
    assert world.verdict("charge_budget", "s").status == "undetermined"
