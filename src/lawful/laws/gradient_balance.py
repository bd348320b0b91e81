"""Gradient balance: noise shares itself out between layers and neurons.

Where the scale of layer i can be traded against that of layer j (linear and ReLU networks), one
step of SGD with weight decay λ changes the charge C = ‖W_i‖² − ‖W_j‖², exactly, by
ΔC = η [η(‖g_i‖² − ‖g_j‖²) − 2λC] + O(ηλ)². So where C stands still

    η(E‖g_i‖² − E‖g_j‖²) = 2λ(‖W_i‖² − ‖W_j‖²)          λ = 0: E‖g_i‖² = E‖g_j‖²

with g the gradient of the mini-batch (its mean included), and the bias of layer i counted with its
weights. The same of every hidden neuron with its incoming and outgoing weights.

Test. Means over the second half of the run. Effect, layers: (left − right)/scale, the scale being
the larger side (at least a tenth of the mean pull ½Σ(ηE‖g‖² + 2λ‖W‖²)), or that pull when λ = 0;
within ±0.1. Neurons: root mean square of the two pulls' relative difference, at most 0.1.

Regime. Plain SGD. And no verdict before its time: at least three relaxation times
1/(η²ΣE‖g‖²/Σ‖W‖² + 2ηλ) in the second half of the run, and a charge whose drift, in the units of
the two sides, is resolved to be below the tolerance: a network that still drifts does not break
the law, it has not got there. What breaks it is a loss that the rescaling changes.

Source: Ziyin, Xu, Chuang, arXiv 2505.12387; `theory/gradient_balance.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..estimators.uncertainty import interval
from . import bibliography, tail
from .evidence import Estimate, number, show
from .law import Condition, Prediction, barred
from .regime import decay, groups, plain_sgd
from .registry import declare
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

Array = NDArray[np.float64]
TOLERANCE = 0.1
LEAST_NEURONS = 8
EQUATION = "η(E‖g_i‖² − E‖g_j‖²) = 2λ(‖W_i‖² − ‖W_j‖²)"


def _sides(run: Run, layer: str, late: bool = True) -> tuple[Estimate, Estimate, float]:
    """Both sides and the scale that their difference is compared with."""
    names = "gradient_balance", "gradient_balance_predicted"
    if late:
        left, right = (tail.mean(run, name, layer) for name in names)
        pull = tail.mean(run, "balance_pull", layer).value
    else:
        left, right = (Estimate(0, number(run, name, layer, 0)) for name in names)
        pull = number(run, "balance_pull", layer, 0)
    if _decay(run) == 0:
        return left, right, pull
    return left, right, max(abs(left.value), abs(right.value), 0.1 * pull)


def _decay(run: Run) -> float:
    return decay(run) if groups(run) else math.nan


def _regime(run: Run, layer: str) -> tuple[Condition, ...]:
    _, _, scale = _sides(run, layer)
    rate = tail.mean(run, "balance_rate", layer).value
    drift, error = tail.slope(*tail.points(run, "balance_charge", layer))
    eta = tail.learning_rate(run)
    return (
        plain_sgd(run, layer),
        tail.relaxed(run, layer, rate, "balance_rate"),
        tail.standing(drift / eta, error / eta, TOLERANCE * scale, "‖W_i‖² − ‖W_j‖²"),
    )


@declare(
    name="gradient_balance",
    family="noise",
    statement="Gradient noise and weight decay balance between layers that can trade scale.",
    equation=EQUATION,
    source="Ziyin, Xu, Chuang, NeurIPS 2025, arXiv 2505.12387",
    bibtex=bibliography.ENTROPIC,
    needs=(
        "gradient_balance", "gradient_balance_predicted", "balance_charge", "balance_pull",
        "balance_rate", "learning_rate",
    ),
    regime=_regime,
    predict=lambda run, layer: Prediction(0.0, "the two sides are equal"),
    everywhere=False,
)  # fmt: skip
def gradient_balance(run: Run, layer: str) -> Verdict:
    """Effect: (left − right)/scale of this layer and the one after it; initial: at step 0."""
    left, right, scale = _sides(run, layer)
    before = _sides(run, layer, late=False)
    initial = (before[0].value - before[1].value) / before[2] if before[2] > 0 else math.nan
    if left.step < 0 or not scale > 0:
        why = f"fewer than {tail.LEAST} measurements of its gradients in the second half"
        return _unmeasured("gradient_balance", run, layer, f"Gradient balance: {why}.")
    effect = (left.value - right.value) / scale
    bounds = interval(effect, math.hypot(left.stderr, right.stderr) / scale, left.n - 1)
    status, why = tail.weigh(bounds, 0.0, TOLERANCE, barred(_regime(run, layer)))
    sentence = (
        f"Gradient balance {why}: "
        f"η(E‖g_i‖² − E‖g_j‖²) = {show(left.value)} ± {show(left.stderr)}, "
        f"2λ(‖W_i‖² − ‖W_j‖²) = {show(right.value)}: {show(effect)} of {show(scale)} apart."
    )
    return Verdict(
        "gradient_balance", layer, left.step, status, effect, bounds, math.nan, initial, sentence
    )


def _unmeasured(law: str, run: Run, layer: str, sentence: str) -> Verdict:
    steps = int(run.manifest.get("steps") or 0)
    nothing = math.nan
    return Verdict(
        law, layer, steps, "undetermined", nothing, (nothing, nothing), nothing, nothing, sentence
    )


# -- neuron by neuron ----------------------------------------------------------------------------


def _neurons(run: Run, layer: str) -> tuple[Array, Array]:
    """Steps of the second half and (steps, 4, k): ‖g‖² in, out, ‖W‖² in, out."""
    steps = np.array(run.array_steps("balance_neurons", layer), dtype=float)
    late = steps[steps >= (1 - tail.SHARE) * steps[-1]] if len(steps) else steps
    if len(late) < tail.LEAST:
        return np.zeros(0), np.zeros((0, 4, 0))
    tables = [run.array("balance_neurons", layer=layer, step=int(s)) for s in late]
    return late, np.stack(tables).astype(float)


def _pulls(neurons: Array, eta: float, weight_decay: float) -> tuple[Array, Array]:
    """ηE‖g_in‖² + 2λ‖w_out‖² and ηE‖g_out‖² + 2λ‖w_in‖²: equal in balance."""
    into, out, weight_in, weight_out = np.moveaxis(neurons, -2, 0)
    up = eta * into + 2 * weight_decay * weight_out
    down = eta * out + 2 * weight_decay * weight_in
    return up, down


@declare(
    name="gradient_balance_neurons",
    family="noise",
    statement="Gradient noise and weight decay balance between what enters and leaves a neuron.",
    equation="η(E‖g_in‖² − E‖g_out‖²) = 2λ(‖w_in‖² − ‖w_out‖²)",
    source="Ziyin, Xu, Chuang, NeurIPS 2025, arXiv 2505.12387",
    bibtex=bibliography.ENTROPIC,
    needs=("gradient_balance", "balance_neurons", "learning_rate"),
    regime=lambda run, layer: (plain_sgd(run, layer),),
    predict=lambda run, layer: Prediction(0.0, "the two pulls on every neuron are equal"),
    everywhere=False,
)
def gradient_balance_neurons(run: Run, layer: str) -> Verdict:
    """Effect: rms relative difference of the pulls over the live neurons that have relaxed."""
    name = "gradient_balance_neurons"
    steps, neurons = _neurons(run, layer)
    eta, weight_decay = tail.learning_rate(run), _decay(run)
    if not len(steps) or not eta > 0 or math.isnan(weight_decay):
        return _unmeasured(name, run, layer, "Neuron balance: neurons or rates are not recorded.")
    up, down = _pulls(neurons, eta, weight_decay)
    pull = (up + down).mean(0) / 2
    live = pull > 1e-3 * np.median(pull)
    ready = live & _at_rest(steps, neurons, pull, eta)
    differences = (up - down)[:, ready] / pull[ready]
    unmet = barred((plain_sgd(run, layer), _most(ready, live)))
    effect, bounds = _spread(differences)
    status, why = tail.weigh(bounds, 0.0, TOLERANCE, unmet)
    sentence = (
        f"Neuron balance {why}: the pulls on {ready.sum()} of {live.sum()} live neurons differ by "
        f"{show(effect)} (root mean square)."
    )
    first = run.array_steps("balance_neurons", layer)[0]
    one, other = _pulls(run.array("balance_neurons", layer=layer, step=first), eta, weight_decay)
    with np.errstate(divide="ignore", invalid="ignore"):
        start = 2 * (one - other) / (one + other)
    initial = float(np.sqrt(np.nanmean(start[live] ** 2))) if live.any() else math.nan
    return Verdict(name, layer, int(steps[-1]), status, effect, bounds, math.nan, initial, sentence)


def _at_rest(steps: Array, neurons: Array, pull: Array, eta: float) -> Array:
    """Neurons with three relaxation times in the second half, whose charge stands still."""
    weights = neurons[:, 2:].mean(0).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        elapsed = 2 * eta * pull / weights * tail.SHARE * steps[-1]
    charges = neurons[:, 2] - neurons[:, 3]
    trends = np.array([tail.slope(steps, charge)[0] for charge in charges.T])
    return (elapsed >= tail.RELAXATIONS) & (np.abs(trends) / eta <= TOLERANCE * pull)


def _most(ready: Array, live: Array) -> Condition:
    share = float(ready.sum() / max(live.sum(), 1))
    enough = share >= 0.5 and ready.sum() >= LEAST_NEURONS
    text = (
        f"{ready.sum()} of {live.sum()} live neurons have had {tail.RELAXATIONS:g} relaxation "
        f"times and stand still; half of them, and {LEAST_NEURONS}, are needed"
    )
    return Condition("relaxation", bool(enough), share, text)


def _spread(differences: Array) -> tuple[float, tuple[float, float]]:
    """Root mean square over neurons of the mean difference, (steps, k), with its interval.

    The lower bound has the noise of the measurements removed, the upper one has not: neighbouring
    differences sum to what a charge has moved, so the noise left in their mean is not known.
    """
    count, k = differences.shape
    if k < 2:
        return math.nan, (math.nan, math.nan)
    r2 = differences.mean(0) ** 2
    noise = float(differences.var(0, ddof=1).mean()) / count
    low, high = interval(float(r2.mean()), float(r2.std(ddof=1)) / math.sqrt(k), k - 1)
    rms = math.sqrt(float(r2.mean()))
    return rms, (math.sqrt(max(low - noise, 0.0)), math.sqrt(high))
