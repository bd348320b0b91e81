"""Neural collapse: class by class, the last features shrink to the corners of a simplex.

Statement. In the terminal phase of training a classifier (training error near 0), with
features h of class c, class means μ_c, their mean μ_G, classifier rows w_c:

    NC1  features of a class coincide with their mean     tr(Σ_W Σ_B⁺)/K → 0
    NC2  centred means form a simplex frame               equal norms; cos = −1/(K−1)
    NC3  the classifier is the matrix of centred means    ‖W/‖W‖ − M/‖M‖‖ → 0
    NC4  the classifier picks the nearest class mean      disagreements → 0

A simplex frame with W = M satisfies all six canonical relations; the converse needs more.

Test. The paper proves limits and sets no cut-offs; ours: NC1 below 0.1; both parts of NC2
below 0.1; NC3 below 0.3 (a cosine of 0.955 between W and M); NC4 below 0.01. Each must also
have fallen by more than half its threshold since initialisation. Nulls: class means drawn at
random in d dimensions, which are nearly a simplex when d is large (norms vary by 1/√(2d),
cosines by √(2/πd)); W unrelated to M (√2); a classifier unrelated to the means ((K−1)/K). A null
below the threshold takes its place: beyond d = 50 NC2 has to be below what chance gives.

Regime. Training error at most 1 %; at least three classes (two centred means are always
opposite); d ≥ K − 1, or no simplex fits; at least 8 samples a class; for NC3 and NC4 the layer
must be the classifier, one output a class.

Source: Papyan, Han, Donoho, "Prevalence of neural collapse during the terminal phase of deep
learning training", PNAS 117 (2020), arXiv 2008.08186.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import bibliography
from .evidence import last, number, show
from .formation import Claim, Finding, tell, weigh
from .law import Condition, Law, Prediction
from .regime import show_count
from .registry import register
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

TERMINAL_ERROR = 0.01
SAMPLES_PER_CLASS = 8

# law -> (quantities, threshold, statement, equation)
_PARTS = {
    "nc1": (("nc1",), 0.1, "Features of a class collapse to their mean.", "tr(Σ_W Σ_B⁺)/K → 0"),
    "nc2": (
        ("nc2_norm", "nc2_angle"), 0.1,
        "Centred class means form a simplex equiangular tight frame.",
        "‖μ_c − μ_G‖ equal over c;  cos(μ_c − μ_G, μ_c′ − μ_G) → −1/(K−1)",
    ),
    "nc3": (
        ("nc3",), 0.3, "The classifier becomes the matrix of centred class means.",
        "‖W/‖W‖ − M/‖M‖‖ → 0",
    ),
    "nc4": (
        ("nc4",), 0.01, "The classifier decides for the nearest class mean.",
        "argmax_c ⟨w_c, h⟩ + b_c = argmin_c ‖h − μ_c‖",
    ),
}  # fmt: skip
_WORD = {"nc2_norm": "norm variation", "nc2_angle": "angle deviation"}


def _anywhere(run: Run, quantity: str, layer: str) -> float:
    """A number of the layer, or of the run as a whole when it was logged there."""
    here = number(run, quantity, layer)
    return number(run, quantity, "") if math.isnan(here) else here


def _regime(run: Run, layer: str, name: str) -> tuple[Condition, ...]:
    error, classes = _anywhere(run, "train_error", layer), _anywhere(run, "classes", layer)
    width, outputs = number(run, "width_a", layer), number(run, "width_b", layer)
    each = last(run, _PARTS[name][0][0], layer).n / classes if classes else math.nan
    met = None if math.isnan(error) else error <= TERMINAL_ERROR
    text = f"training error {show(error)}: not the terminal phase ({TERMINAL_ERROR} at most)"
    terminal = Condition("train_error", met, error, text, "out of regime")
    fits = None if math.isnan(classes + width) else 3 <= classes <= width + 1
    text = f"{show_count(classes)} classes in {show_count(width)} dimensions: no simplex to test"
    simplex = Condition("classes", fits, classes, text, "out of regime")
    text = f"{show(each)} samples a class, {SAMPLES_PER_CLASS} needed"
    sampled = Condition("samples", each >= SAMPLES_PER_CLASS, each, text)
    if name not in ("nc3", "nc4"):
        return terminal, simplex, sampled
    met = None if math.isnan(outputs + classes) else outputs == classes
    text = f"not the classifier: {show_count(outputs)} outputs for {show_count(classes)} classes"
    return Condition("classifier", met, outputs, text, "out of regime"), terminal, simplex, sampled


def null(run: Run, layer: str, quantity: str) -> float:
    """What the quantity would be with random class means or an unrelated classifier."""
    d, K = number(run, "width_a", layer), _anywhere(run, "classes", layer)
    return {
        "nc2_norm": 1 / math.sqrt(2 * d) if d > 0 else math.nan,
        "nc2_angle": math.sqrt(2 / (math.pi * d)) if d > 0 else math.nan,
        "nc3": math.sqrt(2),
        "nc4": (K - 1) / K if K > 0 else math.nan,
    }.get(quantity, math.nan)


def collapse_law(name: str) -> Law:
    """One of the four parts of neural collapse; NC2 is as good as the worse of its two."""
    quantities, threshold, statement, equation = _PARTS[name]

    def examine(run: Run, layer: str, quantity: str) -> Finding:
        chance = null(run, layer, quantity)
        bar = min(threshold, chance) if math.isfinite(chance) else threshold
        claim = Claim(bar, change=threshold / 2, rising=False)
        return weigh(run, layer, quantity, claim, conditions=_regime(run, layer, name))

    def test(run: Run, layer: str) -> Verdict:
        order = ("violated", "undetermined", "out of regime", "holds")
        found = {q: examine(run, layer, q) for q in quantities}
        worst = min(found, key=lambda q: order.index(found[q].status))
        end, chance = found[worst], null(run, layer, worst)
        verdict = Finding(
            end.status, end.why, end.step, end.effect, end.interval, chance, end.initial
        )
        sentence = tell(name.upper(), _WORD.get(worst, worst), verdict)
        return verdict.verdict(name, layer, sentence)

    return Law(
        name=name,
        family="collapse",
        statement=statement,
        equation=equation,
        source="Papyan, Han, Donoho, PNAS 117 (2020), arXiv 2008.08186",
        bibtex=bibliography.COLLAPSE,
        estimators=bibliography.JACKKNIFE,
        needs=(*quantities, "classes", "train_error", "width_a", "width_b"),
        regime=lambda run, layer: _regime(run, layer, name),
        predict=lambda run, layer: Prediction(0.0, f"{quantities[0]} → 0"),
        test=test,
        everywhere=False,
    )


for _name in _PARTS:
    register(collapse_law(_name))
