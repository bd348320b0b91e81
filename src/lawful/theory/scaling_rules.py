"""Scaling rules: how the learning rate goes with the batch size so that learning stays the same.

Batch B → kB, compared at equal numbers of samples seen:

    SGD     η → kη                                                   (linear rule)
    Adam    η → √k η,  1 − β → k(1 − β),  ε → ε/√k                    (square-root rule)

Both keep the drift and the diffusion per sample of the stochastic differential equation that small
steps follow, dθ = −∇L dt + (ηΣ/B)^½ dW for SGD. Adam divides by the root of the second moment,
which for noise-dominated gradients falls as 1/√B: hence the root.

Validity. The steps must stay small: kηλ₁ ≲ 0.4, with λ₁ the sharpness (of the preconditioned
Hessian for Adam); at 0.4 curves differ by some 0.02 in ln L, at 1.7 by 0.3. For Adam, noise must
dominate the gradient, trΣ/(kB) ≫ ‖∇L‖², and memory must outlast a step, k(1 − β₁) < 1. With
momentum η/(1 − β) takes the place of η.

Linear regression with Gaussian inputs has the exact mean loss of SGD, which tells the error of the
rule without training: with m_i = E v_i² along the eigenvectors of the covariance, eigenvalues λ_i,

    m_i' = (1 − ηλ_i)² m_i + (η²/B)(λ_i² m_i + λ_i Σ_j λ_j m_j + σ²λ_i),    L = ½(Σ λ_i m_i + σ²).

Source: Goyal et al., arXiv 1706.02677 (SGD); Malladi, Lyu, Panigrahi, Arora, arXiv 2205.10287
(Adam; its β and ε are quoted from memory); recursion and threshold derived here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SMALL = 0.4  # kηλ₁ up to which the linear rule errs by about 0.02 in ln L


def linear_rule(eta: float, ratio: float) -> float:
    """η of SGD for a batch `ratio` times as large.

    >>> linear_rule(0.1, 8)
    0.8
    """
    _check(ratio)
    return eta * ratio


@dataclass(frozen=True)
class Adam:
    """The numbers of Adam that go with the batch size."""

    eta: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8


def square_root_rule(adam: Adam, ratio: float) -> Adam:
    """Adam for a batch `ratio` times as large.

    >>> square_root_rule(Adam(0.001, 0.9, 0.99, 1e-8), 4).eta
    0.002

    Raises `ValueError` where a moving average would forget more than everything in a step.
    """
    _check(ratio)
    kept = 1 - ratio * (1 - adam.beta1), 1 - ratio * (1 - adam.beta2)
    if min(kept) < 0:
        raise ValueError(
            f"ratio={ratio} with betas=({adam.beta1}, {adam.beta2}): k(1 − β) exceeds 1, so the "
            "rule asks for a negative β; scale by less"
        )
    root = math.sqrt(ratio)
    return Adam(adam.eta * root, *kept, adam.eps / root)


@dataclass(frozen=True)
class Validity:
    """Whether a rule may be used, and the number that says so."""

    valid: bool
    step: float
    sentence: str


def valid_linear(eta: float, ratio: float, sharpness: float) -> Validity:
    """kηλ₁ ≤ 0.4; sharpness: λ₁ of the Hessian."""
    step = ratio * eta * sharpness
    verdict = "small steps" if step <= SMALL else "too large a step for the linear rule"
    return Validity(step <= SMALL, step, f"kηλ₁ = {step:.2g} (at most {SMALL}): {verdict}")


def valid_square_root(
    adam: Adam, ratio: float, sharpness: float, signal_to_noise: float
) -> Validity:
    """The same with √k for Adam, and noise that dominates the gradient.

    sharpness: λ₁ of P^−1 H.  signal_to_noise: ‖∇L‖²/(trΣ/B) at the smaller batch.

    >>> valid_square_root(Adam(1e-3), 4, sharpness=50.0, signal_to_noise=1.0).sentence
    'signal over noise becomes 4 (at most 1): the gradient is not mostly noise'
    """
    step = math.sqrt(ratio) * adam.eta * sharpness
    if ratio * (1 - adam.beta1) >= 1:
        return Validity(False, step, f"k(1 − β₁) = {ratio * (1 - adam.beta1):.2g}: at least 1")
    if ratio * signal_to_noise > 1:
        text = f"signal over noise becomes {ratio * signal_to_noise:.2g} (at most 1)"
        return Validity(False, step, f"{text}: the gradient is not mostly noise")
    verdict = "small steps" if step <= SMALL else "too large a step"
    return Validity(step <= SMALL, step, f"√kηλ₁ = {step:.2g} (at most {SMALL}): {verdict}")


def regression_losses(
    eigenvalues: Array, start: Array, *, eta: float, batch: float, steps: int, noise: float = 0.0
) -> Array:
    """Mean loss of SGD on Gaussian linear regression after 0 … steps steps, exactly: (steps + 1,).

    eigenvalues: (d,) of the input covariance.  start: (d,) squared distances from the target.
    noise: σ² of the labels.
    """
    l, m = np.asarray(eigenvalues, dtype=float), np.asarray(start, dtype=float)
    losses = np.empty(steps + 1)
    for k in range(steps + 1):
        power = float(l @ m)
        losses[k] = (power + noise) / 2
        m = (1 - eta * l) ** 2 * m + eta**2 / batch * (l**2 * m + l * (power + noise))
    return losses


def _check(ratio: float) -> None:
    if not ratio > 0:
        raise ValueError(f"ratio={ratio}: new batch size over old, a positive number")
