"""A probe measures at fixed weights and leaves everything as it was."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lawful.estimators import collapse
from lawful.instruments.curvature import Curvature
from lawful.instruments.layers import LayerMoments, survey
from lawful.instruments.neural_tangent import NeuralTangent
from lawful.instruments.probe import Probe, Wants, run_probe, undisturbed
from lawful.instruments.readings import Depth
from lawful.instruments.tap import Scale


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    )


def data(n: int = 40) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 6), torch.randint(3, (n,))


def batches(size: int = 10) -> list[tuple[Tensor, Tensor]]:
    x, y = data()
    return list(zip(x.split(size), y.split(size), strict=True))


def watch(model: nn.Module) -> LayerMoments:
    return LayerMoments(
        model, survey(model, "*")[0], Scale("mean", 1), heads={}, rows=1.0, seed=0,
        batch_dim=0, normalise=False, matrices=False,
    )  # fmt: skip


def probed(
    model: nn.Module, probe: Probe, wants: Wants | None = None
) -> tuple[LayerMoments, dict[tuple[str, str], float], list[str]]:
    layers = watch(model)
    out, problems = run_probe(probe, model, layers, wants or Wants(), decays={}, seed=0)
    return layers, {(m.layer, m.quantity): m.value for m in out}, problems


def everything(model: nn.Module) -> list[Any]:
    return [
        *(v.clone() for v in model.state_dict().values()),
        *(None if p.grad is None else p.grad.clone() for p in model.parameters()),
        torch.get_rng_state(),
        torch.from_numpy(np.random.get_state()[1].astype(np.int64)),  # noqa: NPY002
        torch.tensor(random.getstate()[1]),
        torch.tensor([m.training for m in model.modules()]),
    ]


def equal(a: list[Any], b: list[Any]) -> bool:
    return all(x is y is None or torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("wants", [Wants(), Wants(collapse=True, ansatz=True)])
def test_everything_is_as_before(mode: str, wants: Wants) -> None:
    model = net()
    F.cross_entropy(model(data()[0]), data()[1]).backward()
    model[1].eval()  # a mode of its own, to be found again
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(*data()), batch_size=8, shuffle=True, generator=generator)

    def noisy(output: Tensor, y: Tensor) -> Tensor:
        np.random.rand()  # noqa: NPY002
        random.random()
        return F.cross_entropy(output, y)

    before, shuffling = everything(model), generator.get_state()
    layers, _, problems = probed(model, Probe(loader, noisy, mode), wants)
    assert problems == []
    assert layers.taps[0].stream.rows == 40
    assert equal(before, everything(model))
    assert torch.equal(shuffling, generator.get_state())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_everything_is_as_before_also_after_an_error() -> None:
    model, given = net(), batches()
    before = everything(model)

    def broken(output: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("a bug of the user's")

    with pytest.raises(RuntimeError, match="a bug of the user's"):
        probed(model, Probe(given, broken, "train"))
    assert equal(before, everything(model))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_an_error_from_two_batches_is_that_of_two_batches() -> None:
    """Its 95 % interval is Student's with one degree of freedom: 6.48 times the normal one."""
    model, given = net(), batches(20)
    out, _ = run_probe(
        Probe(given, F.cross_entropy), model, watch(model), Wants(collapse=True), decays={}, seed=0
    )
    found = next(m for m in out if (m.layer, m.quantity) == ("4", "nc1"))
    with torch.no_grad():
        features = [model.eval()[:4](x) for x, _ in given]
    blocks = [collapse.class_sums(h, y, 3) for h, (_, y) in zip(features, given, strict=True)]
    value, stderr = collapse.jackknife(collapse.nc1, blocks)
    assert found.value == pytest.approx(value, rel=1e-5)
    assert found.stderr == pytest.approx(6.48 * stderr, rel=1e-3)


