"""The identity suite: round-off where the symmetry is one, ≥ 1e-3 where it is not."""

import math

import pytest
import torch
from symmetric_models import (
    MODELS,
    Transformer,
    built,
    claimed,
    net,
    next_token,
    points,
    rescale,
    tokens,
)
from torch import nn
from torch.nn import functional as F

from lawful.instruments.identities import CONTINUOUS, FINITE, Homogeneous, Identities
from lawful.instruments.probe import Probe
from lawful.symmetry import Discrete, Family, Mixing, Move, Scaling, symmetries

SMOOTH = ("tanh", "RMS", "attention", "rotary")
EXPECTED = {
    "ReLU": {"rescaling", "shift", "permutation"},
    "tanh": {"sign", "permutation"},
    "linear": {"GL"},
    "LN": {"scale invariance", "rescaling", "shift"},
    "RMS": {"scale invariance", "rescaling"},
    "BN": {"scale invariance", "rescaling", "offset"},
    "LoRA": {"GL", "rescaling"},
    "attention": {"QK", "GL", "offset", "rescaling"},
    "rotary": {"QK", "GL", "rescaling"},
}


def residuals(model, data, loss, found, *, mode="train", **more):
    """(layer, quantity) -> (value, stderr)."""
    probe = Probe([data], loss, mode=mode)
    reading = Identities(found, seed=0, **more).measure(7, model, probe, {})
    assert not reading.problems
    assert {m.step for m in reading.rows} == {7}
    return {(m.layer, m.quantity): (m.value, m.stderr) for m in reading.rows}


@pytest.mark.parametrize("name", MODELS)
def test_the_suite(name):
    make, data, loss = MODELS[name]
    model, xy = built(make), data()
    found = symmetries(model, xy, loss, samples=len(xy[1]))
    seen = residuals(model, xy, loss, found)
    assert {layer for layer, _ in seen} == {s.name for s in found}
    for (layer, quantity), (value, stderr) in seen.items():
        if quantity in CONTINUOUS + FINITE:
            assert value < 1e-10, (layer, quantity)
        elif quantity == "identity_chord" and name in SMOOTH:
            assert value < 1e-10, layer
        elif quantity == "identity_chord":  # a ReLU's kink on the way is told as such
            assert value <= 1e-10 + 1.001 * stderr, layer
    assert EXPECTED[name] <= {s.kind for s in found}


@pytest.mark.parametrize("name", ["ReLU", "BN", "rotary"])
def test_single_precision_reaches_its_own_round_off(name):
    make, data, loss = MODELS[name]
    model, (x, y) = built(make), data()
    found = symmetries(model, (x, y), loss, samples=len(y))
    x = x.float() if x.is_floating_point() else x
    seen = residuals(model.float(), (x, y), loss, found)
    eps = torch.finfo(torch.float32).eps
    assert max(v for (_, q), (v, _) in seen.items() if q in CONTINUOUS + FINITE) < 20 * eps
    assert {v for (_, q), (v, _) in seen.items() if q == "identity_precision"} == {eps}


def mixes(names, x, start=0, at=None):
    """One matrix X on the rows of each tensor, −Xᵀ where dual."""
    at = torch.arange(start, start + 4)[None] if at is None else at
    return [
        Mixing(f"blocks.0.{n}.{t}", 0, at, 0, dual, x)
        for n, dual in names
        for t in ("weight", "bias")
    ]


def controls():
    """Claims that are wrong, each beside one of the same form that is right."""
    gelu, relu = (built(lambda phi=phi: net(phi())) for phi in (nn.GELU, nn.ReLU))
    yield "GELU rescaling", gelu, relu, rescale(6), rescale(6), points(), F.cross_entropy
    uneven = torch.diag(torch.tensor([1.0, -1.0, 0.0, 0.0], dtype=torch.float64))[None]
    any_matrix = Family(tuple(mixes([("k", False), ("q", True)], uneven)), 1)
    turned, still = (built(lambda r=r: Transformer(rotary=r, groups=4)) for r in (4, 0))
    yield "matrix under RoPE", turned, still, any_matrix, any_matrix, tokens(), next_token
    i, b = torch.arange(32), "blocks.0"
    gate, up = (
        Family((Scaling(f"{b}.{n}.weight", 0, i, 1.0), Scaling(f"{b}.down.weight", 1, i, -1.0)), 32)
        for n in ("gate", "up")
    )
    yield "gate against down", still, still, gate, up, tokens(), next_token
    normed, j = built(lambda: net(nn.LayerNorm(6, eps=0))), torch.arange(6)
    rows, joint = (
        Family((Scaling("0.weight", 0, k, 1.0), Scaling("0.bias", 0, k, 1.0)), n)
        for k, n in ((j, 6), (0 * j, 1))
    )
    yield "row scale under LN", normed, normed, rows, joint, points(), F.cross_entropy
    at = torch.arange(6)[None]
    moves = (Move("0.weight", 0, at), Move("0.bias", 0, at), Move("2.weight", 1, at))
    sign, swap = Discrete("sign", moves, 6), Discrete("permutation", moves, 6)
    yield "sign through GELU", gelu, gelu, sign, swap, points(), F.cross_entropy


CONTROLS = {name: rest for name, *rest in controls()}


@pytest.mark.parametrize("name", CONTROLS)
def test_negative_controls(name):
    wrong_model, right_model, wrong, right, data, loss = CONTROLS[name]
    bad = residuals(wrong_model, data, loss, [claimed(wrong)])
    good = residuals(right_model, data, loss, [claimed(right)])
    finite = ("identity_orbit", "identity_orbit_hessian")
    told = finite if isinstance(wrong, Discrete) else (*finite, *CONTINUOUS)
    for quantity in told:
        assert bad["claim", quantity][0] > 1e-3, quantity
        assert good["claim", quantity][0] < 1e-10, quantity


