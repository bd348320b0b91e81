"""Gradient noise against exact per-sample gradients, one sample at a time through a copy."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lawful.instruments.instrument import Rates
from lawful.instruments.layers import survey
from lawful.instruments.noise import GradientNoise
from lawful.instruments.tap import Scale
from lawful.lab.models.mlp import MLP

SGD = Rates("SGD", 0.1, 0.01)


class Tokens(nn.Module):
    """Two maps over positions, one embedding, one norm: parameters that are not covered."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(7, 5), nn.LayerNorm(5)
        self.up, self.down = nn.Linear(5, 9, bias=False), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(self.norm(self.table(x))))).cumsum(1)[:, -1]


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 3)
    )


def data(model: nn.Module, count: int = 300) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    if isinstance(model, Tokens):
        x = torch.randint(7, (count, 6), generator=draw)
    else:
        shape = (1, 6, 6) if isinstance(model[0], nn.Conv2d) else (6,)
        x = torch.randn(count, *shape, generator=draw, dtype=torch.float64)
    return x, torch.randint(3, (count,), generator=draw)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def per_sample(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """{parameter: (n, numel)} in float64, by one backward pass a sample."""
    model = copy.deepcopy(model).double()
    rows: dict[str, list[Tensor]] = {name: [] for name, _ in model.named_parameters()}
    for i in range(len(x)):
        model.zero_grad()
        F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        for name, p in model.named_parameters():
            rows[name].append(p.grad.flatten().clone())
    return {name: torch.stack(r) for name, r in rows.items()}


def observe(model, batches, *, reduction="mean", micro=1, rates=SGD, scale=None, window=None):
    """Pass batches by at fixed weights and read the window."""
    maps, _ = survey(model, "*")
    scale = scale or Scale(reduction, micro)
    noise = GradientNoise(model, maps, scale, seed=0, batches=window or len(batches))
    for step, (x, y) in enumerate(batches):
        model.zero_grad()
        noise.place()
        for part, target in zip(x.chunk(micro), y.chunk(micro), strict=True):
            loss = F.cross_entropy(model(part), target, reduction=reduction)
            (loss / micro if reduction == "mean" else loss).backward()
        noise.before(step, {p: rates for p in model.parameters()}, 1.0)
        noise.after(step)
        noise.lift()
    reading = noise.read(7)
    return reading, {(m.layer, m.quantity): m for m in reading.rows}


@pytest.mark.parametrize("build", [mlp, conv, Tokens])
@pytest.mark.parametrize("micro", [1, 2])
def test_unbiased_over_500_batches(build, micro):
    """Every number within 3.5 standard errors. That two suffice in 95 of 100 draws is tested
    on the estimator, which the instrument equals (next test)."""
    torch.manual_seed(3)
    model = build().double()
    x, y = data(model)
    G = per_sample(model, x, y)
    draw = torch.Generator().manual_seed(5)
    picks = torch.randint(len(x), (500, 8), generator=draw)
    reading, found = observe(model, [(x[i], y[i]) for i in picks], micro=micro)
    names = [n for n in G if not n.startswith(("table", "norm"))]
    sets = {"": torch.cat([G[n] for n in names], 1)}
    sets |= {n.removesuffix(".weight"): G[n] for n in names if n.endswith("weight")}
    off = []
    for layer, g in sets.items():
        signal, trace = float(g.mean(0).square().sum()), float(g.var(0, correction=0).sum())
        wanted = {
            "signal_norm2": signal,
            "noise_trace": trace,
            "gradient_power": signal + trace / 8,
        }
        if micro > 1 and not layer:
            wanted |= {"signal_norm2_micro": signal, "noise_trace_micro": trace}
        for quantity, value in wanted.items():
            m = found[layer, quantity]
            off.append((m.value - value) / m.stderr)
            assert m.stderr < 0.15 * max(value, signal + trace / 8)
        scale = found[layer, "noise_scale"]
        assert scale.value == pytest.approx(trace / signal, abs=4 * scale.stderr)
    assert np.abs(off).max() < 3.5
    assert found["", "batch_size"].value == pytest.approx(8)
    covered = sum(G[n].shape[1] for n in names) / sum(g.shape[1] for g in G.values())
    assert found["", "noise_coverage"].value == pytest.approx(covered)
    assert [p for p in reading.problems if "leaves out" in p[1]] == (
        [] if covered == 1 else [("", "the noise scale leaves out 3 parameters: table.weight, "
                                      "norm.weight, norm.bias")]
    )  # fmt: skip


@pytest.mark.parametrize("build", [mlp, conv, Tokens])
def test_half_precision_shows_the_same_noise_as_double(build):
    torch.manual_seed(3)
    model = build().double()
    x, y = data(model, 64)
    _, exact = observe(model, [(x, y)])
    x = x.bfloat16() if x.is_floating_point() else x
    _, rounded = observe(model.bfloat16(), [(x, y)])
    assert set(rounded) == set(exact)
    for name in [k for k in exact if k[1] in ("noise_trace", "gradient_power", "hebbian_cosine")]:
        assert rounded[name].value == pytest.approx(exact[name].value, rel=0.05, abs=0.01), name


@pytest.mark.parametrize("build", [mlp, conv, Tokens])
def test_one_batch_is_the_definition_to_the_last_digit(build):
    model = build().double()
    x, y = data(model, 8)
    G = per_sample(model, x, y)
    _, found = observe(model, [(x, y)])
    for name, g in G.items():
        layer = name.removesuffix(".weight")
        if (layer, "noise_trace") in found and name.endswith(".weight"):
            assert found[layer, "noise_trace"].value == pytest.approx(float(g.var(0).sum()))
            signal = float(g.mean(0).square().sum() - g.var(0).sum() / 8)
            assert found[layer, "signal_norm2"].value == pytest.approx(signal)


def test_the_ways_of_a_training_loop_agree():
    """A summed loss, micro-batches of any number and a loss scaler tell the same noise."""
    model = mlp().double()
    x, y = data(model, 24)
    _, plain = observe(model, [(x, y)])
    for how in ({"reduction": "sum"}, {"micro": 2}, {"micro": 3}, {"reduction": "sum", "micro": 4}):
        reading, found = observe(model, [(x, y)], **how)
        assert not reading.problems
        for key in (("", "noise_trace"), ("", "signal_norm2"), ("0", "noise_trace")):
            assert found[key].value == pytest.approx(plain[key].value, rel=1e-9)


def test_float32_is_enough():
    model = mlp().double()
    x, y = data(model, 64)
    _, wide = observe(model, [(x, y)])
    _, narrow = observe(model.float(), [(x.float(), y)])
    for key in (("", "noise_trace"), ("2", "noise_trace"), ("0", "gradient_power")):
        assert narrow[key].value == pytest.approx(wide[key].value, rel=1e-4)


# -- Hebb, virial, balance -----------------------------------------------------------------------


@pytest.mark.parametrize("build", [mlp, conv])
def test_hebbian_cosine_is_that_of_the_two_updates(build):
    model = build().double()
    x, y = data(model, 10)
    _, found = observe(model, [(x, y)])
    last = model[-1]
    h = model[:-1](x)
    M = (last(h).T @ h).detach()
    for quantity, other in (
        ("hebbian_cosine", -last.weight.grad),
        ("hebbian_ceiling", last.weight),
    ):
        cosine = F.cosine_similarity(M.flatten(), other.detach().flatten(), dim=0)
        assert found[_name(model), quantity].value == pytest.approx(float(cosine))


def _name(model: nn.Module) -> str:
    return str(len(model) - 1)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_virial_and_balance_account_for_every_step(decay):
    """½Δ‖W‖² and ΔC of a real SGD step, from what was read before and after it; biases too."""
    model, eta = conv().double(), 0.05
    x, y = data(model, 12)
    optimizer = torch.optim.SGD(model.parameters(), lr=eta, weight_decay=decay)
    noise = GradientNoise(model, survey(model, "*")[0], Scale("mean", 1), seed=0)
    rates = {p: Rates("SGD", eta, decay) for p in model.parameters()}

    def charge() -> tuple[float, float]:
        first, last = model[0], model[4]
        into, out = first.weight.data.square().sum(), last.weight.data.square().sum()
        return float(into + first.bias.data.square().sum() - out), float(out)

    before = charge()
    noise.place()
    F.cross_entropy(model(x), y).backward()
    noise.before(0, rates, 1.0)
    optimizer.step()
    noise.after(0)
    noise.lift()
    after, reading = charge(), noise.read(0)
    found = {(m.layer, m.quantity): m.value for m in reading.rows}
    loss, step = found["4", "virial_decay"], found["4", "virial_step"]
    assert found["4", "virial"] - loss + step == pytest.approx((after[1] - before[1]) / 2 / eta)
    assert found["4", "virial_predicted"] == pytest.approx(loss - step)
    # ΔC = η²(‖g_i‖² − ‖g_j‖²) − (2ηλ − η²λ²) C, exactly: the rescaling leaves the loss unchanged
    noise_side, decay_side = (
        found["0", "gradient_balance"],
        found["0", "gradient_balance_predicted"],
    )
    exact = eta * (noise_side - decay_side) + (eta * decay) ** 2 * before[0]
    assert after[0] - before[0] == pytest.approx(exact, rel=1e-9)
    assert found["0", "balance_charge"] == pytest.approx(before[0])
    neurons = reading.arrays["0", "balance_neurons"]
    assert neurons.shape == (4, 3)
    assert neurons[2].sum() - neurons[3].sum() == pytest.approx(before[0])
    assert eta * (neurons[0].sum() - neurons[1].sum()) == pytest.approx(noise_side)


def test_balance_is_not_told_across_a_nonlinearity_or_two_rates():
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    _, found = observe(model, [data(mlp(), 8)])
    assert not [k for k in found if k[1] == "gradient_balance"]
    model = mlp().double()
    noise = GradientNoise(model, survey(model, "*")[0], Scale("mean", 1), seed=0)
    noise.place()
    x, y = data(model, 8)
    F.cross_entropy(model(x), y).backward()
    rates = {p: Rates("SGD", 0.1 * (i + 1)) for i, p in enumerate(model.parameters())}
    noise.before(0, rates, 1.0)
    reading = noise.read(0)
    assert ("0", "trades scale with 2 at another learning rate") in reading.problems


def test_momentum_has_no_virial():
    _, found = observe(
        mlp().double(), [data(mlp(), 8)], rates=Rates("SGD", 0.1, 0.01, momentum=0.9)
    )
    assert not [k for k in found if k[1].startswith("virial")]


# -- what is no sum over samples, and what must not be touched -----------------------------------


def clipped(model):
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)