def test_a_buffer_that_is_replaced_is_put_back() -> None:
    class Average(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(6))

        def forward(self, x: Tensor) -> Tensor:
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
            return x - self.mean

    model = Average()
    buffer = model.mean
    with undisturbed(model, "train"):
        model(torch.ones(4, 6))
        assert model.mean is not buffer
    assert model.mean is buffer
    assert torch.equal(buffer, torch.zeros(6))


@pytest.mark.parametrize("size", [10, 7, 40])
def test_the_moments_are_those_of_all_samples_together(size: int) -> None:
    """Against one sample at a time, in evaluation mode, whatever the batches."""
    model = net()
    given = batches(size)
    layers, values, _ = probed(model, Probe(given, F.cross_entropy))
    model.eval()
    g, losses = [], []
    for x, y in given:
        for i in range(len(x)):
            out = model(x[i : i + 1])
            loss = F.cross_entropy(out, y[i : i + 1])
            g.append(torch.autograd.grad(loss, out)[0])
            losses.append(loss.item())
    G = torch.cat(g).T @ torch.cat(g)
    torch.testing.assert_close(layers.taps[-1].stream.moments().G, G)
    assert values["", "loss"] == pytest.approx(np.mean(losses))


def test_inputs_as_tuple_and_dict() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            return {"logits": self.fc(a + b)}

    model, (x, y) = Two(), data()

    def loss(output: dict[str, Tensor], y: Tensor) -> Tensor:
        return F.cross_entropy(output["logits"], y)

    for inputs in ((x, x), [x, x], {"a": x, "b": x}):
        layers, _, problems = probed(
            model, Probe([(inputs, y)], loss), Wants(collapse=True, ansatz=True)
        )
        assert problems == []
        assert layers.taps[0].stream.rows == 40


def test_a_compiled_model_is_probed_as_it_is_written() -> None:
    model = net()
    model.compile(backend="eager")
    x, y = data()
    model(x)
    layers, _, problems = probed(model, Probe([(x, y)], F.cross_entropy))
    assert problems == []
    assert layers.taps[0].stream.rows == 40


def test_batches_count_by_their_samples_whatever_targets_are() -> None:
    (x, y), model = data(), net().eval()
    pairs = list(zip(x.split(32), y.split(32), strict=True))
    given: list[tuple[list[Any], Any]] = [
        (pairs, F.cross_entropy),
        ([(a, (b, b)) for a, b in pairs], lambda f, t: F.cross_entropy(f, t[0])),
        ([(a, {"y": b}) for a, b in pairs], lambda f, t: F.cross_entropy(f, t["y"])),
    ]
    exact = F.cross_entropy(model(x), y).item()
    for few, loss in given:
        out, _ = run_probe(Probe(few, loss), model, watch(model), Wants(), decays={}, seed=0)
        assert out[0].value == pytest.approx(exact, rel=1e-6)
        assert out[0].n == 40
    none = Probe([(x, torch.tensor(0.0))], lambda f, t: (f - t).square().mean())
    out, _ = run_probe(none, model, watch(model), Wants(), decays={}, seed=0)
    assert out[0].n == 40


def test_outer_products_of_unequal_batches_are_those_of_all_samples() -> None:
    (x, y), found = data(), []
    for size in (40, 32):
        given = list(zip(x.split(size), y.split(size), strict=True))
        values = probed(net(), Probe(given, F.cross_entropy), Wants(ansatz=True))[1]
        found.append([v for (_, quantity), v in values.items() if quantity.startswith("nfa")])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_model_without_linear_layers_has_no_collapse_to_read() -> None:
    model = nn.Sequential(nn.Conv1d(1, 3, 6), nn.Flatten())
    x, y = data()
    _, values, problems = probed(
        model, Probe([(x[:, None], y)], F.cross_entropy), Wants(collapse=True)
    )
    assert problems == []
    assert set(values) == {("", "loss")}


