"""λ_c from the projected Hessian: against the dense one, and against where networks collapse."""

import numpy as np
import pytest
import torch
from symmetric_models import MODELS, built
from torch import nn

from lawful.instruments.critical_decay import CriticalDecay
from lawful.instruments.instrument import Rates
from lawful.instruments.mirrors import Mirrors
from lawful.instruments.probe import Probe
from lawful.symmetry import ParameterSpace, symmetries
from lawful.theory import mirror_collapse as mc

X = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
Y = torch.tanh(2.5 * X) - 0.6 * torch.tanh(0.7 * X)
PROBE = Probe([(X, Y)], nn.functional.mse_loss, whole=True)


def two_neurons():
    """v_1 tanh(w_1 x) + v_2 tanh(w_2 x): the check of the theory, as a real module."""
    return built(lambda: nn.Sequential(nn.Linear(1, 2, False), nn.Tanh(), nn.Linear(2, 1, False)))


@torch.no_grad()
def place(model, w, v):
    model[0].weight.copy_(torch.tensor(w, dtype=torch.float64)[:, None])
    model[2].weight.copy_(torch.tensor(v, dtype=torch.float64)[None])


def minimise(model, decay):
    """L-BFGS on ℓ + (λ/2)‖θ‖², what torch's weight decay λ descends; equal neurons stay equal."""
    parameters = list(model.parameters())
    solver = torch.optim.LBFGS(
        parameters, max_iter=1000, line_search_fn="strong_wolfe", tolerance_grad=1e-12,
        tolerance_change=0,
    )  # fmt: skip

    def closure():
        solver.zero_grad()
        penalty = sum(p.square().sum() for p in parameters) * decay / 2
        value = PROBE.loss(model(X), Y) + penalty
        value.backward()
        return value

    solver.step(closure)


def measured(model, found, decay=0.0, probe=PROBE):
    rates = {p: Rates("SGD", 0.1, decay) for p in model.parameters()}
    reading = CriticalDecay(found).measure(0, model, probe, rates)
    assert not reading.problems
    return {m.quantity: m.value for m in reading.rows}


def found_in(model):
    return symmetries(model, (X, Y), nn.functional.mse_loss, samples=41)


def test_equals_the_dense_projected_hessian():
    model = two_neurons()
    place(model, [0.9, 0.8], [0.5, 0.6])
    found = found_in(model)

    def loss(theta):
        w, v = theta[:2], theta[2:]
        return ((v * torch.tanh(w * X)).sum(1, keepdim=True) - Y).square().mean()

    H = torch.autograd.functional.hessian(
        loss, torch.tensor([0.85, 0.85, 0.55, 0.55], dtype=torch.float64)
    ).numpy()
    O = np.array([[1, -1, 0, 0], [0, 0, 1, -1]]).T / 2**0.5
    assert measured(model, found)["critical_decay_predicted"] == pytest.approx(
        2 * mc.critical_gamma(H, O), rel=1e-10
    )


def test_batches_of_unequal_size_make_the_same_mean():
    model = two_neurons()
    place(model, [0.9, 0.8], [0.5, 0.6])
    pieces = list(zip(X.split(32), Y.split(32), strict=True))
    probe = Probe(pieces, nn.functional.mse_loss, whole=True)
    found = found_in(model)
    assert measured(model, found, 0.1, probe) == pytest.approx(measured(model, found, 0.1))


@pytest.mark.parametrize(
    ("batches", "told"), [([], "no batch"), ([(X * torch.nan, Y)], "not finite")]
)
def test_what_has_no_threshold_is_told(batches, told):
    model = two_neurons()
    probe = Probe(batches, nn.functional.mse_loss)
    reading = CriticalDecay(found_in(model)).measure(0, model, probe, {})
    assert reading.rows == []
    assert told in reading.problems[0][1]


