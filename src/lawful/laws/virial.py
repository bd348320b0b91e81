"""Virial: what the learning signal adds to the weights pays for decay and for the noise of steps.

For W ← W + ηU with U = Δ − λW, Δ = −g_B the learning signal, stationarity of E‖W‖² means

    E⟨W, Δ⟩ = λE‖W‖² − (η/2)E‖U‖²,

because ‖W′‖² − ‖W‖² = 2η⟨W, U⟩ + η²‖U‖². The increment U is measured on the weights, Δ on the
gradient: nothing but an update rule that is not W ← W − η(g_B + λW) can break it. The signal is
anti-Hebbian in the mean where (η/2)E‖U‖² exceeds λE‖W‖².

Test. Means over the second half of the run; effect: (left − right)/largest of the three terms,
within ±0.05.

Regime. Plain SGD, λ > 0; three relaxation times 1/(2ηλ) in the second half of the run, and a norm
whose drift is resolved to be below the tolerance: a run that is not stationary breaks nothing.

Source: Koplow, Poggio, Ziyin, arXiv 2505.18069, for stationary weights; the form with finite steps
is elementary (`theory/hebbian.py`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..estimators.uncertainty import interval
from . import bibliography, tail
from .evidence import number, show
from .law import Condition, Prediction, barred
from .regime import decay, decayed, plain_sgd
from .registry import declare
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

TOLERANCE = 0.05
TERMS = "virial", "virial_decay", "virial_step"


def stationary(run: Run, layer: str) -> tuple[Condition, ...]:
    """Plain SGD with decay, long enough for the norm of W to forget its start and stand still."""
    eta, gamma = tail.learning_rate(run), decay(run)
    steps, norm = tail.points(run, "virial_decay", layer)  # λ‖W‖²
    drift, error = tail.slope(steps, norm)
    unit = 2 * eta * gamma if gamma > 0 else math.nan
    allowed = TOLERANCE * max(abs(tail.mean(run, term, layer).value) for term in TERMS)
    return (
        plain_sgd(run, layer),
        decayed(run, layer),
        tail.relaxed(run, layer, unit, "virial"),
        tail.standing(drift / unit, error / unit, allowed, "‖W‖²"),
    )


@declare(
    name="virial",
    family="noise",
    statement="The learning signal along the weights pays for decay and for the noise of steps.",
    equation="E⟨W, Δ⟩ = λE‖W‖² − (η/2)E‖U‖²",
    source="Koplow, Poggio, Ziyin, ICML 2026, arXiv 2505.18069; elementary",
    bibtex=bibliography.HEBBIAN,
    needs=("virial", "virial_predicted", "virial_decay", "virial_step", "learning_rate"),
    regime=stationary,
    predict=lambda run, layer: Prediction(
        number(run, "virial_predicted", layer), "decay less half of η‖U‖²"
    ),
    everywhere=False,
)
def virial(run: Run, layer: str) -> Verdict:
    """Effect: (E⟨W, Δ⟩ − λE‖W‖² + (η/2)E‖U‖²)/largest term; initial: at step 0."""
    signal, loss, step = (tail.mean(run, term, layer) for term in TERMS)
    scale = max(abs(e.value) for e in (signal, loss, step))
    conditions = stationary(run, layer)
    effect = (signal.value - loss.value + step.value) / scale if scale > 0 else math.nan
    errors = math.hypot(signal.stderr, loss.stderr, step.stderr)
    bounds = interval(effect, errors / scale if scale > 0 else math.nan, signal.n - 1)
    unmet = barred(conditions)
    if signal.step < 0 and (unmet is None or unmet.met is None):
        status, why = "undetermined", f"needs {tail.LEAST} measurements in the second half"
    else:
        status, why = tail.weigh(bounds, 0.0, TOLERANCE, unmet)
    sentence = (
        f"Virial identity {why}: E⟨W, Δ⟩ = {show(signal.value)}, λE‖W‖² = {show(loss.value)}, "
        f"(η/2)E‖U‖² = {show(step.value)}."
    )
    at = signal.step if signal.step >= 0 else int(run.manifest.get("steps") or 0)
    first = [number(run, term, layer, 0) for term in TERMS]
    size = max(abs(x) for x in first)
    initial = (first[0] - first[1] + first[2]) / size if size > 0 else math.nan
    return Verdict("virial", layer, at, status, effect, bounds, math.nan, initial, sentence)
