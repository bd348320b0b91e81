"""Laws of gradient noise: on networks that train until they balance, and on chosen numbers."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from lawful import laws
from lawful.instruments.instrument import Rates
from lawful.instruments.layers import survey
from lawful.instruments.noise import GradientNoise
from lawful.instruments.tap import Scale
from lawful.theory.critical_batch import greedy_descent, steps_needed

STEPS = tuple(range(0, 2001, 100))
LATE = len([s for s in STEPS if s >= 1000])


@dataclass
class Trained:
    """What laws read of a run, with arrays, filled by the instrument itself."""

    eta: float
    decay: float
    rows: list = field(default_factory=list)
    arrays: dict = field(default_factory=dict)
    steps: int = 0

    @property
    def manifest(self):
        group = {"lr": self.eta, "momentum": 0.0, "weight_decay": self.decay}
        return {"optimizer": {"class": "SGD", "groups": [group]}, "steps": self.steps, "laws": []}

    @property
    def layers(self):
        return list(dict.fromkeys(m.layer for m in self.rows if m.layer))

    def table(self, *, layer=None, **_):
        import pandas as pd

        columns = ["step", "layer", "quantity", "value", "stderr", "n"]
        rows = [[getattr(m, c) for c in columns] for m in self.rows if m.layer == layer]
        return pd.DataFrame(rows, columns=columns)

    def array_steps(self, quantity, layer):
        return sorted(step for step, *key in self.arrays if key == [layer, quantity])

    def array(self, quantity, *, layer, step):
        return self.arrays[step, layer, quantity]

    def verdict(self, law, layer="0"):
        return next(v for v in laws.test(self, law) if v.layer == layer)

    def train(self, model, batch, steps, *, every=1, after=lambda: None, micro=1):
        """SGD on ½‖f − y‖² summed over outputs; windows of 32 steps, one in `every` measured."""
        optimizer = torch.optim.SGD(model.parameters(), lr=self.eta, weight_decay=self.decay)
        noise = GradientNoise(model, survey(model, "*")[0], Scale("mean", micro), seed=0)
        rates = {p: Rates("SGD", self.eta, self.decay) for p in model.parameters()}
        for step in range(steps):
            measured = (step // noise.batches) % every == 0
            optimizer.zero_grad()
            if measured:
                noise.place()
            x, y = batch()
            for a, b in zip(x.chunk(micro), y.chunk(micro), strict=True):
                (0.5 * (model(a) - b).square().sum(1).mean() / micro).backward()
            if measured:
                noise.before(step, rates, 1.0)
            optimizer.step()
            after()
            if measured:
                noise.after(step)
                noise.lift()
                if (step + 1) % noise.batches == 0:
                    reading = noise.read(step + 1 - noise.batches)
                    self.rows += reading.rows
                    at = step + 1 - noise.batches
                    self.arrays |= {(at, *key): a for key, a in reading.arrays.items()}
        self.steps = steps
        return self


def linear(noise: float, seed: int = 0):
    """A two-layer linear network and its noisy batches: 4 inputs, 8 hidden, 2 outputs."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Linear(8, 2, bias=False))
    V = torch.randn(2, 4)

    def batch():
        x = torch.randn(4, 4)
        return x, x @ V.T + noise * torch.randn(4, 2)

    return model, batch


# -- gradient balance: trained --------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_run():
    """Noise and decay: 16 relaxation times in the second half."""
    return Trained(0.05, 0.1).train(*linear(1.0), 3200)


def test_layers_balance_where_the_charge_stands_still(long_run):
    """The two sides are within 10 % after many relaxation times, and far off before."""
    run = long_run
    found = run.verdict("gradient_balance")
    assert found.status == "holds", found.sentence
    assert abs(found.effect) < 0.1
    assert abs(found.initial) > 0.3
    left, right = (
        np.mean([m.value for m in run.rows if m.quantity == q and m.step >= 1600])
        for q in ("gradient_balance", "gradient_balance_predicted")
    )
    assert left == pytest.approx(right, rel=0.1)


def test_nothing_is_claimed_of_a_run_that_has_not_relaxed():
    """The loss has long converged; the charge has not: undetermined, whatever the sides are."""
    run = Trained(0.01, 1e-3).train(*linear(0.3), 1600)
    found = run.verdict("gradient_balance")
    assert found.status == "undetermined"
    assert "relaxation times" in found.sentence
    neurons = run.verdict("gradient_balance_neurons")
    assert neurons.status == "undetermined"


def test_neurons_balance_too(long_run):
    found = long_run.verdict("gradient_balance_neurons")
    assert found.status in ("holds", "undetermined"), found.sentence
    assert found.effect < 0.1
    assert found.initial > 3 * found.effect


