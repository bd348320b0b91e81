"""Critical batch size: how large a batch is worth its samples.

The gradient of a batch is signal plus noise,

    E‖g_B‖² = ‖∇L‖² + κ_B trΣ,     κ_B = 1/B, or (N − B)/(B(N − 1)) without replacement from N,

with Σ the covariance of the gradient of one sample (divided by N). On a quadratic with Hessian H
one step of the best length gains

    ΔL = ΔL_max/(1 + B_noise/B),   η_best = η_max/(1 + B_noise/B),   B_noise = tr(HΣ)/(∇LᵀH∇L),

and with H ∝ I the noise scale is B_simple = trΣ/‖∇L‖². A run at batch size B, with the learning
rate tuned for each, needs S steps and E = SB samples to a target loss:

    S = S_min (1 + B_c/B),     (S/S_min − 1)(E/E_min − 1) = 1,     B_c = E_min/S_min.

B_c is the average of B_noise over the steps of the noiseless path.

Range. Many steps, a learning rate tuned for each B, Σ roughly proportional to H, a noise scale that
changes slowly. Where Σ ∝ I ≠ H the form leaves about ten times the residual, and B_c is several
times the average of B_noise.

Source: McCandlish, Kaplan, Amodei et al., arXiv 1812.06162 (noise scales, gain, hyperbola); B_c as
the average along the path, and κ_B without replacement, derived here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]


def kappa(batch: int, population: int | None = None, *, replacement: bool = True) -> float:
    """κ_B: the share of trΣ that is left in the gradient of a batch.

    population: N, needed without replacement.

    >>> kappa(4), kappa(4, 10, replacement=False), kappa(10, 10, replacement=False)
    (0.25, 0.16666666666666666, 0.0)
    """
    if batch < 1:
        raise ValueError(f"batch={batch}: a batch has at least one sample")
    if replacement:
        return 1 / batch
    if population is None or population < batch:
        raise ValueError(
            f"population={population}: without replacement from N samples, N ≥ batch={batch}"
        )
    return 0.0 if population == batch else (population - batch) / (batch * (population - 1))


def gradient_power(signal_norm2: float, noise_trace: float, kappa: float) -> float:
    """E‖g_B‖² from ‖∇L‖², trΣ and κ_B.

    >>> gradient_power(1.0, 6.0, kappa(4))
    2.5
    """
    return signal_norm2 + kappa * noise_trace


def efficiency(batch: float, noise_scale: float) -> float:
    """ΔL/ΔL_max = η_best/η_max of one step: one half at B = B_noise.

    >>> efficiency(32, 32)
    0.5
    """
    return 1 / (1 + noise_scale / batch)


@dataclass(frozen=True)
class Step:
    """The best step on a quadratic: its length η, its expected gain ΔL, and B_noise."""

    eta: float
    gain: float
    noise_scale: float


def best_step(gradient: Array, H: Array, Sigma: Array, batch: float) -> Step:
    """One step −ηg_B on L = gᵀx + ½xᵀHx; gradient (d,), H (d, d), Sigma (d, d) per sample.

    Raises `ValueError` where the curvature along the gradient is not positive.
    """
    curvature = float(gradient @ H @ gradient)
    if not curvature > 0:
        raise ValueError(f"gᵀHg = {curvature}: a best step needs positive curvature along it")
    scale, norm2 = float(np.trace(H @ Sigma)) / curvature, float(gradient @ gradient)
    share = efficiency(batch, scale)
    return Step(norm2 / curvature * share, norm2**2 / (2 * curvature) * share, scale)


def greedy_descent(h: Array, Sigma: Array, batch: float, *, share: float) -> tuple[float, float]:
    """(steps, mean B_noise on the way) of the best step, again and again, to `share` of the loss.

    h, Sigma: (d,) diagonals of H and of the noise of one sample; from θ_i = 1. batch: inf for none.

    With c_i = E θ_i², a step η makes (1 − ηh_i)²c_i + η²Σ_i/B of it, exactly. The count of steps is
    made a real number by interpolation of ln L inside the last one.
    """
    c, scales = np.ones_like(h), list[float]()
    loss, target = float(h @ c), share * float(h @ c)
    before = loss
    while loss > target:
        curvature = float(h**3 @ c)
        scales.append(float(h @ Sigma) / curvature)
        eta = float(h**2 @ c) / (curvature + float(h @ Sigma) / batch)
        c = (1 - eta * h) ** 2 * c + eta**2 * Sigma / batch
        before, loss = loss, float(h @ c)
    part = math.log(before / target) / math.log(before / loss)
    return len(scales) - 1 + part, float(np.mean(scales))


def steps_needed(batch: float, *, least_steps: float, critical_batch: float) -> float:
    """S = S_min (1 + B_c/B).

    >>> steps_needed(20, least_steps=100, critical_batch=20)
    200.0
    """
    return least_steps * (1 + critical_batch / batch)


@dataclass(frozen=True)
class Hyperbola:
    """A fitted S = S_min(1 + B_c/B).

    log_error: standard error of ln B_c.
    residual:  root mean square of ln(S/fit).   worst: the largest |ln(S/fit)|.
    resolved:  the batch sizes reach below and above B_c, so that both arms are seen.
    """

    least_steps: float
    critical_batch: float
    log_error: float
    residual: float
    worst: float
    resolved: bool


def fit(batches: Sequence[float], steps: Sequence[float]) -> Hyperbola:
    """Least squares in ln S.

    Raises `ValueError` for fewer than three batch sizes or steps that are not positive.

    >>> found = fit([1, 10, 100], [steps_needed(b, least_steps=50, critical_batch=8)
    ...                            for b in (1, 10, 100)])
    >>> round(found.least_steps, 6), round(found.critical_batch, 6), found.resolved
    (50.0, 8.0, True)
    """
    B, S = np.asarray(batches, dtype=float), np.asarray(steps, dtype=float)
    if len(B) != len(S) or len(B) < 3 or not (np.isfinite(S).all() and (S > 0).all()):
        raise ValueError(
            f"batches={list(batches)}, steps={list(steps)}: give at least three batch sizes, each "
            "with a positive number of steps"
        )

    def residuals(p: Array) -> Array:
        return p[0] + np.log1p(np.exp(p[1]) / B) - np.log(S)

    start = np.array([math.log(S.min()), math.log(float(np.median(B)))])
    found = scipy.optimize.least_squares(residuals, start)
    square = float(found.fun @ found.fun)
    information = found.jac.T @ found.jac
    variance = square / max(len(B) - 2, 1)
    singular = not np.linalg.cond(information) < 1e12
    error = math.inf if singular else math.sqrt(variance * np.linalg.inv(information)[1, 1])
    critical = float(math.exp(found.x[1]))
    return Hyperbola(
        math.exp(found.x[0]), critical, error, math.sqrt(square / len(B)),
        float(np.abs(found.fun).max()),
        bool(B.min() < critical < B.max()),
    )  # fmt: skip
