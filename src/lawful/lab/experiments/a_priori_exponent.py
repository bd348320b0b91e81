"""a-priori-exponent: learning curves and their exponents from data statistics, nothing fitted.

Worlds, each kernel regression without noise on n samples, mean squared error on fresh ones:

    power law    Gaussian features, λ_i ~ i^−a, v_i² ~ i^−b, three pairs (a, b); n = 32 … 512, five
                 seeds. Foreseen: n^−min(b−1, 2a).
    Hermite      Gaussian data in 24 dimensions, covariance ~ i^−1, a target of five Hermite modes
                 up to third order, Gaussian kernel of width 2; n = 30 … 1000, three seeds. Foreseen
                 from the covariance and the five coefficients, without a kernel matrix.
    digits       even against odd. Exponents a, b of a Laplace kernel on one half of the digits,
                 over the inner ranks 10 … 100, foretell the curve on the other half, n = 25 … 400.

Hypothesis. `theory/kernel_eigenframework.py` (J. Simon et al., arXiv 2110.03922) and
`theory/hermite_curves.py` (D. Karkada et al., arXiv 2510.14878).

Bands. Power law: the measured exponent within ±0.2 of the foreseen one, from trial runs (theory's
own curve is steeper than its limit by 0.04, 0.11 and 0.07 at these n), the error at n = 512 within
10 %. Hermite: eigenvalues within 8 % in the median, as published with the derivation; error within
30 % at n = 30 and 100. From n = 300 on it is too optimistic (0.045 against 0.073, at n = 1000
tenfold): the target is not quite in the eigenfunctions it is thought to be in.
That is reported without a band; so are the digits, whose spectrum is no clean power law (0.74
foreseen, 0.52 measured). About 15 seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ...estimators.log_slope import log_slope
from ...record import Run, RunWriter, open_run
from ...theory import hermite_curves, kernel_eigenframework
from ..beside import beside
from ..experiment import Band, Experiment, Settings, last, setting
from ..job import Job
from ..world import averaged, paced, ratio
from .kernel_generalization import digits, laplace

Array = NDArray[np.float64]

PAIRS = ((1.5, 1.8), (1.2, 2.5), (1.5, 5.0))
SIZES = (32, 64, 128, 256, 512)
TRIAL = (30, 100, 300, 1000)
DIGITS = (25, 50, 100, 200, 400)
TARGET: dict[hermite_curves.Index, float] = {
    (0,): 0.6, (1,): 0.4, (0, 0): 0.4, (0, 1): 0.4, (0, 1, 2): 0.4
}  # fmt: skip


@dataclass(frozen=True)
class APrioriExponent(Settings):
    device: str = setting("cpu", "Always a CPU: these worlds are small.", ("cpu", "auto"))
    modes: int = setting(5000, "Features of the power-law worlds.")
    seeds: int = setting(5, "Training sets at each n, power law.")
    trials: int = setting(3, "Training sets at each n, Hermite.")
    inputs: int = setting(24, "Dimension of the Hermite world.")
    width: float = setting(2.0, "Of the Gaussian kernel; E‖x‖² = 1.")
    pool: int = setting(1500, "Samples from which the true eigenvalues are taken.")


def train(settings: APrioriExponent, job: Job) -> Run:
    with job.world() as writer:
        for a, b in PAIRS:
            power_law(a, b, settings, job, writer)
        hermite(settings, job, writer)
        natural(settings, job, writer)
    return open_run(job.out)


def curve(
    layer: str, sizes: tuple[int, ...], errors: Array, said: list[float], exponent: float,
    writer: RunWriter,
) -> None:  # fmt: skip
    """Errors (seeds, sizes) beside theory at each n, and the exponent beside the one foreseen."""
    for j, n in enumerate(sizes):
        predicted = said[j] if said else None
        writer.write(n, averaged(n, layer, "kernel_test_error", errors[:, j], predicted))
    slope = log_slope(np.array(sizes, float), errors)
    writer.write(
        sizes[-1],
        beside(sizes[-1], layer, "curve_exponent", -slope.slope, exponent,
               stderr=slope.stderr, n=slope.n),
    )  # fmt: skip


# -- features with power laws --------------------------------------------------------------------


def power_law(a: float, b: float, s: APrioriExponent, job: Job, writer: RunWriter) -> None:
    i = np.arange(1, s.modes + 1.0)
    lam, v = i**-a, i ** (-b / 2)
    known, name = kernel_eigenframework.Eigenframework(lam, v**2), f"a = {a:g}, b = {b:g}"
    errors = np.zeros((s.seeds, len(SIZES)))
    for k in paced(s.seeds, name, job.progress):
        rng = np.random.default_rng([job.seed, k])
        for j, n in enumerate(SIZES):
            z, w = rng.normal(size=(n, s.modes)) * np.sqrt(lam), v / np.sqrt(lam)
            alpha = np.linalg.solve(z @ z.T, z @ w)
            errors[k, j] = float(lam @ (z.T @ alpha - w) ** 2)
    said = [known.at(n).test for n in SIZES]
    curve(name, SIZES, errors, said, kernel_eigenframework.exponent(a, b), writer)


# -- Gaussian data, a kernel on them -------------------------------------------------------------


def hermite(s: APrioriExponent, job: Job, writer: RunWriter) -> None:
    gamma = 1 / np.arange(1.0, s.inputs + 1)
    gamma /= gamma.sum()
    rng, name, ridge = np.random.default_rng(job.seed), "Hermite", 1e-6
    theory = hermite_curves.a_priori(gamma, s.width, TARGET, modes=20_000)
    z = rng.normal(size=(s.pool, s.inputs))
    seen = np.linalg.eigvalsh(gaussian(z * np.sqrt(gamma), z * np.sqrt(gamma), s.width))[::-1]
    top = min(200, s.pool // 7)
    for rank in np.unique(np.geomspace(1, top, 20).astype(int)):
        row = averaged(1, f"λ_{rank}", "singular_value", seen[rank - 1] / s.pool,
                       float(theory.eigenvalues[rank - 1]))  # fmt: skip
        writer.write(1, row)
    off = float(np.median(np.abs(seen[:top] / s.pool / theory.eigenvalues[:top] - 1)))
    writer.write(1, averaged(1, name, "spectrum_error", off))
    dimension = hermite_curves.effective_dimension(gamma)
    writer.write(1, averaged(1, name, "effective_dimension", dimension))
    errors = np.zeros((s.trials, len(TRIAL)))
    for k in paced(s.trials, name, job.progress):
        fresh = rng.normal(size=(1500, s.inputs))
        for j, n in enumerate(TRIAL):
            z = rng.normal(size=(n, s.inputs))
            x, x_new = z * np.sqrt(gamma), fresh * np.sqrt(gamma)
            K = gaussian(x, x, s.width) + ridge * np.eye(n)
            fit = gaussian(x_new, x, s.width) @ np.linalg.solve(K, target(z))
            errors[k, j] = float(np.mean((fit - target(fresh)) ** 2))
    said = [theory.at(n, ridge).test for n in TRIAL]
    foreseen = -log_slope(np.array(TRIAL, float), np.array(said)).slope
    curve(name, TRIAL, errors, said, foreseen, writer)


def target(z: Array) -> Array:
    """Σ v_αh_α(z)."""
    return np.asarray(hermite_curves.features(z, tuple(TARGET)) @ np.array([*TARGET.values()]))


def gaussian(x: Array, y: Array, width: float) -> Array:
    squares = np.sum(x**2, 1)[:, None] + np.sum(y**2, 1) - 2 * x @ y.T
    return np.asarray(np.exp(-squares / (2 * width**2)))


# -- digits --------------------------------------------------------------------------------------


def natural(s: APrioriExponent, job: Job, writer: RunWriter) -> None:
    """a and b from one half, the curve on the other."""
    x, y = digits(1797)
    half = len(x) // 2
    own = kernel_eigenframework.from_pool(laplace(x[:half]), y[:half])
    ranks = np.arange(10, 100)
    lam = own.eigenvalues[ranks - 1]
    tail = np.cumsum(own.coefficients[::-1])[::-1][ranks - 1]  # Σ_{j ≥ i} v_j² ~ i^−(b−1)
    a = -log_slope(ranks.astype(float), lam).slope
    b = 1 - log_slope(ranks.astype(float), tail).slope
    K, target_, errors = laplace(x[half:]), y[half:], np.zeros((5, len(DIGITS)))
    for k in paced(5, "digits", job.progress):
        order = np.random.default_rng([job.seed, k]).permutation(len(K))
        for j, n in enumerate(DIGITS):
            chosen, rest = order[:n], order[n:]
            A = K[np.ix_(chosen, chosen)] + 1e-6 * np.eye(n)
            fit = K[np.ix_(rest, chosen)] @ np.linalg.solve(A, target_[chosen])
            errors[k, j] = float(np.mean((fit - target_[rest]) ** 2))
    said = [own.at(n, 1e-6).held_out for n in DIGITS]
    curve("digits", DIGITS, errors, said, kernel_eigenframework.exponent(a, b), writer)


def gap(layer: str) -> Callable[[Run], float]:
    """Measured minus foreseen exponent."""
    return lambda run: (
        last("curve_exponent", layer, run) - last("curve_exponent_predicted", layer, run)
    )


def at_size(n: int) -> Callable[[Run], float]:
    """Measured over foreseen error of the Hermite world at n."""

    def read(run: Run) -> float:
        seen, said = (
            run.series(q, "Hermite").value[n]
            for q in ("kernel_test_error", "kernel_test_error_predicted")
        )
        return float(seen / said)

    return read


FULL = {"modes": 5000, "seeds": 5, "trials": 3, "inputs": 24, "width": 2.0}

experiment = Experiment(
    name="a-priori-exponent",
    statement="Data statistics foretell learning curves and their exponents before any training.",
    settings=APrioriExponent,
    train=train,
    bands=(
        *(
            Band(f"exponent, a = {a:g}, b = {b:g}", -0.2, 0.2, gap(f"a = {a:g}, b = {b:g}"), FULL)
            for a, b in PAIRS
        ),
        Band(
            "error at n = 512, power law", 0.9, 1.1,
            ratio("kernel_test_error", "a = 1.5, b = 1.8"), FULL,
        ),
        Band("Hermite eigenvalues", 0, 0.08, partial(last, "spectrum_error", "Hermite"), FULL),
        Band("Hermite, n = 30", 0.7, 1.3, at_size(30), FULL),
        Band("Hermite, n = 100", 0.7, 1.3, at_size(100), FULL),
    ),
)  # fmt: skip
