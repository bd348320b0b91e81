"""A measured number and what theory said of it: two rows of the record."""

from __future__ import annotations

import math

from ..record import Measurement
from ..record.vocabulary import PREDICTED


def beside(
    step: int,
    layer: str,
    quantity: str,
    value: float,
    predicted: float,
    *,
    stderr: float = math.nan,
    n: int = 0,
) -> list[Measurement]:
    """`quantity` as measured and, with the suffix `_predicted`, as theory gave it.

    layer: the case; stderr, n: of the measured number. The prediction is exact.

    >>> [(m.quantity, m.value) for m in beside(3, "gamma=1", "rank", 2, 2)]
    [('rank', 2), ('rank_predicted', 2)]
    """
    return [
        Measurement(step, layer, quantity, value, stderr, n),
        Measurement(step, layer, quantity + PREDICTED, predicted, 0.0, n),
    ]
