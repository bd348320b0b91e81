"""Shapes, initialisation, equivalences: what each model promises in its docstring."""

import math

import pytest
import torch
from torch import nn

from lawful.lab.datasets import stream
from lawful.lab.models import GPT, MLP, ConvNet, ResNet18, SimCLR, nt_xent, seeded, two_views


def test_seeded_models_are_equal_and_leave_no_trace():
    before = torch.get_rng_state()
    with seeded(3):
        a = MLP(4, 2)
    with seeded(3):
        b = MLP(4, 2)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert torch.equal(before, torch.get_rng_state())


def test_the_sheets_net_has_six_maps_and_no_bias():
    with seeded(0):
        model = MLP(32, 8, width=48, depth=5, activation="tanh", bias=False)
    shapes = [tuple(p.shape) for p in model.parameters()]
    assert shapes == [(48, 32), (48, 48), (48, 48), (48, 48), (48, 48), (8, 48)]
    assert float(model.fc2.weight.detach().std() * math.sqrt(48)) == pytest.approx(1, abs=0.05)
    assert model(torch.zeros(3, 32)).abs().max() == 0


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_signals_keep_their_size_through_depth(activation):
    with seeded(0):
        model = MLP(256, 256, width=256, depth=8, activation=activation)
    y = model(torch.randn(64, 256, generator=stream(0, "x")))
    assert 0.2 < float(y.detach().std()) < 3


def test_a_bias_free_relu_net_is_homogeneous_in_every_layer():
    """⟨W_l, ∂L/∂W_l⟩ is the same number in all layers, float64."""
    with seeded(0):
        model = MLP(32, 8, width=48, depth=5, bias=False).double()
    draw = stream(0, "x")
    x = torch.randn(64, 32, generator=draw, dtype=torch.float64)
    y = torch.randn(64, 8, generator=draw, dtype=torch.float64)
    (model(x) - y).square().sum(1).mean().backward()
    inner = torch.stack([(p.detach() * p.grad).sum() for p in model.parameters()])
    assert float((inner.max() - inner.min()) / inner.abs().max()) < 1e-10


def test_unknown_activation_is_named():
    with pytest.raises(ValueError, match=r"activation='swish'.*tanh, relu, gelu, linear"):
        MLP(2, 2, activation="swish")


@pytest.mark.parametrize("build", [ConvNet, ResNet18])
def test_picture_models_with_and_without_a_classifier(build):
    with seeded(0):
        whole, headless = build(1, 10, width=4), build(1, 0, width=4)
    x = torch.randn(5, 1, 8, 8, generator=stream(0, "x"))
    assert whole(x).shape == (5, 10)
    assert headless(x).shape == (5, 16 if build is ConvNet else 32)
    assert not any(isinstance(m, nn.Linear) for m in headless.modules())


def test_resnet18_has_the_eleven_million_parameters_of_its_name():
    assert sum(p.numel() for p in ResNet18(3, 10).parameters()) == 11_173_962


def test_gpt_looks_only_backwards():
    with seeded(0):
        model = GPT(11, context=8, depth=2, heads=2, width=16).double()
    tokens = torch.randint(0, 11, (3, 8), generator=stream(0, "x"))
    other = tokens.clone()
    other[:, 5:] = (other[:, 5:] + 1) % 11
    assert torch.allclose(model(tokens)[:, :5], model(other)[:, :5], atol=1e-12)
    assert not torch.allclose(model(tokens)[:, 5:], model(other)[:, 5:])


def test_fused_attention_gives_the_same_numbers():
    models = []
    for sdpa in (False, True):
        with seeded(0):
            models.append(GPT(11, context=8, depth=2, heads=4, width=16, sdpa=sdpa).double())
    tokens = torch.randint(0, 11, (3, 6), generator=stream(0, "x"))
    assert torch.allclose(models[0](tokens), models[1](tokens), atol=1e-12)


def test_gpt_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="width=10 is not a multiple of heads=4"):
        GPT(5, heads=4, width=10)
    with pytest.raises(ValueError, match="window of 9 characters"):
        GPT(5, context=8, width=8)(torch.zeros(1, 9, dtype=torch.int64))


def test_nt_xent_is_its_formula():
    z = torch.randn(6, 4, generator=stream(0, "z"), dtype=torch.float64)
    u = z / z.norm(dim=1, keepdim=True)
    expected = 0.0
    for i in range(6):
        j = (i + 3) % 6
        others = sum(math.exp(float(u[i] @ u[k]) / 0.3) for k in range(6) if k != i)
        expected -= math.log(math.exp(float(u[i] @ u[j]) / 0.3) / others) / 6
    assert float(nt_xent(z, 0.3)) == pytest.approx(expected, abs=1e-12)


def test_views_are_pairs_drawn_from_their_generator():
    x = torch.randn(4, 1, 8, 8, generator=stream(0, "x"))
    views = two_views(x, stream(0, "views"))
    assert views.shape == (8, 1, 8, 8)
    assert torch.equal(views, two_views(x, stream(0, "views")))
    assert not torch.equal(views[:4], views[4:])
    still = two_views(x, stream(0, "views"), strength=0.0)
    assert torch.allclose(still, torch.cat([x, x]), atol=1e-5)


def test_simclr_projects_both_views():
    with seeded(0):
        model = SimCLR(ConvNet(1, 0, width=4), 16, projection=8)
    assert model(torch.zeros(6, 1, 8, 8)).shape == (6, 8)
