"""Kernel ridge regression: what it will generalise to, from the kernel's spectrum on the data.

Statement. Predictor K(x, X)(K + δI)⁻¹y on n samples; the kernel's eigenvalues λ_i with respect to
the data's distribution, target f = Σ v_iφ_i, label noise σ². With κ the solution of

    Σ_i λ_i/(λ_i + κ) + δ/κ = n,         L_i = λ_i/(λ_i + κ)     (learnabilities),

    test  = E_0 [Σ (1 − L_i)²v_i² + σ²],    E_0 = n/(n − Σ L_i²)     (on noisy labels)
    train = (δ/nκ)² test,                   learnability = Σ L_iv_i²/Σ v_i².

Without ridge Σ L_i = n: samples are shared out among modes. If λ_i ~ i^−a, v_i² ~ i^−b, without
noise or ridge, test ~ n^−min(b−1, 2a).

k random features. With z = Σ λ/(λ+g), q = Σ (λ/(λ+g))²:  n = z + δ/κ,  k = z + kκ/g  and

    test = [Σ (g/(λ+g) − κλ/(λ+g)² · k/(k−q)) v² + σ²] / (1 − (q(k−2z) + z²)/(n(k−q))).

κ by two estimators: the equation above, from eigenvalues; and 1/Tr(K + δI)⁻¹ on one training set.
GCV, train/((δ/n)Tr(K + δI)⁻¹)², estimates test from that set alone; at tiny ridge it breaks.

Finite pool. Eigenvalues and v_i from a pool of P samples describe the pool, training samples and
all: test = (n/P)·train + (1 − n/P)·held-out. Truncated tails need P ≥ 10n.

Regime: eigenfunctions that behave like independent Gaussians, a fixed kernel, no heavy tails.

Source: J. Simon et al., arXiv 2110.03922; A. Canatar et al., arXiv 2006.13198; random features,
J. Simon et al., arXiv 2311.14646; pool factor derived here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, eigh
from scipy.optimize import brentq

Array = NDArray[np.float64]

RESOLVED = 1e-13
"""Eigenvalues below this share of the largest are round-off and counted as zero; so are those no
larger than the most negative one, which has no other cause in a kernel."""


@dataclass(frozen=True)
class Eigenframework:
    """A kernel and a target, seen through the data.

    eigenvalues:  λ_i (m,), falling, of the kernel under the data's distribution.
    coefficients: v_i² (m,), summed over outputs.
    noise:        σ², label noise per sample (summed over outputs).
    unseen:       power of the target outside all eigenfunctions with λ_i > 0.
    pool:         P where they were estimated from that many samples; 0: the distribution itself.
    """

    eigenvalues: Array
    coefficients: Array
    noise: float = 0.0
    unseen: float = 0.0
    pool: int = 0

    def __post_init__(self) -> None:
        for name in ("eigenvalues", "coefficients"):
            values = getattr(self, name)
            bad = int(np.sum(~(np.isfinite(values) & (values >= 0))))
            if bad:
                raise ValueError(f"{name} has {bad} of {len(values)} values that are not ≥ 0")
        if len(self.eigenvalues) != len(self.coefficients):
            m, k = len(self.eigenvalues), len(self.coefficients)
            raise ValueError(f"{m} eigenvalues, {k} coefficients: give one v² for each λ")

    def at(self, n: int, ridge: float = 0.0) -> Generalisation:
        """Everything at n samples and ridge δ. O(m) a root-finding step.

        Warns with the rank where n reaches it without a ridge: there is nothing left to share out;
        and with the size of the pool where n reaches that: its spectrum has no tail for so many.
        """
        if self.pool and n >= self.pool:
            warnings.warn(
                f"n={n} samples from a pool of {self.pool}: nothing is held out, and the spectrum "
                "has no tail for so many; the pool should have 10n",
                RuntimeWarning,
                stacklevel=2,
            )
        kap = kappa(self.eigenvalues, n, ridge)
        lam = self.eigenvalues
        L = lam / (lam + kap) if kap > 0 else (lam > 0).astype(float)
        room = n - float(np.sum(L**2))
        if room <= 1e-9 * n:
            warnings.warn(
                f"n={n} samples meet a kernel of rank {int(np.sum(lam > 0))} without a ridge: the "
                "error diverges there; add a ridge",
                RuntimeWarning,
                stacklevel=2,
            )
            return Generalisation(n, kap, L, math.inf, math.inf, math.nan, math.nan, self.pool)
        left = float(np.sum((1 - L) ** 2 * self.coefficients)) + self.unseen
        E0 = n / room
        test = E0 * (left + self.noise)
        train = (ridge / (n * kap)) ** 2 * test if kap > 0 else test * (room / n) ** 2
        power = float(np.sum(self.coefficients)) + self.unseen
        learned = float(np.sum(L * self.coefficients)) / power if power > 0 else math.nan
        return Generalisation(n, kap, L, E0, test, train, learned, self.pool)


@dataclass(frozen=True)
class Generalisation:
    """n; κ; learnabilities L_i; overfitting E_0; test and train error; learnability of the target.

    test: mean squared error on noisy labels, over the pool where there is one.
    """

    n: int
    kappa: float
    learnabilities: Array
    overfitting: float
    test: float
    train: float
    learnability: float
    pool: int = 0

    @property
    def held_out(self) -> float:
        """Error on the pool's samples that were not trained on; `test` without a pool.

        NaN where nothing is left of the pool.
        """
        if not self.pool:
            return self.test
        if self.n >= self.pool:
            return math.nan
        return (self.pool * self.test - self.n * self.train) / (self.pool - self.n)


def from_pool(K: Array, y: Array, noise: float = 0.0) -> Eigenframework:
    """The framework of a pool: one eigendecomposition of K (P, P), y (P,) or (P, outputs).

    Samples whose target is not finite are left out, and eigenvalues that are round-off or negative
    are set to zero; a warning says how many. Raises ValueError for shapes that do not fit, for a K
    that is not finite, not symmetric or without a positive eigenvalue, and without any target.
    """
    K, y = np.asarray(K, float), np.asarray(y, float)
    if K.ndim != 2 or K.shape[0] != K.shape[1] or len(y) != len(K):
        raise ValueError(f"K {K.shape}, y {y.shape}: give a square K and one target a row of it")
    y = y.reshape(len(y), -1)
    good = np.isfinite(y).all(1)
    if not good.all():
        lost = int(np.sum(~good))
        _warn(f"{lost} of {len(y)} targets are not finite: those samples are left out")
        K, y = K[np.ix_(good, good)], y[good]
    if not len(y):
        raise ValueError("y has no finite target: nothing to generalise to")
    if not np.isfinite(K).all():
        raise ValueError(f"K has {int(np.sum(~np.isfinite(K)))} entries that are not finite")
    apart, size = float(np.abs(K - K.T).max()), float(np.abs(K).max())
    if apart > 1e-6 * size:
        raise ValueError(f"K differs from its transpose by {apart / size:.1g} of its largest entry")
    P = len(K)
    values, vectors = eigh(K, driver="evd")
    if values[-1] <= 0:
        raise ValueError(f"the largest eigenvalue of K is {values[-1]:.2g}: it must be positive")
    return _reduced(values[::-1] / P, (vectors.T @ y)[::-1] ** 2 / P, noise, P)


def _reduced(values: Array, power: Array, noise: float, pool: int) -> Eigenframework:
    """Round-off taken out of a spectrum: it would count as modes."""
    v2 = power.sum(1)
    low = float(values[-1] / values[0])
    share = max(RESOLVED, -low)
    dead = values <= share * values[0]
    if dead.any():
        _warn(
            f"K is singular: {int(dead.sum())} of {pool} eigenvalues are below {share:.1g} of the "
            f"largest (the least is {low:.1e} of it); counted as zero"
        )
    lam = np.where(dead, 0.0, values)
    return Eigenframework(lam[~dead], v2[~dead], noise, float(v2[dead].sum()), pool)


def kappa(eigenvalues: Array, n: float, ridge: float = 0.0) -> float:
    """κ of Σ λ/(λ+κ) + δ/κ = n; 0 where n ≥ rank without a ridge.

    >>> round(kappa(np.ones(100), 20), 9)  # m/(1 + κ) = n
    4.0
    """
    lam = np.asarray(eigenvalues, float)
    if not (n > 0 and ridge >= 0) or not np.isfinite(lam).all() or (lam < 0).any():
        raise ValueError(f"n={n}, ridge={ridge}: give n > 0, ridge ≥ 0 and eigenvalues ≥ 0")
    lam = lam[lam > 0]
    if ridge == 0 and n >= len(lam):
        return 0.0
    high = (float(lam.sum()) + ridge) / n  # λ/(λ+κ) < λ/κ

    def excess(log: float) -> float:
        k = math.exp(log)
        return float(np.sum(lam / (lam + k))) + ridge / k - n

    low = math.log(high) - 1
    while excess(low) < 0:
        low -= 4 + 0.5 * (math.log(high) - low)
    return math.exp(brentq(excess, low, math.log(high) + 1e-9, xtol=1e-13, rtol=1e-14))


def kappa_of_trace(K: Array, ridge: float) -> float:
    """1/Tr(K + δI)⁻¹ of one training set, K (n, n): κ without eigenvalues of the population."""
    return 1 / float(np.trace(_inverse(K, ridge)))


def gcv(K: Array, y: Array, ridge: float) -> float:
    """train/((δ/n) Tr(K + δI)⁻¹)² = n‖(K + δI)⁻¹y‖²/Tr²: test, from the training set alone."""
    bad = int(np.sum(~np.isfinite(y)))
    if bad:
        raise ValueError(f"y has {bad} of {len(y)} targets that are not finite: leave them out")
    inverse = _inverse(K, ridge)
    return float(len(K) * np.sum((inverse @ y) ** 2) / np.trace(inverse) ** 2)


def _inverse(K: Array, ridge: float) -> Array:
    """(K + δI)⁻¹ by Cholesky; of a singular kernel the pseudo-inverse, with a warning."""
    A = np.asarray(K, float) + ridge * np.eye(len(K))
    if not np.isfinite(A).all():
        raise ValueError(f"K has {int(np.sum(~np.isfinite(A)))} entries that are not finite")
    try:
        inverse = np.asarray(cho_solve(cho_factor(A), np.eye(len(A))))
    except np.linalg.LinAlgError:
        values = np.linalg.eigvalsh(A)
        rank = int(np.sum(values > RESOLVED * values[-1]))
        _warn(f"K + δI is singular (rank {rank} of {len(A)}): its pseudo-inverse is used")
        inverse = np.linalg.pinv(A, rcond=RESOLVED, hermitian=True)
    return inverse


def random_features(
    eigenvalues: Array, coefficients: Array, n: int, k: int, ridge: float, noise: float = 0.0
) -> float:
    """Test error of ridge regression on k Gaussian features of the kernel; δ = ridge > 0.

    λ, v² as in `Eigenframework`. For k → ∞ it is the kernel's own.
    """
    lam, v2 = (np.asarray(a, float) for a in (eigenvalues, coefficients))
    Eigenframework(lam, v2)  # refuses what is no spectrum
    if not (ridge > 0 and n > 0 and k > 0 and (lam > 0).any()):
        raise ValueError(
            f"n={n}, k={k}, ridge={ridge}: give n, k > 0, a positive eigenvalue and a ridge > 0 "
            "(1e-9 of the largest eigenvalue will do)"
        )

    def z(g: float) -> float:
        return float(np.sum(lam / (lam + g)))

    def kap(g: float) -> float:
        return g * (1 - z(g) / k)

    high = math.log(float(lam.sum()) + ridge) + 2
    low = math.log(float(lam[lam > 0].min())) - 30
    if z(math.exp(low)) >= k:  # κ must be positive: z < k
        low = brentq(lambda x: z(math.exp(x)) - k, low, high + 40, xtol=1e-15) * (1 + 1e-15) + 1e-14
    top = high
    while z(math.exp(top)) + ridge / kap(math.exp(top)) > n:
        top += 2

    def excess(x: float) -> float:
        g = math.exp(x)
        return math.log(z(g) + ridge / max(kap(g), 1e-300)) - math.log(n)

    g = math.exp(brentq(excess, low, top, xtol=1e-14))
    q, zz, kp = float(np.sum((lam / (lam + g)) ** 2)), z(g), kap(g)
    left = g / (lam + g) - kp * lam / (lam + g) ** 2 * k / (k - q)
    return (float(left @ v2) + noise) / (1 - (q * (k - 2 * zz) + zz**2) / (n * (k - q)))


def exponent(a: float, b: float) -> float:
    """−d ln test/d ln n for λ ~ i^−a, v² ~ i^−b: min(b − 1, 2a).

    >>> exponent(1.5, 1.8), exponent(1.2, 4.0)
    (0.8, 2.4)
    """
    return min(b - 1, 2 * a)


def learning_curve(
    theory: Eigenframework, sizes: Sequence[int], ridge: float = 0.0
) -> list[Generalisation]:
    """`theory.at` for every n: one eigendecomposition serves them all."""
    return [theory.at(n, ridge) for n in sizes]


def _warn(sentence: str) -> None:
    warnings.warn(sentence, RuntimeWarning, stacklevel=3)
