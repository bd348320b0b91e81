"""Forecast: where SGD noise carries every charge, and how long it takes.

For each neuron, gain, head or pair of linear maps with a rescaling or GL(k) symmetry:

    charge now        C = θᵀAθ                      gradient flow keeps it
    λ*                the shift e^{λA} at which noise and weight decay balance
    charge there      C(λ*)                         whatever the initialisation
    relaxation        steps in which the distance to it falls by e;  ∝ S/η² without decay

Translations (softmax shift, bias before a norm) feel no noise: 𝟏·θ shrinks by 1 − ηw a step.

Rests on: SGD; per-sample noise Σ₁ as measured now on a sample of the data (it falls with the loss,
so before training λ* is better known than the time: without decay it depends on a ratio only);
θ on a valley of minima (ḡ = 0), and other orbits held where they are. Momentum μ: as SGD at
η/(1−μ), if gradients of successive steps are uncorrelated.

Source: see `theory.noise_equilibrium`, `theory.gl_equilibrium`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..symmetry import Family, Mixing, Scaling, Shifting, Symmetry
from ..theory.gl_equilibrium import GLPoint, gl_equilibrium
from ..theory.noise_equilibrium import Orbit, equilibrium, relaxation_steps
from .case import Case, Named
from .forecast import Forecast, silent
from .noise import GradientNoise, gram
from .wording import count, figure

THEORY = "noise equilibrium"


@dataclass(frozen=True)
class Balance:
    """One family, every direction: charges now and there, shifts λ*, relaxation in steps; (n,)."""

    now: np.ndarray
    there: np.ndarray
    shift: np.ndarray
    steps: np.ndarray


def forecasts(case: Case) -> list[Forecast]:
    """Four numbers for each family of rescalings or mixings, one for translations."""
    if not case.training.sgd:
        said = (
            f"{case.training.optimizer} rescales each coordinate, so no charge is conserved at any "
            "learning rate and none comes to an equilibrium of this kind."
        )
        return [silent(THEORY, "", said, f"SGD; the optimiser is {case.training.optimizer}.")]
    found = [f for s, family in case.families for f in _of(case, s, family)]
    return found or [silent(THEORY, "", "No charge is conserved here.", "A continuous symmetry.")]


def _of(case: Case, s: Symmetry, family: Family) -> Iterator[Forecast]:
    if s.kind == "scale invariance":
        return
    if any(isinstance(a, Shifting) for a in family.actions):
        yield _translation(case, s)
        return
    try:
        balance = balanced(family, case)
    except ValueError as error:
        yield silent(THEORY, s.name, f"{error}.", "Noise on both sides of every channel.")
        return
    yield from _sentences(case, s, family, balance)


def balanced(family: Family, case: Case) -> Balance:
    """Every direction of a family at its equilibrium, the others held."""
    if all(isinstance(a, Mixing) and a.basis is None for a in family.actions) and (
        family.embed is None
    ):
        return _mixed(family, case)
    how = case.training.noise_terms
    rows = []
    for point in orbits(family, case.theta, case.noise):
        shift = equilibrium(point, **how)
        if math.isfinite(shift):
            there = point.shifted(shift)
            after, steps = _charge(there), relaxation_steps(there, **how)
        else:
            after, steps = math.nan, math.inf
        rows.append((_charge(point), after, shift, steps))
    return Balance(*np.array(rows).reshape(-1, 4).T)


def _mixed(family: Family, case: Case) -> Balance:
    """GL(k): one matrix equilibrium; charges are ‖Q‖, the shift is that of the farthest channel."""
    k = family.actions[0].at.shape[1]  # type: ignore[union-attr]
    sides = {key: np.zeros((k, k)) for key in ("into", "out", "noise_in", "noise_out")}
    for a in family.actions:
        assert isinstance(a, Mixing)
        sides["out" if a.dual else "into"] += gram(a, case.theta[a.parameter]).numpy()
        sides["noise_out" if a.dual else "noise_in"] += case.noise.outer[id(a)].numpy()
    point, how = GLPoint(**sides), case.training.noise_terms
    P = gl_equilibrium(point, **how)
    there, stretch = point.moved(P), np.log(np.linalg.eigvalsh(P)) / 2
    total = Orbit(
        np.array([1.0, -1.0]),
        np.array([np.trace(there.into), np.trace(there.out)]),
        np.array([np.trace(there.noise_in), np.trace(there.noise_out)]).clip(0),
    )
    steps = relaxation_steps(total, **how)
    norms = [np.linalg.norm(p.charge) for p in (point, there)]
    farthest = stretch[np.abs(stretch).argmax()]
    return Balance(*(np.array([v]) for v in (*norms, farthest, steps)))


def orbits(family: Family, theta: Named, noise: GradientNoise) -> Iterator[Orbit]:
    """The orbit of every direction of a family that has a charge, the others held."""
    square = {n: theta[n].double().square() for n in family.parameters}
    if any(isinstance(a, Mixing) for a in family.actions):
        yield from _mixing_orbits(family, theta, noise)
        return
    actions = [a for a in family.actions if isinstance(a, Scaling)]
    plain = family.embed is None or family.embed.dim() == 1
    if not plain or len(family.parameters) < len(actions):
        yield from _overlapping_orbits(family, square, noise.variance)
        return
    a = np.array([action.degree for action in actions])
    sizes = torch.stack([_along(action, square, family) for action in actions]).numpy()
    spread = torch.stack([_along(action, noise.variance, family) for action in actions]).numpy()
    for i in range(family.dimension):
        yield Orbit(a, sizes[:, i], spread[:, i])


def _along(action: Scaling, squares: Named, family: Family) -> Tensor:
    """Σ of the squares that each direction scales: (dimension,)."""
    t = squares[action.parameter].double()
    every = replace(action, degree=1.0).pairing(t, torch.ones_like(t), family.size)
    return every if family.embed is None else every[family.embed]


def _overlapping_orbits(family: Family, square: Named, variance: Named) -> Iterator[Orbit]:
    """Entries that a direction scales twice, or a combination of directions: one at a time."""
    for i in range(family.dimension):
        generator = family.basis(i)
        ones = {n: torch.ones_like(t) for n, t in square.items()}
        exponents = generator.velocity(ones)
        e = torch.cat([exponents[n].reshape(-1) for n in family.parameters])
        pair = [
            torch.cat([q[n].reshape(-1) for n in family.parameters]) for q in (square, variance)
        ]
        a, index = torch.unique(e, return_inverse=True)
        sums = [torch.zeros(len(a)).double().index_add(0, index, q.double()) for q in pair]
        yield Orbit(a.double().numpy(), sums[0].numpy(), sums[1].numpy())


def _mixing_orbits(family: Family, theta: Named, noise: GradientNoise) -> Iterator[Orbit]:
    """The symmetric matrices of a family smaller than GL(k): one a plane of rotary positions."""
    for i in range(family.dimension):
        generator = family.basis(i)
        if not generator.symmetric:
            continue
        parts: list[np.ndarray] = []
        for action in family.actions:
            assert isinstance(action, Mixing)
            a, Q = np.linalg.eigh(action.matrix(generator.c).numpy())
            moments = (gram(action, theta[action.parameter]), noise.outer[id(action)])
            along = [np.einsum("ij,ik,kj->j", Q, m.numpy(), Q).clip(0) for m in moments]
            parts.append(np.stack([a, *along]))
        yield Orbit(*np.concatenate(parts, axis=1))


def _charge(point: Orbit) -> float:
    return float(point.a @ point.theta2)


def _sentences(case: Case, s: Symmetry, family: Family, b: Balance) -> Iterator[Forecast]:
    rests, applies = _assumption(case, family.parameters)
    lost = int(np.sum(~np.isfinite(b.shift)))
    some = f" ({lost} of {len(b.shift)} have noise on one side only and none)" if lost else ""
    finite = np.isfinite(b.shift)
    shift = float(np.median(b.shift[finite])) if finite.any() else math.nan
    mixed = any(isinstance(a, Mixing) for a in family.actions)
    each = "‖Q‖" if mixed else "root mean square of the charges"

    def forecast(name: str, value: float, unit: str, sentence: str) -> Forecast:
        known = "no" if math.isnan(value) else applies
        return Forecast(THEORY, name, s.name, value, unit, sentence, rests, known)

    now, there = _rms(b.now), _rms(b.there)
    yield forecast("charge", now, "weight²", f"Charge now: {figure(now)} ({each}).")
    yield forecast(
        "equilibrium_shift", shift, "1",
        f"λ* = {figure(shift)}: noise takes {'the farthest channel' if mixed else 'the median one'}"
        f" to e^λ* = {figure(math.exp(min(shift, 700.0)))} times its incoming weights{some}.",
    )  # fmt: skip
    yield forecast(
        "equilibrium_charge", there, "weight²", f"Charge at the equilibrium: {figure(there)}."
    )
    steps = float(np.median(b.steps[finite])) if finite.any() else math.nan
    whose = " of the median channel" if len(b.steps) > 1 else ""
    yield forecast("relaxation_steps", steps, "steps", _time(case, steps, whose))


def _time(case: Case, steps: float, whose: str) -> str:
    budget = case.training.rate**2 * steps
    said = f"Relaxation{whose}: {count(steps)} steps, η²·steps = {figure(budget)}"
    if case.training.steps is None or not math.isfinite(steps):
        return f"{said}."
    share = case.training.steps / steps
    reach = "it will be there" if share > 3 else "it will not be there"
    return (
        f"{said}; the run has {count(case.training.steps)}, {figure(share)} relaxation times: "
        f"{reach} at the end."
    )


def _translation(case: Case, s: Symmetry) -> Forecast:
    t = case.training
    pull = t.rate * t.weight_decay
    steps = 1 / pull if pull else math.inf
    said = (
        f"The sum 𝟏·θ is conserved exactly and forgotten by weight decay in {count(steps)} steps."
        if pull
        else "The sum 𝟏·θ is conserved exactly: without weight decay it stays what it is."
    )
    rests = "SGD with coupled decay; exact at any learning rate"
    rests += "." if not t.momentum else " (the slow mode, with momentum)."
    return Forecast(THEORY, "translation_steps", s.name, steps, "steps", said, rests)


def _assumption(case: Case, parameters: tuple[str, ...]) -> tuple[str, str]:
    """What the numbers rest on, and whether this case meets it."""
    share = case.noise.share(parameters, case.training.batch_size)
    rests = (
        f"SGD on a valley of minima (the mean gradient is {share:.0%} of a mini-batch gradient's "
        f"square; overall {figure(case.excess)} times its sampling error, 1 at a minimum); "
        "noise as it is now, other orbits held."
    )
    if case.training.momentum:
        rests += f" Momentum {case.training.momentum:g} counts as SGD at η/(1−μ)."
    met = share < 0.1 and case.excess < 2 and not case.training.momentum
    return rests, "yes" if met else "partly"


def _rms(values: np.ndarray) -> float:
    known = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(known**2))) if len(known) else math.nan
