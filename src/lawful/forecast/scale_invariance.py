"""Forecast: the radius of weights in front of a normalisation, and the angle of every step.

Weights that a LayerNorm, RMSNorm or BatchNorm makes scale invariant grow under gradient noise and
shrink under decay; they end at

    r*⁴ = η E‖ĝ‖²/((1−μ)(2w − ηw²/(1+μ))),      cos(angle) = 1 − ηw/(1+μ),      1/(4ηw) steps,

ĝ the mini-batch gradient on the unit sphere, E‖ĝ‖² = r²(Tr Σ₁/S + ‖ḡ‖²) as measured now. The
angle depends on η, w and μ only: it is the learning rate in disguise.

Rests on: SGD with coupled decay; E‖ĝ‖² constant (it falls with the loss, and r* as its fourth
root); ε = 0 in the norm, with the violation as the number.

Source: see `theory.scale_invariance`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from ..symmetry import Family, Symmetry
from ..theory import scale_invariance as theory
from .case import Case
from .forecast import Forecast, silent
from .noise_equilibrium import orbits
from .wording import count, figure

THEORY = "scale invariance"


def forecasts(case: Case) -> list[Forecast]:
    """Radius now and at rest, angle of a step, and the time; for each set of weights."""
    if not case.training.sgd:
        said = (
            f"Under {case.training.optimizer} the length of a step does not fall as 1/r: this law "
            "gives neither radius nor angle."
        )
        return [silent(THEORY, "", said, f"SGD; the optimiser is {case.training.optimizer}.")]
    pairs = [(s, f) for s, f in case.families if s.kind == "scale invariance"]
    return [f for s, family in pairs for f in _of(case, s, family)]


def _of(case: Case, s: Symmetry, family: Family) -> Iterator[Forecast]:
    t = case.training
    how = {"eta": t.lr, "weight_decay": t.weight_decay, "momentum": t.momentum}
    size, noise = _squares(case, family)
    mean2 = sum(float(case.noise.mean[n].square().sum()) for n in family.parameters)
    extra = max(mean2 - noise.sum() / case.noise.samples, 0.0) / max(noise.sum(), 1e-300)
    unit2 = size * noise * (1 / t.batch_size + extra)
    live = unit2 > 0
    radius = [theory.equilibrium_radius(float(u), **how) for u in unit2[live]]
    rests, applies = _assumption(case, s, family)

    def forecast(name: str, value: float, unit: str, sentence: str) -> Forecast:
        known = "no" if math.isnan(value) else applies
        return Forecast(THEORY, name, s.name, value, unit, sentence, rests, known)

    now = float(np.median(np.sqrt(size)))
    rest = float(np.median(radius)) if radius else math.nan
    each = "" if family.dimension == 1 else f" (median of {family.dimension} rows)"
    yield forecast("radius", now, "weight", f"Radius now: {figure(now)}{each}.")
    yield forecast(
        "equilibrium_radius", rest, "weight",
        f"Radius at rest: {figure(rest)}{each}." if t.weight_decay
        else "Without weight decay the radius grows as the fourth root of the steps, for ever.",
    )  # fmt: skip
    if t.weight_decay:
        angle = theory.angular_step(**how)
        yield forecast(
            "angular_step", angle, "rad",
            f"There every step turns the weights by {figure(angle)} rad, whatever the loss.",
        )  # fmt: skip
    steps = theory.relaxation_steps(eta=t.rate, weight_decay=t.weight_decay)
    yield forecast("radius_steps", steps, "steps", f"Relaxation: {count(steps)} steps.")


def _squares(case: Case, family: Family) -> tuple[np.ndarray, np.ndarray]:
    """‖θ‖² and Tr Σ₁ of the weights that each direction scales: (dimension,) each."""
    found = list(orbits(family, case.theta, case.noise))
    scaled = [o.a > 0 for o in found]
    size = [float(o.theta2[s].sum()) for o, s in zip(found, scaled, strict=True)]
    noise = [float(o.noise[s].sum()) for o, s in zip(found, scaled, strict=True)]
    return np.array(size), np.array(noise)


def _assumption(case: Case, s: Symmetry, family: Family) -> tuple[str, str]:
    share = case.noise.share(family.parameters, case.training.batch_size)
    rests = (
        f"SGD, coupled decay, E‖ĝ‖² as it is now (the mean gradient is {share:.0%} of it; overall "
        f"{figure(case.excess)} times its sampling error, 1 at a minimum); scale invariance holds "
        f"up to {s.violation:.0e}"
        f"{'' if s.certified else ' because of the eps of the norm'}."
    )
    if case.training.momentum:
        rests += " Momentum: gradients of successive steps uncorrelated."
    met = s.certified and case.excess < 2 and not case.training.momentum
    return rests, "yes" if met else "partly"