# -- gradient balance: chosen numbers -------------------------------------------------------------


@pytest.fixture
def balanced(empty):
    """Sides 0.030 and 0.030 of a mean pull 0.1, 10 relaxation times in the second half."""
    rng = np.random.default_rng(0)
    jitter = 1 + 0.02 * rng.normal(size=len(STEPS))
    empty.record("gradient_balance", list(0.03 * jitter), steps=STEPS)
    empty.record("gradient_balance_predicted", 0.03, steps=STEPS)
    empty.record("balance_pull", 0.1, steps=STEPS).record("balance_rate", 0.01, steps=STEPS)
    empty.record("balance_charge", list(2.0 + 1e-4 * rng.normal(size=len(STEPS))), steps=STEPS)
    return empty.record("learning_rate", 0.1, layer="", steps=STEPS)


def test_equal_sides_hold_and_unequal_ones_do_not(balanced):
    assert balanced.verdict("gradient_balance").status == "holds"
    balanced.record("gradient_balance_predicted", 0.02, steps=STEPS)
    found = balanced.verdict("gradient_balance")
    assert found.status == "violated"
    assert found.effect == pytest.approx(1 / 3, abs=0.03)


def test_too_noisy_sides_are_undetermined(balanced):
    noisy = list(0.03 + 0.02 * np.random.default_rng(1).normal(size=len(STEPS)))
    balanced.record("gradient_balance", noisy, steps=STEPS)
    assert balanced.verdict("gradient_balance").status == "undetermined"


def test_without_decay_the_pull_is_the_scale(balanced):
    balanced.manifest = copy.deepcopy(balanced.manifest)
    balanced.manifest["optimizer"]["groups"][0]["weight_decay"] = 0.0
    balanced.record("gradient_balance_predicted", 0.0, steps=STEPS)
    assert balanced.verdict("gradient_balance").status == "violated"
    near = list(0.001 * np.random.default_rng(1).normal(size=len(STEPS)))
    balanced.record("gradient_balance", near, steps=STEPS)
    assert balanced.verdict("gradient_balance").status == "holds"


def test_a_drifting_charge_or_a_short_run_is_not_judged(balanced):
    balanced.record("balance_charge", list(2 - 1e-3 * np.array(STEPS)), steps=STEPS)
    found = balanced.verdict("gradient_balance")
    assert found.status == "undetermined"
    assert "not stationary" in found.sentence
    balanced.record("balance_charge", 2.0, steps=STEPS).record("balance_rate", 1e-4, steps=STEPS)
    found = balanced.verdict("gradient_balance")
    assert found.status == "undetermined"
    assert "0.10 relaxation times" in found.sentence


def test_other_optimisers_are_out_of_regime(balanced):
    for change in ({"class": "Adam"}, {"groups": [{"lr": 0.1, "momentum": 0.9}]}):
        balanced.manifest = balanced.manifest | {"optimizer": SGD_OF | change}
        for law in ("gradient_balance", "virial", "hebbian_sign", "hebbian_batch"):
            at_rest(balanced)
            assert balanced.verdict(law).status == "out of regime"


SGD_OF = {"class": "SGD", "groups": [{"lr": 0.1, "momentum": 0.0, "weight_decay": 0.1}]}


# -- virial and Hebb: chosen numbers ---------------------------------------------------------------


def at_rest(world, *, decay=1.0, step=0.02, signal=None, cosine=0.5):
    """λ = 0.1, η = 0.1: λ‖W‖² = 1, trΣ and B so that cos_B = 0.5 for ρ = 0.9."""
    rng = np.random.default_rng(0)

    def jitter(value):
        return list(value * (1 + 0.01 * rng.normal(size=len(STEPS))))

    signal = decay - step if signal is None else signal
    world.record("virial", jitter(signal), steps=STEPS)
    world.record("virial_predicted", jitter(decay - step), steps=STEPS)
    world.record("virial_decay", list(decay + 1e-5 * rng.normal(size=len(STEPS))), steps=STEPS)
    world.record("virial_step", jitter(step), steps=STEPS)
    world.record("hebbian_cosine", jitter(cosine), steps=STEPS)
    world.record("hebbian_ceiling", jitter(0.9), steps=STEPS)
    noise = 0.1 * decay * ((0.9 / 0.5) ** 2 - 1) * 64
    world.record("noise_trace", jitter(noise), steps=STEPS)
    world.record("signal_norm2", jitter(0.1 * decay), steps=STEPS)
    world.record("batch_size", 64.0, layer="", steps=STEPS)
    return world.record("learning_rate", 0.1, layer="", steps=STEPS)


