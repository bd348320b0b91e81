"""Regimes: the assumptions that several laws share, each with the number that tells.

Evidence (unmet: `undetermined`): enough rows, enough independent samples, weights that stood
still while the window was filled. Scope (unmet: `out of regime`): a layer wider than one
neuron, plain SGD, weight decay in the gradient.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .evidence import number, show
from .law import Condition

if TYPE_CHECKING:
    from ..record import Run

ROWS_PER_DIMENSION = 4
EFFECTIVE_PER_DIMENSION = 2
CLUSTERS = 8
DRIFT = 0.1
ONE_DIRECTION = 1.5

# torch optimisers whose `weight_decay` adds γW to the gradient before anything else.
COUPLED = ("SGD", "Adam", "Adagrad", "RMSprop", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD")


def sampling(run: Run, layer: str) -> tuple[Condition, ...]:
    """Enough rows, enough independent ones, and a still network: asked of every second moment."""
    return rows(run, layer), clusters(run, layer), still(run, layer)


def rows(run: Run, layer: str) -> Condition:
    """n ≥ 4·max(d_a, d_b) rows, worth at least half that after discounting their correlation."""
    width = max(number(run, "width_a", layer), number(run, "width_b", layer))
    seen, worth = number(run, "samples", layer), number(run, "effective_samples", layer)
    if not (seen >= ROWS_PER_DIMENSION * width):
        least = show_count(ROWS_PER_DIMENSION * width)
        text = f"{show_count(seen)} rows for a layer of width {show_count(width)}, {least} needed"
        return Condition("samples", _known(False, seen, width), seen, text)
    least = show_count(EFFECTIVE_PER_DIMENSION * width)
    text = f"{show_count(seen)} rows, worth {show_count(worth)} independent ones: {least} needed"
    enough = math.isnan(worth) or worth >= EFFECTIVE_PER_DIMENSION * width
    return Condition("samples", enough, seen, text)


def clusters(run: Run, layer: str) -> Condition:
    """At least 8 independent samples: below that a standard error is itself a guess."""
    seen = number(run, "clusters", layer)
    text = f"{show_count(seen)} independent samples, {CLUSTERS} needed for an error bar"
    return Condition("clusters", _known(seen >= CLUSTERS, seen), seen, text)


def still(run: Run, layer: str) -> Condition:
    """‖W_end − W_start‖ ≤ 0.1 ‖W_end‖ over the window."""
    drift = number(run, "drift", layer)
    text = f"the weights moved by {show(drift)} of their norm inside the window, {DRIFT} allowed"
    return Condition("drift", _known(drift <= DRIFT, drift), drift, text)


def wide(run: Run, layer: str, side: str) -> Condition:
    """More than one neuron on this side: a 1 × 1 matrix is proportional to any other."""
    width = number(run, f"width_{side}", layer)
    text = f"side {side} has one neuron: every 1 × 1 matrix is proportional to every other"
    return Condition(f"width_{side}", _known(width > 1, width), width, text, "out of regime")


def more_than_a_line(run: Run, layer: str) -> Condition:
    """PR(Z) ≥ 1.5: a W of rank one satisfies H_b ∝ Z_b and G_a ∝ Z_a by algebra alone.

    Decay that wins over learning leaves such a W: nothing is represented, yet all aligns.
    """
    rank = number(run, "participation_Z", layer)
    text = (
        f"W has one direction left (participation {show(rank)}): with rank one H_b ∝ Z_b and"
        " G_a ∝ Z_a are identities"
    )
    return Condition("rank", math.isnan(rank) or rank >= ONE_DIRECTION, rank, text, "out of regime")


def groups(run: Run) -> list[dict[str, Any]]:
    """The optimiser's parameter groups as the manifest keeps them; empty when not known."""
    return list((run.manifest.get("optimizer") or {}).get("groups") or [])


def decay(run: Run) -> float:
    """γ of the groups that have one; NaN when not known or when they differ, 0 when none has.

    Groups without decay are passed over: they hold biases and gains by common practice.
    """
    values = {float(g.get("weight_decay") or 0) for g in groups(run)}
    positive = values - {0.0}
    if len(positive) > 1 or not values:
        return math.nan
    return positive.pop() if positive else 0.0


def decayed(run: Run, layer: str) -> Condition:
    """γ > 0, the same for all parameters that decay."""
    gamma = decay(run)
    text = "γ = 0: without weight decay there is nothing to balance"
    if math.isnan(gamma):
        text = "one γ is not known: no optimiser was given, or its groups decay differently"
    return Condition("weight_decay", _known(gamma > 0, gamma), gamma, text, "out of regime")


def coupled(run: Run, layer: str) -> Condition:
    """Weight decay enters the gradient, so a stationary point has ∇L = −γW."""
    name = (run.manifest.get("optimizer") or {}).get("class")
    apart = any(g.get("decoupled_weight_decay") for g in groups(run))
    text = f"{name} decays the weights apart from the gradient, so ∇L = −γW is not its fixed point"
    if name is None:
        return Condition("optimizer", None, math.nan, "the optimiser is not known")
    met = name in COUPLED and not apart
    return Condition("optimizer", met, float(met), text, "out of regime")


def plain_sgd(run: Run, layer: str) -> Condition:
    """W ← W − η(∇L + γW): SGD, no momentum."""
    name = (run.manifest.get("optimizer") or {}).get("class")
    momentum = max((float(g.get("momentum") or 0) for g in groups(run)), default=math.nan)
    if name is None:
        return Condition("optimizer", None, math.nan, "the optimiser is not known")
    if name != "SGD":
        text = f"derived for SGD, and this is {name}"
        return Condition("optimizer", False, math.nan, text, "out of regime")
    text = f"derived without momentum, and this is {show(momentum)}: it rescales η"
    return Condition("momentum", momentum == 0, momentum, text, "out of regime")


def show_count(x: float) -> str:
    """A count as sentences print it."""
    return f"{x:.0f}" if math.isfinite(x) else "an unknown number of"


def _known(met: bool, *values: float) -> bool | None:
    """`met`, or None when one of the numbers it rests on is missing."""
    return None if any(math.isnan(v) for v in values) else bool(met)
