"""Checks of arXiv:2410.03006's consequences, made through the door that every user takes.

Each was first measured in an independent numpy implementation; its numbers are quoted in the
docstrings as "reference", and where ours differ the docstring says so.
"""

import pytest
import torch

from lawful import Probe, at, observe, open_run
from lawful import test as verdicts
from lawful.lab.datasets import batches, teacher
from lawful.lab.experiment import experiment, first, last
from lawful.lab.experiments.canonical_decay import half_square
from lawful.lab.models import MLP, seeded

# -- the critical point --------------------------------------------------------------------------


def descend(out, *, steps, activation="tanh", **how):
    """Full-batch descent on an 8-12-12-3 net, γ = 3e-3, η = .1, momentum .9, seed 0."""
    data = teacher(inputs=8, outputs=3, train=256, test=1, seed=0)
    with seeded(0):
        model = MLP(8, 3, width=12, depth=2, activation=activation, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=3e-3)
    x, y = data.x_train, data.y_train
    if not how:
        how = {"probe": Probe([(x, y)], half_square), "schedule": at([0])}
    laws = ["cross_term_a", "cross_term_b"]
    with observe(model, out, laws, optimizer=optimizer, **how) as observation:
        for _ in range(steps):
            optimizer.zero_grad()
            half_square(model(x), y).backward()
            optimizer.step()
    return observation.run


def test_at_a_critical_point_the_mean_gradient_balances_the_decay(tmp_path):
    """Check 7: ‖E[g hᵀ] + γZ‖/‖γZ‖ > 30 at the start, < .01 by 30,000 full-batch steps.

    Reference: ≤ .003. Here 41 to 242 falls to 4e-5 in half as many steps, on both sides of every
    layer. At η = .1 without momentum, nine times 1/ηγ, .03 to .08 is left after 30,000. Where a
    run starts depends on what was drawn: 17 to 142 with seed 1, whose end is as low. A ReLU net
    does not come to rest: its kinks stay in the way, see below.
    """
    run = descend(tmp_path, steps=15_000)
    assert run.layers == ["fc0", "fc1", "fc2"]
    for layer in run.layers:
        for quantity in ("cross_a", "cross_b"):
            assert first(quantity, layer, run) > 30
            assert last(quantity, layer, run) < 0.01
            assert last(f"{quantity}_alignment", layer, run) > 0.999


@pytest.mark.slow
def test_the_verdict_on_the_cross_term_of_a_run_that_came_to_rest(tmp_path):
    """As a verdict: three successive whole batches, so that the error is known.

    A probe of a single batch gives the number but no error, hence no verdict.
    """
    run = descend(tmp_path, steps=30_000, schedule=at([0, 29_900]), window=64)
    found = verdicts(run)
    assert len(found) == 6
    assert {verdict.status for verdict in found} == {"holds"}


@pytest.mark.slow
def test_the_kinks_of_relu_keep_it_from_the_critical_point(tmp_path):
    """Check 7, ReLU at constant rate with momentum: the first two layers stall. Not a bug.

    Reference: at .4 to .6. Here .65 to 1.7 (seeds 0 and 1), below .2 in the last layer.
    """
    run = descend(tmp_path, steps=30_000, activation="relu")
    for quantity in ("cross_a", "cross_b"):
        assert last(quantity, "fc0", run) > 0.4
        assert last(quantity, "fc1", run) > 0.4
        assert last(quantity, "fc2", run) < 0.2


# -- the balance of norms, and the phases --------------------------------------------------------


@pytest.fixture(scope="module")
def decay(tmp_path_factory):
    """canonical-decay, often enough measured for seven measurements in the last 30 %."""
    made = {}

    def run(gamma):
        if gamma not in made:
            lab = experiment("canonical-decay")
            settings = lab.configure([f"gamma={gamma}", "measurements=200", "device=cpu"])
            out = tmp_path_factory.mktemp("decay") / gamma
            made[gamma] = lab.run(settings, out, progress=False)
        return made[gamma]

    return run


def verdict(run, law, layer):
    (found,) = (v for v in verdicts(run, law) if v.layer == layer)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("layer", [f"fc{l}" for l in range(6)])
def test_the_weight_norm_stands_still_at_strong_decay(decay, layer):
    """Check 8: |balance| < .03 over the last 30 % at γ = 3e-3. Here ≤ .011 (seeds 0 and 1)."""
    found = verdict(decay("3e-3"), "norm_stationarity", layer)
    assert found.status == "holds"
    assert abs(found.effect) < 0.03


