"""Split-half correction: alignment of two moments as if the samples had been unlimited.

From few samples α(H, G) is attenuated: noise enters the norms but not the inner product. With
the samples cut in two halves, the alignment of a matrix with its own other half measures how
much of it is signal (its reliability), and dividing by that removes the attenuation:

    α = ½[α(H₁,G₂) + α(H₂,G₁)] / √(α(H₁,H₂) α(G₁,G₂)).

H is only ever compared with the *other* half of G, so noise shared by h and g of one sample
does not enter either. The reliabilities are noisy themselves: below n ≈ d/2 the quotient
overshoots (1.07 ± .13 at n = d/4) and the pair-debiased estimate of `alignment` is the better one.

Source: Spearman, "The proof and measurement of association between two things", American
Journal of Psychology 15 (1904).
"""

from __future__ import annotations

import math

from torch import Tensor

from .alignment import pearson


def split_half(H1: Tensor, G1: Tensor, H2: Tensor, G2: Tensor) -> float:
    """α(H, G) over entries, corrected for sampling noise.

    H1, G1: (d, d) second moments of the first half;  H2, G2: of the second half.
    Returns a number that may exceed 1 by its error; NaN when a reliability is not positive,
    that is when the halves have nothing in common.
    """
    reliability = pearson(H1, H2), pearson(G1, G2)
    if not min(reliability) > 0:
        return math.nan
    return (pearson(H1, G2) + pearson(H2, G1)) / (2 * math.sqrt(reliability[0] * reliability[1]))
