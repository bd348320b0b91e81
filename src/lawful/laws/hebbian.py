"""Hebbian look: stationary learning with decay resembles Hebb's rule, and how much so depends on B.

At rest the mean learning signal restores what decay removes, Δ = λW, so it points along the Hebbian
update E[h_b h_aᵀ], h_b = W h_a before the activation function. The noise of steps and of weights
turns it the other way. Two laws:

Sign. The cosine of a mini-batch signal −g_B with the Hebbian update has the sign of
λE‖W‖² − (η/2)E‖U‖², what the virial says of ⟨W, Δ⟩ (U the increment of W over η).

Batch. The cosine is the mean signal seen through the noise of B samples,

    cos_B = ρ λ‖W‖/√(λ²‖W‖² + trΣ/B),        ρ = cos(W, E[h_b h_aᵀ]),

so its growth with λ is signal over noise, and an alignment without its B says nothing.

Test. Means over the second half of the run. Sign: effect = the cosine, to be resolved from 0, as
the other side must be. Batch: effect = cos_B over the formula, within 0.85 … 1.15.

Regime. That of the virial identity. Batch: the mean signal has come to rest,
‖E[Δ] − λW‖ ≤ 0.3 λ‖W‖, and steps are small, (η/2)E‖U‖² ≤ 0.2 λE‖W‖²: the formula leaves them out.

Source: Koplow, Poggio, Ziyin, arXiv 2505.18069 (sign); batch-size law derived in
`theory/hebbian.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..theory.hebbian import batch_cosine
from . import bibliography, tail
from .evidence import Estimate, number, show
from .law import Condition, Prediction, barred, status_of
from .regime import decay
from .registry import declare
from .verdict import Verdict
from .virial import TERMS, stationary

if TYPE_CHECKING:
    from ..record import Run

NEEDS = (
    "hebbian_cosine", "virial", "virial_predicted", "virial_decay", "virial_step", "learning_rate",
)  # fmt: skip
BATCH = "hebbian_ceiling", "noise_trace", "signal_norm2", "batch_size"
TOLERANCE = 0.15
AT_REST = 0.3
SMALL_STEP = 0.2


@declare(
    name="hebbian_sign",
    family="noise",
    statement="Learning looks Hebbian where decay beats the noise of steps, else anti-Hebbian.",
    equation="sign cos(−g_B, E[h_b h_aᵀ]) = sign(λE‖W‖² − (η/2)E‖U‖²)",
    source="Koplow, Poggio, Ziyin, ICML 2026, arXiv 2505.18069",
    bibtex=bibliography.HEBBIAN,
    needs=NEEDS,
    regime=stationary,
    predict=lambda run, layer: Prediction(
        math.copysign(1.0, number(run, "virial_predicted", layer)), "the sign of the cosine"
    ),
    everywhere=False,
)
def hebbian_sign(run: Run, layer: str) -> Verdict:
    """Effect: mean cosine over the second half; null 0; initial: at step 0."""
    cosine = tail.mean(run, "hebbian_cosine", layer)
    _, loss, step = (tail.mean(run, term, layer) for term in TERMS)
    low, high = cosine.interval()
    margin = loss.value - step.value
    sure = abs(margin) > 2 * math.hypot(loss.stderr, step.stderr)
    unmet = barred(stationary(run, layer))
    if cosine.step < 0:
        status, why = "undetermined", f"needs {tail.LEAST} measurements in the second half"
    elif unmet is not None:
        status, why = status_of(unmet), f"is not judged ({unmet.sentence})"
    elif math.isnan(low) or low <= 0 <= high:
        status, why = "undetermined", "is not resolved from zero"
    elif not sure:
        status, why = "undetermined", "has nothing to agree with: decay and step noise cancel"
    elif cosine.value * margin > 0:
        status, why = "holds", "is that of decay less step noise"
    else:
        status, why = "violated", "is not that of decay less step noise"
    sentence = (
        f"Hebbian sign {why}: cosine {show(cosine.value)} at B = {_batch(run)}, "
        f"λE‖W‖² = {show(loss.value)}, (η/2)E‖U‖² = {show(step.value)}."
    )
    return _verdict("hebbian_sign", run, layer, status, cosine, 0.0, sentence)


def _rest(run: Run, layer: str) -> Condition:
    """‖E[Δ] − λW‖/(λ‖W‖), from ‖E Δ‖², ⟨W, EΔ⟩ and λ‖W‖²."""
    gamma = decay(run)
    signal2, along, loss = (
        tail.mean(run, q, layer).value for q in ("signal_norm2", "virial", "virial_decay")
    )
    size2 = gamma * loss
    residual2 = (signal2 - 2 * gamma * along + size2) / size2 if size2 > 0 else math.nan
    residual = math.sqrt(max(residual2, 0.0))  # an unbiased square may be slightly negative
    text = f"not at rest: ‖E[Δ] − λW‖ is {show(residual)} of λ‖W‖, {AT_REST} allowed"
    known = None if math.isnan(residual2) else residual <= AT_REST
    return Condition("rest", known, residual, text)


def _small(run: Run, layer: str) -> Condition:
    _, loss, step = (tail.mean(run, term, layer).value for term in TERMS)
    share = step / loss if loss > 0 else math.nan
    text = f"the noise of steps is {show(share)} of decay, {SMALL_STEP} allowed"
    known = None if math.isnan(share) else share <= SMALL_STEP
    return Condition("step noise", known, share, text, "out of regime")


def _regime(run: Run, layer: str) -> tuple[Condition, ...]:
    return (*stationary(run, layer), _rest(run, layer), _small(run, layer))


def _expected(run: Run, layer: str) -> Estimate:
    """cos_B of the formula, with the error that ρ and trΣ carry into it."""
    rho, trace = (tail.mean(run, q, layer) for q in ("hebbian_ceiling", "noise_trace"))
    batch, loss = tail.mean(run, "batch_size", ""), tail.mean(run, "virial_decay", layer)
    gamma = decay(run)
    values = rho.value, trace.value, batch.value, loss.value, gamma
    if not (all(map(math.isfinite, values)) and gamma * loss.value > 0 and batch.value >= 1):
        return Estimate()

    def formula(r: float, noise: float) -> float:
        noise = max(noise, 0.0)
        return batch_cosine(r, loss.value / gamma, noise, gamma=gamma, kappa=1 / batch.value)

    value = formula(rho.value, trace.value)
    shifts = (
        formula(rho.value + rho.stderr, trace.value) - value,
        formula(rho.value, trace.value + trace.stderr) - value,
    )
    return Estimate(rho.step, value, math.hypot(*shifts), rho.n)


@declare(
    name="hebbian_batch",
    family="noise",
    statement="How Hebbian learning looks at rest is signal over noise: it grows with decay and B.",
    equation="cos_B = ρ λ‖W‖/√(λ²‖W‖² + trΣ/B)",
    source="derived from Koplow, Poggio, Ziyin, ICML 2026, arXiv 2505.18069",
    bibtex=bibliography.HEBBIAN,
    needs=(*NEEDS, *BATCH),
    regime=_regime,
    predict=lambda run, layer: Prediction(_expected(run, layer).value, "the cosine at this B"),
    everywhere=False,
)
def hebbian_batch(run: Run, layer: str) -> Verdict:
    """Effect: measured cosine over that of the formula; null: ρ over it, the cosine without B."""
    cosine, expected = tail.mean(run, "hebbian_cosine", layer), _expected(run, layer)
    effect = cosine.value / expected.value if expected.value else math.nan
    relative = math.hypot(
        cosine.stderr / cosine.value if cosine.value else math.nan,
        expected.stderr / expected.value if expected.value else math.nan,
    )
    found = Estimate(cosine.step, effect, abs(effect) * relative, cosine.n)
    if cosine.step < 0:
        status, why = "undetermined", f"needs {tail.LEAST} measurements in the second half"
    else:
        status, why = tail.weigh(found.interval(), 1.0, TOLERANCE, barred(_regime(run, layer)))
    sentence = (
        f"Batch-size law of the Hebbian cosine {why}: measured {show(cosine.value)}, expected "
        f"{show(expected.value)} at B = {_batch(run)}."
    )
    ceiling = tail.mean(run, "hebbian_ceiling", layer).value
    null = ceiling / expected.value if expected.value else math.nan
    return _verdict("hebbian_batch", run, layer, status, found, null, sentence)


def _batch(run: Run) -> str:
    return show(number(run, "batch_size", ""))


def _verdict(
    law: str, run: Run, layer: str, status: str, effect: Estimate, null: float, sentence: str
) -> Verdict:
    step = effect.step if effect.step >= 0 else int(run.manifest.get("steps") or 0)
    initial = number(run, "hebbian_cosine", layer, 0) if law == "hebbian_sign" else math.nan
    return Verdict(
        law, layer, step, status, effect.value, effect.interval(), null, initial, sentence
    )
