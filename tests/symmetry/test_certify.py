"""Wrong rules must be refuted: negative controls, each ≥ 1e-3."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformer import Transformer, next_token

from lawful.symmetry import Discrete, Family, Mixing, Move, Scaling
from lawful.symmetry.certify import Bench, certify, draws

FLOOR = 1e-3


def violation(act, model, x, y, loss, count=8):
    with torch.random.fork_rng(devices=[]):
        g = torch.Generator().manual_seed(0)
        bench = Bench(model.double(), x, (y,), loss, count, False)
        theta = {n: p.detach() for n, p in model.named_parameters()}
        return certify([act], bench, draws(theta, 1, g), g)[0].violation


def data(d=4, n=16, classes=3):
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=g).double(), torch.randint(classes, (n,), generator=g)


def net(*layers):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(*(make() for make in layers))


def rescale(width, low="0", high="2", degree=-1.0):
    i = torch.arange(width)
    moves = (Scaling(f"{low}.weight", 0, i, 1.0), Scaling(f"{low}.bias", 0, i, 1.0))
    return Family((*moves, Scaling(f"{high}.weight", 1, i, degree)), width)


@pytest.mark.parametrize("phi", [nn.GELU, nn.Tanh, nn.SiLU])
def test_rescaling_through_an_activation_that_is_not_homogeneous(phi):
    model = net(lambda: nn.Linear(4, 6), phi, lambda: nn.Linear(6, 3))
    found = violation(rescale(6), model, *data(), F.cross_entropy)
    assert float(found.min()) > FLOOR


def test_a_wrong_degree():
    model = net(lambda: nn.Linear(4, 6), nn.LeakyReLU, lambda: nn.Linear(6, 3))
    right = violation(rescale(6), model, *data(), F.cross_entropy)
    wrong = violation(rescale(6, degree=-2.0), model, *data(), F.cross_entropy)
    assert float(right.max()) < 1e-14
    assert float(wrong.min()) > 0.1


def test_per_row_scale_before_layernorm():
    make = (lambda: nn.Linear(4, 6), lambda: nn.LayerNorm(6, eps=0), lambda: nn.Linear(6, 3))
    i = torch.arange(6)
    rows = Family((Scaling("0.weight", 0, i, 1.0), Scaling("0.bias", 0, i, 1.0)), 6)
    joint = Family(tuple(Scaling(n, 0, 0 * i, 1.0) for n in ("0.weight", "0.bias")), 1)
    assert float(violation(rows, net(*make), *data(), F.cross_entropy).min()) > FLOOR
    assert float(violation(joint, net(*make), *data(), F.cross_entropy).max()) < 1e-13


def transformer(rotary):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Transformer(rotary=rotary, groups=4)


def tokens():
    x = torch.randint(7, (8, 8), generator=torch.Generator().manual_seed(0))
    return x[:, :-1], x[:, 1:]


def test_any_matrix_under_rotary_positions():
    """diag(1, −1, 0, 0): mixes nothing, but breaks the planes (i, i + 2)."""
    uneven = torch.diag(torch.tensor([1.0, -1.0, 0.0, 0.0], dtype=torch.float64))[None]
    at, b = torch.arange(4)[None], "blocks.0"
    names = [(f"{b}.k", False), (f"{b}.q", True)]
    parts = [
        Mixing(f"{n}.{t}", 0, at, 0, dual, uneven) for n, dual in names for t in ("weight", "bias")
    ]
    act = Family(tuple(parts), 1)
    assert float(violation(act, transformer(0), *tokens(), next_token).max()) < 1e-13
    assert float(violation(act, transformer(4), *tokens(), next_token).min()) > FLOOR


def test_the_wrong_pair_of_heads():
    b = "blocks.0"
    one, two = torch.arange(4)[None], torch.arange(4, 8)[None]
    parts = [Mixing(f"{b}.k.{t}", 0, one) for t in ("weight", "bias")]
    parts += [Mixing(f"{b}.q.{t}", 0, two, dual=True) for t in ("weight", "bias")]
    found = violation(Family(tuple(parts), 16), transformer(0), *tokens(), next_token)
    assert float(found.min()) > FLOOR


def test_the_gate_does_not_scale_against_down():
    i, b = torch.arange(32), "blocks.0"
    gate = Family(
        (Scaling(f"{b}.gate.weight", 0, i, 1.0), Scaling(f"{b}.down.weight", 1, i, -1.0)), 32
    )
    up = Family((Scaling(f"{b}.up.weight", 0, i, 1.0), Scaling(f"{b}.down.weight", 1, i, -1.0)), 32)
    assert float(violation(up, transformer(0), *tokens(), next_token).max()) < 1e-13
    assert float(violation(gate, transformer(0), *tokens(), next_token).min()) > FLOOR


def test_discrete_controls():
    """Sign flips through GELU, and a permutation that forgets the next columns."""
    at = torch.arange(6)[None]
    moves = (Move("0.weight", 0, at), Move("0.bias", 0, at), Move("2.weight", 1, at))
    gelu = net(lambda: nn.Linear(4, 6), nn.GELU, lambda: nn.Linear(6, 3))
    tanh = net(lambda: nn.Linear(4, 6), nn.Tanh, lambda: nn.Linear(6, 3))
    sign = Discrete("sign", moves, 6)
    assert float(violation(sign, tanh, *data(), F.cross_entropy)) < 1e-14
    assert float(violation(sign, gelu, *data(), F.cross_entropy)) > FLOOR
    half = Discrete("permutation", moves[:2], 6)
    assert float(violation(half, gelu, *data(), F.cross_entropy)) > FLOOR
