"""Scale-invariant weights: SGD noise only ever grows the norm; decay gives it a radius.

Statement. If ℓ(cθ) = ℓ(θ) (weights in front of a normalisation) then θ·g = 0 and g(θ) = ĝ/r with ĝ
the gradient on the unit sphere, r = ‖θ‖. One step of SGD with coupled decay w gives exactly

    r'² = (1 − ηw)² r² + η²‖ĝ‖²/r².

Without decay r⁴ = r₀⁴ + 2η²‖ĝ‖²k (η small against r²/‖ĝ‖): the norm grows forever. With decay

    r⁴(k) = r*⁴ + (r₀⁴ − r*⁴) e^{−4ηwk},        r*⁴ = η‖ĝ‖²/(2w − ηw²),

and at r* a step turns θ by the angle arccos(1 − ηw) ≈ √(2ηw), whatever the loss.

Momentum μ, if successive gradients are uncorrelated (noise, or a direction that has turned):

    r*⁴ = η E‖ĝ‖²/((1−μ)(2w − ηw²/(1+μ))),        cos(angle) = 1 − ηw/(1+μ).

It follows from the stationary C, m, K of `momentum_charge` with A = I. Dampening d: η → η(1−d).

Range. The norm law is exact for every step if ‖ĝ‖ is that step's own; the closed forms take one
mean E‖ĝ‖². The angle is exact for constant ‖ĝ‖ and μ = 0. A normalisation with ε > 0 is scale
invariant up to O(ε/variance). Not for Adam, whose step length does not scale as 1/r.

Sources: van Laarhoven, arXiv 1706.05350; Kunin et al., arXiv 2012.04728; Wan et al., "Spherical
Motion Dynamics", arXiv 2006.08419. Discrete forms derived here.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def norm2_step(
    norm2: float, unit_gradient2: float, *, eta: float, weight_decay: float = 0
) -> float:
    """‖θ‖² after one SGD step, exactly; unit_gradient2 = ‖ĝ‖² = ‖g‖²‖θ‖².

    >>> norm2_step(4.0, 8.0, eta=0.5)  # 4 + 0.25 · 8/4
    4.5
    """
    return (1 - eta * weight_decay) ** 2 * norm2 + eta**2 * unit_gradient2 / norm2


def norm2_path(
    norm2: float, unit_gradient2: float, steps: Array, *, eta: float, weight_decay: float = 0.0
) -> Array:
    """‖θ‖² at the given steps (n,) for a constant E‖ĝ‖²: the closed form in r⁴.

    >>> norm2_path(1.0, 2.0, np.array([0.0, 300.0]), eta=0.1).round(9).tolist()
    [1.0, 3.605551275]
    """
    rate = 4 * eta * weight_decay
    if rate == 0:
        return np.asarray(np.sqrt(norm2**2 + 2 * eta**2 * unit_gradient2 * np.asarray(steps)))
    target = equilibrium_radius(unit_gradient2, eta=eta, weight_decay=weight_decay) ** 4
    return np.asarray(np.sqrt(target + (norm2**2 - target) * np.exp(-rate * np.asarray(steps))))


def equilibrium_radius(
    unit_gradient2: float, *, eta: float, weight_decay: float, momentum: float = 0.0
) -> float:
    """r* at which growth and decay of the norm balance; inf without weight decay."""
    _check(eta, weight_decay, momentum)
    pull = (1 - momentum) * (2 * weight_decay - eta * weight_decay**2 / (1 + momentum))
    return (eta * unit_gradient2 / pull) ** 0.25 if pull > 0 else math.inf


def angular_step(*, eta: float, weight_decay: float, momentum: float = 0.0) -> float:
    """The angle (radians) that one step turns θ by at r*: arccos(1 − ηw/(1+μ)).

    >>> round(angular_step(eta=0.1, weight_decay=0.02), 4)  # √(2ηw) = 0.0632
    0.0633
    """
    _check(eta, weight_decay, momentum)
    # arccos(1 − x) in a form that keeps its digits at small x
    return 2 * math.asin(math.sqrt(eta * weight_decay / (1 + momentum) / 2))


def relaxation_steps(*, eta: float, weight_decay: float) -> float:
    """Steps after which r⁴ has come e times closer to r*⁴: 1/(4ηw); inf without decay."""
    return 1 / (4 * eta * weight_decay) if weight_decay else math.inf


def _check(eta: float, weight_decay: float, momentum: float) -> None:
    if not 0 <= eta * weight_decay < 1:
        raise ValueError(f"eta·weight_decay={eta * weight_decay} is not in [0, 1): no equilibrium")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum={momentum} is not in [0, 1)")
