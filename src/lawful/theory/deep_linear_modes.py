"""Deep linear networks learn one singular mode at a time: when, and how fast.

Statement. f = W_L … W_1 x, loss ½E‖y − f‖², E xxᵀ = I, E yxᵀ = U diag(s) Vᵀ, t = η·step. If the
layers are aligned with the modes, mode k has a strength a_l in each layer, u = Π_l a_l, and

    da_l/dt = (u/a_l)(s − u)    ⇒    a_l² − a_m² conserved,    du/dt = (s − u) Σ_l Π_{m≠l} a_m².

    balanced (a_l all equal)      du/dt = L u^{2−2/L}(s − u)
    balanced, L = 2               u = s/(1 + (s/u_0 − 1)e^{−2st})
                                  t_q = (ln(s/u_0 − 1) + logit q)/2s
    balanced, L > 2, u_0 ≪ s      t_½ ≈ u_0^{−(L−2)/L}/(s(L−2))
    L = 2, c = a_1² − a_2²        du/dt = √(c² + 4u²) (s − u)

All of them are one quadrature: with z = ln(u/|s − u|), dt = u dz/(s·rate(u)).

Small random weights, L = 2: before the mode shows, W_1v and W_2ᵀu grow together as e^{st}, so the
network is as good as one that started aligned at u_0 = ‖W_1v + W_2ᵀu‖²/4.

Stages. Two modes are learned in separate stages iff the later one is at 10 % after the earlier one
is at 90 %.

Finite steps delay a balanced mode by (η/2) ln(ȧ(t)/ȧ(0)), ȧ = a^{L−1}(s − a^L): Euler's method runs
late where growth speeds up. The largest departure max_t |u̇|·delay/s is of order ηsL/2, and grows
with ln(1/u_0): for L ≥ 3 it passes 1.5·ηsL/2 below u_0 ≈ 10⁻².

Regime: whitened inputs, gradient flow, balanced or small weights. For a loss c·E‖y − f‖² time runs
2c times faster; `F.mse_loss` has c = 1/d_y.

Source: A. Saxe, J. McClelland, S. Ganguli, arXiv 1312.6120 (balanced); quantile times, unequal
strengths, random start derived here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NODES = 4001
NEAR = 40.0  # |z| beyond which u is 0, or s, to round-off
STAGE = (0.1, 0.9)


def path(t: Array, s: float, strengths: Sequence[float]) -> Array:
    """u(t) of one mode; t (n,) ≥ 0 in units of η·step, strengths a_1 … a_L > 0 at t = 0.

    Raises ValueError for s ≤ 0 or a strength ≤ 0: such a mode is not learned from there.

    >>> path(np.array([0.0, 1.0]), 1.0, [0.1, 0.1]).round(4).tolist()
    [0.01, 0.0695]
    """
    _check(s, strengths)
    z, times, side = _clock(s, strengths)
    return np.asarray(_strength(np.interp(t, times, z), s, side))


def quantile_time(q: float, s: float, strengths: Sequence[float]) -> float:
    """t at which u = q·s, 0 < q < 1; 0 where it starts beyond.

    >>> round(quantile_time(0.5, 2.0, [1e-3, 1e-3]), 4)  # ln(s/u₀ − 1)/2s
    3.6272
    """
    _check(s, strengths)
    if not 0 < q < 1:
        raise ValueError(f"q={q}: a share of the mode's strength lies between 0 and 1")
    z, times, side = _clock(s, strengths)
    if side < 0 or math.prod(strengths) >= q * s:
        return 0.0
    return float(np.interp(math.log(q / (1 - q)), z, times))


def half_time_small(s: float, u0: float, depth: int) -> float:
    """The limit of the half-time for u_0 ≪ s; balanced, depth ≥ 2.

    >>> half_time_small(2.0, 1e-6, 3)
    50.0
    """
    if depth < 2:
        raise ValueError(f"depth={depth}: with one layer modes are learned as e^−t, without a wait")
    if depth == 2:
        return math.log(s / u0) / (2 * s)
    return float(round(u0 ** (-(depth - 2) / depth), 12)) / (s * (depth - 2))


def balanced(u0: float, depth: int) -> list[float]:
    """The strengths u_0^{1/L}, L times."""
    return [u0 ** (1 / depth)] * depth


def random_start(W_1: Array, W_2: Array, u: Array, v: Array) -> float:
    """u_0 = ‖W_1v + W_2ᵀu‖²/4 of small weights W_1 (h, d_x), W_2 (d_y, h)."""
    both = W_1 @ v + W_2.T @ u
    return float(both @ both) / 4


def modes(cross: Array) -> tuple[Array, Array, Array]:
    """U (d_y, r), s (r,), V (d_x, r) of E[yxᵀ] (d_y, d_x), s falling, zeros left out."""
    if not np.isfinite(cross).all():
        raise ValueError(
            f"cross has {int(np.sum(~np.isfinite(cross)))} entries that are not finite"
        )
    U, s, Vt = np.linalg.svd(cross, full_matrices=False)
    kept = s > 1e-12 * max(float(s[0]), 1e-300)
    return U[:, kept], s[kept], Vt[kept].T


def projections(W: Array, U: Array, V: Array) -> tuple[Array, float]:
    """u_k = (UᵀWV)_kk, and what leaks between modes: ‖off-diagonal‖/‖diagonal‖."""
    M = U.T @ W @ V
    kept = np.diagonal(M).copy()
    rest = float(np.linalg.norm(M - np.diag(kept)))
    return kept, rest / max(float(np.linalg.norm(kept)), 1e-300)


def separate_stages(starts: Sequence[float], ends: Sequence[float]) -> int:
    """How many neighbours in time are learned apart: t_10% of the next after t_90% of this.

    >>> separate_stages([0.5, 2.0, 2.2], [1.0, 3.0, 5.0])
    1
    """
    order = np.argsort(starts)
    return sum(starts[b] > ends[a] for a, b in pairwise(order))


def discretisation(eta: float, s: float, depth: int) -> float:
    """ηsL/2: the order of max|u_GD − u_flow|/s."""
    return eta * s * depth / 2


def step_error(eta: float, s: float, u0: float, depth: int) -> float:
    """max_t |u_GD − u_flow|/s of a balanced mode to first order in η; 0 < u_0 < s.

    >>> round(step_error(1e-3, 4.0, 1e-3, 2) / discretisation(1e-3, 4.0, 2), 3)
    0.781
    """
    _check(s, balanced(u0, depth))
    u = _strength(np.linspace(math.log(u0 / (s - u0)), NEAR, NODES), s, 1)
    pace = u ** (1 - 1 / depth) * (s - u)
    delay = eta / 2 * np.log(pace / pace[0], where=pace > 0, out=np.zeros_like(u))
    return float(np.max(np.abs(depth * u ** (2 - 2 / depth) * (s - u) * delay)) / s)


# -- the clock -----------------------------------------------------------------------------------


def _check(s: float, strengths: Sequence[float]) -> None:
    if not s > 0 or not min(strengths) > 0:
        raise ValueError(
            f"s={s}, strengths={list(strengths)}: give s > 0 and strengths > 0 (a mode without "
            "signal, or with a negative strength, is not learned from there)"
        )


def _clock(s: float, strengths: Sequence[float]) -> tuple[Array, Array, int]:
    """z on a grid, the time at each, and on which side of s the mode starts (+1 below)."""
    u0 = float(math.prod(strengths))
    side = 1 if u0 <= s else -1
    if u0 == s:
        return np.array([NEAR, NEAR + 1]), np.array([0.0, 1.0]), 1
    start = math.log(u0 / abs(s - u0))
    z = np.linspace(start, max(NEAR, start + 1), NODES)
    u = _strength(z, s, side)
    speed = u / (s * _rate(u, np.asarray(strengths, float)))
    between = 0.5 * np.diff(z) * (speed[1:] + speed[:-1])
    return z, np.concatenate([[0.0], np.cumsum(between)]), side


def _strength(z: Array, s: float, side: int) -> Array:
    """u of z = ln(u/|s − u|): s/(1 + e^{−z}) below s, s/(1 − e^{−z}) above."""
    return np.asarray(s / (1 + side * np.exp(-z)))


def _rate(u: Array, strengths: Array) -> Array:
    """Σ_l Π_{m≠l} a_m² = u² Σ_l 1/a_l², the strengths a_l² = x + c_l at which Π a_l = u.

    ln Π(x + c_l) is concave and rising in x, so Newton from the left of the root never overshoots;
    x = u²/Π'(u^{2/L} + c_l), the product without the smallest c_l = 0, is on the left.
    """
    c = strengths**2 - np.min(strengths**2)
    L = len(c)
    if not c.any():
        return np.asarray(L * u ** (2 - 2 / L))
    log2, most = 2 * np.log(u), u ** (2 / L)
    x = np.exp(log2 - np.log(most[:, None] + c).sum(1)) * most
    for _ in range(60):
        a2 = x[:, None] + c
        gap = log2 - np.log(a2).sum(1)
        moved = gap / (1 / a2).sum(1)
        x = x + moved
        if np.max(np.abs(gap)) < 1e-13:
            break
    return np.asarray(u**2 * (1 / (x[:, None] + c)).sum(1))
