"""The Master Theorem: alignment relations as lines in a plane, phases as their crossings.

Statement. For a linear map h_b = W h_a inside a network, any two of the three relations of
one side imply the third; one relation of side a and one of side b make all six matrices
powers of one another; one more makes all six proportional to a projector P.

Derivation. Write W = U S Vᵀ and suppose H_a ~ s^p and G_b ~ s^q along the singular
directions. The identities H_b = W H_a Wᵀ and G_a = Wᵀ G_b W add 2 to each exponent, and
Z_a, Z_b ~ s²:

    matrix    H_a   Z_a   G_a   H_b   Z_b   G_b
    exponent   p     2    q+2   p+2    2     q

A relation A ∝ B says that two exponents are equal, so each relation is a line:

    RGA_a p−q = 2   RWA_a p = 2   GWA_a q = 0     meet in (2, 0)   "backward CRH"
    RGA_b q−p = 2   RWA_b p = 0   GWA_b q = 2     meet in (0, 2)   "forward CRH"

An a-line and a b-line cross in one point (phases 4 to 9) unless they are of the same kind:
those are parallel, and only a flat S (all s equal where the matrices live) satisfies both
(phases 1 to 3). With all six relations S is flat too: the canonical representation (CRH).

Source: Ziyin, Chuang, Galanti, Poggio, "Formation of Representations in Neural Networks",
arXiv 2410.03006, Theorem 2 and Table 1, re-derived here. Two corrections to the printed
text as we know it: in forward CRH the backward law has G_a ∝ Z_a² with H_a ∝ P; and the
slopes 3, 2, 1 of λ(H_b) against λ(G_b) belong to phases 6, 8, 5 in that order. Slope 1 does
not single out phase 5: forward CRH and phase 1 share it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

RELATIONS = ("rga_a", "rwa_a", "gwa_a", "rga_b", "rwa_b", "gwa_b")
MATRICES = ("H_a", "Z_a", "G_a", "H_b", "Z_b", "G_b")

# matrix -> (c_p, c_q, c_0): its exponent is c_p·p + c_q·q + c_0.
_EXPONENT = {
    "H_a": (1, 0, 0),
    "Z_a": (0, 0, 2),
    "G_a": (0, 1, 2),
    "H_b": (1, 0, 2),
    "Z_b": (0, 0, 2),
    "G_b": (0, 1, 0),
}
_PAIR = {"rga": ("H", "G"), "rwa": ("H", "Z"), "gwa": ("G", "Z")}


@dataclass(frozen=True)
class Phase:
    """One row of the Master Theorem's table.

    name:      `CRH`, `backward CRH`, `forward CRH`, `1` … `9`.
    assume:    relations assumed to hold; the rest of the row follows from them.
    p, q:      exponents of H_a and G_b in s; NaN for the phases that need a flat S.
    backward:  law among H_a, Z_a, G_a;  forward: law among H_b, Z_b, G_b ("P" = projector).
    exponents: power of s of H_a, Z_a, G_a, H_b, Z_b, G_b (empty when S is flat).
    nc, nfa, cu: whether neural collapse (all six relations), the neural feature ansatz
               (GWA_a) and correlation of H_a with W (RWA_a) hold in this phase.
    llm_slope: k in λ(H_b) ∝ λ(G_b)^k; inf when G_b is a projector and H_b is not, NaN when
               the two spectra fix no slope.
    """

    name: str
    assume: tuple[str, ...]
    p: float
    q: float
    backward: str
    forward: str
    exponents: tuple[int, ...]
    nc: bool
    nfa: bool
    cu: bool
    llm_slope: float

    @property
    def flat(self) -> bool:
        """Whether the phase needs all singular values of W equal."""
        return math.isnan(self.p)


def _row(
    name: str, assume: str, point: tuple[float, float] | None, backward: str, forward: str,
    exponents: tuple[int, ...], ticks: str, llm_slope: float,
) -> Phase:  # fmt: skip
    p, q = point if point else (math.nan, math.nan)
    nc, nfa, cu = (mark == "✓" for mark in ticks)
    relations = tuple(assume.split())
    return Phase(name, relations, p, q, backward, forward, exponents, nc, nfa, cu, llm_slope)


_A, _B, _NONE, _INF = "rga_a rwa_a gwa_a", "rga_b rwa_b gwa_b", math.nan, math.inf

# The table as one reads it: written out here, derived independently by `intersect` and
# `exponents` below, and the two compared in the tests.
# fmt: off
PHASES: tuple[Phase, ...] = (
    _row("CRH", f"{_A} {_B}", None, "H∝Z∝G∝P", "H∝Z∝G∝P", (), "✓✓✓", _NONE),
    _row("backward CRH", _A, (2, 0), "H∝Z∝G", "H∝Z², G∝P", (2, 2, 2, 4, 2, 0), "–✓✓", _INF),
    _row("forward CRH", _B, (0, 2), "H∝P, G∝Z²", "H∝Z∝G", (0, 2, 4, 2, 2, 2), "–––", 1),
    _row("1", "rga_a rga_b", None, "H∝G, Z∝P", "H∝G, Z∝P", (), "–––", 1),
    _row("2", "rwa_a rwa_b", None, "H∝Z∝P", "H∝Z∝P", (), "––✓", _NONE),
    _row("3", "gwa_a gwa_b", None, "G∝Z∝P", "G∝Z∝P", (), "–✓–", _NONE),
    _row("4", "rga_a rwa_b", (0, -2), "H∝G∝P", "H∝Z∝G⁻¹", (0, 2, 0, 2, 2, -2), "–––", -1),
    _row("5", "rwa_a rga_b", (2, 4), "H³∝Z³∝G", "H∝Z²∝G", (2, 2, 6, 4, 2, 4), "––✓", 1),
    _row("6", "rga_a gwa_b", (4, 2), "H∝Z²∝G", "H∝Z³∝G³", (4, 2, 4, 6, 2, 2), "–––", 3),
    _row("7", "gwa_a rga_b", (-2, 0), "H⁻¹∝Z∝G", "H∝G∝P", (-2, 2, 2, 0, 2, 0), "–✓–", _NONE),
    _row("8", "rwa_a gwa_b", (2, 2), "H²∝Z²∝G", "H∝Z²∝G²", (2, 2, 4, 4, 2, 2), "––✓", 2),
    _row("9", "gwa_a rwa_b", (0, 0), "H∝P, G∝Z", "H∝Z, G∝P", (0, 2, 2, 2, 2, 0), "–✓–", _INF),
)
# fmt: on


def phase(name: str) -> Phase:
    """Look a row of the table up by its name.

    >>> phase("6").forward
    'H∝Z³∝G³'
    """
    for row in PHASES:
        if row.name == name:
            return row
    names = ", ".join(row.name for row in PHASES)
    raise KeyError(f"unknown phase {name!r}: the table has {names}")


def vertices() -> tuple[Phase, ...]:
    """The eight phases that are points of the (p, q) plane (S need not be flat)."""
    return tuple(row for row in PHASES if not row.flat)


def exponents(p: float, q: float) -> dict[str, float]:
    """Powers of s of the six matrices when H_a ~ s^p and G_b ~ s^q.

    >>> exponents(0, 2)
    {'H_a': 0, 'Z_a': 2, 'G_a': 4, 'H_b': 2, 'Z_b': 2, 'G_b': 2}
    """
    return {name: cp * p + cq * q + c0 for name, (cp, cq, c0) in _EXPONENT.items()}


def line(relation: str) -> tuple[int, int, int]:
    """The line c_p·p + c_q·q + c_0 = 0 on which a relation holds.

    >>> line("rga_a")  # p − q − 2 = 0
    (1, -1, -2)
    """
    if relation not in RELATIONS:
        raise KeyError(f"unknown relation {relation!r}: one of {', '.join(RELATIONS)}")
    kind, side = relation.split("_")
    first, second = (_EXPONENT[f"{letter}_{side}"] for letter in _PAIR[kind])
    return (first[0] - second[0], first[1] - second[1], first[2] - second[2])


def intersect(first: str, second: str) -> tuple[float, float] | None:
    """The point (p, q) where two relations hold together; None when their lines are parallel.

    Parallel lines are the same-kind pairs of the two sides: only a flat S satisfies both.

    >>> intersect("rga_a", "gwa_b")
    (4.0, 2.0)
    >>> intersect("rga_a", "rga_b") is None
    True
    """
    (a1, b1, c1), (a2, b2, c2) = line(first), line(second)
    determinant = a1 * b2 - a2 * b1
    if determinant == 0:
        return None
    # Cramer's rule for a·p + b·q = −c; adding 0.0 turns −0.0 into 0.0.
    p = (-c1 * b2 + c2 * b1) / determinant + 0.0
    q = (-a1 * c2 + a2 * c1) / determinant + 0.0
    return p, q


def relations_at(p: float, q: float, tolerance: float = 1e-9) -> tuple[str, ...]:
    """The relations that hold at a point of the plane (S not flat).

    >>> relations_at(2, 0)
    ('rga_a', 'rwa_a', 'gwa_a')
    """

    def gap(relation: str) -> float:
        cp, cq, c0 = line(relation)
        return abs(cp * p + cq * q + c0)

    return tuple(relation for relation in RELATIONS if gap(relation) <= tolerance)


def llm_slope(p: float, q: float) -> float:
    """k in λ(H_b) ∝ λ(G_b)^k, that is (p+2)/q; inf for G_b ∝ P, NaN when both are flat."""
    if q == 0:
        return math.nan if p == -2 else math.inf
    return (p + 2) / q


def flat(directions: int, decades: float) -> bool:
    """Whether the spectrum of W is too short or too level to tell exponents apart.

    directions: singular directions kept in the fit; at least 8 are needed.
    decades:    decades of s² they span; at least 1 is needed.
    """
    return directions < 8 or not decades >= 1


def classify(
    p: float,
    q: float,
    p_interval: tuple[float, float] | None = None,
    q_interval: tuple[float, float] | None = None,
    radius: float = 0.5,
) -> Phase | None:
    """The phase nearest to a measured (p, q), or None: unassigned.

    A vertex is assigned when the point lies within `radius` of it (Euclidean) and the
    intervals stay within 1 of it in p and in q: the vertices are 2 apart, so the data then
    exclude every other one. A bound that is NaN is an error nobody knows and assigns
    nothing; an interval left out means an exact value. Ask `flat` first.

    >>> classify(0.17, 2.29, (0.0, 0.4), (2.0, 2.6)).name
    'forward CRH'
    >>> classify(0.17, 2.29, (-1.5, 1.8), (2.0, 2.6)) is None
    True
    >>> classify(1.0, 1.2) is None
    True
    """
    if not (math.isfinite(p) and math.isfinite(q)):
        return None
    nearest = min(vertices(), key=lambda v: math.hypot(v.p - p, v.q - q))
    if math.hypot(nearest.p - p, nearest.q - q) > radius:
        return None
    p_low, p_high = p_interval or (p, p)
    q_low, q_high = q_interval or (q, q)
    p_inside = nearest.p - 1 < p_low and p_high < nearest.p + 1
    q_inside = nearest.q - 1 < q_low and q_high < nearest.q + 1
    return nearest if p_inside and q_inside else None


def transitivity_bounds(alignment_AB: float, alignment_BC: float) -> tuple[float, float]:
    """The range of α(A, C) that α(A, B) and α(B, C) leave open.

    Matrices with their grand mean removed are vectors, and angles between vectors obey the
    triangle inequality: cos(θ_AB + θ_BC) ≤ α(A, C) ≤ cos(θ_AB − θ_BC). Plug-in alignments
    of the same three matrices must lie in it to rounding; one that does not is a bug.
    (Debiased alignments are not cosines of one triple and may stray by their error.)

    >>> transitivity_bounds(1.0, 0.5)
    (0.5, 0.5)
    """
    for name, value in (("alignment_AB", alignment_AB), ("alignment_BC", alignment_BC)):
        if not -1 <= value <= 1:
            raise ValueError(f"{name}={value} is not in [−1, 1]: pass a plug-in alignment")
    first, second = math.acos(alignment_AB), math.acos(alignment_BC)
    lowest = -1.0 if first + second >= math.pi else math.cos(first + second)
    return round(lowest, 15), round(math.cos(first - second), 15)


def realise(
    p: float, q: float, singular_values: Sequence[float] | torch.Tensor,
    U: torch.Tensor, V: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """A layer that sits exactly at (p, q): W = U S Vᵀ, H_a = V S^p Vᵀ, G_b = U S^q Uᵀ.

    singular_values: k positive numbers;  U: d_b × k and V: d_a × k, orthonormal columns.
    Returns (W, H_a, G_b), of shapes d_b × d_a, d_a × d_a and d_b × d_b.
    """
    s = torch.as_tensor(singular_values, dtype=U.dtype, device=U.device)
    if not bool((s > 0).all()):
        raise ValueError("singular_values must be positive: leave null directions out of U and V")
    return (U * s) @ V.mT, (V * s**p) @ V.mT, (U * s**q) @ U.mT
