"""Formation: did a number get where the law says, and was it not there from the start?

A claim is a threshold and a direction. Four questions, in this order, each answered with
the 95 % interval of the number and never with its bare value:

1. Was it measured, at the end of the run, within the law's regime?     else undetermined
                                                                        or out of regime
2. Is the interval short of the threshold, or of the null?              violated
3. Does the null itself, or the value at initialisation, reach the
   threshold; or did the number move by less than `change`?             trivial: out of regime
4. Is the interval past threshold and null, and has the number moved by
   more than `change` beyond the error of the difference?               holds
                                                          anything else undetermined

A run in which nothing formed cannot pass question 4: its difference from initialisation is
zero within its error.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..estimators.uncertainty import interval
from .evidence import Estimate, at_initialisation, last, show
from .law import Condition, barred, status_of
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run


@dataclass(frozen=True)
class Claim:
    """Where a number must end, and by how much it must have moved to get there.

    threshold: the number must pass it.
    change:    least movement since initialisation that counts as formation.
    rising:    True when the law says the number ends above, False when below.
    """

    threshold: float
    change: float
    rising: bool = True


@dataclass(frozen=True)
class Finding:
    """A verdict before it has a name and a sentence.

    why:     what decided, as a clause ("stays below 0.70").
    present: the number is past its threshold at the end, formed or not; None when not known.
    """

    status: str
    why: str
    step: int
    effect: float
    interval: tuple[float, float]
    null: float
    initial: float
    present: bool | None = None

    def verdict(self, law: str, layer: str, sentence: str) -> Verdict:
        """The verdict that this finding becomes."""
        return Verdict(
            law, layer, self.step, self.status, self.effect, self.interval,
            self.null, self.initial, sentence,
        )  # fmt: skip


def weigh(
    run: Run,
    layer: str,
    quantity: str,
    claim: Claim,
    *,
    null: float = math.nan,
    conditions: Iterable[Condition] = (),
    level: float = 0.95,
) -> Finding:
    """Weigh one recorded number against a claim, in the order of the module's docstring."""
    final, initial = last(run, quantity, layer), at_initialisation(run, quantity, layer)
    status, why, present = _answer(final, initial, claim, null, tuple(conditions), level, quantity)
    step = final.step if final.step >= 0 else int(run.manifest.get("steps") or 0)
    bounds = final.interval(level)
    return Finding(status, why, step, final.value, bounds, null, initial.value, present)


def compare(
    final: Estimate, initial: Estimate, claim: Claim, null: float = math.nan, level: float = 0.95
) -> tuple[str, str, bool | None]:
    """Questions 2 to 4: status, the clause that says why, and whether the number is there.

    >>> alpha = Claim(0.7, change=0.1)
    >>> compare(Estimate(900, 0.96, 0.01), Estimate(0, 0.14, 0.02), alpha, null=0.21)[0]
    'holds'
    >>> compare(Estimate(900, 0.83, 0.01), Estimate(0, 0.81, 0.02), alpha, null=0.21)[1]
    'trivial: already 0.81 at initialisation (nothing formed)'
    """
    sign = 1 if claim.rising else -1
    low, high = sorted(sign * bound for bound in final.interval(level))
    bar, floor = sign * claim.threshold, sign * null
    short = "below" if claim.rising else "above"
    if math.isnan(low):
        return "undetermined", "its error is not known", None
    if high < bar:
        return "violated", f"stays {short} {show(claim.threshold)}", False
    if high < floor:
        return "violated", f"does not pass its null {show(null)}", False
    if floor > bar:
        why = f"trivial: its null {show(null)} alone passes {show(claim.threshold)}"
        return "out of regime", why, True if low > bar else None
    if low <= bar:
        return "undetermined", f"the interval straddles {show(claim.threshold)}", None
    if low <= floor:
        return "undetermined", f"the interval reaches down to the null {show(null)}", None
    return *_formed(final, initial, claim, level), True


def _formed(final: Estimate, initial: Estimate, claim: Claim, level: float) -> tuple[str, str]:
    """Question 4, for a number that is past its threshold at the end."""
    sign = 1 if claim.rising else -1
    if math.isnan(initial.value):
        return (
            "undetermined",
            "no measurement at initialisation (step 0), so nothing shows it formed",
        )
    already = f"trivial: already {show(initial.value)} at initialisation (nothing formed)"
    if sign * initial.value > sign * claim.threshold:
        return "out of regime", already
    error = math.hypot(final.stderr, initial.stderr)
    dof = min((e.n - 1 for e in (final, initial) if e.n > 1), default=math.inf)
    least, most = interval(sign * (final.value - initial.value), error, dof, level)
    if most <= claim.change:
        return "out of regime", already
    if not least > claim.change:
        return "undetermined", "its change since initialisation is not resolved"
    return "holds", "formed"


def _answer(
    final: Estimate,
    initial: Estimate,
    claim: Claim,
    null: float,
    conditions: tuple[Condition, ...],
    level: float,
    quantity: str,
) -> tuple[str, str, bool | None]:
    if final.step < 0:
        return "undetermined", f"{quantity} was never recorded here", None
    unmet = barred(conditions)
    if unmet is not None:
        return status_of(unmet), unmet.sentence, None
    if final.step == 0:
        return "out of regime", "measured at initialisation only: nothing has been trained", None
    if not math.isfinite(final.value):
        return "undetermined", f"no finite estimate at the last measured step, {final.step}", None
    return compare(final, initial, claim, null, level)


def tell(subject: str, symbol: str, finding: Finding) -> str:
    """The finding as one sentence: what, how much, since when, against which null."""
    low, high = finding.interval
    numbers = f"{symbol} = {show(finding.effect)} [{show(low)}, {show(high)}]"
    if not math.isfinite(finding.effect):
        return f"{subject}: {finding.why}."
    null = "" if math.isnan(finding.null) else f", null {show(finding.null)}"
    start = "" if math.isnan(finding.initial) else f"{show(finding.initial)} at initialisation"
    if finding.status == "holds":
        moved = "up" if finding.effect > finding.initial else "down"
        return f"{subject}: {numbers}" + (f", {moved} from {start}" if start else "") + f"{null}."
    if finding.status == "violated":
        aside = f" ({start}{null})" if start else f" ({null[2:]})" if null else ""
        return f"{subject} fails: {numbers} {finding.why}{aside}."
    return f"{subject}: {finding.why}; {numbers}{null}."
