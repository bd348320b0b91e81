"""Symmetric states in the weights: distances and classes, on states made by hand."""

import math

import pytest
import torch
from symmetric_models import MODELS, built, net, points
from torch import nn
from torch.nn import functional as F

from lawful.instruments.mirrors import Mirrors, balanced, classes, closest, gaps, groups, spectrum
from lawful.symmetry import nearest_mirror, symmetries


def looked(model, found, step=0, eye=None):
    """layer -> quantity -> value."""
    table: dict[str, dict[str, float]] = {}
    for m in (eye or Mirrors(found)).measure(step, model, None, {}).rows:
        table.setdefault(m.layer, {})[m.quantity] = m.value
    return table


def hidden(phi, width=6):
    model = built(lambda: net(phi(), width=width))
    return model, symmetries(model, points(), F.cross_entropy, samples=16)


@torch.no_grad()
def neuron(model, i, like=None, sign=1.0, scale=1.0):
    """Make neuron i a copy of another, or 0."""
    rows = [model[0].weight, model[0].bias, model[2].weight.T]
    for t in rows:
        t[i] = 0.0 if like is None else sign * t[like]
    model[0].weight[i] *= scale
    model[0].bias[i] *= scale
    model[2].weight[:, i] /= scale


def test_a_generic_layer_is_off_every_mirror():
    model, found = hidden(nn.Tanh)
    seen = looked(model, found)["0"]
    theta = {n: p.detach() for n, p in model.named_parameters()}
    acts = {s.kind: s.generator for s in found}
    nearest = nearest_mirror(theta, permutation=acts["permutation"], sign=acts["sign"])
    assert seen["order_parameter"] == pytest.approx(nearest.distance, rel=1e-12)
    assert seen["order_parameter"] > 0.1
    assert seen["symmetry_classes"] == seen["symmetry_classes_exact"] == seen["neurons"] == 6


def test_identical_opposite_and_dead_neurons_are_counted():
    model, found = hidden(nn.Tanh)
    neuron(model, 1, like=0)
    neuron(model, 3, like=2, sign=-1.0)
    neuron(model, 5)
    seen = looked(model, found)["0"]
    counted = "neurons_off", "neurons_identical", "neurons_mirrored", "symmetry_classes"
    assert [seen[q] for q in counted] == [1, 1, 1, 3]
    assert seen["swap_distance"] == seen["swap_flip_distance"] == seen["flip_distance"] == 0


def test_opposite_neurons_are_no_symmetric_state_of_gelu():
    model, found = hidden(nn.GELU)
    neuron(model, 3, like=2, sign=-1.0)
    seen = looked(model, found)["0"]
    assert "swap_flip_distance" not in seen
    assert seen["symmetry_classes"] == 6
    assert seen["order_parameter"] > 0.1


def test_rescaling_is_divided_out():
    """A ReLU neuron and its copy up to scale are one; without incoming weights it is off."""
    model, found = hidden(nn.ReLU)
    neuron(model, 1, like=0, scale=7.0)
    with torch.no_grad():
        model[0].weight[4] = 0.0
        model[0].bias[4] = 0.0
    assert model[2].weight[:, 4].norm() > 0.1
    seen = looked(model, found)["0"]
    assert seen["swap_distance"] < 1e-13
    assert (seen["neurons_identical"], seen["neurons_off"], seen["symmetry_classes"]) == (1, 1, 4)
    # Negative control: not a copy up to scale, but up to an input weight.
    with torch.no_grad():
        model[0].weight[1, 0] *= 1.5
    assert looked(model, found)["0"]["neurons_identical"] == 0


def test_balanced_is_the_shortest_point_of_the_orbit():
    model, found = hidden(nn.ReLU)
    (group,) = groups(found)
    theta = {n: p.detach() for n, p in model.named_parameters()}
    short = balanced(theta, group.rescaling)
    assert float(group.rescaling.pairing(short, short).abs().max()) < 1e-14
    g = torch.Generator().manual_seed(0)
    for _ in range(5):
        c = 0.1 * torch.randn(6, generator=g, dtype=torch.float64)
        longer = group.rescaling.generator(c).transform(short)
        assert sum(t.square().sum() for t in longer.values()) > sum(
            t.square().sum() for t in short.values()
        )


