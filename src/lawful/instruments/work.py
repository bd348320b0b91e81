"""What measuring costs, by the clock and in counted multiplications, and whether to go on.

A schedule with a share keeps measuring under that share of the work of training. Counted work
is reproducible: it knows only the shapes of the layers and the rows of a batch. The clock
(`budget`) knows the machine.
"""

from __future__ import annotations

import math
import statistics
import time

from ..schedule import Schedule
from .layers import LayerMoments
from .readings import Depth

NEVER = 2**62


class Work:
    """What measuring has cost, by the clock and in counted multiplications."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.planned = 1
        self._spent = self._counted = self._spectral = 0.0
        self._per_step = self._window = 0.0
        self._steps: list[float] = []
        self._started = self._mark = time.perf_counter()
        self._inside = 0.0
        self._readings = self._decompositions = 0
        self.settled = False  # a window was read that had all the rows asked for

    def start(self) -> None:
        self._started = self._mark = time.perf_counter()

    def timing(self) -> Clock:
        return Clock(self)

    def stepped(self, *, measured: bool) -> None:
        """One optimiser step went by: what it took beyond a plain one was ours."""
        now = time.perf_counter()
        took, self._mark = now - self._mark - self._inside, now
        self._inside = 0.0
        if not measured:
            self._steps = [*self._steps[-30:], took]
        elif self._steps:
            self._spent += max(0.0, took - statistics.median(self._steps))

    def overhead(self) -> float:
        """Share of the time since the start that went into measuring."""
        elapsed = time.perf_counter() - self._started
        return self._spent / elapsed if elapsed > 0 else 0.0

    def batch(self, layers: LayerMoments, count: int) -> None:
        self._per_step = layers.training_work()
        self._counted += layers.batch_work()
        self.planned = max(self.planned, layers.batches_needed())

    def depth(self, layers: LayerMoments, step: int, *, last: bool = False) -> Depth:
        """How deep the coming reading goes.

        The first full window gets its evidence in any case, but under a share not one at
        initialisation; the last reading where that is affordable; the first one the exponents, to
        know where they came from.
        """
        if self.affords_spectra(layers, step):
            return Depth.SPECTRA
        trained = step > 0 or self.schedule.share is None
        first_full = layers.full() and self._decompositions == 0
        if trained and (first_full or (last and self.affords_evidence(layers, step))):
            return Depth.EVIDENCE
        return Depth.EXPONENTS if self.first else Depth.ALIGNMENT

    def read(self, layers: LayerMoments, depth: Depth, *, full: bool) -> None:
        """One reading was taken; `full` says that its window had all the rows asked for."""
        self._counted += layers.reading_work()
        if depth is Depth.EXPONENTS:
            self._counted += layers.exponents_work()
        self._readings += 1
        self.settled = self.settled or full
        self.went_deeper(layers, depth)
        self._window = self._spent / self._readings

    def went_deeper(self, layers: LayerMoments, depth: Depth) -> None:
        """The evidence of a reading was taken, and perhaps its spectra."""
        if depth < Depth.EVIDENCE:
            return
        work = layers.evidence_work() + (layers.spectra_work() if depth is Depth.SPECTRA else 0.0)
        self._decompositions += 1
        self._spectral += work
        self._counted += work

    @property
    def first(self) -> bool:
        """Whether the coming reading is the first."""
        return self._readings == 0

    def affords(self, layers: LayerMoments, step: int) -> bool:
        """Whether a window may open; the first always may."""
        if self.schedule.share is None or self.first:
            return True
        if self.schedule.timed:
            elapsed = time.perf_counter() - self._started
            return self._spent + self._window <= self.schedule.share * elapsed
        return self._counted + self._cost(layers) <= self.schedule.share * step * self._per_step

    def _cost(self, layers: LayerMoments) -> float:
        return self.planned * layers.batch_work() + layers.reading_work() + layers.evidence_work()

    def not_before(self, layers: LayerMoments, step: int) -> int:
        """The step from which a window may open, told in advance (by the clock: about)."""
        if self.affords(layers, step):
            return step
        share = self.schedule.share or 1.0
        if self.schedule.timed:
            elapsed = time.perf_counter() - self._started
            pace = statistics.median(self._steps) if self._steps else elapsed / (step + 1)
            return step + math.ceil(((self._spent + self._window) / share - elapsed) / pace)
        allowed = share * self._per_step  # a step
        return math.ceil((self._counted + self._cost(layers)) / allowed) if allowed else NEVER

    def affords_evidence(self, layers: LayerMoments, step: int) -> bool:
        """Exponents and permutation nulls: once in any case, for no verdict holds without."""
        return self._decompositions == 0 or self._allows(layers.evidence_work(), step)

    def affords_spectra(self, layers: LayerMoments, step: int) -> bool:
        """Everything: always, or within a third of the share (`every`: 2 % of the work)."""
        return self._allows(layers.spectra_work() + 2 * layers.evidence_work(), step)

    def _allows(self, work: float, step: int) -> bool:
        if self.schedule.timed:
            return self.overhead() < self.schedule.share / 2  # type: ignore[operator]
        if self.schedule.share is None and self.schedule.consecutive:
            return True
        allowed = (self.schedule.share or 0.06) / 3 * step * self._per_step
        return self._spectral + work <= allowed


class Clock:
    """Counts the time inside as spent on measuring."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __enter__(self) -> None:
        self.begin = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        took = time.perf_counter() - self.begin
        self.work._spent += took
        self.work._inside += took
