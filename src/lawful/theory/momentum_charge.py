"""Charges under momentum: a linear recurrence, and the oscillator it resembles.

SGD with momentum μ, dampening d and coupled weight decay w keeps a buffer v,

    v' = μv + (1−d)(g + wθ),      θ' = θ − ηv'        (torch: no dampening at the first step).

Translation (ℓ(θ + c𝟏) = ℓ(θ), so 𝟏·g = 0). The sums s = 𝟏·θ and u = 𝟏·v obey, without any g,

    u' = μu + (1−d)ws,            s' = s − ηu'.

Quadratic charges (ℓ(e^{λA}θ) = ℓ(θ), so θᵀAg = 0). With C = θᵀAθ, m = θᵀAv and the kinetic
term K = vᵀAv of the new buffer as the only source,

    C' = C − 2ηp + η²K,   m' = p − ηK,   p = μm + (1−d)wC.

Both are exact for every η: use them. As a differential equation in time t = η(1−d)k (Kunin et al.)

    s̈ + 2γ_o ṡ + ω²s = 0,   γ_o = (1−μ)/(η(1−d)(1+μ)),   ω² = 2w/(η(1−d)(1+μ)),

with ω² = 4w/(η(1−d)(1+μ)) and the source 2θ̇ᵀAθ̇ for a quadratic charge: overdamped, critical or
underdamped. It is accurate to O(ηw), best when started with ṡ(0) = −ws(0)/(1+μ), which gives the
slow mode its amplitude to first order in ηw (started at rest it errs about 100 times more).

Range. SGD with momentum, not Adam, whose charges drift at every η.
Source: Kunin et al., "Neural Mechanics", ICLR 2021, arXiv 2012.04728 (differential equation); the
recurrences and the initial velocity derived here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Momentum:
    """Settings of SGD with momentum, named as in torch; eta is the learning rate."""

    eta: float
    momentum: float = 0.0
    dampening: float = 0.0
    weight_decay: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum} is not in [0, 1)")
        if self.nesterov and self.dampening:
            raise ValueError("nesterov needs dampening=0, as in torch")


@dataclass(frozen=True)
class Oscillator:
    """s̈ + 2·damping·ṡ + frequency²·s = 0 in time t = η(1−d)k."""

    damping: float
    frequency: float

    @property
    def regime(self) -> str:
        """`overdamped`, `critical` or `underdamped`."""
        if math.isclose(self.damping, self.frequency, rel_tol=1e-9):
            return "critical"
        return "overdamped" if self.damping > self.frequency else "underdamped"


def translation_path(start: float, steps: int, settings: Momentum) -> Array:
    """𝟏·θ at steps 0 … steps under a translation symmetry, exactly as torch.optim.SGD does it.

    Without momentum it is start·(1 − ηw)^k.

    >>> translation_path(1.0, 2, Momentum(eta=0.1, weight_decay=1.0)).round(3).tolist()
    [1.0, 0.9, 0.81]
    """
    s, u, path = start, 0.0, [start]
    for step in range(steps):
        pull = settings.weight_decay * s
        u = settings.momentum * u + (1 - settings.dampening if step else 1.0) * pull
        s -= settings.eta * (pull + settings.momentum * u if settings.nesterov else u)
        path.append(s)
    return np.array(path)


def quadratic_step(
    charge: float, mixed: float, kinetic: float, settings: Momentum, *, first: bool = False
) -> tuple[float, float]:
    """(C', m') after one step of heavy-ball SGD, from C = θᵀAθ, m = θᵀAv before it.

    kinetic: v'ᵀAv' of the buffer that the step applies;  first: whether this is the step at
    which torch fills the buffer (no dampening).
    """
    if settings.nesterov:
        raise ValueError("nesterov=True: the quadratic recurrence is that of heavy-ball momentum")
    keep = 1.0 if first else 1 - settings.dampening
    p = settings.momentum * mixed + keep * settings.weight_decay * charge
    after = charge - 2 * settings.eta * p + settings.eta**2 * kinetic
    return after, p - settings.eta * kinetic


def oscillator(settings: Momentum, *, quadratic: bool = False) -> Oscillator:
    """The damped oscillator of a translation charge, or of a quadratic one.

    >>> oscillator(Momentum(eta=0.1, momentum=0.9, weight_decay=0.005)).regime
    'overdamped'
    """
    inertia = settings.eta * (1 - settings.dampening) * (1 + settings.momentum)
    stiffness = (4 if quadratic else 2) * settings.weight_decay / inertia
    return Oscillator((1 - settings.momentum) / inertia, math.sqrt(stiffness))


def oscillator_path(start: float, steps: int, settings: Momentum) -> Array:
    """The oscillator's 𝟏·θ at steps 0 … steps: an approximation of `translation_path`."""
    law = oscillator(settings)
    t = settings.eta * (1 - settings.dampening) * np.arange(steps + 1)
    velocity = -settings.weight_decay * start / (1 + settings.momentum)
    push = velocity + law.damping * start
    split2 = law.damping**2 - law.frequency**2
    if law.regime == "critical":
        return np.exp(-law.damping * t) * (start + push * t)
    if split2 < 0:
        split = math.sqrt(-split2)
        wave = start * np.cos(split * t) + push / split * np.sin(split * t)
        return np.exp(-law.damping * t) * wave
    # Two decaying exponentials, not e^{−γt}·cosh: the product of 0 and ∞ would be NaN.
    split = math.sqrt(split2)
    slow, fast = np.exp((split - law.damping) * t), np.exp(-(split + law.damping) * t)
    return 0.5 * ((start + push / split) * slow + (start - push / split) * fast)
