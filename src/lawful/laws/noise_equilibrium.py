"""Noise equilibrium: SGD carries every charge to one value, whatever the initialisation.

Statement. The noise of SGD moves θ along the orbit e^{λA}θ of a symmetry to the one point where it
balances on growing and shrinking directions (and weight decay with it). That point is known from
the noise and the norms: C* (`theory.noise_equilibrium` for a neuron, `theory.gl_equilibrium`
for k mixed channels), and so is the relaxation time τ ≈ S θᵀA²θ/(η² Tr[Σ₁A²]) steps. A layer has
that of its slowest neurons, but for those with less than 1 % of Σ‖θ_i‖⁴ between them.

Test. The gap ‖C − C*‖/‖θ‖², averaged over the last quarter of the run, has fallen by at least 0.1
and ends below 0.1. C* is that of the orbit on which the run is at that time: what it learns changes
orbit and noise, and C* is taken from the window's own noise, never from C. The gap is a norm, to
which the error of C* adds: of few samples it reads too high, and the law is called violated sooner.

Regime. SGD without momentum, coupled decay; not Adam. Three relaxation times before the last
quarter, else `undetermined`, with η²·steps in numbers: equilibrium is reached in 1/η² steps, so
most practical runs are far from it. η itself must be small (ηTr H ≪ 1): θ then stays so near the
valley that the mean gradient pushes less than the noise (`charge_push` beside `charge_noise`
tells).

Source: Ziyin, Wang, Li, Wu, "Parameter Symmetry and Noise Equilibrium of Stochastic Gradient
Descent", arXiv 2402.07193, Theorem 4.3; C* with decay and for GL derived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import bibliography
from .evidence import Estimate, at_initialisation, number, show
from .formation import Claim, Finding, compare, tell
from .law import Condition, Prediction, barred, status_of
from .regime import plain_sgd
from .registry import declare
from .relaxation import clock, late, relaxed, simulated
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

REACHED = Claim(threshold=0.1, change=0.1, rising=False)


def _regime(run: Run, layer: str) -> tuple[Condition, ...]:
    optimiser = () if simulated(run) else (plain_sgd(run, layer),)
    return *optimiser, relaxed(run, layer)


@declare(
    name="noise_equilibrium",
    family="symmetry",
    statement="The noise of SGD carries each charge to a unique value, from any initialisation.",
    equation="E[ΔC] = −(2ηλ−η²λ²)C + (η²/S)Tr[Σ₁A] = 0",
    source="Ziyin et al., arXiv 2402.07193, Theorem 4.3",
    bibtex=bibliography.NOISE_EQUILIBRIUM,
    needs=(
        "charge_gap", "charge", "charge_predicted", "charge_size", "equilibrium_shift",
        "relaxation_steps", "learning_rate",
    ),
    regime=_regime,
    predict=lambda run, layer: Prediction(
        number(run, "charge_predicted", layer), "the charge comes to rest at this value"
    ),
    everywhere=False,
)  # fmt: skip
def noise_equilibrium(run: Run, layer: str) -> Verdict:
    """Effect: the gap at the end;  initial: the gap at the first step."""
    final, initial = late(run, "charge_gap", layer), at_initialisation(run, "charge_gap", layer)
    # One window's gap at initialisation has no error of its own: a bare number.
    initial = Estimate(initial.step, initial.value, 0.0)
    unmet = barred(_regime(run, layer))
    if unmet is not None:
        status, why = status_of(unmet), unmet.sentence
    else:
        status, why, _ = compare(final, initial, REACHED)
    found = Finding(
        status, why, max(final.step, 0), final.value, final.interval(), float("nan"), initial.value
    )
    numbers = (
        f" Charge {show(number(run, 'charge', layer))}, predicted"
        f" {show(number(run, 'charge_predicted', layer))}"
    )
    passed = "" if unmet is not None and unmet.name == "relaxation" else f"; {clock(run, layer)}"
    sentence = tell("Noise equilibrium", "gap", found) + numbers + passed + "."
    return found.verdict("noise_equilibrium", layer, sentence)