def test_rotation_of_an_encoder():
    """A loss of distances only: H[ΩW] = ΩG, though there is no charge."""

    def contrast(f, y):
        return (
            torch.logsumexp(-(f[:, None] - f[None]).square().sum(-1) / 2, 1).mean()
            + (f - f.roll(1, 0)).square().mean()
        )

    model, xy = built(lambda: nn.Linear(4, 3, bias=False)), points()
    turn = torch.zeros(3, 3, 3, dtype=torch.float64)
    for k, (i, j) in enumerate(((0, 1), (0, 2), (1, 2))):
        turn[k, i, j], turn[k, j, i] = 1.0, -1.0
    act = Family((Mixing("weight", 0, torch.arange(3)[None], 0, False, turn),), 3)
    stretch = Family((Mixing("weight", 0, torch.arange(3)[None], 0, False, turn.abs()),), 3)
    seen = residuals(model, xy, contrast, [claimed(act), claimed(stretch, "stretch")])
    assert all(seen["claim", q][0] < 1e-10 for q in CONTINUOUS + FINITE)
    assert seen["stretch", "identity_hessian"][0] > 1e-3


def test_a_homogeneity_in_parameters_that_are_not_there_is_told():
    model, xy = built(lambda: nn.Sequential(nn.Linear(4, 3, False))), points()
    declared = [Homogeneous("head", 1, ("head.weight",)), Homogeneous("net", 1)]
    instrument = Identities([], seed=0, homogeneous=declared)
    reading = instrument.measure(0, model, Probe([xy], F.cross_entropy), {})
    assert reading.problems == [("head", "the model has no parameters of these names: head.weight")]
    assert {m.layer for m in reading.rows} == {"net"}


def test_homogeneity_of_networks_layers_and_losses():
    """A bias-free ReLU net of three layers has degree 3, its last layer 1, a square twice that."""
    make = lambda: nn.Sequential(  # noqa: E731
        nn.Linear(4, 5, False), nn.ReLU(), nn.Linear(5, 5, False), nn.ReLU(), nn.Linear(5, 3, False)
    )
    model, xy = built(make), points()
    declared = [
        Homogeneous("net", 3),
        Homogeneous("head", 1, ("4.weight",)),
        Homogeneous("wrong", 2),
    ]
    seen = residuals(model, xy, F.cross_entropy, [], homogeneous=declared)
    for quantity in ("identity_gradient", "identity_hessian", "identity_curvature"):
        assert seen["net", quantity][0] < 1e-10
        assert seen["head", quantity][0] < 1e-10
        assert seen["wrong", quantity][0] > 1e-3
    energy = residuals(
        model, xy, lambda f, y: f.square().mean(), [],
        homogeneous=[Homogeneous("energy", 6, of="loss")],
    )  # fmt: skip
    assert all(v < 1e-10 for (_, q), (v, _) in energy.items() if q != "identity_precision")
    with pytest.raises(ValueError, match="'output' or 'loss'"):
        Homogeneous("net", 1, of="logits")


def test_the_chord_near_and_on_a_mirror():
    """Close to equal neurons the force off the plane is H̄δ; on it there is none."""
    model, xy = built(lambda: net(nn.Tanh())), points()
    found = [s for s in symmetries(model, xy, F.cross_entropy) if s.kind == "permutation"]
    weight, bias, head = model[0].weight, model[0].bias, model[2].weight
    for gap in (1e-1, 1e-3, 0.0):
        with torch.no_grad():
            for t in (weight, bias):
                t[1] = t[0] + gap
            head[:, 1] = head[:, 0] + gap
        seen = residuals(model, xy, F.cross_entropy, found)
        assert seen[found[0].name, "identity_chord"][0] < 1e-10


def test_broken_by_a_real_eps_as_much_as_the_detector_says():
    model, xy = built(lambda: net(nn.LayerNorm(6, eps=1e-5))), points()
    found = symmetries(model, xy, F.cross_entropy)
    scale = next(s for s in found if s.kind == "scale invariance")
    seen = residuals(model, xy, F.cross_entropy, [scale])
    assert not scale.certified
    assert 1e-8 < seen[scale.name, "identity_hessian"][0] < 1e-3


def test_stationary_points_do_not_fool_it():
    """g = 0 and Hξ = 0: a quotient of two round-offs would be of order 1."""
    relu, xy = built(lambda: net(nn.ReLU())), points()
    target = relu(xy[0]).detach()
    seen = residuals(relu, (xy[0], target), F.mse_loss, [claimed(rescale(6))])
    assert seen["claim", "identity_hessian"][0] < 1e-10


def test_dead_claims_and_foreign_names():
    model, xy = built(lambda: net(nn.ReLU())), points()
    found = symmetries(model, xy, F.cross_entropy, samples=16)
    other = built(lambda: nn.ModuleDict({"body": net(nn.ReLU())}))
    other.forward = lambda x: other["body"](x)
    reading = Identities(found, seed=0).measure(0, other, Probe([xy], F.cross_entropy), {})
    assert len(reading.problems) == len(found)
    assert not reading.rows
    dead = claimed(rescale(6))
    object.__setattr__(dead, "violation", math.nan)
    assert Identities([dead], seed=0).symmetries == []


def test_nothing_of_the_run_changes():
    make, data, loss = MODELS["BN"]
    model, xy = built(make), data()
    found = symmetries(model, xy, loss)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = residuals(model, xy, loss, found)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert residuals(model, xy, loss, found) == first
