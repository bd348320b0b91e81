"""Forecast: the learning rate that is surely stable now, and how long to warm up for more.

    η (Tr H/S + λ_max(1 + 1/S)) < 2         mini-batch SGD is stable in mean square

with Tr H by random probes and λ_max by Lanczos on a sample of the data. Where the given rate is
above, the rescaling that holds most of Tr H is followed along its orbit: SGD noise flattens it.

Rests on: plain SGD; curvature as it is now; one orbit, others held (see `methods.warmup`). A guide
within a factor of a few.

Source: see `methods.warmup`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from ..methods.warmup import Rescaling, advise_warmup, stable_rate
from ..symmetry import Family, Mixing, Scaling, Shifting, Symmetry
from .case import Case, Named
from .curvature import TooCostly, block_traces, curvature, extreme, flat, unflat
from .forecast import Forecast, silent
from .wording import count, figure

THEORY = "warm-up"
PROBES, ITERATIONS = 32, 24


def forecasts(case: Case) -> list[Forecast]:
    """Tr H, λ_max, the stable rate; and the steps of warm-up."""
    t = case.training
    if not t.sgd:
        said = f"{t.optimizer} has its own preconditioned stability; this bound is that of SGD."
        return [silent(THEORY, "", said, f"SGD; the optimiser is {t.optimizer}.")]
    try:
        sample = curvature(case, PROBES + ITERATIONS)
    except TooCostly as error:
        return [silent(THEORY, "", f"Not computed: {error}.", "A Hessian on a sample of data.")]
    times = sample.at(case.theta)
    diagonal, spread = block_traces(times, case.theta, PROBES, case.seed)
    trace = sum(float(d.sum()) for d in diagonal.values())
    top = _top(case, times)
    if trace < top < trace + 3 * spread + 1e-3 * top:
        trace = top  # of rank one, as far as the probes can tell
    rests = (
        f"Plain SGD, a squared loss or near it, curvature on {sample.samples} samples"
        f"{f'; momentum {t.momentum:g} as SGD at η/(1−μ)' if t.momentum else ''}."
    )
    if not 0 < top <= trace:
        said = f"Tr H = {figure(trace)}, λ_max = {figure(top)}: not a bowl, the bound says nothing."
        return [silent(THEORY, "", said, rests)]
    rate = stable_rate(trace, top, t.batch_size) * (1 - t.momentum)
    verdict = "below" if t.lr <= rate else "above: it may or may not be"
    applies = "partly" if t.momentum else "yes"
    found = [
        Forecast(THEORY, "hessian_trace", "", trace, "1/lr", f"Tr H = {figure(trace)}.", rests),
        Forecast(THEORY, "hessian_top", "", top, "1/lr", f"λ_max = {figure(top)}.", rests),
        Forecast(
            THEORY, "stable_lr", "", rate, "lr",
            f"Surely stable now up to lr {figure(rate)}; yours, {t.lr:g}, is {verdict}.",
            rests, applies,
        ),
    ]  # fmt: skip
    return [*found, _advice(case, diagonal, trace, top, rate, rests)]


def _top(case: Case, times: Callable[[Named], Named]) -> float:
    names = tuple(case.theta)
    size = sum(t.numel() for t in case.theta.values())
    return extreme(lambda v: flat(times(unflat(v, case.theta)), names), size, "LA", ITERATIONS)


def _advice(
    case: Case, diagonal: Named, trace: float, top: float, rate: float, rests: str
) -> Forecast:
    t = case.training
    if t.lr <= rate:
        said = f"No warm-up needed for lr {t.lr:g}."
        return Forecast(THEORY, "warmup_steps", "", 0.0, "steps", said, rests)
    blocks = [(_blocks(case, f, diagonal), s) for s, f in case.families if _two_sided(s, f)]
    usable = [(b, s) for b, s in blocks if 0 < top <= b.trace() + 1e-3 * trace]
    if not usable:
        said = f"No rescaling holds the top curvature: lower lr {t.lr:g} to be sure."
        return Forecast(THEORY, "warmup_steps", "", math.inf, "steps", said, rests, "partly")
    block, s = max(usable, key=lambda pair: pair[0].trace())
    share = block.trace() / trace
    # Momentum moves like SGD at η/(1−μ): ask for that rate, answer in the optimiser's own.
    advice = advise_warmup(
        block,
        eta=t.rate,
        batch=t.batch_size,
        top=min(top, block.trace()),
        weight_decay=t.weight_decay,
    )
    own = advice.rate * (1 - t.momentum)
    if advice.steps == 0:
        said = f"lr {t.lr:g} is on the edge of what is stable."
    elif math.isinf(advice.steps):
        said = f"No warm-up makes lr {t.lr:g} surely stable: noise leads nowhere flat enough."
    else:
        said = (
            f"About {count(advice.steps)} steps at lr {figure(own)}: noise takes Tr H from "
            f"{figure(advice.trace)} to {figure(advice.trace_needed)}."
        )
    rests += f" One orbit, {s.name}, which holds {share:.0%} of Tr H; minimum reached."
    return Forecast(THEORY, "warmup_steps", s.name, advice.steps, "steps", said, rests, "partly")


def _two_sided(s: Symmetry, family: Family) -> bool:
    return s.kind != "scale invariance" and not any(isinstance(a, Shifting) for a in family.actions)


def _blocks(case: Case, family: Family, diagonal: Named) -> Rescaling:
    """What grows under a family and what shrinks, as two blocks."""
    sums = {(side, what): 0.0 for side in (True, False) for what in range(3)}
    for a in family.actions:
        grows = not a.dual if isinstance(a, Mixing) else a.degree > 0  # type: ignore[union-attr]
        kinds = (case.theta[a.parameter].square(), case.noise.variance[a.parameter])
        for what, t in enumerate((*kinds, diagonal[a.parameter])):
            sums[grows, what] += _moved(a, t)
    both = [(sums[True, what], max(sums[False, what], 0.0)) for what in range(3)]
    (norm_in, norm_out), (noise_in, noise_out), (bend_in, bend_out) = both
    return Rescaling(norm_in, norm_out, noise_in, noise_out, max(bend_in, 0.0), max(bend_out, 0.0))


def _moved(a: object, t: Tensor) -> float:
    """Σ of the entries that an action moves: of a packed tensor a part."""
    assert isinstance(a, Mixing | Scaling)
    at = a.at.flatten() if isinstance(a, Mixing) else (a.direction >= 0).nonzero().flatten()
    return float(t.index_select(a.axis, at).double().sum())