@pytest.fixture
def rest(empty):
    empty.manifest = empty.manifest | {"optimizer": SGD_OF}
    return at_rest(empty)


def test_virial_holds_and_is_broken_by_another_update_rule(rest):
    assert rest.verdict("virial").status == "holds"
    found = at_rest(rest, signal=0.7).verdict("virial")
    assert found.status == "violated"
    assert found.effect == pytest.approx(-0.28, abs=0.02)


def test_virial_waits_for_the_norm(rest):
    rest.manifest = rest.manifest | {"optimizer": copy.deepcopy(SGD_OF)}
    rest.manifest["optimizer"]["groups"][0]["weight_decay"] = 0.02  # four relaxation times
    rest.record("virial_decay", list(1 + 1e-3 * np.array(STEPS)), steps=STEPS)
    found = rest.verdict("virial")
    assert found.status == "undetermined"
    assert "‖W‖² still drifts" in found.sentence
    short = at_rest(rest)
    short.manifest = {**short.manifest, "optimizer": copy.deepcopy(SGD_OF)}
    short.manifest["optimizer"]["groups"][0]["weight_decay"] = 1e-3
    assert "relaxation times" in short.verdict("virial").sentence


def test_hebbian_sign(rest):
    assert rest.verdict("hebbian_sign").status == "holds"
    assert at_rest(rest, step=1.5, cosine=-0.3).verdict("hebbian_sign").status == "holds"
    assert at_rest(rest, step=1.5, cosine=0.3).verdict("hebbian_sign").status == "violated"
    assert at_rest(rest, step=1.0, cosine=0.3).verdict("hebbian_sign").status == "undetermined"
    unclear = at_rest(rest)
    around = list(0.1 * np.random.default_rng(2).normal(size=len(STEPS)))
    unclear.record("hebbian_cosine", around, steps=STEPS)
    assert unclear.verdict("hebbian_sign").status == "undetermined"


def test_hebbian_batch(rest):
    found = rest.verdict("hebbian_batch")
    assert found.status == "holds", found.sentence
    assert found.null == pytest.approx(0.9 / 0.5, rel=0.02)
    assert at_rest(rest, cosine=0.8).verdict("hebbian_batch").status == "violated"
    assert at_rest(rest, step=0.5).verdict("hebbian_batch").status == "out of regime"
    moving = at_rest(rest).record("signal_norm2", 5.0, steps=STEPS)
    assert "not at rest" in moving.verdict("hebbian_batch").sentence


# -- virial and Hebb: trained ----------------------------------------------------------------------


