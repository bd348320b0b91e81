"""What a finite step adds to the loss: the backward error of descent, and the pull of label noise.

Descent. θ ← θ − η∇L follows the flow of L + (η/4)‖∇L‖² to second order in η, whereas it leaves the
flow of L itself at first order. With H the Hessian,

    ∇(L + (η/4)‖∇L‖²) = ∇L + (η/2) H∇L.

Label noise. Fresh noise of variance σ² on the labels, batch B, adds (ησ²/4B) Tr H of ½(f − y)²:
SGD slides along its valley of minima towards the flat. The smallest case is exact: f = uv, y = 1
with noise, loss ½(uv − y)². D = u² − v² is kept by gradient flow; a step multiplies it by 1 − η²r²,
r the residual. With h = u² + v² the Hessian's trace, δ = uv − 1 follows δ′ = (1 − ηh)δ + ηhσξ, so

    E r² = σ² + Var δ = 2σ²/(2 − ηh),        D_{t+1} = D_t (1 − η² · 2σ²/(2 − ηh))  on average.

The first factor, η → 0, is the flow along (ησ²/4)Tr H; the second says how much the fluctuation
adds on the way to the edge ηh = 2, where this law ends and another begins.

Range. ηλ_max ≪ 2 for the first, ηh < 2 for the second; no momentum. With momentum β put η/(1 − β).

Source: Barrett and Dherin, arXiv 2009.11162 (descent); Blanc, Gupta, Valiant, Valiant, arXiv
1904.09080, and Damian, Ma, Lee, arXiv 2106.06530 (label noise); the exact rate derived here.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def modified_gradient(gradient: Array, hessian: Array, *, eta: float) -> Array:
    """∇L + (η/2)H∇L, (P,): the flow that one step of descent follows to second order in η.

    >>> modified_gradient(np.array([2.0]), np.array([[3.0]]), eta=0.1).tolist()
    [2.3]
    """
    return np.asarray(gradient + eta / 2 * hessian @ gradient)


def label_noise_strength(noise: float, *, eta: float, batch: int = 1) -> float:
    """The factor of Tr H in the effective loss, ησ²/4B; noise: σ² of the labels.

    >>> label_noise_strength(1.0, eta=0.1, batch=5)
    0.005
    """
    return eta * noise / (4 * batch)


def label_noise_decay(trace: float, noise: float, *, eta: float) -> float:
    """The share of D = u² − v² lost in a step of the toy: η² · 2σ²/(2 − ηh).

    trace: h = u² + v²;  noise: σ².

    >>> label_noise_decay(2.0, 1.0, eta=0.5)
    0.5

    Raises ValueError at and beyond the edge of stability, ηh ≥ 2.
    """
    if not 0 < eta * trace < 2:
        raise ValueError(f"eta·trace={eta * trace:g} is not in (0, 2): the valley is not stable")
    return eta**2 * 2 * noise / (2 - eta * trace)


def label_noise_path(u: float, v: float, noise: float, *, eta: float, steps: int) -> Array:
    """D at steps 0 … steps when the toy starts on its valley: (steps + 1,).

    h follows D, for uv = 1 on the valley: h² = D² + 4.
    """
    if not math.isclose(u * v, 1.0, rel_tol=1e-6):
        raise ValueError(f"u·v={u * v:g}: start on the valley u·v = 1")
    path = np.empty(steps + 1)
    path[0] = u**2 - v**2
    for k in range(steps):
        lost = label_noise_decay(math.sqrt(path[k] ** 2 + 4), noise, eta=eta)
        path[k + 1] = path[k] * (1 - lost)
    return path
