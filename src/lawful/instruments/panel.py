"""The panel: which instruments the wanted quantities call for, and when each of them looks.

    quantities wanted ──► GradientNoise, Charges                       on the training stream
                          Identities, Mirrors, CriticalDecay, Curvature,
                          NeuralTangent                               on the probe

An instrument on the stream has windows of its own: one opens where the schedule says so and
takes the next `batches` steps (of `every(k)`: the next `batches` scheduled steps), whatever the
layers are doing. Under a share of the work it looks only as often as that allows, counted at
half a training step a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from ..schedule import Schedule
from ..symmetry import Symmetry
from .charges import Charges
from .critical_decay import CriticalDecay
from .curvature import Curvature
from .distributed import ALONE, Ranks
from .identities import Identities
from .instrument import ProbeInstrument, Rates, Reading, StreamInstrument
from .layers import LayerMoments
from .maps import LinearMap
from .mirrors import Mirrors
from .neural_tangent import NeuralTangent
from .noise import GradientNoise
from .tap import Scale

COST = 0.5  # of a batch under a stream instrument, in training steps
OF_SYMMETRIES = (Charges, Identities, Mirrors, CriticalDecay)
ON_PROBE = (Identities, Mirrors, CriticalDecay, Curvature, NeuralTangent)
COLLAPSE = frozenset({"nc1", "nc2_norm", "nc2_angle", "nc3", "nc4"})
ANSATZ = frozenset({"nfa", "nfa_sqrt", "nfa_haar"})
"""What a probe itself can tell: class means, and gradients of the outputs."""


def observable() -> frozenset[str]:
    """What some instrument can record of a training run; the rest is of simulated worlds."""
    instruments = (LayerMoments, GradientNoise, Charges, *ON_PROBE)
    return frozenset().union(*(i.quantities for i in instruments))


def asks_for_symmetries(wanted: set[str]) -> bool:
    """Whether a quantity can only be measured with the model's symmetries at hand."""
    return any(wanted & i.quantities - GradientNoise.quantities for i in OF_SYMMETRIES)


def asks_for_probe(wanted: set[str]) -> bool:
    """Whether a quantity can only be measured at fixed weights."""
    elsewhere = Charges.quantities | GradientNoise.quantities
    on_probe = COLLAPSE.union(ANSATZ, *(i.quantities for i in ON_PROBE))
    return bool(wanted & on_probe - elsewhere)


def on_stream(
    wanted: set[str], model: nn.Module, maps: list[LinearMap], scale: Callable[[], Scale],
    symmetries: Sequence[Symmetry], *, seed: int, batch_dim: int, ranks: Ranks = ALONE,
) -> list[StreamInstrument]:  # fmt: skip
    """The stream instruments for the quantities wanted, each with a `Scale` of its own."""
    found: list[StreamInstrument] = []
    where = {"seed": seed, "batch_dim": batch_dim, "ranks": ranks}
    if wanted & GradientNoise.quantities:
        found.append(GradientNoise(model, maps, scale(), **where))  # type: ignore[arg-type]
    if wanted & Charges.quantities and symmetries:
        found.append(Charges(model, symmetries, scale(), **where))  # type: ignore[arg-type]
    return found


def on_probe(
    wanted: set[str], optimizer: torch.optim.Optimizer | None,
    symmetries: Sequence[Symmetry], *, seed: int,
) -> list[ProbeInstrument]:  # fmt: skip
    """The probe instruments for the quantities wanted."""
    found: list[ProbeInstrument] = []
    if wanted & Identities.quantities:
        found.append(Identities(symmetries, seed=seed))
    if wanted & Mirrors.quantities:
        found.append(Mirrors(symmetries))
    if wanted & CriticalDecay.quantities:
        found.append(CriticalDecay(symmetries))
    if wanted & Curvature.quantities:
        found.append(Curvature(optimizer, wants=wanted & Curvature.quantities, seed=seed))
    if wanted & NeuralTangent.quantities:
        found.append(NeuralTangent(seed=seed))
    return found


class Watch:
    """One stream instrument through a run: when it looks, and when it is read."""

    def __init__(self, instrument: StreamInstrument, schedule: Schedule) -> None:
        self.instrument, self.schedule = instrument, replace(schedule)
        self.left = 0  # batches the open window still takes
        self.looking = False  # the coming batch is watched
        self._spent = 0.0

    def prepare(self, step: int) -> None:
        """Hooks on for the coming batch, or off."""
        due = self.schedule.opens(step)
        if due and not self.left and self._affords(step):
            self.left = self.instrument.batches
        self.looking = self.left > 0 and (self.schedule.consecutive or due)
        (self.instrument.place if self.looking else self.instrument.lift)()

    def _affords(self, step: int) -> bool:
        share, cost = self.schedule.share, COST * self.instrument.batches
        return share is None or not self._spent or self._spent + cost <= share * step

    def before(self, step: int, rates: Mapping[nn.Parameter, Rates], divisor: float) -> None:
        if self.looking:
            self.instrument.before(step, rates, divisor)

    def after(self, step: int) -> Iterator[Reading]:
        """`step` updates are done; gives the window's reading when it is complete."""
        if self.looking:
            self._spent += COST
            self.left -= 1
            try:
                self.instrument.after(step - 1)
            finally:  # of several processes all come to the reading, or those that do would wait
                last = [] if self.left else [self.instrument.read(step)]
            yield from last

    def close(self, step: int, *, merging: bool = True) -> Iterator[Reading]:
        """What an unfinished window holds; merging: the other processes come here too."""
        self.instrument.lift()
        if merging and 0 < self.left < self.instrument.batches:
            yield self.instrument.read(step)
        self.left = 0
