"""Direction 2: natural data. Foretell a learning curve from summary statistics alone.

World. Kernel regression (Gaussian kernel, width 2 on data scaled to unit trace, ridge 10⁻³) on
`gaussian`: x ~ N(0, γ), 24 directions γ_i ∝ i^−1.2, a target of five Hermite modes up to the third;
`digits`: odd against even of 1797 handwritten digits. Mean squared error on samples not seen, mean
over 10 draws of the training set.

Told: covariance eigenvalues and the target's Hermite coefficients, no sample. To beat: the Hermite
eigenstructure (`theory.hermite_curves`) with the eigenframework.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from ..lab.datasets import flatten, load
from ..theory.hermite_curves import Index, a_priori, features, spectrum, summary
from .challenge import Array, Case, Challenge, log_rmse

WIDTH, RIDGE, DRAWS, MODES, SIZES = 2.0, 1e-3, 10, 400, (30, 100, 300)


@dataclass(frozen=True)
class Told:
    """γ falling, sum 1; {α: v_α}; the power of the target in no listed mode; kernel, ridge, n."""

    gamma: Array
    target: dict[Index, float]
    rest: float
    width: float
    ridge: float
    sizes: tuple[int, ...]


def cases(seed: int) -> list[Case]:
    rng = np.random.default_rng(seed)
    gamma: Array = np.arange(1, 25, dtype=np.float64) ** -1.2
    gamma /= gamma.sum()
    z = rng.normal(size=(3000, 24))
    modes: dict[Index, float] = {(0,): 0.6, (1,): 0.4, (0, 1): 0.5, (2, 2): 0.35, (0, 1, 2): 0.33}
    y = features(z, tuple(modes)) @ np.array(list(modes.values()))
    told = Told(gamma, modes, 0.0, WIDTH, RIDGE, SIZES)
    x = z * np.sqrt(gamma)
    data = flatten(load("digits"))
    raw = np.concatenate([data.x_train, data.x_test]).astype(float)
    labels = np.concatenate([data.y_train, data.y_test])
    return [
        Case("gaussian", told, partial(measure, x, y, seed)),
        real(raw, 2.0 * (labels % 2) - 1, seed),
    ]


def real(x: Array, y: Array, seed: int) -> Case:
    """Pictures, told by their covariance and the coefficients of the 400 leading modes."""
    gamma, directions, mean = summary(x)
    centred = x - mean
    indices = spectrum(gamma, WIDTH, MODES).indices
    H = features(centred @ directions, indices)
    # Products of real components are not orthonormal: least squares, not an inner product.
    v = np.linalg.lstsq(H, y, rcond=1e-6)[0]
    told = Told(gamma, dict(zip(indices, v, strict=True)), float(np.mean((y - H @ v) ** 2)),
                WIDTH, RIDGE, SIZES)  # fmt: skip
    scaled = centred / np.sqrt(centred.var(0).sum())
    return Case("digits", told, partial(measure, scaled, y, seed))


def measure(x: Array, y: Array, seed: int) -> tuple[Array, Array]:
    """Errors at the sizes, mean and standard error over the draws."""
    rng = np.random.default_rng([seed, 1])
    found = np.empty((DRAWS, len(SIZES)))
    square = (x**2).sum(1)
    for k in range(DRAWS):
        order = rng.permutation(len(x))
        for j, n in enumerate(SIZES):
            few, rest = order[:n], order[max(SIZES) : max(SIZES) + 1000]
            far = square[:, None] + square[few] - 2 * x @ x[few].T
            K = np.exp(-np.maximum(far, 0) / (2 * WIDTH**2))
            f = K[rest] @ np.linalg.solve(K[few] + RIDGE * np.eye(n), y[few])
            found[k, j] = ((f - y[rest]) ** 2).mean()
    return found.mean(0), found.std(0, ddof=1) / DRAWS**0.5


def hermite(told: Told) -> Array:
    theory = a_priori(told.gamma, told.width, told.target, modes=4000, noise=told.rest)
    return np.array([theory.at(n, told.ridge).test for n in told.sizes])


challenge = Challenge(
    name="learning-curve",
    direction=2,
    question="Can the learning curve on real data be foretold from summary statistics alone?",
    told="gamma, target {Hermite mode: coefficient}, rest, width, ridge, sizes",
    wanted="the test error at each of the sizes",
    scored="root mean square of ln(predicted/measured)",
    cases=cases,
    score=log_rmse,
    baseline=("Hermite eigenstructure", hermite),
)
