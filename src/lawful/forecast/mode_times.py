"""Forecast: when a deep linear network learns each mode of its data.

For y ≈ W_L … W_1 x under c·E‖f − y‖², E[yxᵀ] = U diag(s) Vᵀ and Σ_x = vI, mode k rises on its own:

    du/dτ = L u^{2−2/L}(s/v − u),      τ = 2cv·η·steps,

from u_0 = ‖W_1v + W_2ᵀu‖²/4 for two layers (small weights), from (UᵀWV)_kk for more.

Rests on: white inputs (λ_max/λ_min of Σ_x; at 2 a path is off by 12 %, at 10 by 30 %); weights
small against the modes (u_0 ≪ s); full-batch descent at a small rate; for L > 2 layers that are
balanced.

Source: see `theory.deep_linear_modes`.
"""

from __future__ import annotations

import math

import numpy as np

from ..theory import deep_linear_modes as theory
from .case import Case
from .forecast import Forecast, silent
from .linear_network import LinearNetwork, linear_network
from .wording import count, figure

THEORY = "mode times"
MODES = 6


def forecasts(case: Case) -> list[Forecast]:
    """Steps until each of the leading modes is half learned, and how many are learned apart."""
    net = linear_network(case)
    if net is None:
        return []
    if not case.training.sgd:
        said = f"{case.training.optimizer} rescales each step: modes have no times of their own."
        return [silent(THEORY, "", said, f"SGD; the optimiser is {case.training.optimizer}.")]
    U, s, V = theory.modes(net.cross)
    variance = float(np.trace(net.Sigma_x)) / len(net.Sigma_x)
    pace = 2 * net.scale * variance * case.training.rate
    starts = [_start(net, U[:, k], V[:, k]) for k in range(len(s))]
    largest = max((u0 * variance / k for u0, k in zip(starts, s, strict=True)), default=math.nan)
    met = net.anisotropy <= 1.1 and largest < 0.1 and net.depth == 2 and not net.bias
    rests = (
        f"White inputs (λ_max/λ_min = {figure(net.anisotropy)}), small weights (largest u₀/s = "
        f"{figure(largest)}), full-batch descent"
        f"{', layers balanced' if net.depth > 2 else ''}"
        f"{'; biases centre the data' if net.bias else ''}."
    )
    applies = "yes" if met else "partly"
    out, spans = [], []
    for k, (strength, u0) in enumerate(zip(s[:MODES], starts, strict=False)):
        where = f"mode {k + 1}"
        if u0 <= 0:
            said = f"Mode {k + 1} (s = {figure(float(strength))}) starts with the wrong sign."
            out.append(silent(THEORY, where, said, rests))
            continue
        low, middle, high = (
            theory.quantile_time(q, float(strength) / variance, theory.balanced(u0, net.depth))
            / pace
            for q in (theory.STAGE[0], 0.5, theory.STAGE[1])
        )
        spans.append((low, high))
        said = (
            f"Mode {k + 1} (s = {figure(float(strength))}) is half learned after {count(middle)} "
            f"steps, from 10 to 90 % in {count(high - low)}{_reach(case, high)}."
        )
        out.append(Forecast(THEORY, "half_time", where, middle, "steps", said, rests, applies))
    if len(spans) > 1:
        apart = theory.separate_stages(*([list(t) for t in zip(*spans, strict=True)]))
        said = f"{apart} of {len(spans) - 1} gaps between modes separate stages of learning."
        out.append(Forecast(THEORY, "separate_stages", "", apart, "1", said, rests, applies))
    return out


def _start(net: LinearNetwork, u: np.ndarray, v: np.ndarray) -> float:
    """u_0 of one mode from the weights as they are."""
    if net.depth == 2:
        return theory.random_start(net.weights[0], net.weights[1], u, v)
    return float(u @ np.linalg.multi_dot(net.weights[::-1]) @ v)


def _reach(case: Case, steps: float) -> str:
    if case.training.steps is None:
        return ""
    return "" if steps <= case.training.steps else f": not within your {count(case.training.steps)}"
