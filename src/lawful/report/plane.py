"""Reading the phase plane: where a layer stands, in one sentence.

The theory decides (`theory.master_theorem.classify`), with the 95 % intervals
p ± 1.96·stderr and q ± 1.96·stderr; a spectrum of W that is too flat names no phase.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..theory.master_theorem import Phase, classify, flat, vertices
from .wording import Z95, count, number

if TYPE_CHECKING:
    from ..record.measurement import Measurement
    from ..record.run import Run

RADIUS = 0.5
"""Farthest a layer may stand from the vertex of the phase it is said to be in."""


@dataclass(frozen=True)
class Reading:
    """What the plane says of one layer.

    sentence: in words.
    phase:    name of the phase it is in, None when it is in none.
    """

    sentence: str
    phase: str | None = None


def read_plane(run: Run, layer: str) -> Reading:
    """Read the last measured (p, q) of a layer."""
    p = run.at("exponent_p", layer)
    q = run.at("exponent_q", layer, p.step) if p else None
    if p is None or q is None or not math.isfinite(q.value):
        return Reading(
            "No pair of exponents was measured in this layer: the plane shows the theory alone."
        )
    where = f"At step {p.step:,}: p = {number(p.value, p.stderr)}, q = {number(q.value, q.stderr)}"
    directions = run.at("directions", layer, p.step)
    decades = run.at("decades", layer, p.step)
    if directions and decades and math.isfinite(directions.value):
        kept = count(int(directions.value), "direction")
        where += f", from {kept} over {number(decades.value)} decades of s²"
        if flat(int(directions.value), decades.value):
            return Reading(f"{where}. The spectrum of W is too flat to tell exponents apart.")
    phase = classify(p.value, q.value, _interval(p), _interval(q), RADIUS)
    if phase:
        return Reading(f"{where}. This is {_spoken(phase)}.", phase.name)
    near = min(vertices(), key=lambda v: math.hypot(v.p - p.value, v.q - q.value))
    distance = math.hypot(near.p - p.value, near.q - q.value)
    if distance <= RADIUS:
        return Reading(f"{where}. Unassigned: near {_spoken(near)}, but the error is too large.")
    sentence = (
        f"{where}. Unassigned: the nearest phase, {_spoken(near)}, is {number(distance)} away."
    )
    return Reading(sentence)


def _interval(m: Measurement) -> tuple[float, float]:
    return m.value - Z95 * m.stderr, m.value + Z95 * m.stderr


def _spoken(phase: Phase) -> str:
    return f"phase {phase.name}" if phase.name.isdigit() else phase.name