def ridge(seed: int = 0):
    """One linear map with noisy labels, 64 samples a batch."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 4, bias=False))
    V = torch.randn(4, 6)

    def batch():
        x = torch.randn(64, 6)
        return x, x @ V.T + 0.5 * torch.randn(64, 4)

    return model, batch


def test_a_ridge_regression_is_virial_and_hebbian():
    run = Trained(0.05, 0.2).train(*ridge(), 1600)
    for law in ("virial", "hebbian_sign", "hebbian_batch"):
        found = run.verdict(law)
        assert found.status == "holds", found.sentence
    assert run.verdict("virial").effect == pytest.approx(0, abs=0.03)


def test_weights_kept_on_a_sphere_break_the_virial_identity():
    model, batch = ridge()

    def project():
        with torch.no_grad():
            model[0].weight.mul_(2 / model[0].weight.norm())

    found = Trained(0.05, 0.2).train(model, batch, 1600, after=project).verdict("virial")
    assert found.status == "violated", found.sentence


# -- noise scale and critical batch ----------------------------------------------------------------


def test_two_estimators_of_one_noise_scale():
    torch.manual_seed(0)
    model, batch = ridge()
    run = Trained(1e-9, 0.0).train(model, batch, 32 * 24, micro=4)
    found = run.verdict("noise_scale", "")
    assert found.status in ("holds", "undetermined")
    assert found.effect == pytest.approx(1, abs=0.1)
    for m in run.rows:  # one of them read wrongly
        if m.quantity == "noise_trace_micro":
            object.__setattr__(m, "value", 2 * m.value)
    assert run.verdict("noise_scale", "").status == "violated"
    alone = Trained(1e-9, 0.0).train(*ridge(), 32 * 24)
    found = alone.verdict("noise_scale", "")
    assert found.status == "undetermined"
    assert "accumulate gradients" in found.sentence


def cases(world, sizes, *, critical=30.0, wobble=0.02, extra=0.0, predicted=None):
    rng = np.random.default_rng(0)
    world.rows = []
    for size in sizes:
        steps = steps_needed(size, least_steps=100, critical_batch=critical) + extra * size
        steps *= np.exp(wobble * rng.normal())
        world.record("batch_size", float(size), layer=f"B = {size}", steps=(0,))
        world.record("steps_to_target", steps, layer=f"B = {size}", steps=(0,))
    if predicted is not None:
        world.record("critical_batch_predicted", predicted, layer="", steps=(0,))
    return world


def test_critical_batch(empty):
    empty.manifest = empty.manifest | {"layers": []}
    sizes = [2**k for k in range(10)]
    found = cases(empty, sizes, predicted=40.0).verdict("critical_batch", "")
    assert found.status == "holds", found.sentence
    assert found.effect == pytest.approx(30, rel=0.1)
    assert cases(empty, sizes, predicted=300.0).verdict("critical_batch", "").status == "violated"
    assert cases(empty, sizes, extra=2.0).verdict("critical_batch", "").status == "violated"
    assert cases(empty, sizes[:3]).verdict("critical_batch", "").status == "undetermined"
    arm = cases(empty, [64, 128, 256, 512]).verdict("critical_batch", "")
    assert "both below and above" in arm.sentence


def test_a_critical_batch_that_is_hardly_known_agrees_with_nothing(empty):
    """Four batch sizes whose steps scatter leave B_c open to a factor: that is no agreement."""
    empty.manifest = empty.manifest | {"layers": []}
    world = cases(empty, (8, 32, 64, 256), wobble=0.0, predicted=40.0)
    assert world.verdict("critical_batch", "").status == "holds"
    for size, factor in ((8, 1.08), (32, 0.92), (64, 1.08), (256, 0.92)):
        layer = f"B = {size}"
        (steps,) = (m.value for m in world.rows if (m.layer, m.quantity[:5]) == (layer, "steps"))
        world.record("steps_to_target", factor * steps, layer=layer, steps=(0,))
    found = world.verdict("critical_batch", "")
    assert found.status == "undetermined", found.sentence
    assert found.interval[1] > 2.5 * found.interval[0]


def test_rates_of_zero_and_noise_of_either_sign_do_not_raise(empty):
    """A rate annealed to nothing has no relaxation time; traces below zero no logarithm."""
    steps, rng = range(0, 1200, 100), np.random.default_rng(0)
    empty.record("learning_rate", [0.1] * 5 + [0.0] * 7, layer="", steps=steps)
    balance = [f"balance_{name}" for name in ("charge", "pull", "rate")]
    virial = ["virial", "virial_decay", "virial_step", "hebbian_cosine"]
    for name in (*virial, *balance, "gradient_balance", "gradient_balance_predicted"):
        empty.record(name, list(3 + rng.normal(size=12)), steps=steps)
    for law in ("virial", "hebbian_sign", "gradient_balance"):
        assert empty.verdict(law).status == "undetermined"
    for name in ("noise_trace", "signal_norm2", "signal_norm2_micro", "noise_scale_micro"):
        empty.record(name, 1.0, layer="", steps=steps)
    empty.record("noise_trace_micro", [*[-0.5] * 11, 9.0], layer="", steps=steps)
    assert empty.verdict("noise_scale", "").status == "undetermined"


@pytest.mark.parametrize(("noise", "status"), [("H", "holds"), ("I", "violated")])
def test_critical_batch_of_a_quadratic(empty, noise, status):
    """Noise in the shape of H, and noise that is not: the law tells them apart."""
    h = 1 / np.arange(1, 201)
    Sigma = {"H": h, "I": np.ones_like(h)}[noise]
    empty.manifest, empty.rows = empty.manifest | {"layers": []}, []
    for batch in [4.0**k for k in range(1, 7)]:
        steps, _ = greedy_descent(h, Sigma, batch, share=0.3)
        empty.record("batch_size", batch, layer=f"B = {batch:g}", steps=(0,))
        empty.record("steps_to_target", steps, layer=f"B = {batch:g}", steps=(0,))
    scale = greedy_descent(h, Sigma, np.inf, share=0.3)[1]
    empty.record("critical_batch_predicted", scale, layer="", steps=(0,))
    found = empty.verdict("critical_batch", "")
    assert found.status == status, found.sentence


def test_nothing_recorded_is_undetermined(empty):
    for law in laws.select("noise"):
        assert law.test(SimpleNamespace(**vars_of(empty)), "fc").status in (
            "undetermined", "out of regime",
        )  # fmt: skip


def vars_of(world):
    from lawful.laws.snapshot import Snapshot

    run = Snapshot(world)
    return {
        "manifest": run.manifest, "layers": run.layers, "series": run.series, "at": run.at,
        "first": run.first, "array_steps": lambda *_: [], "table": world.table,
    }  # fmt: skip