def penalised(model):
    sum(p.square().sum() for p in model.parameters()).backward()


@pytest.mark.parametrize("spoil", [clipped, penalised])
def test_a_gradient_that_is_no_mean_over_samples_is_told(spoil):
    model = mlp().double()
    maps, _ = survey(model, "*")
    noise = GradientNoise(model, maps, Scale("mean", 1), seed=0)
    x, y = data(model, 16)
    noise.place()
    F.cross_entropy(model(x), y).backward()
    spoil(model)
    noise.before(0, {p: SGD for p in model.parameters()}, 1.0)
    reading = noise.read(0)
    assert {m.quantity for m in reading.rows if "noise" in m.quantity} == set()
    assert ("0", "gradient_power") in {(m.layer, m.quantity) for m in reading.rows}
    assert sum("not the mean" in text for _, text in reading.problems) == 2


def test_batch_norm_has_no_per_sample_gradient():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).double()
    x, y = data(model, 16)
    reading, found = observe(model, [(x, y)])
    assert ("", "BatchNorm couples samples: no per-sample gradients") in reading.problems
    assert ("0", "gradient_power") in found
    assert not [k for k in found if k[1] == "noise_scale"]
    assert [k for k in observe(model.eval(), [(x, y)])[1] if k[1] == "noise_scale"]
    model[1] = nn.BatchNorm1d(8, track_running_stats=False).double().eval()  # has no others
    assert not [k for k in observe(model, [(x, y)])[1] if k[1] == "noise_scale"]


