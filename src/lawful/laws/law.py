"""A law: a claim about learning, with its source, its regime, its prediction and its test."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..record.vocabulary import quantity
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run


@dataclass(frozen=True)
class Condition:
    """One assumption of a law, and the number that says whether it is met.

    name:      short, e.g. `samples`.
    met:       True, False, or None when the record does not tell.
    value:     the number behind the answer.
    sentence:  what is wrong when it is not met, e.g. "60 rows, 256 are needed".
    otherwise: status of the verdict when it is not met: `undetermined` when evidence is
               missing, `out of regime` when the law does not speak of this case.
    """

    name: str
    met: bool | None
    value: float
    sentence: str
    otherwise: str = "undetermined"


@dataclass(frozen=True)
class Prediction:
    """What the law expects of the effect, as a number and in words."""

    value: float
    sentence: str


@dataclass(frozen=True)
class Law:
    """A claim that a run can confirm or refute.

    name, family: addresses, e.g. `rga_b` of `canonical`.
    statement:    the claim in one sentence;  equation: the same in symbols.
    source:       where it was published or derived;  bibtex: its citation.
    needs:        quantities of the vocabulary that must be recorded.
    regime:       (run, layer) -> the assumptions, each with the number that says so.
    predict:      (run, layer) -> what the law expects.
    test:         (run, layer) -> the verdict.
    everywhere:   True when every observed layer gets a verdict, False when only the layers
                  where `needs[0]` was recorded do.
    estimators:   citations of the statistics that the test leans on.
    """

    name: str
    family: str
    statement: str
    equation: str
    source: str
    bibtex: str
    needs: tuple[str, ...]
    regime: Callable[[Run, str], tuple[Condition, ...]]
    predict: Callable[[Run, str], Prediction]
    test: Callable[[Run, str], Verdict]
    everywhere: bool = True
    estimators: str = ""

    def __post_init__(self) -> None:
        for name in self.needs:
            quantity(name)  # an unknown name raises KeyError with the closest known ones

    def layers(self, run: Run) -> list[str]:
        """The layers that get a verdict; the run as a whole ("") when there is none."""
        found = [n for n in run.layers if self.everywhere or len(run.series(self.needs[0], n))]
        return found or [""]

    def verdicts(self, run: Run) -> list[Verdict]:
        """One verdict a layer."""
        return [self.test(run, layer) for layer in self.layers(run)]


def barred(conditions: Iterable[Condition]) -> Condition | None:
    """The unmet condition that decides: out of regime before lack of evidence; None if all met."""
    unmet = [c for c in conditions if not c.met]
    outside = [c for c in unmet if c.met is False and c.otherwise == "out of regime"]
    return next(iter(outside + unmet), None)


def status_of(condition: Condition) -> str:
    """`undetermined` when nobody knows (met is None), the condition's own word otherwise."""
    return "undetermined" if condition.met is None else condition.otherwise
