"""How long to warm up: SGD noise must carry the weights along their orbit to a flatter place.

Stability. Mini-batch SGD with Gaussian inputs is stable in mean square at learning rate η if

    η (Tr H / S + λ_max (1 + 1/S)) < 2        (S = batch; the full batch keeps η λ_max < 2),

from (1/S) Σ_i ηh_i / (2 − ηh_i(1+1/S)) < 1 with every denominator replaced by the least.

Orbit. Rescaling two blocks by e^{α}, e^{−α} keeps the loss and changes, exactly,

    Tr H = h₊ e^{−2α} + h₋ e^{2α},        dα/dk = E[ΔC](α) / 2(C₊ e^{2α} + C₋ e^{−2α}),

E[ΔC] the mean change per step of the charge C = ‖θ₊‖² − ‖θ₋‖² (theory.noise_equilibrium).
So the steps needed at a warm-up rate η_w are ∫ dα/(dα/dk) from 0 to where the target rate is
stable: they go as 1/η_w², and a warm-up by full-batch gradient descent (S = ∞) does not end. If the
equilibrium α* itself is too sharp no warm-up helps.

What it assumes: plain SGD, the loss already near its floor, so that h± and s± are those of the
solution; one orbit, others held; a share λ_max/Tr H that stays what it is. A number within a
factor of a few, from a law without a fitted constant: print it beside the run.

Source: charge law and equilibrium, Ziyin, Wang, Wu, NeurIPS 2024, arXiv 2402.07193 (whose
figure 3 shows the effect); the stability bound and the integral derived here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.integrate import quad

from ..theory.noise_equilibrium import equilibrium_two_signs, orbit_change, two_signs

LAW = "charge law of SGD along a rescaling orbit + mean-square stability"


@dataclass(frozen=True)
class Rescaling:
    """Two blocks (+ before, − after) of a rescaling symmetry: six numbers at the present weights.

    norm_in, norm_out:           C₊, C₋: squared norms of the blocks.
    noise_in, noise_out:         s₊, s₋: traces of the per-sample gradient covariance (batch 1).
    curvature_in, curvature_out: h₊, h₋: traces of the Hessian of the mean loss.
    """

    norm_in: float
    norm_out: float
    noise_in: float
    noise_out: float
    curvature_in: float
    curvature_out: float

    def trace(self, alpha: float = 0.0) -> float:
        """Tr H after moving by α."""
        return self.curvature_in * math.exp(-2 * alpha) + self.curvature_out * math.exp(2 * alpha)

    def velocity(self, alpha: float, *, eta: float, batch: int, weight_decay: float) -> float:
        """dα/dk of SGD at α, per step."""
        there = two_signs(self.norm_in, self.norm_out, self.noise_in, self.noise_out)
        there = there.shifted(alpha)
        change = orbit_change(there, eta=eta, batch=batch, weight_decay=weight_decay)
        return change / (2 * float(there.theta2.sum()))

    def equilibrium(self, *, eta: float, batch: int, weight_decay: float) -> float:
        """α*, where the velocity vanishes; ±inf when one side alone is pushed, NaN when none is."""
        four = self.norm_in, self.norm_out, self.noise_in, self.noise_out
        return equilibrium_two_signs(*four, eta=eta, batch=batch, weight_decay=weight_decay)


@dataclass(frozen=True)
class Advice:
    """What `advise_warmup` found.

    steps: of warm-up; 0 when none is needed, inf when none helps.
    rate:  the learning rate of the warm-up, stable at the start.
    trace, trace_needed, trace_equilibrium: Tr H now, at most for the target rate, and at α* (NaN
           when there is no finite α*).
    law, sentence: what it rests on, and the answer in words.
    """

    steps: float
    rate: float
    trace: float
    trace_needed: float
    trace_equilibrium: float
    law: str
    sentence: str


def stable_rate(trace: float, top: float, batch: int) -> float:
    """The largest learning rate that the bound calls stable: 2/(Tr H/S + λ_max(1 + 1/S)).

    >>> stable_rate(trace=100.0, top=10.0, batch=1)
    0.016666666666666666
    """
    return 2 / (trace / batch + top * (1 + 1 / batch))


def advise_warmup(
    orbit: Rescaling,
    *,
    eta: float,
    batch: int,
    top: float,
    weight_decay: float = 0.0,
    warmup_eta: float | None = None,
) -> Advice:
    """How many SGD steps of warm-up make the learning rate `eta` stable.

    eta, batch, weight_decay: of the run to come (coupled decay, as in torch).
    top: λ_max of the Hessian now, in (0, Tr H].
    warmup_eta: constant rate of the warm-up; None takes half of what is stable at the start.

    Raises ValueError for numbers that are not positive, top > Tr H, or an unstable warmup_eta.
    """
    _check(orbit, eta=eta, batch=batch, top=top, weight_decay=weight_decay)
    trace, share = orbit.trace(), top / orbit.trace()
    needed = 2 / eta / (1 / batch + share * (1 + 1 / batch))
    now = stable_rate(trace, top, batch)
    slow = now / 2 if warmup_eta is None else warmup_eta
    if not 0 < slow <= now:
        raise ValueError(
            f"warmup_eta={slow}: the start is stable up to {now:.3g}; choose a positive rate below"
        )

    def pace(alpha: float) -> float:
        return 1 / orbit.velocity(alpha, eta=slow, batch=batch, weight_decay=weight_decay)

    end = orbit.equilibrium(eta=slow, batch=batch, weight_decay=weight_decay)
    goal = _crossing(orbit, needed, end)
    if trace <= needed:
        steps, said = 0.0, f"none needed: Tr H = {trace:.3g}, and lr {eta:g} is stable"
    elif goal is None:
        steps, said = math.inf, f"none helps: SGD noise leads from Tr H = {trace:.3g} nowhere lower"
    else:
        steps = math.ceil(quad(pace, 0.0, goal)[0])
        said = f"{steps:.3g} steps at lr {slow:.3g} take Tr H from {trace:.3g}"
    sentence = f"Warm-up for lr {eta:g}: {said} (stable up to Tr H = {needed:.3g})."
    final = orbit.trace(end) if math.isfinite(end) else math.nan
    return Advice(steps, slow, trace, needed, final, LAW, sentence)


def _crossing(orbit: Rescaling, needed: float, end: float) -> float | None:
    """The first α between 0 and the equilibrium where Tr H has come down to `needed`.

    h₋z² − needed·z + h₊ = 0 in z = e^{2α}; Tr H is convex in α, so only one root is ahead.
    """
    a, c = orbit.curvature_out, orbit.curvature_in
    room = needed**2 - 4 * a * c
    if room < 0 or math.isnan(end) or end == 0:
        return None
    big = (needed + math.sqrt(room)) / 2
    z = c / big if a == 0 or end > 0 else big / a
    alpha = math.log(z) / 2 if z > 0 else math.nan
    ahead = math.copysign(1, end) * alpha
    return alpha if 0 < ahead < abs(end) else None


def _check(orbit: Rescaling, *, eta: float, batch: int, top: float, weight_decay: float) -> None:
    for name, value in vars(orbit).items():
        if not 0 <= value < math.inf:
            raise ValueError(f"orbit.{name}={value}: give a finite number ≥ 0")
    for name, value in (("eta", eta), ("batch", batch), ("top", top)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value}: give a finite number > 0")
    if not 0 <= weight_decay < math.inf:
        raise ValueError(f"weight_decay={weight_decay}: give a finite number ≥ 0")
    if orbit.norm_in + orbit.norm_out == 0:
        raise ValueError("orbit.norm_in=orbit.norm_out=0: both blocks are zero, nothing can move")
    if top > orbit.trace() * (1 + 1e-9):
        raise ValueError(f"top={top}: λ_max cannot exceed Tr H = {orbit.trace():.3g}")
