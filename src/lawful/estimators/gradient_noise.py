"""Signal and noise of a gradient, from its squared norm at two batch sizes.

The mean gradient of b independent samples has E‖g_b‖² = ‖∇L‖² + trΣ/b, with Σ the covariance of
the gradient of one sample. Two batch sizes b < B at the same weights give two equations for the
two unknowns:

    trΣ = (‖g_b‖² − ‖g_B‖²)/(1/b − 1/B),        ‖∇L‖² = ‖g_B‖² − trΣ/B

both unbiased, the second possibly negative. b = 1 are per-sample gradients, b = the micro-batch
comes free with gradient accumulation. When the B samples are all that is drawn from a set of N
without replacement, trΣ is that of the N with N − 1 in its denominator, and ‖∇L‖² that of the
population the N came from: smaller than that of the set by trΣ/N.

The noise scale trΣ/‖∇L‖² is a ratio of sums over batches; the mean of the ratios of single batches
is another number, off by a third and more.

Source: McCandlish, Kaplan, Amodei et al., "An Empirical Model of Large-Batch Training", arXiv
1812.06162, appendix A; per-sample norms as in Gray et al. 2023 (`nanoGNS`).
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .uncertainty import infinitesimal_jackknife

Numbers = TypeVar("Numbers", float, NDArray[np.float64])


def two_batch_sizes(
    small2: Numbers, large2: Numbers, *, inverse_small: Numbers, inverse_large: Numbers
) -> tuple[Numbers, Numbers]:
    """(‖∇L‖², trΣ) from mean ‖g_b‖² and ‖g_B‖², given 1/b and 1/B.

    Batches of unequal size enter by the mean of their 1/b. Numbers, or arrays of one shape.

    >>> two_batch_sizes(5.0, 3.0, inverse_small=1.0, inverse_large=0.5)  # 1 + 4/b
    (1.0, 4.0)

    NaN where the two sizes are the same: one sample a batch tells nothing.
    """
    difference = np.asarray(inverse_small) - np.asarray(inverse_large)
    with np.errstate(divide="ignore", invalid="ignore"):
        trace = np.where(difference > 0, (small2 - large2) / difference, math.nan)
    signal = large2 - trace * inverse_large
    if np.ndim(trace) == 0:
        return float(signal), float(trace)  # type: ignore[return-value]
    return signal, trace  # type: ignore[return-value]


def mean(values: ArrayLike) -> tuple[float, float]:
    """Mean over independent batches and its jackknife error (NaN for fewer than two).

    >>> mean([1.0, 3.0])
    (2.0, 1.0)
    """
    x = np.asarray(values, dtype=float)
    if not len(x):
        return math.nan, math.nan
    return float(x.mean()), infinitesimal_jackknife(x[:, None], clusters=len(x)).stderr


def ratio(numerators: ArrayLike, denominators: ArrayLike) -> tuple[float, float]:
    """Σa/Σb over batches and its jackknife error; NaN where Σb is not positive.

    Of two unbiased means, it keeps a bias of order 1/batches, as every ratio does.

    >>> ratio([1.0, 3.0], [1.0, 1.0])
    (2.0, 1.0)
    """
    a, b = np.asarray(numerators, dtype=float), np.asarray(denominators, dtype=float)
    if not len(a) or not b.sum() > 0:
        return math.nan, math.nan
    value = float(a.sum() / b.sum())
    influence = (a - value * b) / b.mean()
    return value, infinitesimal_jackknife(influence[:, None], clusters=len(a)).stderr
