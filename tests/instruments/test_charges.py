"""The charge instrument against brute force: per-sample autograd, and the charges themselves."""

import math

import numpy as np
import pytest
import torch
from symmetric_models import MODELS, built, points
from torch import nn
from torch.nn import functional as F

from lawful.instruments import sample_gradients
from lawful.instruments.charge_form import Squares
from lawful.instruments.charges import EVERY, Charges, slowest
from lawful.instruments.instrument import Rates
from lawful.instruments.tap import Scale
from lawful.lab.models import GPT, MLP
from lawful.symmetry import symmetries
from lawful.theory.gl_equilibrium import GLPoint, gl_equilibrium


class Loop:
    """A user's loop with the instrument driven by hand."""

    def __init__(self, model, data, loss, *, found=None, reduction="mean", parts=1, groups=None,
                 optimizer=torch.optim.SGD, **rates):  # fmt: skip
        self.model, self.data, self.loss, self.parts = model, data, loss, parts
        found = symmetries(model, data, loss) if found is None else found
        self.charges = Charges(model, found, Scale(reduction, parts))
        self.optimizer = optimizer(groups or model.parameters(), **rates)

    def rates(self):
        return {
            p: Rates(type(self.optimizer).__name__, g["lr"], g["weight_decay"],
                     g.get("momentum", 0.0), g.get("dampening", 0.0), g.get("nesterov", False))
            for g in self.optimizer.param_groups for p in g["params"]
        }  # fmt: skip

    def step(self, k, batch=None, meddle=lambda: None):
        x, y = self.data if batch is None else batch
        self.charges.place()
        self.optimizer.zero_grad()
        for a, b in zip(x.chunk(self.parts), y.chunk(self.parts), strict=True):
            value = self.loss(self.model(a), b)
            (value / self.parts if self.charges.scale.mean else value).backward()
        meddle()
        self.charges.before(k, self.rates(), 1.0)
        self.optimizer.step()
        self.charges.after(k)
        self.charges.lift()

    def window(self, *arguments, **named):
        self.step(0, *arguments, **named)
        return self.charges.read(0)


def value(reading, quantity, layer=None):
    found = [r for r in reading.rows if r.quantity == quantity and layer in (None, r.layer)]
    return found[0].value if found else None


def worst(reading, quantity):
    return max(r.value for r in reading.rows if r.quantity == quantity)


def brute(model, data, loss, form):
    """Tr[Σ₁A_i] from the gradient of every sample by itself."""

    def gradient(x, y):
        value = loss(model(x), y)
        names = dict(model.named_parameters())
        return dict(zip(names, torch.autograd.grad(value, list(names.values())), strict=True))

    x, y = data
    each = [gradient(x[i : i + 1], y[i : i + 1]) for i in range(len(x))]
    mean = {n: torch.stack([g[n] for g in each]).mean(0) for n in each[0]}
    second = torch.stack([form.family.pairing(g, g) for g in each]).mean(0)
    raw = (second - form.family.pairing(mean, mean)) * len(x) / (len(x) - 1)
    return raw if form.symmetric is None else form.symmetric.T @ raw


def conv():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 5, 3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(45, 3),
    )  # fmt: skip


def images(n=7):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(n, 2, 8, 8, generator=g, dtype=torch.float64),
        torch.arange(n) % 3,
    )


def frozen_norm():
    """BatchNorm in evaluation mode: its gain is made up for by the next columns."""
    return nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)
    ).eval()  # fmt: skip


def mixed_conv():
    """Two convolutions with nothing in between: channels of a convolution are mixed."""
    return nn.Sequential(
        nn.Conv2d(2, 3, 1), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )


