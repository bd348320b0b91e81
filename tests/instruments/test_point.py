"""Gradient and Hessian-vector products at any θ, against autograd's dense ones."""

import pytest
import torch
from symmetric_models import MODELS, built
from torch.func import functional_call

from lawful.instruments.point import Point, add, inner, norm
from lawful.instruments.probe import Probe, undisturbed


def around(model, scale=0.1):
    g = torch.Generator().manual_seed(3)
    return {
        n: p.detach() + scale * torch.randn(p.shape, generator=g, dtype=p.dtype)
        for n, p in model.named_parameters()
    }


@pytest.mark.parametrize("name", ["tanh", "BN", "LoRA"])
def test_against_the_dense_hessian(name):
    make, data, loss = MODELS[name]
    model, (x, y) = built(make), data()
    theta, v = around(model), around(model, 1.0)
    names = list(theta)

    def value(*tensors):
        return loss(functional_call(model, dict(zip(names, tensors, strict=True)), (x,)), y)

    blocks = torch.autograd.functional.hessian(value, tuple(theta.values()))
    point = Point(model, Probe([(x, y)], loss), (x, y), theta)
    Hv = point.times(v)
    for i, n in enumerate(names):
        expected = sum(
            torch.tensordot(blocks[i][j], v[m], dims=v[m].dim()) for j, m in enumerate(names)
        )
        assert torch.allclose(Hv[n], expected, atol=1e-12)
    only = {names[0]: v[names[0]]}
    assert inner(only, point.times(v)) == pytest.approx(inner(v, point.times(only)), rel=1e-10)


def test_fused_attention_is_differentiated_twice_and_nothing_moves():
    make, data, loss = MODELS["attention"]
    model, batch = built(make), data()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with undisturbed(model, "train"):
        point = Point(model, Probe([batch], loss), batch, around(model))
        assert norm(point.times(around(model))) > 0
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_buffers_of_the_model_stay_and_old_points_stay_usable():
    make, data, loss = MODELS["BN"]
    model, batch = built(make), data()
    before = model[1].running_mean.clone()
    one = Point(model, Probe([batch], loss), batch, around(model))
    Point(model, Probe([batch], loss), batch, around(model, 0.2))
    one.times(around(model))
    assert torch.equal(model[1].running_mean, before)


def test_dropout_draws_the_same_masks_at_every_point():
    model = built(lambda: torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Dropout(0.5)))
    x, theta = torch.ones(8, 4, dtype=torch.float64), around(model)
    probe = Probe([(x, x)], lambda f, y: f.square().mean())
    with undisturbed(model, "train"):
        one, two = (Point(model, probe, (x, x), theta) for _ in range(2))
    assert torch.equal(one.output, two.output)


def test_a_loss_without_curvature_and_parameters_without_use():
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(2, 1), "idle": torch.nn.Linear(2, 1)})
    model.forward = lambda x: model["used"](x)
    x = torch.ones(3, 2)
    theta = {n: p.detach() for n, p in model.named_parameters()}
    point = Point(model, Probe([(x, x)], lambda f, y: f.mean()), (x, x), theta)
    assert norm(point.times(theta)) == 0
    assert norm({"idle.weight": point.gradient["idle.weight"]}) == 0


def test_sums_over_names():
    a, b = {"u": torch.ones(2)}, {"u": torch.ones(2), "v": torch.ones(3)}
    assert norm(b) == pytest.approx(5**0.5)
    assert inner(a, b) == 2
    assert add(a, b, -1.0)["u"].sum() == 0
    assert add(a, b, -1.0)["v"].sum() == -3
