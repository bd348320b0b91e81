"""Mirror symmetry as a constraint: above a critical weight decay the state is symmetric.

Statement. Let ℓ be unchanged by the reflection I − 2OOᵀ, and λ torch's coupled weight decay. The
symmetric state θ_s (Oᵀθ_s = 0: identical neurons, a dead one, a lost rank) is stable iff

    λ > λ_c = −λ_min(OᵀH(θ_s)O),

and the order parameter ‖Oᵀθ‖ ends at zero there, and away from zero below.

Test (`mirror_collapse`). Theory's side, before the end is looked at: order_parameter_predicted
where it was computed; otherwise λ against the earliest λ_c that was measured at a minimiser of
the symmetric plane (plane_gradient ≤ 0.1). The outcome: ‖Oᵀθ‖ has ended below 1 % of the largest
it was (zero), has not fallen by a tenth over the last quarter of the run (not zero), or neither
(undetermined: not yet relaxed; so are decays within 5 % of λ_c, where relaxation slows without
bound). A layer has many mirrors, each with a threshold of its own: followed is the distance of
the kind (swap, flip, …) that was nearest when λ_c was measured; ending on another is told.
Test (`mirror_threshold`). Where the edge itself was measured: within 5 % of the prediction, by its
95 % interval.

Regime. Decay in the gradient; with Adam not for rotation mirrors, whose planes its coordinates do
not respect; a start off the mirror, since exactly on it nothing can leave, stable or not.

Source: Ziyin, "Symmetry Induces Structure and Constraint of Learning", arXiv 2309.16932; the
threshold derived in `lawful.theory.mirror_collapse`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import bibliography
from .agreement import weigh
from .evidence import Estimate, at_initialisation, last, number, show
from .formation import Finding
from .law import Condition, Prediction, barred, status_of
from .regime import coupled, decay
from .registry import declare
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

ZERO, FALLING = 0.01, 0.9
NEAR = 0.05
AT_REST = 0.1
DISTANCES = ("swap_distance", "flip_distance", "swap_flip_distance", "rotation_distance")

SOURCE = "Ziyin, arXiv 2309.16932"


def applied_decay(run: Run, layer: str) -> float:
    """λ as recorded for the case or the run, else as the optimiser has it; NaN when not known."""
    for where in (layer, ""):
        found = number(run, "weight_decay", where)
        if not math.isnan(found):
            return found
    return decay(run)


def predicted_threshold(run: Run, layer: str) -> Estimate:
    """The earliest λ_c at a minimiser of the plane; where that was not recorded, the earliest."""
    table = run.series("critical_decay_predicted", layer).dropna(subset=["value"])
    still = run.series("plane_gradient", layer)["value"]
    for step, row in table.iterrows():
        if not len(still) or float(still.get(step, math.inf)) <= AT_REST:
            return Estimate(int(step), float(row.value), float(row.stderr), int(row.n))  # type: ignore[call-overload]
    return Estimate()


def plane_kept(run: Run, layer: str) -> Condition:
    """The optimiser cannot leave a mirror plane: rotation mirrors ask for SGD."""
    name = (run.manifest.get("optimizer") or {}).get("class")
    turned = len(run.series("rotation_distance", layer)) > 0
    text = f"{name} does not keep the plane of a rotation mirror: it acts on each coordinate"
    kept = name in (None, "SGD") or not turned
    return Condition("rotation", kept, math.nan, text, "out of regime")


def _collapse_regime(run: Run, layer: str) -> tuple[Condition, ...]:
    simulated = not run.manifest.get("optimizer")
    path = run.series("order_parameter", layer)["value"].astype(float)
    most = float(path.max()) if len(path) else math.nan
    text = "starts on the mirror, which nothing can leave, stable or not"
    off = None if math.isnan(most) else most > 0
    moved = Condition("off the mirror", off, most, text, "out of regime")
    if simulated:
        return (moved,)
    return coupled(run, layer), plane_kept(run, layer), moved


def expected_zero(run: Run, layer: str) -> tuple[bool | None, str]:
    """Whether theory says the order parameter ends at zero (None: it does not say), and why."""
    direct = last(run, "order_parameter_predicted", layer)
    if math.isfinite(direct.value):
        return direct.value == 0, f"theory gives {show(direct.value)}"
    threshold, applied = predicted_threshold(run, layer), applied_decay(run, layer)
    if threshold.step < 0:
        return None, "the symmetric state was never seen at rest, so its threshold is not known"
    why = f"λ = {show(applied)} against λ_c = {show(threshold.value)} of step {threshold.step}"
    if math.isnan(applied):
        return None, "one weight decay is not known"
    if abs(applied - threshold.value) <= NEAR * abs(threshold.value):
        return None, why + f": within {NEAR:.0%} of the transition"
    return applied > threshold.value, why


def followed(run: Run, layer: str) -> str:
    """The distance whose mirror the threshold speaks of: the nearest kind when it was measured."""
    step = predicted_threshold(run, layer).step
    near = {name: number(run, name, layer, step) for name in DISTANCES} if step >= 0 else {}
    known = {name: x for name, x in near.items() if not math.isnan(x)}
    return min(known, key=known.__getitem__) if known else "order_parameter"


def ends_at_zero(run: Run, layer: str) -> tuple[bool | None, str]:
    """Whether the order parameter did (None: still on its way), and its numbers."""
    name = followed(run, layer)
    path = run.series(name, layer)["value"].astype(float)
    if not len(path):
        return None, "the order parameter was never recorded here"
    most, end = float(path.max()), float(path.iloc[-1])
    told = f"{name} ends at {show(end)}, {show(most)} at most"
    if number(run, "order_parameter", layer) <= ZERO * most < end:
        told += ", on another mirror"
    if end <= ZERO * most:
        return True, told
    earlier = path[path.index <= 0.75 * path.index[-1]]
    if len(earlier) and end >= FALLING * float(earlier.iloc[-1]):
        return False, told
    return None, told + ", still on its way"


@declare(
    name="mirror_collapse",
    family="mirror",
    statement="Above the critical weight decay the state ends on the mirror, below it off it.",
    equation="Oᵀθ → 0  ⇔  λ > −λ_min(OᵀH(θ_s)O)",
    source=SOURCE,
    bibtex=bibliography.MIRROR,
    needs=(
        "order_parameter",
        "critical_decay_predicted",
        "plane_gradient",
        "weight_decay",
        *DISTANCES,
    ),
    regime=_collapse_regime,
    predict=lambda run, layer: Prediction(
        predicted_threshold(run, layer).value, expected_zero(run, layer)[1]
    ),
    everywhere=False,
)
def mirror_collapse(run: Run, layer: str) -> Verdict:
    """Effect: the distance at the end; null: what theory gave for it, if it did."""
    name = followed(run, layer)
    end, start = last(run, name, layer), at_initialisation(run, name, layer)
    unmet = barred(_collapse_regime(run, layer))
    wanted, why = expected_zero(run, layer)
    seen, told = ends_at_zero(run, layer)
    if unmet is not None:
        status, why = status_of(unmet), unmet.sentence
    elif wanted is None or seen is None:
        status = "undetermined"
    else:
        status = "holds" if wanted == seen else "violated"
    theory = number(run, "order_parameter_predicted", layer)
    step = max(end.step, 0)
    found = Finding(status, why, step, end.value, end.interval(), theory, start.value)
    word = {"holds": "As predicted", "violated": "Against the prediction"}.get(status, "Mirror")
    return found.verdict("mirror_collapse", layer, f"{word}: {why}; {told}.")


def _edge_regime(run: Run, layer: str) -> tuple[Condition, ...]:
    predicted = number(run, "critical_decay_predicted", layer)
    known = None if math.isnan(predicted) else predicted > 0
    text = (
        "no threshold was predicted"
        if known is None
        else f"λ_c = {show(predicted)}: symmetric without any decay, there is no transition"
    )
    return (Condition("threshold", known, predicted, text, "out of regime"),)


@declare(
    name="mirror_threshold",
    family="mirror",
    statement="The weight decay at which symmetry sets in is the one the Hessian predicts.",
    equation="λ_c = −λ_min(OᵀH(θ_s)O)",
    source=SOURCE,
    bibtex=bibliography.MIRROR,
    needs=("critical_decay", "critical_decay_predicted"),
    regime=_edge_regime,
    predict=lambda run, layer: Prediction(
        number(run, "critical_decay_predicted", layer), "the edge lies at λ_c"
    ),
    everywhere=False,
)
def mirror_threshold(run: Run, layer: str) -> Verdict:
    """Effect: the measured edge; null: the predicted one."""
    edge, theory = (
        last(run, "critical_decay", layer),
        number(run, "critical_decay_predicted", layer),
    )
    unmet = barred(_edge_regime(run, layer))
    error = edge.stderr if edge.stderr > 0 else 0.0
    low, high = edge.value - 1.96 * error, edge.value + 1.96 * error
    if unmet is not None:
        status, why = status_of(unmet), unmet.sentence
    elif math.isnan(edge.value):
        status, why = "undetermined", "no edge was found between the decays tried"
    else:
        status, why = weigh((low, high), theory, NEAR * theory)
    sentence = f"Edge at λ = {show(edge.value)}, predicted {show(theory)}: {why}."
    found = Finding(status, why, max(edge.step, 0), edge.value, (low, high), theory, math.nan)
    return found.verdict("mirror_threshold", layer, sentence)