class Attending(nn.Module):
    """The packed attention of torch, whose output projection is applied without a call."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0].mean(1)


def sentences(n=6):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, 4, generator=g, dtype=torch.float64), torch.arange(n) % 4


WORLDS = {
    **{name: world for name, world in MODELS.items() if name not in ("tanh", "BN")},
    "conv": (conv, images, F.cross_entropy),
    "conv, mixed": (mixed_conv, images, F.cross_entropy),
    "BN, evaluated": (frozen_norm, points, F.cross_entropy),
    "attention module": (Attending, sentences, F.cross_entropy),
}  # fmt: skip


@pytest.fixture(autouse=True)
def every_sample(monkeypatch):
    monkeypatch.setattr(sample_gradients, "SHARE", 1e9)


@pytest.mark.parametrize("name", WORLDS)
def test_charge_noise_and_account_are_those_of_brute_force(name):
    make, data, loss = WORLDS[name]
    model, data = built(make), data()
    loop = Loop(model, data, loss, lr=0.1, weight_decay=0.01)
    before = [a.form.family.charges(dict(model.named_parameters())).detach()
              for a in loop.charges.accounts]  # fmt: skip
    expected = [brute(model, data, loss, a.form) for a in loop.charges.accounts]
    reading = loop.window()
    assert loop.charges.accounts
    # An embedding has no rows of inputs; nothing else may go without its noise.
    assert all("of token.weight" in text for _, text in reading.problems)
    unexplained = {layer for layer, _ in reading.problems}
    for account, charge, noise in zip(loop.charges.accounts, before, expected, strict=True):
        form = account.form
        charge = charge if form.symmetric is None else form.symmetric.T @ charge
        seen = torch.from_numpy(reading.arrays[form.name, "charges"])
        torch.testing.assert_close(seen, charge, rtol=1e-10, atol=1e-10)
        if form.name in unexplained:
            continue
        seen = torch.from_numpy(reading.arrays[form.name, "charge_noises"])
        torch.testing.assert_close(seen, noise, rtol=1e-6, atol=1e-12 + 1e-7 * float(noise.norm()))
    assert worst(reading, "charge_residual") < 1e-12


def test_rotary_positions_leave_one_charge_a_plane():
    make, data, loss = MODELS["rotary"]
    loop = Loop(built(make), data(), loss, lr=0.1)
    forms = [a.form for a in loop.charges.accounts if a.form.kind == "QK"]
    assert [f.symmetric.shape[1] for f in forms] == [2] * len(forms)


def test_a_batch_norm_in_training_leaves_the_account_without_noise():
    make, data, loss = MODELS["BN"]
    reading = Loop(built(make), data(), loss, lr=0.1, weight_decay=0.01).window()
    assert worst(reading, "charge_residual") < 1e-12
    assert value(reading, "charge_noise") is None
    assert any("couples the samples" in text for _, text in reading.problems)


@pytest.mark.parametrize(("reduction", "parts"), [("sum", 1), ("mean", 4)])
def test_noise_is_that_of_one_sample_whatever_the_loss_sums(reduction, parts):
    make, data, _ = MODELS["ReLU"]
    data = data()
    model, twin = built(make), built(make)
    plain = Loop(twin, data, F.cross_entropy, lr=0.1).window()

    def loss(f, y):
        return F.cross_entropy(f, y, reduction=reduction)

    loop = Loop(model, data, loss, found=symmetries(model, data, F.cross_entropy), lr=0.1,
                reduction=reduction, parts=parts)  # fmt: skip
    there = loop.window()
    name = loop.charges.accounts[0].form.name
    torch.testing.assert_close(
        torch.from_numpy(there.arrays[name, "charge_noises"]),
        torch.from_numpy(plain.arrays[name, "charge_noises"]),
    )


def test_a_summed_loss_moves_as_a_mean_at_a_larger_rate():
    """Push, noise and where they balance are those of the mean loss at η·n (no decay)."""
    make, data, _ = MODELS["ReLU"]
    data = data()
    n = len(data[0])
    model, twin = built(make), built(make)
    plain = Loop(twin, data, F.cross_entropy, lr=0.01 * n).window()

    def loss(f, y):
        return F.cross_entropy(f, y, reduction="sum")

    found = symmetries(model, data, F.cross_entropy)
    summed = Loop(model, data, loss, found=found, lr=0.01, reduction="sum").window()
    for quantity in ("charge_push", "charge_noise", "charge_predicted", "equilibrium_shift"):
        assert value(summed, quantity) == pytest.approx(value(plain, quantity), rel=1e-9), quantity


def test_clipping_by_norm_is_seen_through_and_by_value_is_told():
    make, data, loss = MODELS["ReLU"]
    data = data()
    plain = Loop(built(make), data, loss, lr=0.1).window()
    model = built(make)
    loop = Loop(model, data, loss, lr=0.1)
    name = loop.charges.accounts[0].form.name
    clipped = loop.window(meddle=lambda: nn.utils.clip_grad_norm_(model.parameters(), 0.1))
    torch.testing.assert_close(
        torch.from_numpy(clipped.arrays[name, "charge_noises"]),
        torch.from_numpy(plain.arrays[name, "charge_noises"]),
    )
    assert worst(clipped, "charge_residual") < 1e-12

    broken = Loop(model, data, loss, lr=0.1)
    reading = broken.window(meddle=lambda: nn.utils.clip_grad_value_(model.parameters(), 0.02))
    assert "do not add up" in reading.problems[0][1]
    assert worst(reading, "charge_residual") > 1e-5  # ⟨Aθ, g⟩ is no longer zero


@pytest.mark.parametrize(
    "rates",
    [
        {"momentum": 0.9, "weight_decay": 0.02, "dampening": 0.3},
        {"momentum": 0.5, "weight_decay": 0.0},
    ],
)
def test_the_account_of_momentum_starts_with_the_second_step(rates):
    make, data, loss = MODELS["attention"]
    loop = Loop(built(make), data(), loss, lr=0.1, **rates)
    loop.step(0)
    assert math.isnan(worst(loop.charges.read(0), "charge_residual"))
    for k in range(1, 9):
        loop.step(k)
    reading = loop.charges.read(8)
    assert worst(reading, "charge_residual") < 1e-12
    assert worst(reading, "charge_closure") < 1e-11


def test_momentum_outlives_steps_at_a_learning_rate_of_zero():
    make, data, loss = MODELS["ReLU"]
    loop = Loop(built(make), data(), loss, lr=0.0, momentum=0.9)
    for k, lr in enumerate([0.0, 0.1, 0.1, 0.0, 0.1, 0.1, 0.1, 0.1]):
        loop.optimizer.param_groups[0]["lr"] = lr
        loop.step(k)
        if lr == 0:
            assert all("learning rate of 0" in a.problem for a in loop.charges.accounts)
    reading = loop.charges.read(8)
    assert worst(reading, "charge_residual") < 1e-12
    assert reading.problems == []


def test_what_is_done_to_the_weights_between_steps_is_no_step():
    make, data, loss = MODELS["ReLU"]
    loop = Loop(built(make), data(), loss, lr=0.1)
    for k in range(4):
        loop.step(k)
        for p in loop.model.parameters():
            p.data.clamp_(-0.2, 0.2)  # no counter of versions tells of this
    assert worst(loop.charges.read(4), "charge_residual") < 1e-12


def test_rates_that_differ_between_tensors_are_accounted_for():
    make, data, loss = MODELS["ReLU"]
    model = built(make)
    weights = [p for p in model.parameters() if p.dim() > 1]
    biases = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": weights, "weight_decay": 0.1}, {"params": biases, "lr": 0.02}]
    loop = Loop(model, data(), loss, groups=groups, lr=0.1)
    assert worst(loop.window(), "charge_residual") < 1e-12
    loop.optimizer.param_groups[0]["momentum"] = 0.9
    loop.step(1)
    assert "differ between" in loop.charges.read(1).problems[0][1]


def test_adam_is_not_what_the_account_describes():
    make, data, loss = MODELS["ReLU"]
    loop = Loop(built(make), data(), loss, optimizer=torch.optim.Adam, lr=0.01)
    assert worst(loop.window(), "charge_residual") > 1e-4


def test_turn_and_radial_gradient_of_scale_free_weights():
    make, data, loss = MODELS["LN"]
    model = built(make)
    loop = Loop(model, data(), loss, lr=0.3, weight_decay=0.05)
    (account,) = [a for a in loop.charges.accounts if a.form.kind == "scale invariance"]
    names = account.form.parameters
    old = torch.cat([dict(model.named_parameters())[n].detach().flatten() for n in names])
    reading = loop.window()
    new = torch.cat([dict(model.named_parameters())[n].detach().flatten() for n in names])
    angle = float(torch.arccos(old @ new / old.norm() / new.norm()))
    assert value(reading, "angular_step", account.form.name) == pytest.approx(angle, rel=1e-6)
    assert value(reading, "radial_gradient", account.form.name) < 1e-12
    with torch.no_grad():
        dict(model.named_parameters())[names[0]].view(-1)[0] = math.nan
    assert math.isnan(value(loop.window(), "radial_gradient", account.form.name))


def moved(loop, account, c):
    theta = dict(loop.model.named_parameters())
    there = account.form.family.generator(c).transform(theta)
    with torch.no_grad():
        for n, p in theta.items():
            p.copy_(there[n])


@pytest.mark.parametrize("decay", [0.0, 1e-3])
def test_a_neuron_moved_by_its_shift_is_at_rest(decay):
    data = points(n=64)
    loop = Loop(built(lambda: MLP(4, 3, width=6, depth=1)), data, F.cross_entropy, lr=1e-3,
                weight_decay=decay)  # fmt: skip
    (account,) = loop.charges.accounts
    name = account.form.name
    theta = {n: p.detach().clone() for n, p in loop.model.named_parameters()}
    here = loop.window()
    with torch.no_grad():  # the step itself is not part of the orbit
        for n, p in loop.model.named_parameters():
            p.copy_(theta[n])
    moved(loop, account, torch.from_numpy(here.arrays[name, "equilibrium_shifts"]))
    account.past.clear()  # what was seen elsewhere on the orbit
    there = loop.window()
    assert value(here, "equilibrium_shift", name) > 0.1
    assert value(here, "charge_gap", name) > 0.1
    assert value(there, "equilibrium_shift", name) < 1e-6
    assert value(there, "charge_gap", name) < 1e-6
    goal = value(here, "charge_predicted", name)
    assert value(there, "charge", name) == pytest.approx(goal, rel=1e-6)


def test_relaxation_is_that_of_the_slow_ones_that_count():
    """Half of the neurons a hundred times slower than the others: the time is theirs."""
    steps, size = np.array([10.0, 10.0, 1000.0, 1000.0, math.nan]), np.ones(5)
    assert slowest(steps, size) == 1000
    size[2:4] = 0.05  # a gap that is all theirs is at most 0.05
    assert slowest(steps, size) == 10
    assert slowest(np.array([10.0, math.inf]), np.ones(2)) == math.inf
    assert math.isnan(slowest(np.full(3, math.nan), np.ones(3)))


def test_mixed_channels_moved_by_their_shift_are_at_rest():
    data = points(n=64)
    model = built(lambda: nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 5, bias=False), nn.ReLU(),
                                        nn.Linear(5, 3)))  # fmt: skip
    loop = Loop(model, data, F.cross_entropy, lr=1e-8)
    (account,) = [a for a in loop.charges.accounts if a.form.kind == "GL"]
    here = loop.window()
    dual = [a.dual for a in account.form.actions]
    sides = [
        sum(m for m, d in zip(ms, dual, strict=True) if d is side).numpy()
        for ms in (account.now.moments, account.past[-1][1]) for side in (False, True)
    ]  # fmt: skip
    values, Q = np.linalg.eigh(gl_equilibrium(GLPoint(*sides)))
    moved(loop, account, torch.from_numpy((Q * (0.5 * np.log(values))) @ Q.T).flatten())
    account.past.clear()
    there = loop.window()
    assert value(here, "equilibrium_shift", account.form.name) > 0.05
    assert value(there, "equilibrium_shift", account.form.name) < 1e-5
    assert value(there, "charge_gap", account.form.name) < 1e-5


def test_frozen_and_refuted_symmetries_are_passed_over():
    make, data, loss = MODELS["ReLU"]
    model = built(make)
    found = symmetries(model, data(), loss)
    model[0].weight.requires_grad_(False)
    assert Charges(model, found, Scale("mean", 1)).accounts == []


def test_what_has_no_gradient_is_told():
    make, data, loss = MODELS["ReLU"]
    loop = Loop(built(make), data(), loss, lr=0.1)
    loop.charges.place()
    loop.charges.before(0, loop.rates(), 1.0)
    loop.charges.after(0)
    reading = loop.charges.read(0)
    assert "has no gradient" in reading.problems[0][1]
    assert reading.rows == []


class Named(nn.Module):
    """A normalisation that is called by keyword."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x):
        return self.b(torch.relu(self.norm(input=self.a(x))))


