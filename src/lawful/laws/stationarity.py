"""Stationarity: what holds at a critical point of L + γ‖W‖²/2, and how far a layer is from it.

Cross term. ∂L/∂W = E[g_b h_aᵀ], so ∇L = −γW multiplied by Wᵀ on either side gives

    E[g_b h_bᵀ] = −γ Z_b          E[g_a h_aᵀ] = −γ Z_a

Exact, for any network and loss; the identity behind "the covariance of g and h aligns with
W Wᵀ". Test: the relative residual, gradient noise removed, ends below 0.1. Null: 1, what no
cross term at all would give. A snapshot of constant-rate SGD does not satisfy it: the rate has
to be annealed, or γ‖W‖ has to stand above the gradient noise.

Norm. One step W ← W − η(∇L + γW) changes ‖W‖² by

    −η (2⟨∇L,W⟩ + 2γ‖W‖² − η‖∇L + γW‖²) = −2ηγ‖W‖² b        (b is the balance)

so b = −d log‖W‖²/dτ with dτ = 2γη dt, exactly, whatever the batches were. Test: b, the slope
of log‖W‖² against τ in the last 30 % of training (at least the last five measurements), lies
within ±0.1. The slope sees every step between two measurements and has no gradient noise.

Regime. Cross term: decay that enters the gradient, γ > 0, weights whose scale matters (a
normalisation after them makes ⟨∇L,W⟩ = 0, and no critical point has γ > 0). Norm: plain SGD
without momentum, γ > 0, weights that move.

Sources: the cross term as in Boix-Adserà, Mallinar, Simon, Belkin, arXiv 2507.05644 (FACT);
the balance of norms is elementary, and is a premise of Theorem 1 of arXiv 2410.03006.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from ..estimators.uncertainty import series_slope
from . import bibliography
from .evidence import Estimate, at_initialisation, number, show
from .formation import Claim, Finding, tell, weigh
from .law import Condition, Law, Prediction, barred, status_of
from .regime import clusters, coupled, decay, decayed, plain_sgd, still
from .registry import declare, register
from .relaxation import rates
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

SMALL = Claim(threshold=0.1, change=0.05, rising=False)
TOLERANCE = 0.1
TAIL = 0.3
LEAST_POINTS = 5


# The cross term -------------------------------------------------------------------------------


def _critical(run: Run, layer: str) -> tuple[Condition, ...]:
    return (
        coupled(run, layer), decayed(run, layer), scaled(run, layer),
        clusters(run, layer), still(run, layer),
    )  # fmt: skip


def scaled(run: Run, layer: str) -> Condition:
    """The loss depends on the scale of W: cos(∇L, W) is not zero at every measurement."""
    product = run.series("gradient_dot_weight", layer)["value"].astype(float)
    norms = run.series("gradient_norm2", layer)["value"].astype(float)
    norms = norms * run.series("weight_norm2", layer)["value"].astype(float)
    cosine = float((product.abs() / np.sqrt(norms)).replace(np.inf, np.nan).max())
    text = "the loss does not depend on the scale of W (a normalisation follows)"
    return Condition("scale", not cosine < 1e-4, cosine, text, "out of regime")


def cross_law(side: str) -> Law:
    """The cross-term identity on one side."""
    name, equation = f"cross_term_{side}", f"E[g_{side} h_{side}ᵀ] = −γ Z_{side}"

    def test(run: Run, layer: str) -> Verdict:
        found = weigh(
            run, layer, f"cross_{side}", SMALL, null=1.0, conditions=_critical(run, layer)
        )
        sentence = tell(equation, "relative residual", found)
        if math.isfinite(found.effect):
            sentence += f" Pearson {show(number(run, f'cross_{side}_alignment', layer))}."
        return found.verdict(name, layer, sentence + _motion(run, layer))

    return Law(
        name=name,
        family="canonical",
        statement="At a critical point the mean gradient balances weight decay, "
        f"so gradients and activations of side {side} correlate as the weights do.",
        equation=equation,
        source="Boix-Adserà, Mallinar, Simon, Belkin, arXiv 2507.05644; elementary",
        bibtex=bibliography.CONVERGENCE + bibliography.FORMATION,
        estimators=bibliography.JACKKNIFE,
        needs=(
            f"cross_{side}", f"cross_{side}_alignment", "gradient_dot_weight",
            "gradient_norm2", "weight_norm2", "clusters", "drift",
        ),
        regime=_critical,
        predict=lambda run, layer: Prediction(0.0, "the residual vanishes"),
        test=test,
    )  # fmt: skip


for _side in ("b", "a"):
    register(cross_law(_side))


def _motion(run: Run, layer: str) -> str:
    """How far the weight norm is from standing still, for the reader of a cross term."""
    balance = norm_balance(run, layer).value
    return "" if math.isnan(balance) else f" Norm balance {show(balance)}."


# The norm -----------------------------------------------------------------------------------


def _moving(run: Run, layer: str) -> Condition:
    norms = run.series("weight_norm2", layer)["value"].astype(float)
    finite = len(norms) > 0 and bool(np.isfinite(norms.iloc[-1]))
    spread = float(norms.max() - norms.min()) if finite else math.nan
    met = spread > 0 if math.isfinite(spread) else None
    return Condition("frozen", met, spread, "the weights never moved", "out of regime")


def _plain(run: Run, layer: str) -> tuple[Condition, ...]:
    return plain_sgd(run, layer), decayed(run, layer), _moving(run, layer)


@declare(
    name="norm_stationarity",
    family="canonical",
    statement="Learning, decay and noise balance: the weight norm stands still.",
    equation="2⟨∇L,W⟩ + 2γ‖W‖² = η E‖∇L + γW‖²",
    source="elementary; premise of Theorem 1 of arXiv 2410.03006",
    bibtex=bibliography.FORMATION,
    needs=("weight_norm2", "learning_rate", "norm_balance"),
    regime=_plain,
    predict=lambda run, layer: Prediction(0.0, "the balance vanishes"),
)
def norm_stationarity(run: Run, layer: str) -> Verdict:
    """Effect: b of the module's docstring; null 1: decay alone;  initial: b as measured there."""
    balance = norm_balance(run, layer)
    low, high = balance.interval()
    unmet = barred(_plain(run, layer))
    if not len(run.series("weight_norm2", layer)):
        status, why = "undetermined", "the weight norm was never recorded here"
    elif unmet is not None:
        status, why = status_of(unmet), unmet.sentence
    elif math.isnan(low):
        status, why = (
            "undetermined",
            f"fewer than {LEAST_POINTS} measurements with η > 0 to average",
        )
    elif max(-low, high) < TOLERANCE:
        status, why = "holds", "stands still"
    elif low > TOLERANCE or high < -TOLERANCE:
        status, why = "violated", "is not stationary"
    else:
        status, why = "undetermined", f"the interval straddles ±{TOLERANCE}"
    initial = at_initialisation(run, "norm_balance", layer).value
    step = balance.step if balance.step >= 0 else int(run.manifest.get("steps") or 0)
    found = Finding(status, why, step, balance.value, (low, high), 1.0, initial)
    return found.verdict("norm_stationarity", layer, tell("Weight norm", "balance", found))


def norm_balance(run: Run, layer: str) -> Estimate:
    """b = −d log‖W‖²/dτ over the end of training, with the error of a regression slope.

    η between two measurements is interpolated.
    """
    norms = run.series("weight_norm2", layer)["value"].astype(float)
    gamma = decay(run)
    if len(norms) < LEAST_POINTS or not gamma > 0 or not math.isfinite(norms.iloc[-1]):
        return Estimate()
    norms = norms.dropna()
    if len(norms) < LEAST_POINTS or not (norms > 0).all():
        return Estimate()
    steps = norms.index.to_numpy(float)
    eta = rates(run, steps)
    spans = np.diff(steps) * (eta[1:] + eta[:-1]) / 2
    tau = 2 * gamma * np.concatenate([[0.0], np.cumsum(spans)])
    count = max(LEAST_POINTS, int((steps >= (1 - TAIL) * steps[-1]).sum()))
    slope, stderr = series_slope(tau[-count:], np.log(norms.to_numpy())[-count:])
    return Estimate(int(steps[-1]), -slope, stderr, count - 1)