@pytest.mark.slow
def test_the_weight_norm_is_still_moving_at_weak_decay(decay):
    """Check 8: W0 at γ = 1e-4 is flagged as not stationary.

    Reference: |balance| ≈ .85 in W0. Here it is .64 there (seed 1: .67) and .85 in W1 (1.03);
    the sign is negative, the norms still grow. 25,000 steps are a quarter of 1/ηγ, so the number
    depends on the teacher, and the reference does not give its own.
    """
    found = verdict(decay("1e-4"), "norm_stationarity", "fc0")
    assert found.status == "violated"
    assert "is not stationary" in found.sentence
    assert found.interval[1] < -0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gamma", "layer", "reference"), [("3e-3", "fc2", (0.17, 2.29)), ("1e-2", "fc1", (0.04, 2.28))]
)
def test_a_layer_in_the_forward_phase_is_called_so(decay, gamma, layer, reference):
    """Check 11: (p, q) within .5 of the forward vertex (0, 2), and of the reference.

    Here (.36, 2.15) and (−.01, 2.40), from 26 and 21 directions (reference: 16 and 14).
    """
    run = decay(gamma)
    found = verdict(run, "pah_phase", layer)
    assert found.status == "holds"
    assert "orward CRH" in found.sentence
    assert found.effect < 0.5
    p, q = last("exponent_p", layer, run), last("exponent_q", layer, run)
    assert abs(p - reference[0]) < 0.5
    assert abs(q - reference[1]) < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["fc1", "fc2", "fc3"])
def test_layers_between_the_phases_are_not_assigned(decay, layer):
    """Check 11: no phase at γ = 1e-3 in W1 to W3. Reference: (.8, .9) to (1.2, 1.4).

    Here (.5, .7), (.7, .8), (.9, 1.1): fc1 and fc2 lie outside that range, all unassigned.
    """
    found = verdict(decay("1e-3"), "pah_phase", layer)
    assert found.status == "violated"
    assert found.sentence.startswith("Unassigned")


# -- homogeneity, and the balance step by step ---------------------------------------------------


def short(out, *, gamma, activation, micro=1, probed=False):
    """150 steps of a bias-free net, observed by its training batches or by a probe.

    micro: micro-batches accumulated in one step.  Returns the run and ‖W‖² of each map before
    every step.
    """
    data = teacher(train=512, test=1)
    with seeded(0):
        model = MLP(32, 8, width=48, depth=5, activation=activation, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, weight_decay=gamma)
    probe = Probe([(data.x_train, data.y_train)], half_square) if probed else None
    norms = []
    with observe(
        model, out, optimizer=optimizer, probe=probe, schedule=at([0, 20, 100]), accumulation=micro
    ):
        for x, y in batches(data.x_train, data.y_train, 32, steps=150):
            norms.append([float(W.detach().double().square().sum()) for W in model.parameters()])
            optimizer.zero_grad()
            for part, target in zip(x.chunk(micro), y.chunk(micro), strict=True):
                (half_square(model(part), target) / micro).backward()
            optimizer.step()
    return open_run(out), torch.tensor(norms)


@pytest.mark.parametrize("how", [{}, {"micro": 2}, {"probed": True}], ids=str)
def test_in_a_homogeneous_net_weight_and_gradient_agree_in_every_layer(how, tmp_path):
    """Check 13: f is of degree one in each W_l, so ⟨W_l, ∂L/∂W_l⟩ = E[∂ℓ/∂f · f] for all l.

    Reference: relative spread < 1e-4. Here < 1e-6.
    """
    run, _ = short(tmp_path, gamma=3e-3, activation="relu", **how)
    products = run.table(quantity="gradient_dot_weight").pivot(
        index="step", columns="layer", values="value"
    )
    assert products.shape[1] == 6
    assert {0, 20, 100} <= set(products.index)
    spread = products.max(axis=1) - products.min(axis=1)
    assert float((spread / products.abs().mean(axis=1)).max()) < 1e-4


def test_tanh_is_not_homogeneous(tmp_path):
    """The control of check 13: the same reading tells the layers apart where theory allows it."""
    run, _ = short(tmp_path, gamma=3e-3, activation="tanh")
    products = [first("gradient_dot_weight", layer, run) for layer in run.layers]
    assert max(products) > 2 * min(products) > 0


@pytest.mark.parametrize("layer", [0, 3, 5])
def test_the_recorded_balance_is_how_fast_the_norm_shrank(layer, tmp_path):
    """Check 8, step by step: over n steps it is the mean of −Δ‖W‖²/(2ηγ‖W‖²)."""
    run, norms = short(tmp_path, gamma=3e-3, activation="tanh", probed=True)
    for step in (0, 20, 100):
        measured = run.at("norm_balance", f"fc{layer}", step)
        w2 = norms[step : step + measured.n + 1, layer]
        shrunk = float(((w2[:-1] - w2[1:]) / w2[:-1]).mean()) / (2 * 0.02 * 3e-3)
        assert measured.n == 16
        assert measured.value == pytest.approx(shrunk, rel=1e-2, abs=1e-3)
