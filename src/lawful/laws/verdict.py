"""A verdict: what one law says about one layer of one run, and how sure it is."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

STATUSES = ("holds", "violated", "undetermined", "out of regime")
"""Confirmed; refuted; the record cannot tell; the law does not speak of this case."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row of the answer.

    law:      name of the law, e.g. `rga_b`.
    layer:    path as in `named_modules()`; the empty string is the run as a whole.
    step:     optimiser steps completed when the effect was measured.
    status:   one of `STATUSES`.
    effect:   the measured number; what it is, the law says (an alignment, a residual, …).
    interval: its 95 % interval, (lower, upper); NaN where the error is not known.
    null:     what the number would be with nothing to find; NaN where there is no null.
    initial:  the same number at initialisation (step 0); NaN when it was not measured.
    sentence: the verdict in words.
    """

    law: str
    layer: str
    step: int
    status: str
    effect: float
    interval: tuple[float, float]
    null: float
    initial: float
    sentence: str

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status={self.status!r} is not one of {', '.join(STATUSES)}")

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; numbers that are not finite become None.

        >>> nan = float("nan")
        >>> v = Verdict("rga_b", "fc", 9, "violated", 0.3, (0.2, 0.4), nan, 0.1, "No.")
        >>> v.to_json()["null"] is None, v.to_json()["interval"]
        (True, [0.2, 0.4])
        """
        fields = asdict(self)
        for name in ("effect", "null", "initial"):
            fields[name] = _finite(fields[name])
        fields["interval"] = [_finite(bound) for bound in self.interval]
        return fields


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