class Twice(nn.Module):
    """One map called twice in a pass: gradients of the calls add before they are squared."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

    def __getitem__(self, _: int) -> nn.Module:
        return self.a

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(torch.tanh(self.a(x)))))


def test_a_map_called_twice_is_measured_from_its_second_step():
    model = Twice().double()
    x, y = data(model, 16)
    g = per_sample(model, x, y)["a.weight"]
    _, found = observe(model, [(x, y)] * 3)
    assert found["a", "noise_trace"].value == pytest.approx(float(g.var(0).sum()))
    assert found["a", "noise_trace"].n == 3
    _, once = observe(model, [(x, y)])
    assert ("a", "noise_trace") not in once


def test_one_sample_tells_no_noise_and_a_frozen_layer_is_left_out():
    model = mlp().double()
    x, y = data(model, 1)
    reading, found = observe(model, [(x, y)])
    assert ("0", "gradient_power") in found
    assert ("0", "noise_trace") not in found
    assert any("batches of one sample" in text for _, text in reading.problems)
    model[0].weight.requires_grad_(False)
    _, found = observe(model, [data(model, 8)])
    assert {layer for layer, _ in found} == {"", "2"}


def test_sparse_gradients_of_micro_batches_are_those_of_dense_ones():
    found = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(7, 5, sparse=sparse), nn.Linear(5, 3)).double()
        maps, _ = survey(model, "*")
        noise = GradientNoise(model, maps, Scale("mean", 2), seed=0)
        x, y = torch.arange(16) % 5, torch.arange(16) % 5 // 2
        noise.place()
        for a, b in zip(x.chunk(2), y.chunk(2), strict=True):
            (F.cross_entropy(model(a), b) / 2).backward()
        noise.before(0, {p: SGD for p in model.parameters()}, 1.0)
        rows = {(m.layer, m.quantity): m.value for m in noise.read(0).rows}
        found.append(rows["", "noise_scale_all"])
    assert found[1] == pytest.approx(found[0], rel=1e-12)


def test_a_parameter_that_is_frozen_later_is_left_out_of_the_micro_batches():
    model = mlp().double()
    x, y = data(model, 16)
    noise = GradientNoise(model, survey(model, "*")[0], Scale("mean", 2), seed=0)
    model[0].weight.requires_grad_(False)
    noise.place()
    for a, b in zip(x.chunk(2), y.chunk(2), strict=True):
        (F.cross_entropy(model(a), b) / 2).backward()
    noise.before(0, {p: SGD for p in model.parameters()}, 1.0)
    found = {(m.layer, m.quantity) for m in noise.read(0).rows}
    assert ("", "noise_scale_all") in found
    noise.lift()
    assert not any(p._backward_hooks for p in model.parameters())


def test_not_finite_is_a_problem_of_the_layer():
    model = mlp().double()
    x, y = data(model, 8)
    reading, found = observe(model, [(x * math.inf, y)])
    assert any("not finite" in text for _, text in reading.problems)
    assert not [k for k in found if k[1] == "noise_scale"]


def test_training_is_the_same_to_the_last_bit():
    def train(watched: bool) -> list[Tensor]:
        torch.manual_seed(0)
        model = MLP(6, 3, width=8, depth=2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.01)
        noise = GradientNoise(model, survey(model, "*")[0], Scale("mean", 2), seed=0)
        for step in range(20):
            optimizer.zero_grad()
            if watched:
                noise.place()
            for _ in range(2):
                x, y = torch.randn(8, 6), torch.randint(3, (8,))
                (F.cross_entropy(model(x), y) / 2).backward()
            if watched:
                noise.before(step, {p: SGD for p in model.parameters()}, 1.0)
            gradients = [p.grad.clone() for p in model.parameters()]
            optimizer.step()
            if watched:
                noise.after(step)
                noise.lift()
        assert not watched or noise.read(0).rows
        return [*model.parameters(), *gradients, torch.randn(3)]

    assert all(torch.equal(a, b) for a, b in zip(train(False), train(True), strict=True))
