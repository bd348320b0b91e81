"""The canonical representation: six alignments of a layer, and what they force on one another.

Statement. At the end of training the second moments of activations (H), of gradients (G) and
of weights (Z) of a layer h_b = W h_a become proportional, on each of its two sides c = a, b:

    RGA  H_c ∝ G_c        RWA  H_c ∝ Z_c        GWA  G_c ∝ Z_c

with H_c = E[h_c h_cᵀ], G_c = E[g_c g_cᵀ], Z_a = WᵀW, Z_b = W Wᵀ. All six together are the
canonical representation hypothesis (CRH).

Test. α is the Pearson correlation over matrix entries, debiased. A relation holds when α
ends above 0.7 (the level its authors call significant) and above its nulls (99th percentile
of the neuron permutation, mean of a random rotation), and has risen by more than 0.1 since
initialisation; all of it by the 95 % interval. α = 0.95 still leaves a relative residual of
about 0.3, so "∝" is meant to that accuracy. A relation that is there at initialisation, or
under the null, is called trivial and is `out of regime`.

Regime. At least 4·max(d) rows, worth at least 2·max(d) independent ones, from at least 8
independent samples, weights moving by less than 0.1 of their norm in the window, and a W of
more than one direction: at rank one RWA_b and GWA_a are identities.

Source: Ziyin, Chuang, Galanti, Poggio, "Formation of Representations in Neural Networks",
ICLR 2025, arXiv 2410.03006, Theorems 1 and 2.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..record.vocabulary import RELATIONS
from ..theory.master_theorem import transitivity_bounds
from . import bibliography
from .evidence import number, show
from .formation import Claim, Finding, tell, weigh
from .law import Condition, Law, Prediction
from .regime import more_than_a_line, sampling, wide
from .registry import declare, register
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

SOURCE = "Ziyin, Chuang, Galanti, Poggio, ICLR 2025, arXiv 2410.03006"
ALIGNED = Claim(threshold=0.7, change=0.1)
OVERSHOOT = 1.05  # a debiased α beyond this is a correction larger than the evidence
ESTIMATORS = bibliography.JACKKNIFE + bibliography.PERMUTATION
EVIDENCE = (
    *("samples", "effective_samples", "clusters", "drift"),
    *("width_a", "width_b", "participation_Z"),
)

_PAIR = {"rga": "H_{0} ∝ G_{0}", "rwa": "H_{0} ∝ Z_{0}", "gwa": "G_{0} ∝ Z_{0}"}
_MEANING = {
    "rga": "Activations and loss gradients share their second moment up to a factor",
    "rwa": "Activations spread as the weights do",
    "gwa": "Loss gradients spread as the weights do",
}
_SIDE = {"a": "on the input side of the layer", "b": "on the output side of the layer"}


# The six relations ------------------------------------------------------------------------


def pair(relation: str) -> str:
    """`rga_b` -> `H_b ∝ G_b`."""
    kind, side = relation.split("_")
    return _PAIR[kind].format(side)


def regime(run: Run, layer: str, side: str) -> tuple[Condition, ...]:
    """What any alignment of one side asks of the record."""
    return (wide(run, layer, side), *sampling(run, layer), more_than_a_line(run, layer))


def examine(run: Run, layer: str, relation: str, level: float = 0.95) -> Finding:
    """Weigh one relation; without a permutation null on record it cannot be found to hold."""
    permutation = number(run, f"{relation}_permutation", layer)
    null = max(_or(permutation, -1), _or(number(run, f"{relation}_haar", layer), -1))
    found = weigh(
        run, layer, relation, ALIGNED,
        null=null if null > -1 else math.nan,
        conditions=regime(run, layer, relation[-1]), level=level,
    )  # fmt: skip
    if found.status == "holds" and math.isnan(permutation):
        return _undetermined(found, "no permutation null was recorded to compare with")
    if found.status == "holds" and found.effect > OVERSHOOT:
        return _undetermined(found, "debiasing carried α above 1: too few effective samples")
    return found


def alignment_law(relation: str) -> Law:
    """The law that one of the six relations forms in a layer."""
    kind, side = relation.split("_")

    def test(run: Run, layer: str) -> Verdict:
        found = examine(run, layer, relation)
        return found.verdict(relation, layer, tell(pair(relation), "α", found))

    return Law(
        name=relation,
        family="canonical",
        statement=f"{_MEANING[kind]} {_SIDE[side]}.",
        equation=pair(relation),
        source=SOURCE,
        bibtex=bibliography.FORMATION,
        estimators=ESTIMATORS,
        needs=(relation, f"{relation}_haar", f"{relation}_permutation", *EVIDENCE),
        regime=lambda run, layer: regime(run, layer, side),
        predict=lambda run, layer: Prediction(1.0, "α → 1 when noise and decay balance"),
        test=test,
    )


for _relation in RELATIONS:
    register(alignment_law(_relation))


# All six at once ----------------------------------------------------------------------------


def _both_sides(run: Run, layer: str) -> tuple[Condition, ...]:
    return wide(run, layer, "a"), *regime(run, layer, "b")


@declare(
    name="crh",
    family="canonical",
    statement="All six alignments hold together, so H, G and Z are one projector up to factors.",
    equation="H_c ∝ G_c ∝ Z_c ∝ P_c for c = a, b",
    source=SOURCE,
    bibtex=bibliography.FORMATION,
    estimators=ESTIMATORS,
    needs=(
        *(r + suffix for r in RELATIONS for suffix in ("", "_haar", "_permutation")),
        *EVIDENCE,
        "decades",
    ),
    regime=_both_sides,
    predict=lambda run, layer: Prediction(1.0, "the weakest of the six α → 1, s² spans 0 decades"),
)
def crh(run: Run, layer: str) -> Verdict:
    """The weakest of the six decides, each with a Bonferroni interval at 1 − 0.05/6.

    Holds when every relation is past its threshold (formed, or there from the start) and at
    least one has formed; violated when any is not; trivial when none has formed. All six
    exactly would make W flat, so the decades of s² it spans are reported beside.
    """
    found = {r: examine(run, layer, r, level=1 - 0.05 / len(RELATIONS)) for r in RELATIONS}
    weakest = min(found, key=lambda r: _or(found[r].effect, math.inf))
    status, why = _together(found)
    lows, highs = zip(*(f.interval for f in found.values()), strict=True)
    low = min(lows, key=lambda x: _or(x, -math.inf))  # one unknown lower bound: none is known
    high = min(highs, key=lambda x: _or(x, math.inf))  # any upper bound bounds the weakest
    end = found[weakest]
    summary = Finding(status, why, end.step, end.effect, (low, high), end.null, end.initial)
    sentence = tell("Canonical representation", f"weakest ({pair(weakest)}) α", summary)
    return summary.verdict("crh", layer, sentence + _flatness(run, layer, status))


def _together(found: dict[str, Finding]) -> tuple[str, str]:
    """Status of a set of relations claimed together, and the clause that says why."""
    failed = [pair(r) for r, f in found.items() if f.status == "violated"]
    if failed:
        return "violated", f"because {_list(failed)} fail{'s' if len(failed) == 1 else ''}"
    unknown = [(r, f) for r, f in found.items() if not f.present]
    outside = [f for _, f in unknown if f.status == "out of regime"]
    if outside:
        return "out of regime", outside[0].why
    if unknown:
        return "undetermined", f"{pair(unknown[0][0])}: {unknown[0][1].why}"
    if any(f.status == "holds" for f in found.values()):
        return "holds", "formed"
    if all(f.status == "out of regime" for f in found.values()):
        return "out of regime", "trivial: every relation was there already (nothing formed)"
    return "undetermined", next(f.why for f in found.values() if f.status == "undetermined")


def _flatness(run: Run, layer: str, status: str) -> str:
    decades = number(run, "decades", layer)
    if status != "holds" or math.isnan(decades):
        return ""
    if decades < 1:
        return f" W is nearly flat ({show(decades)} decades of s²), as all six require."
    return (
        f" Yet s² of W spans {show(decades)} decades: all six exactly would make W flat, so"
        " they hold in its leading directions only, or the theory fails here."
    )


# Directional redundancy -----------------------------------------------------------------------


def _side(side: str) -> tuple[str, ...]:
    return tuple(r for r in RELATIONS if r.endswith(side))


@declare(
    name="redundancy",
    family="canonical",
    statement="Two relations of one side imply the third (Master Theorem, part 1).",
    equation="A ∝ B and B ∝ C ⇒ A ∝ C;  cos(θ_AB + θ_BC) ≤ α_AC ≤ cos(θ_AB − θ_BC)",
    source=SOURCE + ", Theorem 2 (1); the bounds: triangle inequality of angles",
    bibtex=bibliography.FORMATION,
    estimators=ESTIMATORS,
    needs=(
        *(r + suffix for r in RELATIONS for suffix in ("", "_plugin", "_haar", "_permutation")),
        *EVIDENCE,
    ),
    regime=sampling,
    predict=lambda run, layer: Prediction(
        max((_implied(run, layer, s) for s in "ab"), key=lambda x: _or(x, -2)),
        "the third α is at least cos(θ_AB + θ_BC) of the two strongest",
    ),
)
def redundancy(run: Run, layer: str) -> Verdict:
    """On each side where two relations are present, at least one of them formed: is the third?

    Exactly proportional matrices make this a tautology; at α just above 0.7 it is not: two
    alignments of 0.75 leave the third anywhere above 0.13. Effect: the weakest α of the side
    where the premise holds (of the worse side if on both); null: the value that geometry
    alone forces on it. The plug-in α of three matrices must obey the bounds to rounding
    whatever the network does, so a stray third is reported as a fault of measurement.
    """
    sides = [_third(run, layer, side) for side in "ab"]
    order = ("violated", "undetermined", "holds", "out of regime")
    subject, found = min(sides, key=lambda item: (order.index(item[1].status), item[1].effect))
    sentence = tell(subject, "third α", found)
    if math.isfinite(found.null):
        sentence += f" (The null is what geometry forces on it: at least {show(found.null)}.)"
    return found.verdict("redundancy", layer, sentence)


def _third(run: Run, layer: str, side: str) -> tuple[str, Finding]:
    found = {r: examine(run, layer, r) for r in _side(side)}
    weakest, *others = sorted(found, key=lambda r: _or(found[r].effect, -2))
    third, premise = found[weakest], [found[r] for r in others]
    forced = _implied(run, layer, side)
    subject = f"{' and '.join(pair(r) for r in others)} imply {pair(weakest)}"
    status, why = third.status, third.why
    if _stray(run, layer, side):
        status, why = "violated", "outside what geometry allows: the measurement is at fault"
    elif not all(f.present for f in premise) or all(f.status != "holds" for f in premise):
        unclear = [f for f in premise if f.status == "undetermined"]
        status = "undetermined" if unclear else "out of regime"
        why = unclear[0].why if unclear else "no two relations of one side have formed"
    elif third.present and third.status != "undetermined":
        status, why = "holds", "formed"
    return subject, Finding(
        status, why, third.step, third.effect, third.interval, forced, third.initial
    )


def _plugins(run: Run, layer: str, side: str) -> list[float]:
    """The three plug-in alignments of a side, falling; rounding beyond ±1 taken off."""
    values = [number(run, f"{r}_plugin", layer) for r in _side(side)]
    return sorted((max(-1.0, min(1.0, v)) for v in values if not math.isnan(v)), reverse=True)


def _implied(run: Run, layer: str, side: str) -> float:
    """The least third alignment that the two strongest of a side leave possible."""
    values = _plugins(run, layer, side)
    return transitivity_bounds(*values[:2])[0] if len(values) == 3 else math.nan


def _stray(run: Run, layer: str, side: str, rounding: float = 1e-3) -> bool:
    """Whether the weakest plug-in alignment is below what the two strongest force on it."""
    values = _plugins(run, layer, side)
    return len(values) == 3 and values[2] < _implied(run, layer, side) - rounding


def _undetermined(found: Finding, why: str) -> Finding:
    return Finding(
        "undetermined", why, found.step, found.effect, found.interval, found.null, found.initial
    )


def _or(x: float, default: float) -> float:
    return default if math.isnan(x) else x


def _list(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
