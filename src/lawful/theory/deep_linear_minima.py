"""Deep linear networks with weight decay: at which γ the best network is the zero network.

Statement. K ≥ 2 layers, one output, no ½:  L = E(W_K … W_1 x − y)² + Σ_i γ_i‖W_i‖². The torch
weight_decay of layer i is 2γ_i; γ below is the geometric mean of the γ_i. For a given product β the
least decay is Kγ‖β‖^{2/K} (AM–GM, ‖β‖ ≤ Π‖W_i‖), so with b = E[xy] one minimises over β alone

    E y² − 2βᵀb + βᵀ(cΣ_x)β + Kγ‖β‖^{2/K}.

 - K = 2: zero is the global minimum iff γ ≥ ‖b‖ (‖b‖² ≤ γ_1γ_2); the transition is continuous.
 - K ≥ 3: zero is a local minimum at every γ > 0, and the global one from γ_c on, where ‖β‖ jumps.
   A non-zero local minimum survives up to the spinodal γ_sp > γ_c.

For Σ_x = s²I and r = ‖b‖ (0⁰ = 1):

    γ_c = r/(K−1) · (r(K−2)/(s²c(K−1)))^{(K−2)/K},      jump  r(K−2)/(s²c(K−1)),
    γ_sp = ½ Kr/(K−1) · (r(K−2)/(2s²c(K−1)))^{(K−2)/K}.

General Σ_x: stationary points lie on the ridge path β(κ) = (cΣ_x + κI)⁻¹b with γ = κ‖β‖^{2−2/K}, so

    γ_sp = max_κ κ‖β‖^{2−2/K},        γ_c = max_κ (2βᵀb − cβᵀΣ_xβ)/(K‖β‖^{2/K}).

Neuron noise. Multiply each hidden neuron by an independent ε with E ε = 1, Var ε = σ²: then
c = Π_l (1 + σ_l²/d_l) over hidden layers of width d_l (else c = 1). By Cauchy–Schwarz, layer by
layer, E f² ≥ cβᵀΣ_xβ; rank-one W_i that treat all neurons of a layer alike up to sign attain it,
and the least decay as well.

Several outputs, Σ_x = s²I, no noise: the singular modes of E[yxᵀ] decouple, each like one output
with r its singular value. K = 2, s = 1 is matrix factorisation: s_i → (s_i − γ)₊, rank #{s_i > γ}.

Source: Ziyin, Li, Meng, "Exact Solutions of a Deep Linear Network", arXiv 2202.04777 (model, K = 2
and K ≥ 3 dichotomy); thresholds, spinodal and reduction derived here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Thresholds:
    """Where the zero network takes over; gamma in L + γ‖θ‖², torch weight_decay = 2·gamma.

    gamma_c:        zero is the global minimum for γ ≥ gamma_c.
    gamma_spinodal: no other local minimum is left for γ > gamma_spinodal.
    jump:           ‖β‖ on the non-zero side of gamma_c; 0 for a continuous transition.
    """

    gamma_c: float
    gamma_spinodal: float
    jump: float

    @property
    def weight_decay(self) -> float:
        """gamma_c as the torch optimiser takes it."""
        return 2 * self.gamma_c


def noise_factor(widths: Sequence[int], variances: Sequence[float]) -> float:
    """c = Π (1 + σ_l²/d_l) of multiplicative neuron noise in hidden layers of these widths.

    >>> noise_factor([2, 4], [1.0, 1.0])  # dropout with p = ½ has σ² = 1
    1.875
    """
    return math.prod(1 + v / d for d, v in zip(widths, variances, strict=True))


def thresholds(
    cross: float, second_moment: float, layers: int, *, noise: float = 1.0
) -> Thresholds:
    """γ_c, γ_sp and the jump for isotropic inputs, in closed form.

    cross: r = ‖E[xy]‖ (or a singular value of E[yxᵀ]);  second_moment: s² of Σ_x = s²I;
    layers: K ≥ 2;  noise: the factor c.

    >>> thresholds(1.0, 1.5, 4)
    Thresholds(gamma_c=0.2222222222222222, gamma_spinodal=0.31426968052735443,
               jump=0.4444444444444444)
    """
    _check(layers, noise)
    K, size = layers, cross * (layers - 2) / (second_moment * noise * (layers - 1))
    power = (K - 2) / K
    critical = cross / (K - 1) * size**power
    return Thresholds(critical, K / 2 * cross / (K - 1) * (size / 2) ** power, size)


def thresholds_general(
    cross: Array, Sigma_x: Array, layers: int, *, noise: float = 1.0
) -> Thresholds:
    """γ_c, γ_sp and the jump for any input covariance; cross = E[xy] (d,), Sigma_x (d, d)."""
    _check(layers, noise)
    if layers == 2:
        norm = float(np.linalg.norm(cross))
        return Thresholds(norm, norm, 0.0)
    path = _Ridge(cross, Sigma_x, layers, noise)
    _, spinodal = _peak(path.gamma, path.kappas)
    at, critical = _peak(path.worth, path.kappas)
    return Thresholds(critical, spinodal, float(np.linalg.norm(path.beta(at))))


def minimum(
    cross: Array, Sigma_x: Array, gamma: float, layers: int, *, noise: float = 1.0
) -> Array:
    """The product β = W_K … W_1 (d,) of a global minimum at this γ; zeros above γ_c.

    >>> minimum(np.array([2.0, 0.0]), np.eye(2), 0.5, layers=2).round(9).tolist()
    [1.5, 0.0]
    """
    _check(layers, noise)
    path, zero = _Ridge(cross, Sigma_x, layers, noise), np.zeros(len(cross))
    if gamma <= 0:
        return path.beta(0.0)
    if layers == 2 and gamma >= np.linalg.norm(cross):
        return zero
    excess = np.array([path.gamma(kappa) - gamma for kappa in path.kappas])
    crossings = np.flatnonzero(excess[:-1] * excess[1:] <= 0)
    pairs = [(path.kappas[i], path.kappas[i + 1]) for i in crossings]
    roots = [brentq(lambda k: path.gamma(k) - gamma, *pair, xtol=1e-15) for pair in pairs]
    return min([zero, *map(path.beta, roots)], key=lambda beta: path.loss(beta, gamma))


def modes(
    singular_values: Array, gamma: float, layers: int = 2, *, second_moment: float = 1.0
) -> Array:
    """Singular values of the product at a global minimum, from those of E[yxᵀ]; Σ_x = s²I.

    >>> modes(np.array([3.0, 1.0, 0.2]), 0.5).tolist()  # (s_i − γ)₊
    [2.5, 0.5, 0.0]
    """
    values = [_mode(float(r), gamma, layers, second_moment) for r in singular_values]
    return np.array(values)


def _mode(r: float, gamma: float, layers: int, s2: float) -> float:
    """The largest root of (r − s²t) t^{1−2/K} = γ if it beats t = 0, else 0."""
    _check(layers, 1.0)
    if gamma <= 0:
        return r / s2
    if layers == 2:
        return max(r - gamma, 0.0) / s2
    limits = thresholds(r, s2, layers)
    if gamma >= limits.gamma_c:
        return 0.0
    power = 1 - 2 / layers
    return float(brentq(lambda t: (r - s2 * t) * t**power - gamma, limits.jump, r / s2))


class _Ridge:
    """The ridge path β(κ) and what it costs, in the eigenbasis of Σ_x."""

    def __init__(self, cross: Array, Sigma_x: Array, layers: int, noise: float) -> None:
        values, self.basis = np.linalg.eigh(Sigma_x)
        if not values[0] > 0:
            raise ValueError("Sigma_x is singular: drop the input directions without variance")
        self.a, self.b, self.K = noise * values, self.basis.T @ cross, layers
        self.kappas = np.concatenate([[0.0], np.geomspace(1e-8, 1e8, 1601) * self.a[-1]])

    def beta(self, kappa: float) -> Array:
        return np.asarray(self.basis @ (self.b / (self.a + kappa)))

    def gamma(self, kappa: float) -> float:
        return kappa * float(np.linalg.norm(self.b / (self.a + kappa))) ** (2 - 2 / self.K)

    def worth(self, kappa: float) -> float:
        """The γ at which β(κ) and zero cost the same."""
        beta = self.b / (self.a + kappa)
        size = float(np.linalg.norm(beta)) ** (2 / self.K)
        return float(2 * beta @ self.b - self.a @ beta**2) / (self.K * size) if size > 0 else 0.0

    def loss(self, beta: Array, gamma: float) -> float:
        """The objective less E y²."""
        turned = self.basis.T @ beta
        decay = self.K * gamma * float(np.linalg.norm(beta)) ** (2 / self.K)
        return float(self.a @ turned**2 - 2 * turned @ self.b) + decay


def _peak(f: Callable[[float], float], grid: Array) -> tuple[float, float]:
    """(argmax, max) of f over the grid, refined between the neighbours of the best point."""
    best = int(np.argmax([f(x) for x in grid]))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    found = minimize_scalar(lambda x: -f(x), bounds=around, method="bounded", options={"xatol": 0})
    return float(found.x), -float(found.fun)


def _check(layers: int, noise: float) -> None:
    if layers < 2:
        raise ValueError(f"layers={layers}: one layer is ridge regression and never collapses")
    if noise < 1:
        raise ValueError(f"noise={noise}: the factor Π(1 + σ²/d) is at least 1")