def test_a_normalisation_called_by_keyword_shows_its_noise():
    data = points()
    loop = Loop(built(Named), data, F.cross_entropy, lr=0.1)
    reading = loop.window()
    accounts = [a for a in loop.charges.accounts if "norm.weight" in a.form.parameters]
    assert accounts
    for account in accounts:
        want = brute(built(Named), data, F.cross_entropy, account.form)
        seen = torch.from_numpy(reading.arrays[account.form.name, "charge_noises"])
        assert torch.allclose(seen, want.to(seen), rtol=1e-9)


def test_a_normalisation_that_cannot_be_followed_does_not_stop_the_training():
    make = lambda: nn.Sequential(  # noqa: E731
        nn.Linear(4, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.ReLU(), nn.Linear(6, 3)
    )
    loop = Loop(built(make), points(), F.cross_entropy, lr=0.1)
    reading = loop.window()
    assert "couples the samples" in reading.problems[0][1]
    assert value(reading, "charge_noise") is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gradients_push_as_double_ones(dtype):
    make, data, loss = MODELS["ReLU"]
    loop = Loop(built(make), data(), loss, lr=0.1)
    form = loop.charges.accounts[0].form
    loss(loop.model(data()[0]), data()[1]).backward()
    half = {n: (1e-3 * p.grad).to(dtype) for n, p in loop.model.named_parameters()}
    double = {n: g.double() for n, g in half.items()}
    pushes = [form.values(form.moments(Squares(g, exact=False))) for g in (half, double)]
    assert torch.allclose(*pushes, rtol=1e-5, atol=0)


def test_the_run_is_left_as_it_is():
    make, data, loss = MODELS["attention"]
    data, results = data(), []
    for measured in (False, True):
        loop = Loop(built(make), data, loss, lr=0.1, momentum=0.9)
        torch.manual_seed(3)
        for k in range(4):
            if measured:
                loop.step(k)
            else:
                loop.optimizer.zero_grad()
                loss(loop.model(data[0]), data[1]).backward()
                loop.optimizer.step()
        results.append([*(p.detach().clone() for p in loop.model.parameters()), torch.rand(3)])
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in loop.model.modules())
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_share_of_the_samples_estimates_without_bias(monkeypatch):
    model, data = built(conv), images(12)
    found = symmetries(model, data, F.cross_entropy)
    exact = Loop(model, data, F.cross_entropy, found=found, lr=1e-9).window()
    monkeypatch.setattr(sample_gradients, "SHARE", 1e-9)  # two samples of twelve
    loop = Loop(model, data, F.cross_entropy, found=found, lr=1e-9)
    for k in range(150 * EVERY):
        loop.step(k)
    name = loop.charges.accounts[0].form.name
    want = exact.arrays[name, "charge_noises"]
    seen = loop.charges.read(0).arrays[name, "charge_noises"]
    assert abs(seen - want).max() < 0.15 * abs(want).max()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "gpt"])
def test_a_thousand_float32_steps_close(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "mlp":
            model, loss = MLP(20, 4, width=32, depth=3), F.cross_entropy
            data = torch.randn(512, 20), torch.randint(4, (512,))
        else:
            model = GPT(11, context=8, depth=2, heads=2, width=16)
            data = torch.randint(11, (256, 8)), torch.randint(11, (256, 8))

            def loss(f, y):
                return F.cross_entropy(f.flatten(0, 1), y.flatten())

    loop = Loop(model, data, loss, lr=0.1, weight_decay=1e-3)
    generator = torch.Generator().manual_seed(1)
    for k in range(1000):
        at = torch.randint(len(data[0]), (16,), generator=generator)
        loop.step(k, (data[0][at], data[1][at]))
    reading = loop.charges.read(1000)
    exact = {a.form.name for a in loop.charges.accounts if a.form.violation < 1e-10}
    closed = [r.value for r in reading.rows if r.quantity == "charge_closure" and r.layer in exact]
    assert max(closed) < 1e-5
