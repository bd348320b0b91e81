"""A forecast: one number that theory gives before training, and what it rests on."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

APPLIES = ("yes", "partly", "no")


@dataclass(frozen=True)
class Forecast:
    """One number of theory for one place of the model.

    theory:     the family of forecasts it belongs to, as in `FAMILIES`.
    name:       what is predicted, e.g. `equilibrium_shift`.
    where:      the modules, the symmetry or "" for the whole model.
    value:      the number; NaN where theory gives none.
    unit:       its unit; "1" for a pure number.
    sentence:   the forecast in words.
    assumption: what it rests on, with the number by which this case misses it.
    applies:    `yes`; `partly`, where an assumption is not met or cannot be checked before
                training; `no`, and then the value is NaN.
    """

    theory: str
    name: str
    where: str
    value: float
    unit: str
    sentence: str
    assumption: str
    applies: str = "yes"

    def __post_init__(self) -> None:
        if self.applies not in APPLIES:
            raise ValueError(f"applies={self.applies!r}: choose one of {', '.join(APPLIES)}")

    def to_json(self) -> dict[str, Any]:
        """The fields by name; a number that does not exist is None."""
        known = self.value if math.isfinite(self.value) else None
        return asdict(self) | {"value": known}


def silent(theory: str, where: str, sentence: str, assumption: str) -> Forecast:
    """Theory has nothing to say here, and why."""
    return Forecast(theory, "none", where, math.nan, "", sentence, assumption, "no")
