"""Scale drift on a normalised toy that SGD moves, and on numbers chosen to break each claim."""

import math

import numpy as np
import pytest

from lawful.laws.scale_drift import growth_ratio
from lawful.laws.snapshot import Snapshot
from lawful.record.measurement import Measurement
from lawful.theory.scale_invariance import angular_step, equilibrium_radius

LAYER = "scale invariance of fc"


def toy(
    empty, *, eta=0.1, decay=0.0, steps=4000, every=40, adam=False, momentum=0.0, start=2.0,
    lower=(), seed=0,
):  # fmt: skip
    """ℓ = −zᵀθ/‖θ‖, z ~ N(½e₁, 1) in 20 dimensions, recorded as the instrument records it.

    start: ‖θ‖ at step 0;  lower: steps at which η falls to a fifth.
    """
    rng = np.random.default_rng(seed)
    theta, v = rng.normal(size=20), np.zeros(20)
    theta *= start / np.linalg.norm(theta)
    empty.rows = []
    group = {"lr": eta, "momentum": momentum, "weight_decay": decay}
    optimizer = {"class": "Adam" if adam else "SGD", "groups": [group]}
    empty.manifest = {"layers": [], "steps": steps, "optimizer": optimizer}
    for k in range(steps + 1):
        eta = eta / 5 if k in lower else eta
        z = rng.normal(size=20)
        z[0] += 0.5
        r2 = float(theta @ theta)
        g = (theta * (z @ theta) / r2 - z) / math.sqrt(r2)
        v = momentum * v + g + decay * theta
        after = theta - eta * v
        if k % every == 0:
            cosine = theta @ after / math.sqrt(r2 * (after @ after))
            for name, value in {
                "charge": r2, "unit_gradient2": float(g @ g) * r2,
                "angular_step": math.acos(min(1.0, cosine)),
                "radial_gradient": abs(g @ theta) / math.sqrt(r2 * (g @ g)),
                "symmetry_violation": 1e-16,
            }.items():  # fmt: skip
                error = 0.3 * value if name == "unit_gradient2" else math.nan
                empty.rows.append(Measurement(k, LAYER, name, value, error, 1))
            empty.rows.append(Measurement(k, "", "learning_rate", eta, 0.0, 1))
        theta = after
    empty.array_steps = lambda *_: []  # one vector: no array was kept
    return empty


def growth(world):
    return world.verdict("norm_growth", LAYER)


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_the_norm_follows_growth_and_decay(empty, decay):
    found = growth(toy(empty, decay=decay, steps=2000 if decay else 4000, every=3 if decay else 10))
    assert found.status == "holds", found.sentence
    assert 0.95 < found.effect < 1.05


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_the_error_of_growth_is_true(empty, decay):
    """(ratio − 1)/error over repetitions: mean 0, deviation 1."""
    worlds = (toy(empty, decay=decay, steps=800, every=10, start=1.0, seed=s) for s in range(40))
    ratios = [growth_ratio(Snapshot(world), LAYER) for world in worlds]
    z = np.array([(r.value - 1) / r.stderr for r in ratios])
    assert abs(z.mean()) < 3 * z.std() / math.sqrt(40)
    assert 0.7 < z.std() < 1.35


def test_growth_follows_a_changing_rate(empty):
    found = growth(toy(empty, lower=(1000, 2000), steps=3000, every=10))
    assert found.status == "holds", found.sentence


def test_at_the_equilibrium_radius_there_is_no_growth_to_see(empty):
    radius = equilibrium_radius(19.0, eta=0.1, weight_decay=0.01)
    found = growth(toy(empty, decay=0.01, start=radius, steps=2000, every=10))
    assert found.status == "undetermined", found.sentence


def test_a_norm_that_grows_otherwise_is_violated(empty):
    world = toy(empty, steps=1000, every=10)
    charges = [m for m in world.rows if m.quantity == "charge"]
    world.record("charge", [4 + 2 * (m.value - 4) for m in charges], layer=LAYER,
                 steps=[m.step for m in charges])  # fmt: skip
    assert growth(world).status == "violated"


def test_growth_is_not_claimed_for_adam(empty):
    assert growth(toy(empty, adam=True, steps=200)).status == "out of regime"


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_angle_is_universal_at_rest(empty, momentum):
    decay = 0.01 * (1 - momentum)
    world = toy(empty, decay=decay, momentum=momentum, steps=6000, every=8)
    found = world.verdict("angular_step", LAYER)
    assert found.status == "holds", found.sentence
    # the law's own number, for this optimiser
    want = angular_step(eta=0.1, weight_decay=decay, momentum=momentum)
    law_value = [m.value for m in world.rows if m.quantity == "angular_step"][-150:]
    assert np.mean(law_value) == pytest.approx(want, rel=0.05)


def test_the_angle_before_rest_is_undetermined_and_elsewhere_out_of_regime(empty):
    world = toy(empty, decay=0.01, steps=200)
    found = world.verdict("angular_step", LAYER)
    assert found.status == "undetermined"
    assert "0.60 times" in found.sentence
    world.manifest["optimizer"]["groups"][0]["weight_decay"] = 0.0
    assert world.verdict("angular_step", LAYER).status == "out of regime"
    world.manifest["optimizer"] = {"class": "Adam", "groups": [{"lr": 0.1, "weight_decay": 0.01}]}
    assert world.verdict("angular_step", LAYER).status == "out of regime"


def test_the_angle_after_a_change_of_rate_and_on_the_way_down_is_not_judged(empty):
    found = toy(empty, decay=0.01, lower=(2000,), steps=6000, every=20).verdict(
        "angular_step", LAYER
    )
    assert found.status == "undetermined"  # r⁴ has had 2 times 1/4ηλ since, not 3
    found = toy(empty, decay=0.01, lower=(5000,), steps=6000, every=20).verdict(
        "angular_step", LAYER
    )
    assert found.status == "out of regime"
    assert "still changed at step 4980" in found.sentence
    far = toy(empty, decay=0.01, start=30.0, steps=2000, every=5)
    assert far.verdict("angular_step", LAYER).status == "undetermined"


def test_another_angle_is_violated(empty):
    world = toy(empty, decay=0.01, steps=6000)
    world.record("angular_step", 0.09, layer=LAYER, steps=range(0, 6001, 40))
    assert world.verdict("angular_step", LAYER).status == "violated"


def test_radius_is_theory_s(empty):
    world = toy(empty, decay=0.01, steps=6000, every=10)
    late = [m.value**2 for m in world.rows if m.quantity == "charge" and m.step > 3000]
    want = equilibrium_radius(19.0, eta=0.1, weight_decay=0.01)
    assert np.mean(late) ** 0.25 == pytest.approx(want, rel=0.02)


def test_the_gradient_is_orthogonal_or_not(empty):
    world = toy(empty, steps=100)
    assert world.verdict("radial_gradient", LAYER).status == "holds"
    world.record("radial_gradient", 0.02, layer=LAYER, steps=(80,))
    assert world.verdict("radial_gradient", LAYER).status == "violated"
    world.record("symmetry_violation", 1e-2, layer=LAYER, steps=(100,))  # a large ε is allowed for
    assert world.verdict("radial_gradient", LAYER).status == "holds"
    assert world.forget("radial_gradient").verdict("angular_step", LAYER).status != "holds"
