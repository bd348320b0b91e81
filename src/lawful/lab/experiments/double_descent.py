"""double-descent: least squares at p parameters and n samples, from p < n through p = n to p ≫ n.

World. y = xᵀβ + ε, x ~ N(0, I_p), ‖β‖² = 1, Var ε = ¼, n = 100; the solution of least norm
(`lstsq`, float64) and its excess risk ‖β̂ − β‖², over 1600 draws, p/n = ½, 1.3, 2, 10. Controls:
p/n = 0.95 (near the peak), and p/n = 2 with features of unequal scale, λ_i ~ 1/i, where the
isotropic formula must fail and the eigenframework with ridge 0 must not.

Hypothesis (T. Hastie et al., arXiv 1903.08560; `theory/double_descent.py`):
risk = σ²p/(n − p − 1) for p < n, r²(1 − n/p) + σ²n/(p − n − 1) for p > n.

Bands. Within 3 % away from p = n, as published with the derivation; unequal scales: isotropic
formula outside 10 %, eigenframework within 5 %. About 15 seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ...record import Run, RunWriter, open_run
from ...theory.double_descent import excess_risk
from ...theory.kernel_eigenframework import Eigenframework
from ..experiment import Band, Experiment, Settings, last, setting
from ..job import Job
from ..world import averaged, paced, ratio

Array = NDArray[np.float64]

RATIOS = (0.5, 0.95, 1.3, 2.0, 10.0)


@dataclass(frozen=True)
class DoubleDescent(Settings):
    device: str = setting("cpu", "Always a CPU: these worlds are small.", ("cpu", "auto"))
    samples: int = setting(100, "n.")
    noise: float = setting(0.25, "Variance of the labels' noise.")
    draws: int = setting(1600, "Draws of data and target.")


def train(settings: DoubleDescent, job: Job) -> Run:
    n, noise = settings.samples, settings.noise
    with job.world(laws=("double_descent",)) as writer:
        for i, g in enumerate(RATIOS):
            p = round(g * n)
            risks = measure(np.ones(p), settings, job, f"p/n = {g:g}", i)
            said = excess_risk(n, p, signal=1.0, noise=noise)
            record(f"p/n = {g:g}", risks, said, g, writer)
        p = 2 * n
        lam = 1 / np.arange(1.0, p + 1)
        lam *= p / lam.sum()
        risks = measure(lam, settings, job, "unequal scales", len(RATIOS))
        spectral = Eigenframework(lam, lam / p, noise).at(n).test - noise
        flat = excess_risk(n, p, signal=1.0, noise=noise)
        for layer, said in (("unequal, as if equal", flat), ("unequal, eigenframework", spectral)):
            record(layer, risks, said, 2.0, writer)
    return open_run(job.out)


def record(layer: str, risks: Array, said: float, g: float, writer: RunWriter) -> None:
    """Mean risk over draws beside theory; the step is their number."""
    draws = len(risks)
    writer.write(draws, averaged(draws, layer, "excess_risk", risks, said))
    writer.write(draws, averaged(draws, layer, "parameter_ratio", g))


def measure(lam: Array, s: DoubleDescent, job: Job, title: str, stream: int) -> Array:
    """Excess risk Σλ_i(β̂ − β)_i² of every draw, x_i ~ N(0, λ_i), β random with ‖β‖² = 1."""
    rng, found = np.random.default_rng([job.seed, stream]), []
    for _ in paced(s.draws, title, job.progress):
        beta = rng.normal(size=len(lam))
        beta /= np.linalg.norm(beta)
        x = rng.normal(size=(s.samples, len(lam))) * np.sqrt(lam)
        y = x @ beta + np.sqrt(s.noise) * rng.normal(size=s.samples)
        fit = least_norm(x, y)
        found.append(float(lam @ (fit - beta) ** 2))
    return np.array(found)


def least_norm(x: Array, y: Array) -> Array:
    """The solution of least norm; for p > n by xᵀ(xxᵀ)⁻¹y, which is the same and cheaper."""
    if x.shape[1] > x.shape[0]:
        return np.asarray(x.T @ np.linalg.solve(x @ x.T, y))
    return np.asarray(np.linalg.lstsq(x, y, rcond=None)[0])


FULL = {"samples": 100, "draws": 1600}
UNEQUAL = "unequal, as if equal", "unequal, eigenframework"

experiment = Experiment(
    name="double-descent",
    statement="Risk explodes where parameters equal samples and falls again beyond, as computed.",
    settings=DoubleDescent,
    train=train,
    bands=(
        *(
            Band(f"risk, p/n = {g:g}", 0.97, 1.03, ratio("excess_risk", f"p/n = {g:g}"), FULL)
            for g in (0.5, 1.3, 2.0, 10.0)
        ),
        Band("peak", 3, 10, partial(last, "excess_risk", "p/n = 0.95"), FULL),
        Band("unequal scales, isotropic formula", 0, 0.9, ratio("excess_risk", UNEQUAL[0]), FULL),
        Band("unequal scales, eigenframework", 0.95, 1.05, ratio("excess_risk", UNEQUAL[1]), FULL),
    ),
)