def test_every_layer_is_compared_with_its_own_weight_decay() -> None:
    model, (x, y) = net().eval(), data()
    decays = {model[0].weight: 0.01, model[4].weight: 0.5}
    layers = watch(model)
    probe = Probe([(x, y)], F.cross_entropy, whole=True)
    run_probe(probe, model, layers, Wants(), decays=decays, seed=0)
    readings, _, _ = layers.read(0, Depth.ALIGNMENT, decays=True)
    for name, W in (("0", model[0].weight), ("4", model[4].weight)):
        (g,) = torch.autograd.grad(F.cross_entropy(model(x), y), W)
        pull = decays[W] * W @ W.T
        expected = ((g @ W.T + pull).norm() / pull.norm()).item()
        seen = next(m.value for m in readings if (m.layer, m.quantity) == (name, "cross_b"))
        assert seen == pytest.approx(expected, rel=1e-4)


def test_generators_of_devices_without_the_model_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(seed: int) -> None:
        raise AssertionError("the devices of others are seeded")

    model, probe = net(), Probe([data()], F.cross_entropy)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", refused)
    assert Curvature(wants=["sharpness"]).measure(0, model, probe, {}).rows
    assert NeuralTangent().measure(0, model, probe, {}).rows


def test_an_epoch_of_training_goes_on_after_a_probe_of_its_loader() -> None:
    x, y = data()
    loader = DataLoader(TensorDataset(x, y), batch_size=8, num_workers=1, persistent_workers=True)
    epoch, probe = iter(loader), Probe(loader, F.cross_entropy)
    seen = [next(epoch)[0]]
    layers, _, _ = probed(net(), probe)
    assert layers.taps[0].stream.rows == 40
    seen += [a for a, _ in epoch]
    assert torch.equal(torch.cat(seen), x)


def test_an_empty_probe_says_so() -> None:
    assert probed(net(), Probe([], F.cross_entropy))[2] == [
        "the probe gave no batch: nothing was measured"
    ]


def test_a_frozen_model_says_so() -> None:
    problems = probed(net().requires_grad_(False), Probe(batches(), F.cross_entropy))[2]
    assert "no parameter of the model is trained" in problems[0]


def test_a_loss_that_is_not_finite_says_so() -> None:
    x, y = data()
    problems = probed(net(), Probe([(x * torch.nan, y)], F.cross_entropy))[2]
    assert problems == ["the probe's loss is nan"]


@pytest.mark.parametrize(
    ("given", "loss", "message"),
    [
        ([(1, 2, 3)], F.cross_entropy, "batches are pairs"),
        ([torch.zeros(2, 6)], F.cross_entropy, "batches are pairs"),
        (batches(), lambda o, y: F.cross_entropy(o, y, reduction="none"), "must be one number"),
        (batches(), lambda o, y: 1.0, "must be one number"),
    ],
)
def test_batches_and_losses_of_the_wrong_form(given: Any, loss: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probed(net(), Probe(given, loss))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((batches(), F.cross_entropy, "test"), "choose 'eval' or 'train'"),
        ((batches(), 3.0), "must be a function"),
        ((iter(batches()), F.cross_entropy), "give a list or a loader"),
        ((3, F.cross_entropy), "give a list or a loader"),
    ],
)
def test_probes_that_cannot_be(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Probe(*arguments)


def test_collapse_and_ansatz_are_read_when_asked_for() -> None:
    _, values, _ = probed(net(), Probe(batches(), F.cross_entropy), Wants(True, True))
    assert {q for layer, q in values if layer == "4"} == {
        "classes", "nc1", "nc2_norm", "nc2_angle", "nc3", "nc4", "nfa", "nfa_sqrt", "nfa_haar",
    }  # fmt: skip
    assert values["", "accuracy"] == 1 - values["", "train_error"]
    plain = probed(net(), Probe(batches(), F.cross_entropy))[1]
    assert set(plain) == {("", "loss")}
