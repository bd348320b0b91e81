"""Warm-up advice against SGD itself, on the smallest two-layer net y = u w x + ε."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lawful.methods import Advice, Rescaling, advise_warmup, stable_rate

PRODUCT, SIGMA = 15.0, 2.0


def sgd(u: float, w: float, eta: float, steps: int, seed: int) -> list[float]:
    """Tr H = 2(u² + w²) along SGD of batch 1 on (u w x − y)², x ~ N(0, 1); ends with u, w.

    A run that diverges stops at inf.
    """
    rng = np.random.default_rng(seed)
    xs, noise = rng.standard_normal(steps).tolist(), (SIGMA * rng.standard_normal(steps)).tolist()
    trace = []
    for x, e in zip(xs, noise, strict=True):
        r = 2 * ((u * w - PRODUCT) * x - e) * x
        u, w = u - eta * r * w, w - eta * r * u
        trace.append(2 * (u * u + w * w))
        if trace[-1] > 1e6:
            return [*trace, math.inf]
    return [*trace, u, w]


def start(trace: float) -> tuple[float, float]:
    """A minimum with a large u and a small w: 2(u² + w²) = trace, uw = PRODUCT."""
    total = trace / 2
    u = math.sqrt((total + math.sqrt(total**2 - 4 * PRODUCT**2)) / 2)
    return u, PRODUCT / u


def orbit(u: float, w: float) -> Rescaling:
    """The six numbers at a minimum: w is the incoming weight, u the outgoing one."""
    return Rescaling(
        norm_in=w**2,
        norm_out=u**2,
        noise_in=4 * SIGMA**2 * u**2,
        noise_out=4 * SIGMA**2 * w**2,
        curvature_in=2 * u**2,
        curvature_out=2 * w**2,
    )


def advice(**changes: float) -> Advice:
    wanted = {"eta": 0.008, "batch": 1, "top": 433.0, "warmup_eta": 0.001} | changes
    return advise_warmup(orbit(*start(433)), **wanted)  # type: ignore[arg-type]


def steps_taken(eta: float, steps: int, needed: float) -> float:
    """When SGD itself brings Tr H down to `needed`: mean of two runs."""
    runs = [sgd(*start(433), eta, steps, seed)[:-2] for seed in range(2)]
    return float(np.mean([next(k for k, t in enumerate(run) if t <= needed) for run in runs]))


def test_the_advised_warmup_makes_the_target_rate_stable() -> None:
    """Diverges at once without; after the advised steps it is stable."""
    found = advice()
    assert (found.trace, found.trace_equilibrium) == pytest.approx((433, 60))
    diverged = [sgd(*start(433), 0.008, 2000, seed)[-1] == math.inf for seed in range(1, 6)]
    assert diverged == [True] * 5
    *_, u, w = sgd(*start(433), 0.001, math.ceil(found.steps), seed=0)
    for seed in range(3):
        assert sgd(u, w, 0.008, 20_000, seed)[-1] != math.inf


def test_the_steps_are_those_of_sgd_as_the_rate_goes_to_zero() -> None:
    """At a finite rate the residual is noisier than the labels, and SGD is faster: never slower."""
    shares = []
    for rate in (0.001, 0.00025):
        found = advice(warmup_eta=rate)
        taken = steps_taken(rate, math.ceil(1.2 * found.steps), found.trace_needed)
        shares.append(taken / found.steps)
    assert 0.55 < shares[0] < shares[1] < 1.05
    assert shares[1] > 0.85


def test_without_noise_no_warmup_helps() -> None:
    """Full-batch descent keeps the charge, so it keeps Tr H."""
    still = Rescaling(**(vars(orbit(*start(433))) | {"noise_in": 0.0, "noise_out": 0.0}))
    said = advise_warmup(still, eta=0.008, batch=1, top=433)
    assert said.steps == math.inf
    assert "none helps" in said.sentence
    assert math.isnan(said.trace_equilibrium)


def test_steps_go_as_the_inverse_square_of_the_warmup_rate() -> None:
    one, half = advice(), advice(warmup_eta=0.0005)
    assert half.steps / one.steps == pytest.approx(4, rel=1e-3)


def test_no_warmup_is_needed_when_the_start_is_flat_enough() -> None:
    said = advice(eta=0.0015)
    assert said.steps == 0
    assert "none needed" in said.sentence


def test_no_warmup_helps_beyond_the_equilibrium() -> None:
    said = advice(eta=0.04)
    assert said.steps == math.inf
    assert said.trace_needed < said.trace_equilibrium


def test_both_directions_of_the_orbit_are_alike() -> None:
    """Swapping the two blocks mirrors α and changes nothing else."""
    o = orbit(*start(433))
    swapped = Rescaling(
        o.norm_out, o.norm_in, o.noise_out, o.noise_in, o.curvature_out, o.curvature_in
    )
    one, other = (advise_warmup(r, eta=0.008, batch=1, top=433.0).steps for r in (o, swapped))
    assert one == pytest.approx(other, rel=1e-6)


def test_decay_moves_the_charge_where_noise_does_not() -> None:
    o = Rescaling(1.0, 20.0, 0.0, 0.0, 400.0, 20.0)
    said = advise_warmup(o, eta=0.008, batch=1, top=40, weight_decay=0.01, warmup_eta=0.001)
    assert 0 < said.steps < math.inf
    # d ln C/dk = −2ηλ exactly: the charge at the goal gives the same number.
    z = (said.trace_needed + math.sqrt(said.trace_needed**2 - 4 * 400 * 20)) / (2 * 20)
    z = 400 / (20 * z)
    expected = math.log((1 - 20) / (z - 20 / z)) / (2 * 0.001 * 0.01 - (0.001 * 0.01) ** 2)
    assert said.steps == pytest.approx(expected, rel=1e-3)


def test_the_stability_bound_is_on_the_safe_side_of_the_exact_condition() -> None:
    """(1/S) Σ ηh/(2 − ηh(1+1/S)) < 1 holds at the bound, for any spectrum."""
    h = np.array([10.0, 4.0, 3.0, 1.0, 0.5])
    for batch in (1, 4, 100):
        eta = stable_rate(h.sum(), h.max(), batch)
        condition = np.sum(eta * h / (2 - eta * h * (1 + 1 / batch))) / batch
        assert 0.3 < condition < 1
    assert stable_rate(18.5, 10.0, 10**9) == pytest.approx(2 / 10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eta": 0.0}, r"eta=0\.0: give a finite number > 0"),
        ({"weight_decay": -1.0}, r"weight_decay=-1\.0"),
        ({"top": 1e4}, r"top=10000\.0: λ_max cannot exceed Tr H = 433"),
        ({"warmup_eta": 0.1}, r"warmup_eta=0\.1: the start is stable up to 0\.00"),
    ],
)
def test_wrong_arguments_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        advice(**changes)


def test_an_orbit_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="both blocks are zero"):
        advise_warmup(Rescaling(0, 0, 1, 1, 1, 1), eta=0.1, batch=1, top=1)
    with pytest.raises(ValueError, match=r"orbit\.noise_in=-1"):
        advise_warmup(Rescaling(1, 1, -1, 1, 1, 1), eta=0.1, batch=1, top=1)
