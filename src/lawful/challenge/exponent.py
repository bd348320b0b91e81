"""Direction 7: exponents a priori. Data first, then the exponent, then the measurement; no tuning.

World. Ridgeless linear regression, noiseless, in 2000 Gaussian features of covariance i^−a and
target coefficients w with w_i²·i^−a = i^−b; mean squared error at n = 20 … 160, 20 draws; the
exponent is the slope in log–log. Three (a, b): (1.5, 1.8), (1.3, 2.6), (1.2, 4).

Told: 4000 samples x and targets y. To beat: a, and b − 1 from the part of y that
the leading directions leave unexplained, over ranks 3 to 60; then n^−min(b−1, 2a).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ..estimators.data_spectra import split_half_spectrum
from ..estimators.power_law import PowerLawWarning, power_law
from ..theory.kernel_eigenframework import exponent
from .challenge import Array, Case, Challenge, distance

FEATURES, SAMPLES, DRAWS, SIZES = 2000, 4000, 20, (20, 34, 57, 96, 160)
WORLDS = ((1.5, 1.8), (1.3, 2.6), (1.2, 4.0))


@dataclass(frozen=True)
class Told:
    """x (samples, 200): the leading features in random order; y (samples,); sizes."""

    x: Array
    y: Array
    sizes: tuple[int, ...]


def cases(seed: int) -> list[Case]:
    found = []
    for k, (a, b) in enumerate(WORLDS):
        rng = np.random.default_rng([seed, k])
        i = np.arange(1, FEATURES + 1, dtype=np.float64)
        scale: Array = i ** (-a / 2)
        w: Array = i ** ((a - b) / 2)
        x = rng.normal(size=(SAMPLES, FEATURES)) * scale
        hidden = rng.permutation(200)
        told = Told(x[:, :200][:, hidden], x @ w, SIZES)
        run = partial(measure, scale, w, [seed, k, 1])
        found.append(Case(f"a = {a:g}, b = {b:g}", told, run))
    return found


def measure(scale: Array, w: Array, seed: list[int]) -> tuple[Array, Array]:
    """The exponent of the mean curve, its error from the draws (delete-one jackknife)."""
    rng = np.random.default_rng(seed)
    curves = np.empty((DRAWS, len(SIZES)))
    for k in range(DRAWS):
        x = rng.normal(size=(max(SIZES), len(w))) * scale
        for j, n in enumerate(SIZES):
            few = x[:n]
            found = few.T @ np.linalg.solve(few @ few.T, few @ w)
            curves[k, j] = (scale**2 * (found - w) ** 2).sum()

    def slope(mean: Array) -> float:
        return float(-np.polyfit(np.log(SIZES), np.log(mean), 1)[0])

    left_out = [slope(np.delete(curves, k, 0).mean(0)) for k in range(DRAWS)]
    error = np.sqrt((DRAWS - 1) * np.var(left_out))
    return np.array([slope(curves.mean(0))]), np.array([error])


def from_spectra(told: Told) -> float:
    """a from the split-half spectrum; b − 1 from what the leading directions leave unexplained."""
    x = torch.as_tensor(told.x)
    variance = split_half_spectrum(x).mean(0).numpy()
    directions = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh
    score = (x @ directions.T).numpy()
    score /= np.linalg.norm(score, axis=0)
    ranks = np.arange(1, len(variance) + 1)
    left = (told.y**2).sum() - np.cumsum((score.T @ told.y) ** 2)
    left /= len(told.y) - ranks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PowerLawWarning)  # a noisy target bends; it is scored
        a, beyond = (power_law(ranks, v, (3, 60)).exponent for v in (variance, left))
    return exponent(a, beyond + 1)


challenge = Challenge(
    name="exponent",
    direction=7,
    question="Can the exponent of a learning curve be read off the data before any training?",
    told="x, y, sizes",
    wanted="the exponent: error ~ n^−exponent",
    scored="root mean square of predicted − measured",
    cases=cases,
    score=distance,
    baseline=("n^−min(b−1, 2a)", from_spectra),
)