def test_neurons_merge_at_the_predicted_decay():
    """Check 11: bracketed by ±5 %, with the square-root law below.

    The distance is that to the swap alone: away from the threshold a flip may be nearer.
    """
    model = two_neurons()
    found = found_in(model)
    decay = 0.02
    for _ in range(15):  # θ_s moves with λ: a fixed point
        place(model, [1.0, 1.0], [0.5, 0.5])
        minimise(model, decay)
        seen = measured(model, found, decay)
        assert seen["plane_gradient"] < 1e-6
        decay = seen["critical_decay_predicted"]
    assert decay == pytest.approx(0.17066, rel=1e-3)  # by the dense Hessian and root finding
    split = {}
    for factor in (0.95, 0.9875, 1.05):
        place(model, [1.0, 1.0], [0.5, 0.5])
        minimise(model, factor * decay)
        with torch.no_grad():
            model[0].weight[0] += 0.05
            model[2].weight[0, 0] -= 0.05
        minimise(model, factor * decay)
        rows = Mirrors(found).measure(0, model, None, {}).rows
        split[factor] = next(m.value for m in rows if m.quantity == "swap_distance")
    assert split[1.05] < 1e-4
    assert split[0.95] > 0.1
    assert 1.9 < split[0.95] / split[0.9875] < 2.2


def test_a_lost_rank_comes_back_below_the_next_singular_value():
    """‖M − UV‖² + γ(‖U‖² + ‖V‖²): mode s dies at γ = s, so λ_c = 2s of the mode that is missing."""
    model = built(lambda: nn.Sequential(nn.Linear(3, 3, False), nn.Linear(3, 3, False)))
    M = torch.diag(torch.tensor([3.0, 2.0, 0.7], dtype=torch.float64))
    eye = torch.eye(3, dtype=torch.float64)
    probe = Probe([(eye, M)], lambda f, y: (f - y).square().sum())
    found = symmetries(model, (eye, M), lambda f, y: (f - y).square().sum(), samples=3)
    with torch.no_grad():
        kept = torch.diag(torch.tensor([3.0, 2.0, 0.0], dtype=torch.float64)).sqrt()
        model[0].weight.copy_(kept)
        model[1].weight.copy_(kept)
    seen = measured(model, found, probe=probe)
    assert seen["critical_decay_predicted"] == pytest.approx(2 * 0.7, rel=1e-10)


def test_lanczos_agrees_with_dense_on_a_wide_neuron():
    model = built(lambda: nn.Sequential(nn.Linear(80, 2), nn.Tanh(), nn.Linear(2, 2)))
    g = torch.Generator().manual_seed(0)
    xy = torch.randn(30, 80, generator=g).double(), torch.randn(30, 2, generator=g).double()
    found = symmetries(model, xy, nn.functional.mse_loss, samples=30)
    probe = Probe([xy], nn.functional.mse_loss)
    value = measured(model, found, probe=probe)["critical_decay_predicted"]
    space = ParameterSpace.of(model)
    theta = space.flat({n: p.detach().clone() for n, p in model.named_parameters()})
    names = space.named(torch.arange(space.dimension))
    pick = [torch.cat([names[n][i].flatten() for n in ("0.weight", "0.bias")]) for i in (0, 1)]
    pick = [torch.cat([p, names["2.weight"][:, i]]) for i, p in enumerate(pick)]
    O = torch.zeros(space.dimension, len(pick[0]), dtype=torch.float64)
    O[pick[0], range(len(pick[0]))], O[pick[1], range(len(pick[0]))] = 2**-0.5, -(2**-0.5)
    swap = mc_nearest(theta, O, pick)
    H = torch.autograd.functional.hessian(
        lambda t: nn.functional.mse_loss(
            torch.func.functional_call(model, space.named(t), (xy[0],)), xy[1]
        ),
        theta - swap @ (swap.T @ theta),
    )
    dense = -torch.linalg.eigvalsh(swap.T @ H @ swap)[0]
    assert value == pytest.approx(float(dense), rel=1e-8)


def mc_nearest(theta, O, pick):
    """Of swap, swap and flip, and the two flips, the projector nearest to θ."""
    both, flips = O.abs(), []
    for at in pick:
        one = torch.zeros_like(O)
        one[at, range(len(at))] = 1.0
        flips.append(one)
    return min([O, both, *flips], key=lambda o: float((o.T @ theta).norm()))


@pytest.mark.parametrize("name", ["attention", "BN"])
def test_real_layers_are_measured_without_a_trace(name):
    make, data, loss = MODELS[name]
    model, xy = built(make), data()
    found = symmetries(model, xy, loss, samples=len(xy[1]))
    before = {n: t.clone() for n, t in model.state_dict().items()}
    some = [s for s in found if s.kind in ("permutation", "QK")][:2]
    seen = measured(model, some, 0.1, Probe([xy], loss, mode="train"))
    assert np.isfinite(list(seen.values())).all()
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
