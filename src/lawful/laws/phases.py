"""Phases of polynomial alignment: where a layer sits in the (p, q) plane.

Statement. One relation of side a and one of side b make all six matrices powers of one
another. With W = U S Vᵀ, v_iᵀ H_a v_i ~ s_i^p and u_iᵀ G_b u_i ~ s_i^q, and (p, q) is one of
eight points: the phases 4 to 9 and the forward and backward canonical representations.

Test. Distance from the measured (p, q) to the nearest vertex. Holds when the vertex is within
0.5, the interval excludes every other, and the layer has come there since initialisation by
more than 0.5. Violated, "unassigned", when no vertex is within 0.5 of any point of the 95 %
box. The origin, phase 9, is also where matrices that know nothing of W lie (isotropic input at
initialisation does), so phase 9 must be confirmed by its two alignments.

Regime. At least 8 singular directions; s² spanning a decade, else W is flat and exponents
mean nothing; the sampling conditions of the six relations.

Source: Ziyin, Chuang, Galanti, Poggio, ICLR 2025, arXiv 2410.03006, Theorem 2 and Table 1, as
re-derived in `lawful.theory.master_theorem`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..theory.master_theorem import Phase, classify, vertices
from . import bibliography
from .canonical import EVIDENCE, SOURCE, examine
from .evidence import Estimate, at_initialisation, last, number, show
from .formation import Finding
from .law import Condition, Prediction, barred, status_of
from .regime import sampling, show_count
from .registry import declare
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

RADIUS = 0.5


def _regime(run: Run, layer: str) -> tuple[Condition, ...]:
    directions, decades = number(run, "directions", layer), number(run, "decades", layer)
    few = f"{show_count(directions)} singular directions, 8 needed for an exponent"
    flat = f"W is flat: s² spans {show(decades)} decades, 1 needed for an exponent"
    spectrum = decades >= 1 if math.isfinite(decades) else None
    return (
        Condition("decades", spectrum, decades, flat, "out of regime"),
        Condition("directions", directions >= 8, directions, few),
        *sampling(run, layer),
    )


@declare(
    name="pah_phase",
    family="canonical",
    statement="Spectra of H, G and Z are powers of one another with exponents of one phase.",
    equation="v_iᵀH_a v_i ~ s_i^p, u_iᵀG_b u_i ~ s_i^q with (p, q) one of eight vertices",
    source=SOURCE + ", Theorem 2 and Table 1",
    bibtex=bibliography.FORMATION,
    estimators=bibliography.JACKKNIFE,
    needs=("exponent_p", "exponent_q", "directions", "decades", *EVIDENCE,
           *(f"{r}{s}" for r in ("gwa_a", "rwa_b") for s in ("", "_haar", "_permutation"))),
    regime=_regime,
    predict=lambda run, layer: Prediction(0.0, "(p, q) lies on a vertex: distance 0"),
)  # fmt: skip
def pah_phase(run: Run, layer: str) -> Verdict:
    """Effect: distance of (p, q) to the nearest vertex; null: that of the origin (0, 0)."""
    p, q = last(run, "exponent_p", layer), last(run, "exponent_q", layer)
    unmet = barred(_regime(run, layer))
    if p.step < 0 or q.step < 0:
        return _unknown(run, layer, "undetermined", "exponents were never recorded here")
    if unmet is not None:
        return _unknown(run, layer, status_of(unmet), unmet.sentence)
    if p.step == 0:
        return _unknown(run, layer, "out of regime", "measured at initialisation only")
    if not all(math.isfinite(x) for x in (p.value, q.value, p.stderr, q.stderr)):
        return _unknown(run, layer, "undetermined", "an exponent or its error is not finite")
    return _place(run, layer, p, q)


def _place(run: Run, layer: str, p: Estimate, q: Estimate) -> Verdict:
    vertex = min(vertices(), key=lambda v: _distance(v, p.value, q.value))
    start = at_initialisation(run, "exponent_p", layer), at_initialisation(run, "exponent_q", layer)
    status, why = _judge(run, layer, vertex, (p, q), start)
    effect, half = _distance(vertex, p.value, q.value), 1.96 * max(p.stderr, q.stderr)
    found = Finding(
        status, why, p.step, effect, (max(0.0, effect - half), effect + half),
        null=math.hypot(vertex.p, vertex.q), initial=_distance(vertex, *(e.value for e in start)),
    )  # fmt: skip
    (p_low, p_high), (q_low, q_high) = p.interval(), q.interval()
    point = (
        f"p = {show(p.value)} [{show(p_low)}, {show(p_high)}],"
        f" q = {show(q.value)} [{show(q_low)}, {show(q_high)}]"
    )
    came = f" at initialisation ({show(start[0].value)}, {show(start[1].value)})"
    return found.verdict("pah_phase", layer, f"{why}: {point};{came}.")


def _judge(
    run: Run, layer: str, vertex: Phase, end: tuple[Estimate, Estimate],
    start: tuple[Estimate, Estimate],
) -> tuple[str, str]:  # fmt: skip
    (p, q), name = end, _name(vertex)
    box = p.interval(), q.interval()
    if not any(_reaches(v, *box) for v in vertices()):
        return "violated", f"Unassigned: no phase within {RADIUS} (nearest {name})"
    if classify(p.value, q.value, *box, radius=RADIUS) is None:
        return "undetermined", f"The interval does not tell {name} from no phase at all"
    if not all(math.isfinite(e.value) for e in start):
        return "undetermined", f"{name}, but no exponents at initialisation (step 0) to compare"
    least, most = _moved(end, start)
    if most <= RADIUS or classify(start[0].value, start[1].value, radius=RADIUS) is vertex:
        return "out of regime", f"Trivial: in {name} already at initialisation (nothing formed)"
    if least <= RADIUS:
        return "undetermined", f"{name}, but the way from initialisation is not resolved"
    confirmed = all(examine(run, layer, relation).present for relation in vertex.assume)
    if vertex.p == vertex.q == 0 and not confirmed:
        return "undetermined", f"{name} is where unrelated matrices lie, and α does not confirm it"
    laws = f"backward law {vertex.backward}, forward law {vertex.forward}"
    return "holds", f"{name[0].upper()}{name[1:]} ({laws})"


def _moved(end: tuple[Estimate, Estimate], start: tuple[Estimate, Estimate]) -> tuple[float, float]:
    """95 % bounds of the distance covered in the plane since initialisation."""
    pairs = list(zip(end, start, strict=True))
    distance = math.hypot(*(e.value - s.value for e, s in pairs))
    half = 1.96 * max(math.hypot(e.stderr, s.stderr) for e, s in pairs)
    return (distance - half, distance + half) if math.isfinite(half) else (-math.inf, math.inf)


def _reaches(vertex: Phase, p: tuple[float, float], q: tuple[float, float]) -> bool:
    """Whether some point of the box p × q is within the radius of the vertex."""
    nearest = min(max(vertex.p, p[0]), p[1]), min(max(vertex.q, q[0]), q[1])
    return _distance(vertex, *nearest) <= RADIUS


def _distance(vertex: Phase, p: float, q: float) -> float:
    return math.hypot(vertex.p - p, vertex.q - q)


def _name(vertex: Phase) -> str:
    return f"phase {vertex.name}" if vertex.name.isdigit() else vertex.name


def _unknown(run: Run, layer: str, status: str, why: str) -> Verdict:
    nan = math.nan
    p = last(run, "exponent_p", layer)
    step = p.step if p.step >= 0 else int(run.manifest.get("steps") or 0)
    found = Finding(status, why, step, nan, (nan, nan), nan, nan)
    return found.verdict("pah_phase", layer, f"No phase: {why}.")
