"""Standard errors from the samples themselves: jackknife, infinitesimal jackknife, intervals.

For a smooth statistic θ of independent clusters k = 1…C the influence ψ_k is its derivative
with respect to the weight of cluster k, and

    Var θ̂ ≈ (1/C) Var_k ψ_k                    (Jaeckel 1972; Efron, SIAM 1982, ch. 6).

It is the limit of the delete-block jackknife for small blocks and costs one pass. When only m
of the T rows of a cluster were kept, the spread of cluster means is too wide by the sampling
of rows; a one-way analysis of variance (σ_b² between clusters, σ_w² within) takes that out:

    Var θ̂ = (σ_b² + σ_w²/T)/C,        n_eff = C T/(1 + (T−1)ρ),   ρ = σ_b²/(σ_b²+σ_w²).

Neighbours in a series are correlated. With r the lag-one correlation of what a mean or a line
leaves, the error of independent points is too small by the factor of an AR(1) process,

    √((1 + r)/(1 − r)),                                                  (Bartlett 1946)

with r from 0 to 0.9: a short series shows less correlation than it has, and no proof of none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import scipy
from numpy.typing import NDArray

Block = TypeVar("Block")


@dataclass(frozen=True)
class Spread:
    """A standard error, its degrees of freedom, and the effective number of rows behind it."""

    stderr: float
    dof: int
    effective: float


def infinitesimal_jackknife(
    psi: NDArray[np.float64], *, clusters: int, positions: float = 1.0
) -> Spread:
    """Standard error of a statistic from the influences of the kept rows.

    psi:       (k, m) influence of each of m kept rows of k kept clusters; the mean over all
               rows of a cluster is the influence of that cluster.
    clusters:  C, all the clusters behind the statistic, kept or not.
    positions: T, rows in a cluster.

    With fewer than two kept clusters the error is NaN: one sample says nothing about spread.

    >>> psi = np.array([[-1.0], [1.0], [-1.0], [1.0]])
    >>> round(infinitesimal_jackknife(psi, clusters=100).stderr, 4)
    0.1155
    """
    k, m = psi.shape
    if k < 2 or not np.isfinite(psi).all():
        return Spread(math.nan, 0, math.nan)
    of_clusters = psi.sum(1, keepdims=True) / m
    between = float(np.square(of_clusters - of_clusters.sum() / k).sum()) / (k - 1)
    within = float(np.square(psi - of_clusters).sum()) / (k * (m - 1)) if m > 1 else 0.0
    of_cluster = max(between - within * (1 / m - 1 / positions), within / positions)
    if of_cluster == 0:
        return Spread(0.0, k - 1, clusters * positions)
    of_row = max(of_cluster - within / positions, 0.0) + within if m > 1 else of_cluster
    return Spread(math.sqrt(of_cluster / clusters), k - 1, clusters * of_row / of_cluster)


def delete_block_jackknife(
    statistic: Callable[[Sequence[Block]], float], blocks: Sequence[Block]
) -> tuple[float, float]:
    """Standard error and bias estimate from leaving out one block at a time.

    se² = (K−1)/K Σ (θ₍ₖ₎ − θ̄)²,  bias = (K−1)(θ̄ − θ)   (Quenouille 1956; Tukey 1958).

    Raises `ValueError` for fewer than two blocks.

    >>> se, bias = delete_block_jackknife(lambda b: sum(b) / len(b), [1.0, 2.0, 3.0, 4.0])
    >>> round(se, 4), round(bias, 12)
    (0.6455, 0.0)
    """
    count = len(blocks)
    if count < 2:
        raise ValueError(f"the jackknife needs at least two blocks, got {count}")
    left_out = np.array([statistic([*blocks[:k], *blocks[k + 1 :]]) for k in range(count)])
    mean = left_out.mean()
    stderr = math.sqrt((count - 1) / count * float(((left_out - mean) ** 2).sum()))
    return stderr, float((count - 1) * (mean - statistic(blocks)))


def series_mean(x: NDArray[np.float64]) -> tuple[float, float]:
    """Mean of a series (n,) in the order of time and its standard error; NaN for fewer than two.

    >>> series_mean(np.array([1.0, 4.0, 1.0, 4.0, 0.0]))  # neighbours that differ: no widening
    (2.0, 0.8366600265340756)
    """
    n = len(x)
    if n < 2:
        return (float(x.mean()) if n else math.nan), math.nan
    rest = x - x.mean()
    return float(x.mean()), math.sqrt(float(rest @ rest) / (n - 1) / n) * widening(rest)


def series_slope(t: NDArray[np.float64], x: NDArray[np.float64]) -> tuple[float, float]:
    """Least-squares slope of a series x (n,) at times t (n,), and its standard error.

    NaN for fewer than three points and for times that do not differ.

    >>> series_slope(np.arange(4.0), np.array([0.0, 2.0, 4.0, 6.0]))
    (2.0, 0.0)
    """
    t, x = t - t.mean() if len(t) else t, x - x.mean() if len(x) else x
    power = float(t @ t)
    if len(t) < 3 or not power > 0:
        return math.nan, math.nan
    slope = float(t @ x) / power
    rest = x - slope * t
    return slope, math.sqrt(float(rest @ rest) / (len(t) - 2) / power) * widening(rest)


def widening(rest: NDArray[np.float64]) -> float:
    """√((1 + r)/(1 − r)), r the lag-one correlation of the residuals, between 0 and 0.9."""
    power = float(rest @ rest)
    lag = float(rest[1:] @ rest[:-1]) / power if power > 0 else 0.0
    lag = min(max(lag, 0.0), 0.9)
    return math.sqrt((1 + lag) / (1 - lag))


def share_error(share: float, n: int) -> float:
    """Standard error of a share of n samples, √(p(1 − p)/n) with p = (n·share + 2)/(n + 4).

    Two hits and two misses are added (Agresti & Coull 1998), so that it is not zero where nothing,
    or everything, was hit. NaN without samples.

    >>> round(share_error(0.0, 24), 3), round(share_error(0.0, 1000), 4)
    (0.053, 0.0014)
    """
    if n < 1:
        return math.nan
    p = (n * share + 2) / (n + 4)
    return math.sqrt(p * (1 - p) / n)


def interval(
    value: float, stderr: float, dof: float = math.inf, level: float = 0.95
) -> tuple[float, float]:
    """Student interval value ± t·stderr; NaN bounds when the error is not known.

    >>> low, high = interval(0.0, 1.0)
    >>> round(high, 3)
    1.96
    """
    if not (math.isfinite(value) and math.isfinite(stderr)) or dof < 1:
        return math.nan, math.nan
    t = scipy.special.stdtrit(min(dof, 1e10), 0.5 + level / 2)
    half = float(t) * stderr
    return value - half, value + half


def as_normal(stderr: float, dof: float) -> float:
    """The error of a normal number with the 95 % interval of Student's at these degrees.

    For a record that tells how many samples there were, and not of how few blocks the error is.

    >>> round(as_normal(1.0, 1), 2), round(as_normal(1.0, 9), 3)
    (6.48, 1.154)
    """
    return interval(0.0, stderr, dof)[1] / interval(0.0, 1.0)[1]