def test_a_lost_rank():
    model = built(lambda: nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 6)))
    xy = points(d=5)[0], torch.zeros(16, 6, dtype=torch.float64)
    found = symmetries(model, xy, F.mse_loss)
    layer = next(s.name for s in found if s.kind == "GL")
    seen = looked(model, found)[layer]
    assert (seen["symmetry_classes"], seen["neurons"]) == (4, 4)
    n = F.normalize(torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.float64), dim=0)
    off = torch.eye(4, dtype=torch.float64) - torch.outer(n, n)
    with torch.no_grad():  # on one side only: the product has lost a rank
        model[1].weight.copy_(model[1].weight @ off)
    seen = looked(model, found)[layer]
    assert seen["symmetry_classes"] == seen["symmetry_classes_exact"] == 3
    assert seen["rotation_distance"] == seen["order_parameter"] < 1e-7


def test_the_spectrum_is_that_of_the_balanced_pair():
    model = built(lambda: nn.Sequential(nn.Linear(5, 4, False), nn.Linear(4, 6, False)))
    xy = points(d=5)[0], torch.zeros(16, 6, dtype=torch.float64)
    act = next(s.generator for s in symmetries(model, xy, F.mse_loss) if s.kind == "GL")
    W, U = model[0].weight.detach(), model[1].weight.detach()
    P, s, Qt = torch.linalg.svd(U @ W)
    root = s[:4].sqrt()
    V = torch.cat([(root[:, None] * Qt[:4]).T, P[:, :4] * root])
    theta = {"0.weight": W, "1.weight": U}
    assert torch.allclose(spectrum(theta, act), torch.linalg.svdvals(V), rtol=1e-12)


def test_dead_when_certified_still_belongs():
    model = built(lambda: net(nn.ReLU()))
    with torch.no_grad():
        model[0].bias[2] = -1e3
    found = symmetries(model, points(), F.cross_entropy, samples=16)
    assert sum(s.kind == "permutation" for s in found) == 2
    assert looked(model, found)["0"]["neurons"] == 6


def test_a_layer_that_decays_as_a_whole_goes_off():
    model, found = hidden(nn.Tanh)
    eye = Mirrors(found)
    assert looked(model, found, eye=eye)["0"]["neurons_off"] == 0
    with torch.no_grad():
        for p in model.parameters():
            p *= 1e-3
    assert looked(model, found, eye=eye)["0"]["neurons_off"] == 6
    # A small start is not dead: its scale is its own.
    assert looked(model, found)["0"]["neurons_off"] == 0


@pytest.mark.parametrize("name", ["attention", "BN", "LoRA"])
def test_every_group_of_a_model_has_a_layer_of_its_own(name):
    make, data, loss = MODELS[name]
    model, xy = built(make), data()
    found = symmetries(model, xy, loss, samples=len(xy[1]))
    layers = [g.layer for g in groups(found)]
    assert len(set(layers)) == len(layers)
    assert all(math.isfinite(q["order_parameter"]) for q in looked(model, found).values())


def test_refuted_symmetries_have_no_mirrors():
    _, found = hidden(nn.Tanh)
    for s in found:
        object.__setattr__(s, "certified", False)
        object.__setattr__(s, "violation", 0.5)
    assert Mirrors(found).groups == []


def test_pairs_against_brute_force():
    v = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    brute = min(float((v[i] - v[j]).norm()) for i in range(7) for j in range(i)) / 2**0.5
    assert closest(v, 1.0, gaps(v, 1.0)) == pytest.approx(brute, rel=1e-14)
    v[4] = -v[2]
    assert closest(v, -1.0, gaps(v, -1.0)) == 0
    norms = v.norm(dim=1)
    assert classes(norms, gaps(v, 1.0), None, 1.0, 1e-2).different == 7
    assert classes(norms, gaps(v, 1.0), gaps(v, -1.0), 1.0, 1e-2).different == 6
