"""A model by its name fits its data, or one sentence says what would."""

import pytest
import torch

from lawful.lab.datasets import digits, python_source, teacher
from lawful.lab.models.named import named


def test_names_build_what_they_say():
    world = teacher(train=8, test=8)
    model = named("mlp-tanh:32-16-16-8", world)
    assert [tuple(p.shape) for p in model.parameters() if p.dim() == 2] == [
        (16, 32), (16, 16), (8, 16),
    ]  # fmt: skip
    assert model(world.x_test).shape == (8, 8)
    assert named("mlp:64-10", digits())(digits().x_test[:2]).shape == (2, 10)
    assert named("resnet18", digits())(digits().x_test[:2]).shape == (2, 10)
    text = python_source(context=8, characters=50_000)
    assert named("gpt", text)(text.x_test[:2]).shape == (2, 8, text.outputs)


def test_the_seed_decides_and_the_callers_stream_does_not_move():
    state = torch.get_rng_state()
    one, two, other = (named("mlp:32-4-8", teacher(train=8, test=8), seed=s) for s in (0, 0, 1))
    assert torch.equal(one.fc0.weight, two.fc0.weight)
    assert not torch.equal(one.fc0.weight, other.fc0.weight)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("mlp:32-16-10", "write mlp:32-16-8"),
        ("mlp:32-16-4-8", "one width"),
        ("mlp:32", "give sizes"),
        ("mlp", "give sizes"),
        ("mlp:32-0-8", "give sizes"),
        ("mlp-sine:32-4-8", "unknown model 'mlp-sine:32-4-8'"),
        ("resnet18", "needs images"),
        ("gpt", "needs text"),
        ("vgg", "unknown model 'vgg'"),
    ],
)
def test_what_does_not_fit_is_said(name, says):
    with pytest.raises(ValueError, match=says):
        named(name, teacher(train=8, test=8))
