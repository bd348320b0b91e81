"""Models that cannot be analysed are refused in one sentence; the others are handled."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lawful.symmetry import SymmetryError, symmetries


def data(n=8):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, 4, generator=g), torch.randint(3, (n,), generator=g)


def net(*middle):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 6), *middle, nn.Linear(6, 3))


class Apply(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


def frozen_all():
    return net().requires_grad_(False)


def unused():
    model = net()
    model[0].spare = nn.Parameter(torch.zeros(2))
    return model


def quantised():
    model = net()
    model[0].weight = nn.Parameter(torch.zeros(6, 4, dtype=torch.int8), requires_grad=False)
    return model


def in_shards():
    model = net()
    model[1].weight.full_tensor = None
    return model


REFUSED = {
    "shards": (in_shards, "parameter 1.weight lies in shards on several processes; find the"),
    "dropout": (lambda: net(nn.Dropout(0.1)), "dropout p=0.1 is active in 1"),
    "dropout in attention": (
        lambda: nn.MultiheadAttention(4, 2, dropout=0.2),
        "dropout p=0.2 is active in the model",
    ),
    "functional dropout": (lambda: net(Apply(lambda x: F.dropout(x, 0.3))), "is random"),
    "noise": (lambda: net(Apply(lambda x: x + torch.randn_like(x))), "is random"),
    "rounding": (lambda: net(nn.ReLU(), Apply(torch.round)), "round"),
    "rounding beside a path": (
        lambda: net(Apply(lambda x: x + torch.round(x))),
        "the operation round has no gradient",
    ),
    "argmax": (lambda: net(Apply(lambda x: F.one_hot(x.argmax(-1), 6).to(x.dtype))), "argmax"),
    "detached": (lambda: net(Apply(torch.detach)), "gets no gradient"),
    "all frozen": (frozen_all, "no parameter requires a gradient"),
    "quantised": (quantised, "int8 and has no gradient"),
    "unused": (unused, "spare gets no gradient"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), "call the model once"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_refused_in_one_sentence(name):
    make, says = REFUSED[name]
    with pytest.raises(SymmetryError, match=says) as caught:
        symmetries(make(), data(), F.cross_entropy)
    assert "\n" not in str(caught.value)


def test_bad_losses_and_data():
    x, y = data()
    with pytest.raises(SymmetryError, match="not one number; reduce it"):
        symmetries(net(), (x, y), lambda f, y: f)
    with pytest.raises(SymmetryError, match="leading dimensions"):
        symmetries(net(), (x, y[:3]), F.cross_entropy)
    with pytest.raises(SymmetryError, match="the loss is nan"):
        symmetries(net(), (x * float("nan"), y), F.cross_entropy)
    with pytest.raises(SymmetryError, match="holds one sample; pass two"):
        symmetries(net(nn.BatchNorm1d(6)), (x[:1], y[:1]), F.cross_entropy)


def test_round_off_the_path_of_the_loss_does_not_matter():
    """A constant may be rounded."""
    model = net(Apply(lambda x: x * torch.full((), 2.6).round().to(x.dtype)))
    assert any(s.kind == "GL" and s.certified for s in symmetries(model, data(), F.cross_entropy))


def test_dropout_switched_off_and_integer_buffers_are_handled():
    model = net(nn.Dropout(0.1).eval())
    model.register_buffer("count", torch.tensor(3))
    found = symmetries(model, data(), F.cross_entropy)
    assert [(s.kind, s.dimension) for s in found if s.certified] == [("GL", 36), ("shift", 7)]


def test_a_frozen_tensor_is_not_followed_by_training():
    model = net(nn.LeakyReLU())
    model[0].weight.requires_grad_(False)
    found = {s.kind: s for s in symmetries(model, data(), F.cross_entropy)}
    assert not found["rescaling"].certified
    assert found["rescaling"].violation < 1e-12
    assert "moves the frozen 0.weight" in found["rescaling"].sentence
    assert found["shift"].certified


def test_eps_is_told_by_number():
    """The violation grows as ε over the variance, and vanishes with it."""
    found = []
    for eps in (1e-3, 1e-5):
        model = net(nn.LayerNorm(6, eps=eps))
        all_of = symmetries(model, data(), F.cross_entropy)
        found.append(next(s for s in all_of if s.kind == "scale invariance"))
    assert 50 < found[0].violation / found[1].violation < 200
    assert not any(s.certified for s in found)
    assert all("broken by the eps > 0 of a norm" in s.sentence for s in found)
