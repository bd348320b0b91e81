"""Noise equilibrium: where the noise of SGD carries a conserved charge, and how fast.

Statement. Let every sample loss be invariant, ℓ(e^{λA}θ, x) = ℓ(θ, x), A symmetric. Gradient
flow conserves the charge C = θᵀAθ. SGD does not: its noise pushes θ along the orbit e^{λA}θ to
the one point where the noise on the growing and on the shrinking directions balances,
whatever the initialisation.

The step θ' = θ − η(g + wθ), w the coupled weight decay of torch, and θᵀAg = 0 (the derivative of
the invariance, true of every mini-batch) give, for any η and without approximation,

    C' = (1 − ηw)² C + η² gᵀAg,
    E[ΔC] = −(2ηw − η²w²) C + η² (Tr[Σ₁A]/S + ḡᵀAḡ)            Σ₁ per sample, S the batch size.

As an SDE in time t = ηk with L + γ‖θ‖², w = 2γ:  Ċ = −4γC + (η/S) Tr[Σ₁A].

Fixed point. Gradients transform as g(e^{λA}θ) = e^{−λA} g(θ), so in the eigenbasis of A, with c_j
the squared components of θ and s_j the diagonal of Σ₁, on a valley of minima (ḡ = 0)

    E[ΔC](λ) = −(2ηw − η²w²) Σ_j a_j c_j e^{2λa_j} + (η²/S) Σ_j a_j s_j e^{−2λa_j}.

Every term decreases in λ, so the root λ* is unique, and attractive because C increases with λ. It
is finite without decay only if there is noise on both signs of a; for A = I (scale) λ* = ∞. Since
dC/dλ = 2θᵀA²θ, a shift relaxes at the rate −E[ΔC]′(λ*)/(2θᵀA²θ) per step: 1/rate is
S θᵀA²θ/(η² Tr[Σ₁A²]) steps without decay.

Range. SGD without momentum; θ stays close to a valley of minima while it drifts along the orbit
(small η). The first equation is exact, also far from a minimum.

Source: Ziyin, Wang, Li, Wu, "Parameter Symmetry and Noise Equilibrium of Stochastic Gradient
Descent", NeurIPS 2024, arXiv 2402.07193 (Theorem 4.3: λ* unique and attractive); the law of balance
in Ziyin, Li, Wu, arXiv 2308.06671. Discrete law, closed form and relaxation time derived here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Orbit:
    """A point of an orbit e^{λA}θ, seen in the eigenbasis of A; all three of shape (k,).

    a:      eigenvalues of A (equal ones may be merged, zeros left out).
    theta2: squared components of θ along them, so that C = Σ a·theta2.
    noise:  diagonal of Σ₁ along them, so that Tr[Σ₁A] = Σ a·noise.
    """

    a: Array
    theta2: Array
    noise: Array

    def __post_init__(self) -> None:
        shapes = {np.shape(self.a), np.shape(self.theta2), np.shape(self.noise)}
        if len(shapes) != 1:
            raise ValueError(f"a, theta2, noise have shapes {shapes}: give one value an eigenvalue")
        if np.min(self.theta2) < 0 or np.min(self.noise) < 0:
            raise ValueError("theta2 and noise are squares: they must not be negative")

    def shifted(self, shift: float) -> Orbit:
        """The same orbit at e^{shift·A}θ: theta2 grows by e^{2·shift·a}, noise shrinks by it."""
        growth = np.exp(2 * shift * self.a)
        return Orbit(self.a, self.theta2 * growth, self.noise / growth)


def orbit(A: Array, theta: Array, Sigma: Array) -> Orbit:
    """Resolve θ (d,) and the per-sample gradient covariance Σ₁ (d, d) in the eigenbasis of A.

    >>> orbit(np.diag([1.0, -1.0]), np.array([3.0, 2.0]), np.eye(2)).theta2.tolist()
    [4.0, 9.0]
    """
    if not np.allclose(A, A.T):
        raise ValueError("A is not symmetric: only a symmetric generator has a charge θᵀAθ")
    a, Q = np.linalg.eigh(A)
    return Orbit(a, (Q.T @ theta) ** 2, np.einsum("ij,ik,kj->j", Q, Sigma, Q))


def two_signs(
    theta2_plus: float, theta2_minus: float, noise_plus: float, noise_minus: float
) -> Orbit:
    """The orbit of a rescaling, A = diag(+1, −1): ‖θ±‖² and s± = Tr Σ₁ of either block."""
    values = (theta2_plus, theta2_minus), (noise_plus, noise_minus)
    return Orbit(np.array([1.0, -1.0]), *(np.array(pair, dtype=float) for pair in values))


def charge_step(
    charge: float, gradient_form: float, *, eta: float, weight_decay: float = 0.0
) -> float:
    """The charge after one SGD step, exactly; gradient_form is gᵀAg of the mini-batch gradient.

    >>> charge_step(2.0, 10.0, eta=0.1)  # 2 + 0.1² · 10
    2.1
    """
    return (1 - eta * weight_decay) ** 2 * charge + eta**2 * gradient_form


def expected_change(
    charge: float, noise_trace: float, mean_form: float = 0.0, *,
    eta: float, batch: int, weight_decay: float = 0.0,
) -> float:  # fmt: skip
    """E[ΔC] of one step from Tr[Σ₁A] (per sample) and ḡᵀAḡ; exact for independent samples."""
    push = eta**2 * (noise_trace / batch + mean_form)
    return push - _forgetting(eta, weight_decay) * charge


def flow_rate(
    charge: float, noise_trace: float, *, eta: float, batch: int, weight_decay: float = 0.0
) -> float:
    """Ċ of the SDE, per unit of time t = ηk: the limit of `expected_change`/η at a minimum."""
    return eta / batch * noise_trace - 2 * weight_decay * charge


def orbit_change(
    point: Orbit, shift: float = 0.0, *, eta: float, batch: int, weight_decay: float = 0.0
) -> float:
    """E[ΔC] of one step at e^{shift·A}θ on a valley of minima; strictly decreasing in shift."""
    there = point.shifted(shift)
    charge, trace = float(there.a @ there.theta2), float(there.a @ there.noise)
    return expected_change(charge, trace, eta=eta, batch=batch, weight_decay=weight_decay)


def equilibrium(
    point: Orbit, *, eta: float = 1.0, batch: int = 1, weight_decay: float = 0.0
) -> float:
    """λ*: the shift along the orbit at which the charge stands still, found by bisection.

    Without weight decay λ* depends neither on η nor on the batch size. Returns ±inf when only
    one sign of a is pushed, NaN when nothing moves the charge (no noise and no decay).

    >>> round(equilibrium(two_signs(1.0, 1.0, noise_plus=math.e**4, noise_minus=1.0)), 12)
    1.0
    """

    def change(shift: float) -> float:
        return orbit_change(point, shift, eta=eta, batch=batch, weight_decay=weight_decay)

    moved = (point.noise > 0) | (weight_decay * point.theta2 > 0)
    if not np.any(moved & (point.a != 0)):
        return math.nan
    farthest, reach = 300 / float(np.max(np.abs(point.a))), 1e-3
    while reach < farthest and change(reach) * change(-reach) > 0:
        reach *= 2
    if reach >= farthest:
        return math.copysign(math.inf, change(0.0))
    return float(scipy.optimize.brentq(change, -reach, reach, xtol=1e-15))


def equilibrium_two_signs(
    theta2_plus: float, theta2_minus: float, noise_plus: float, noise_minus: float, *,
    eta: float = 1.0, batch: int = 1, weight_decay: float = 0.0,
) -> float:  # fmt: skip
    """λ* of a rescaling in closed form: ¼ ln[(κC₋ + Ts₊)/(κC₊ + Ts₋)].

    T = η/S and κ = 2w − ηw² (4γ in the SDE). Returns ±inf or NaN as `equilibrium` does.
    """
    T, kappa = eta / batch, 2 * weight_decay - eta * weight_decay**2
    up = kappa * theta2_minus + T * noise_plus
    down = kappa * theta2_plus + T * noise_minus
    if up <= 0 or down <= 0:
        return math.nan if up <= 0 and down <= 0 else math.copysign(math.inf, up - down)
    return 0.25 * math.log(up / down)


def relaxation_steps(point: Orbit, *, eta: float, batch: int, weight_decay: float = 0.0) -> float:
    """Steps after which a small shift from the equilibrium `point` has shrunk by e.

    S θᵀA²θ/(η² Tr[Σ₁A²]) without decay; decay adds 2ηw − η²w² to the rate.
    """
    a2 = point.a**2
    size, noise = float(a2 @ point.theta2), float(a2 @ point.noise)
    rate = eta**2 / batch * noise / size + _forgetting(eta, weight_decay) if size > 0 else math.nan
    return math.inf if rate == 0 else 1 / rate


def orbit_path(
    point: Orbit, steps: Array, *, eta: float, batch: int, weight_decay: float = 0.0
) -> Array:
    """The shift λ(k) along the orbit at the given steps, starting from `point` (λ = 0).

    Solves dλ/dk = E[ΔC](λ)/(2θᵀA²θ), the mean drift; steps (n,) increasing. Returns (n,).
    """

    def velocity(_: float, shift: Array) -> Array:
        there = point.shifted(float(shift[0]))
        change = orbit_change(there, eta=eta, batch=batch, weight_decay=weight_decay)
        return np.array([change / (2 * float(there.a**2 @ there.theta2))])

    span = (0.0, float(steps[-1]))
    solved = scipy.integrate.solve_ivp(velocity, span, [0.0], "LSODA", steps, rtol=1e-8, atol=1e-10)
    return np.asarray(solved.y[0])


def balance_rate(u: Array, w: Array, C_u: Array, C_w: Array, *, eta: float, batch: int) -> float:
    """Law of balance: d(‖u‖² − ‖w‖²)/dt = −(η/S)(uᵀC_u u − wᵀC_w w) when u, w enter as u wᵀ.

    With Γ = ∂ℓ/∂(u wᵀ) − its mean, (m, n) per sample: C_u = E[ΓΓᵀ] (m, m), C_w = E[ΓᵀΓ] (n, n).
    It is `flow_rate` with A = diag(I, −I), because the gradients are Γw and Γᵀu.

    >>> balance_rate(np.ones(1), np.zeros(1), np.eye(1), np.eye(1), eta=0.5, batch=1)
    -0.5
    """
    return -eta / batch * float(u @ C_u @ u - w @ C_w @ w)


def _forgetting(eta: float, weight_decay: float) -> float:
    """1 − (1 − ηw)²: the part of the charge that decay takes away in a step."""
    return 2 * eta * weight_decay - (eta * weight_decay) ** 2
