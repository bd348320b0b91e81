"""The one public door: from the laws asked for to instruments attached, scheduled, recorded.

    with lawful.observe(model, out="runs/mine", laws="canonical", optimizer=opt) as observation:
        ...the training loop as it was...

Time is counted in optimiser steps. A measured step works like this: the hooks collect rows as
the batch goes forward and backward; when the optimiser is about to move, the gradients are
read; when a window has enough rows it is reduced to measurements at the very weights that made
it, and written. The run itself is never changed: no parameter, gradient, buffer, optimiser
state or random number differs from what it would have been.

A failure of ours never stops a training run: it becomes a warning and an event of the record.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import platform
import sys
import types
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from . import laws as law_room
from .instruments import panel
from .instruments.attention import hides_in_graph
from .instruments.distributed import ALONE, NoPen, ranks_of, sharded, unwrapped
from .instruments.instrument import Reading, rates_of
from .instruments.layers import Heads, LayerMoments, Unobserved, survey
from .instruments.probe import Probe, Wants, run_probe
from .instruments.readings import Depth, Label
from .instruments.steadiness import Steadiness
from .instruments.tap import Scale, Tap
from .instruments.work import Work
from .record import Measurement, RecordError, Run, RunWriter, open_run
from .schedule import Schedule, log_spaced
from .symmetry import Symmetry, SymmetryError
from .symmetry import symmetries as find_symmetries

DEFAULT_SHARE = 0.02
LOGGED = {"loss", "accuracy", "train_accuracy", "test_accuracy"}  # what training code tells
STREAM_BATCHES = 16  # batches whose gradients a probed run averages for its norm balance


class LawfulWarning(UserWarning):
    """Something about the observation went wrong; training goes on."""


def observe(
    model: nn.Module,
    out: str | Path,
    laws: str | Sequence[str] = "canonical",
    *,
    optimizer: torch.optim.Optimizer | None = None,
    schedule: Schedule | None = None,
    reduction: str = "mean",
    layers: str | Sequence[str] = "*",
    probe: Probe | None = None,
    keep: str | None = None,
    window: float | None = None,
    heads: Heads | None = None,
    symmetries: Sequence[Symmetry] | None = None,
    accumulation: int = 1,
    scaler: object | None = None,
    batch_dim: int = 0,
    normalise: bool = False,
    seed: int = 0,
    resume: bool = False,
    first_step: int = 0,
    manifest: Mapping[str, Any] | None = None,
) -> Observation:
    """Attach the instruments that the laws need to a training run.

    model:      any `nn.Module`, compiled or not; attach before a compiled model's first call.
                In `DistributedDataParallel` or after `fully_shard`, every process attaches, and
                closes; what they see is merged, and the first one writes.
    out:        the run folder, new or empty.
    laws:       a family (`canonical`, `collapse`, `feature_ansatz`), a law, globs, or a list. Of
                a family those that speak of training runs: others are of simulated worlds.
    optimizer:  the optimiser whose steps count; left out, whichever one holds the parameters.
    schedule:   `every(k)`, `log_spaced(n)`, `at(steps)` or `budget(share)`; by default 40
                log-spaced windows, as far as 2 % of the (counted) training work allow.
    reduction:  `mean` when the loss averages over the batch, `sum` when it sums.
    layers:     globs of module paths; `!glob` excludes.
    probe:      a `Probe`: measure on its batches at fixed weights instead of on the training
                stream. Neural collapse and the feature ansatz need one.
    keep:       `matrices` keeps H_a, G_b and W of every measurement.
    window:     rows pooled in a measurement, in units of the layer's larger dimension
                (default: the schedule's, 4 or more). Below 4 no law calls anything settled.
    heads:      {glob: number of heads} or {glob: {name: slice}} to read projections by head.
    symmetries: of the model, as `lawful.symmetries(model, x, loss)` finds them, for the laws that
                need them; left out, they are found with the first batch of the probe. Find them
                before `fully_shard`, on the same samples in every process.
    accumulation: micro-batches whose mean is one step, when the loss is divided by them.
    scaler:     the `GradScaler`, if one is used.
    batch_dim:  which dimension of the inputs counts samples (1 for sequence-first models).
    normalise:  divide each row of h and g by its norm first, as the published experiments do.
    seed:       of our own sampling; the run's random state is never touched.
    resume:     go on with a run that is there, at step `first_step`.
    manifest:   further fields for the manifest, e.g. {"data": {...}}.

    Raises `ValueError` naming the argument for anything it cannot use, `RecordError` when the
    folder cannot be written.
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction={reduction!r}: choose 'mean' or 'sum', as the loss does")
    if keep not in (None, "matrices"):
        raise ValueError(f"keep={keep!r}: choose None or 'matrices'")
    if accumulation < 1:
        raise ValueError(f"accumulation={accumulation}: the number of micro-batches is at least 1")
    if window is not None and window <= 0:
        raise ValueError(f"window={window}: give rows per dimension, e.g. 4")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(
            f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}: leave it "
            "out and call observation.step() after each update of your own"
        )
    if optimizer is not None:
        ours = set(model.parameters())
        if not any(p in ours for group in optimizer.param_groups for p in group["params"]):
            raise ValueError("optimizer holds no parameter of this model: pass the one that does")
        rates_of(optimizer)  # refuses what no law describes
    if schedule is not None and not isinstance(schedule, Schedule):
        raise ValueError(
            f"schedule={schedule!r}: use lawful.every(k), log_spaced(n), at(steps) or budget(share)"
        )
    return Observation(
        model, Path(out), _told_of_runs(laws), optimizer=optimizer,
        schedule=replace(schedule or log_spaced(40, share=DEFAULT_SHARE)), reduction=reduction,
        layers=layers, probe=probe, keep=keep, window=window, heads=heads or {},
        symmetries=symmetries, accumulation=accumulation, scaler=scaler, batch_dim=batch_dim,
        normalise=normalise, seed=seed, resume=resume, first_step=first_step,
        extra=dict(manifest or {}),
    )  # fmt: skip


def _told_of_runs(laws: str | Sequence[str]) -> list[law_room.Law]:
    """The laws asked for, less those of a family that are about what no run can show."""
    words = {laws} if isinstance(laws, str) else set(laws)
    seen = panel.observable() | LOGGED
    chosen = law_room.select(laws)
    told = [law for law in chosen if law.name in words or law.needs[0] in seen]
    if chosen and not told:
        raise ValueError(
            f"laws={laws!r}: these laws are about simulated worlds, and a training run shows none "
            "of what they need; `lawful experiments` lists their worlds"
        )
    return told


class Observation:
    """A run being observed; a context manager made by `observe`."""

    def __init__(
        self, model: nn.Module, out: Path, laws: list[law_room.Law], *,
        optimizer: torch.optim.Optimizer | None, schedule: Schedule, reduction: str,
        layers: str | Sequence[str], probe: Probe | None, keep: str | None, window: float | None,
        heads: Heads, symmetries: Sequence[Symmetry] | None, accumulation: int,
        scaler: object | None, batch_dim: int, normalise: bool, seed: int, resume: bool,
        first_step: int, extra: dict[str, Any],
    ) -> None:  # fmt: skip
        # A probe runs the model eagerly, with hooks of its own for that time only.
        self._compiled = probe is None and any(map(_is_compiled, model.modules()))
        self.model, self.ranks = unwrapped(model), ranks_of(model)
        if probe is not None and any(map(sharded, self.model.parameters())):
            raise ValueError("probe=: a model in shards is measured on its training stream only")
        self.out, self.laws, self.schedule, self.probe, self.seed = out, laws, schedule, probe, seed
        self.optimizer, self.scaler, self.resume = optimizer, scaler, resume
        self.step = first_step
        needs: set[str] = set().union(*(law.needs for law in laws)) if laws else set()
        self._wants = Wants(
            collapse=bool(needs & panel.COLLAPSE), ansatz=bool(needs & panel.ANSATZ)
        )
        maps, self.unobserved = survey(self.model, layers)
        # The loss of a probe is neither accumulated nor scaled, and always a mean.
        self._scale = Scale(reduction, accumulation, scaler) if probe is None else Scale("mean", 1)
        self.layers = LayerMoments(
            self.model, maps, self._scale, heads=heads,
            rows=window if window is not None else schedule.rows, seed=seed,
            batch_dim=batch_dim, normalise=normalise, matrices=keep == "matrices",
            ranks=self.ranks if probe is None else ALONE,
        )  # fmt: skip
        self._layered = not laws or bool(needs & LayerMoments.quantities)
        self.symmetries = self._symmetries(needs, symmetries)
        stream = panel.on_stream(
            needs, self.model, maps, partial(Scale, reduction, accumulation, scaler),
            self.symmetries, seed=seed, batch_dim=batch_dim, ranks=self.ranks,
        )  # fmt: skip
        self._watches = [panel.Watch(instrument, schedule) for instrument in stream]
        self._probing = (
            [] if probe is None else panel.on_probe(needs, optimizer, self.symmetries, seed=seed)
        )
        self._balance = [Steadiness(m.d_a, seed=seed) for m in maps] if probe else []
        self._extra = extra | {"reduction": reduction, "normalised": normalise}
        self._writer: RunWriter | NoPen | None = None
        self._process = os.getpid()
        self._handles: list[Any] = []
        # A probe measures at one step; the batches after it tell about the norm balance.
        self._consecutive = schedule.consecutive or probe is not None
        self._open = False  # a window is open
        self._opened_at = 0
        self._measuring = False  # the coming batch is taken in
        self._not_before = 0  # of several processes: the step the first one has named
        self._work = Work(schedule)
        self._pending: dict[str, float] = {}
        self._reported: set[tuple[str, str]] = set()
        # How a warning reaches the person; the door for scripts says it its own way.
        self.warn: Callable[[str], None] = partial(_warn, stacklevel=5)

    def _symmetries(self, needs: set[str], given: Sequence[Symmetry] | None) -> Sequence[Symmetry]:
        """Those given, or found with the probe; none where no law asks."""
        if self.probe is None and panel.asks_for_probe(needs):
            laws = ", ".join(law.name for law in self.laws if panel.asks_for_probe(set(law.needs)))
            raise ValueError(
                f"laws={laws} look at fixed weights: pass probe=lawful.Probe(batches, loss)"
            )
        if given is not None or not panel.asks_for_symmetries(needs):
            return given or []
        if self.probe is None:
            raise ValueError(
                "the laws asked for need the model's symmetries: pass "
                "symmetries=lawful.symmetries(model, x, loss), or probe=lawful.Probe(batches, loss)"
            )
        first = next(iter(self.probe.batches), None)
        if first is None:
            raise ValueError("probe=: its batches are empty, and the symmetries need one")
        try:
            return find_symmetries(self.model, first, self.probe.loss, seed=self.seed)
        except SymmetryError as problem:
            raise ValueError(f"the symmetries of the model cannot be found: {problem}") from None

    # -- life ----------------------------------------------------------------------------------

    def __enter__(self) -> Observation:
        self.ranks.meet()
        charges = [w.instrument for w in self._watches if isinstance(w.instrument, panel.Charges)]
        if not self.ranks.agree([name for c in charges for name in c.names]):
            raise ValueError(
                "symmetries=: the processes hold different ones, and add up what they show: find "
                "them at the same weights, on the same samples, in every process"
            )
        self._writer = NoPen()
        written = self.ranks.lead(
            lambda: RunWriter.create(self.out, self._manifest(), resume=self.resume)
        )
        self._writer = written or NoPen()
        try:
            self._attach()
        except BaseException as problem:  # `__exit__` is not called for an error in here
            self.__exit__(type(problem), problem, None)
            raise
        return self

    def _attach(self) -> None:
        for gap in self.unobserved:
            if gap.reason.startswith("its parameters"):
                self._tell(gap.name, "warning", f"not observed: {gap.reason}")
        self._watch_optimizer()
        if self._compiled:  # a compiled graph ignores hooks that come later: place them for good
            for tap in self.layers.taps:
                tap.compiled = True
                if hides_in_graph(tap.map.module):
                    tap.problem = "compiled, an attention with a forward of its own is not seen"
            self.layers.hooks.place()
        if self._compiled and self._watches:
            self._watches = []
            self._tell("", "warning", "gradient noise and charges are not seen in a compiled model")
        self._work.start()
        self._prepare_step()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if os.getpid() != self._process:  # a child of os.fork: the pen is its parent's
            return
        if kind is None or (isinstance(error, SystemExit) and not error.code):
            self.close()
        elif issubclass(kind, KeyboardInterrupt):
            self.close("interrupted")
        else:
            try:
                self._tell("", "error", f"training stopped: {kind.__name__}: {error}")
            finally:
                self.close("failed")

    def close(self, status: str = "finished") -> None:
        """Detach, take what is still owed, and close the record; a second call does nothing."""
        if self._writer is None or os.getpid() != self._process:
            return
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self.layers.listen(False)
        self.layers.hooks.lift()
        for watch in self._watches:
            watch.instrument.lift()
        try:
            self._guarded(partial(self._finish, status))
        except BaseException:  # Ctrl-C, or a warning that is made an error: a reading is owed
            status = "interrupted"
            raise
        finally:
            self._put_down(status)

    def _put_down(self, status: str) -> None:
        """Say in the manifest how it ended, and let go of the folder, whatever comes between."""
        writer, self._writer = self._writer, None
        assert writer is not None
        try:
            writer.update_manifest(
                status=status,
                steps=self.step,
                layers=self._layers(),
                unobserved=[asdict(u) for u in self._coverage()],
            )
        except RecordError as problem:
            self.warn(str(problem))
        finally:
            writer.close()

    @property
    def run(self) -> Run:
        """The run as recorded so far, read-only."""
        return open_run(self.out)

    def log(self, **quantities: float) -> None:
        """Record numbers of the run as a whole (`loss`, `accuracy`) at the current step."""
        rows = [Measurement(self.step, "", name, float(v)) for name, v in quantities.items()]
        if self._writer is not None:
            self._guarded(lambda: self._write(self.step, rows, {}))
        for row in rows:
            if not math.isfinite(row.value):
                self._tell("", "warning", f"the {row.quantity} is {row.value}")

    def loss_is(self, reduction: str, accumulation: int) -> None:
        """Correct what was assumed of the training loss, before its first gradient arrives."""
        if (self._scale.mean, self._scale.accumulation) == (reduction == "mean", accumulation):
            return
        self._scale.mean, self._scale.accumulation = reduction == "mean", accumulation
        self._guarded(lambda: self._update_manifest(reduction=reduction))
        for watch in self._watches:
            scale = watch.instrument.scale
            scale.mean, scale.accumulation = reduction == "mean", accumulation
            if watch.looking:  # several micro-batches are watched by hooks of their own
                watch.instrument.place()

    # -- the clock: optimiser steps ------------------------------------------------------------

    def _watch_optimizer(self) -> None:
        if self.optimizer is not None:
            self._handles.append(self.optimizer.register_step_pre_hook(self._stepping))
            self._handles.append(self.optimizer.register_step_post_hook(self._after_update))
            return
        ours = set(self.model.parameters())

        def mine(optimizer: torch.optim.Optimizer) -> bool:
            if self.optimizer is None and any(
                p in ours for group in optimizer.param_groups for p in group["params"]
            ):
                self.optimizer = optimizer
                self._guarded(lambda: self._update_manifest(optimizer=_optimizer(optimizer)))
            return optimizer is self.optimizer

        self._handles.append(
            register_optimizer_step_pre_hook(
                lambda o, *a: self._stepping(o, *a) if mine(o) else None
            )
        )
        self._handles.append(
            register_optimizer_step_post_hook(
                lambda o, *a: self._after_update(o) if mine(o) else None
            )
        )

    def advance(self) -> None:
        """Count one update made by hand, right before the parameters are changed."""
        self._before_update()
        self._after_update()

    def _stepping(self, _: object, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """The gradients are there, or will be when the optimiser has called its closure."""
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            self._before_update()
            return None
        called: list[bool] = []

        def watched() -> Any:
            loss = closure()
            if not called:  # a line search calls it again, at weights on the way
                called.append(True)
                self._before_update()
            return loss

        if len(args) > 1:
            return (args[0], watched, *args[2:]), kwargs
        return args, kwargs | {"closure": watched}

    def _before_update(self) -> None:
        for watch in self._watches:
            if watch.looking:
                self._guarded(partial(self._watch_gradients, watch))
        if self._measuring:
            self._attempt(self._end_of_measured_batch)

    def _after_update(self, *_: object) -> None:
        self.step += 1
        for watch in self._watches:
            self._guarded(partial(self._settle, watch))
        self._work.stepped(measured=self._measuring)
        self._prepare_step()

    def _watch_gradients(self, watch: panel.Watch) -> None:
        divisor = getattr(self.optimizer, "grad_scale", None)
        divisor = 1.0 if divisor is None else float(divisor)
        watch.before(self.step, rates_of(self.optimizer), divisor)

    def _settle(self, watch: panel.Watch) -> None:
        self._tell_readings(watch.after(self.step))

    def _tell_readings(self, readings: Iterable[Reading]) -> None:
        """Write what instruments have read, and say what they could not."""
        for reading in readings:
            rates = next(iter(self._rates().values()), None)
            rows = list(reading.rows)
            if rows and rates is not None:
                rows += _rate_rows(rows[0].step, rates)
            if rows:
                self._write(rows[0].step, rows, reading.arrays)
            for layer, message in reading.problems:
                self._tell(layer, "warning", message)

    def _prepare_step(self) -> None:
        """Decide whether the coming batch is measured, and put hooks on or take them off."""
        probing = self.probe is not None and self.ranks.first  # its samples are the same for all
        if probing or (self._layered and self.probe is None):
            self._prepare_window()
        for watch in self._watches:  # after a probe, whose passes they are not to see
            self._guarded(partial(watch.prepare, self.step))

    def _prepare_window(self) -> None:
        if not self._open:
            if self.schedule.opens(self.step) and self._affords():
                self._attempt(self._open_window)
            self._measuring = self._open
        elif self._consecutive:
            self._measuring = True
        else:
            self._measuring = self.schedule.opens(self.step)
        self._listen(self._measuring and self.probe is None)

    def _affords(self) -> bool:
        if self.layers.ranks.size > 1:
            return self.step >= self._not_before
        return self._work.affords(self.layers, self.step)

    def _attempt(self, action: Callable[[], None]) -> None:
        """Go on with the window; where that fails it is closed unread."""
        if not self._guarded(action):
            self._open = self._measuring = False
            self._listen(False)

    def _listen(self, on: bool) -> None:
        self.layers.listen(on)
        if not self._compiled:
            (self.layers.hooks.place if on else self.layers.hooks.lift)()

    # -- windows -------------------------------------------------------------------------------

    def _open_window(self) -> None:
        self._opened_at = self.step
        self._open = True
        if self.probe is None:
            trained = self.step > 0  # initialisation is measured whole
            self.layers.begin(
                half_positions=self.schedule.half_positions and trained,
                half_samples=self.schedule.half_samples and trained,
            )
            return
        with self._work.timing():
            for steady in self._balance:
                steady.reset()
            self._read_probe()

    def _end_of_measured_batch(self) -> None:
        with self._work.timing():
            if self.probe is None:
                # A fused optimiser is handed gradients that are still scaled.
                divisor = getattr(self.optimizer, "grad_scale", None)
                divisor = 1.0 if divisor is None else divisor
                with self.layers.together():
                    self.layers.end_of_batch(self._rates(), self._work.planned, divisor)
                count, enough = self.layers.batches, self.layers.full()
            else:
                self._add_balance()
                count = max((s.batches for s in self._balance), default=STREAM_BATCHES)
                enough = count >= STREAM_BATCHES
            self._work.batch(self.layers, count)
            early = self._consecutive and self.step + 1 >= self.schedule.next_open()
            # Initialisation is a measurement of its own, also where windows span many steps.
            if enough or early or (self.step == 0 and not self._consecutive):
                self._close_window()

    def _close_window(self) -> None:
        """Reduce the window to measurements, at the weights that made it."""
        self._open = self._measuring = False
        if self.probe is not None:
            self._read_balance()
            return
        self._read_layers(self._opened_at if self._consecutive else self.step)

    def _read_layers(self, step: int, *, last: bool = False) -> None:
        self.layers.merge()
        try:
            self._read_merged(step, last)
        finally:
            # The work of a reading is the first process's: it says when it can afford the next.
            next_window = self._work.not_before(self.layers, self.step)
            self._not_before = self.layers.ranks.say(next_window)

    def _read_merged(self, step: int, last: bool) -> None:
        depth = self._work.depth(self.layers, self.step, last=last)
        readings, arrays, problems = self.layers.read(step, depth, decays=self._decays())
        for layer, message in problems:
            self._tell(layer, "warning", message)
        if not readings and not problems and self.ranks.first:
            self._tell("", "warning", "no gradient reached any observed layer in this window")
        rates = next(iter(self._rates().values()), None)
        rows = [Measurement(step, "", "overhead", self._work.overhead())]
        rows += [] if rates is None else _rate_rows(step, rates)
        self._write(step, [*readings, *rows], arrays)
        self._work.read(self.layers, depth, full=self.layers.full())

    def _read_probe(self) -> None:
        assert self.probe is not None
        decays = {p: gamma for p, (_, gamma) in self._rates().items()}
        extra, problems = run_probe(
            self.probe, self.model, self.layers, self._wants, decays=decays, seed=self.seed
        )
        for message in problems:
            self._tell("", "warning", message)
        self._write(self.step, [replace(m, step=self.step) for m in extra], {})
        rates = rates_of(self.optimizer) if self._probing else {}
        for instrument in self._probing:  # where one fails the others still look
            look = partial(instrument.measure, self.step, self.model, self.probe, rates)
            self._guarded(lambda look=look: self._tell_readings([look()]))  # type: ignore[misc]
        if not problems and self._layered:
            self._read_layers(self.step)

    def _add_balance(self) -> None:
        rates = self._rates()
        for tap, steady in zip(self.layers.taps, self._balance, strict=True):
            p = tap.map.parameter
            if p is not None and p.grad is not None and p in rates and self.layers.alone(tap):
                steady.add(tap.map.weight(), tap.map.gradient(p.grad), *rates[p])

    def _read_balance(self) -> None:
        rows: list[Measurement] = []
        for tap, steady in zip(self.layers.taps, self._balance, strict=True):
            label = Label(self._opened_at, tap.map.name, steady.batches)
            rows += steady.balance(label, tap.map.weight(), decays=self._decays())
        if rows:
            self._write(self._opened_at, rows, {})

    def _finish(self, status: str) -> None:
        """What is left at the end: a half-filled window, spectra put off, a last probe."""
        # Of several processes the others may be gone, unless all of them came to the end.
        merging = self.ranks.size == 1 or (status == "finished" and self.ranks.connected)
        for watch in self._watches:
            self._tell_readings(watch.close(self.step, merging=merging))
        if not self._layered and self.probe is None:
            return
        if self.probe is not None:
            if self._open:
                self._read_balance()
            if self._opened_at != self.step or not self._open:
                self._read_probe()
        elif self._open and merging and self._worth_reading():
            # The optimiser has moved once since the last batch of the window: `drift` says so.
            self._read_layers(self._opened_at if self._consecutive else self.step, last=True)
        if self._layered and self.schedule.share is not None and self._opened_at == 0 < self.step:
            # No verdict needs the evidence of an untrained model.
            self._tell("", "info", _too_short(self.step, self.schedule.share))
        elif self._layered and self._work.affords_evidence(self.layers, self.step):
            spectra = self._work.affords_spectra(self.layers, self.step)
            self._read_owed(Depth.SPECTRA if spectra else Depth.EVIDENCE)

    def _worth_reading(self) -> bool:
        """Whether a window cut short is read: too few rows only when nothing better was read, and
        none at all (it opened as the run ended) only when nothing was."""
        some = self.layers.seen() or self._work.first
        return self.layers.enough() or (some and not self._work.settled)

    def _read_owed(self, depth: Depth) -> None:
        """Take what the latest reading put off."""
        with self._work.timing():
            owed = self.layers.read_owed(depth)
            if owed is not None:
                step, rows, arrays = owed
                self._write(step, rows, arrays)
                self._work.went_deeper(self.layers, depth)

    # -- the optimiser's numbers ---------------------------------------------------------------

    def _rates(self) -> dict[nn.Parameter, tuple[float, float]]:
        """(η, γ) of every parameter now."""
        return {p: (r.lr, r.weight_decay) for p, r in rates_of(self.optimizer).items()}

    def _decays(self) -> bool:
        """Whether the optimiser adds γW to the gradient (SGD does, AdamW does not)."""
        return type(self.optimizer).__name__ == "SGD"

    # -- the record ----------------------------------------------------------------------------

    def _write(self, step: int, rows: list[Measurement], arrays: Mapping[Any, Any]) -> None:
        if self._writer is not None:
            self._writer.write(step, rows, arrays)

    def _update_manifest(self, **fields: Any) -> None:
        if self._writer is not None:
            self._writer.update_manifest(**fields)

    def _tell(self, layer: str, kind: str, message: str, *, about: str = "") -> None:
        """Say something once, as a warning to the person and as an event of the record.

        about: what counts as the same thing, when not the message to the letter.
        """
        if (layer, about or message) in self._reported:
            return
        self._reported.add((layer, about or message))
        if self._writer is not None:
            with contextlib.suppress(RecordError):  # the warning tells it
                self._writer.event(self.step, layer, kind, message)
        if kind != "info" and (self.ranks.first or kind == "error"):
            where = f"layer {layer!r}: " if layer else ""
            self.warn(f"lawful, step {self.step}: {where}{message}")

    def _guarded(self, action: Callable[[], Any]) -> bool:
        """Run our own work so that a failure of it does not end the training run; was it well?"""
        try:
            action()
        except RecordError as problem:
            self._tell("", "error", str(problem), about="the record cannot be written")
            return False
        except Exception as problem:
            what = f"measuring failed and is passed over: {type(problem).__name__}: {problem}"
            self._tell("", "error", what)
            return False
        return True

    def _coverage(self) -> list[Any]:
        """The modules not observed, with those that turned out not to be."""
        late = [
            Unobserved(
                t.map.name, type(t.map.module).__name__,
                t.problem or "never called with a gradient in a measured step", t.map.parameters,
            )
            for t in self.layers.taps
            if t.problem or not t.ever
        ]  # fmt: skip
        return [*self.unobserved, *late]

    def _layers(self) -> list[dict[str, Any]]:
        """The observed maps and their slices, as the manifest describes them."""
        shared = [t.map.parameter for t in self.layers.taps]
        layers = [
            {
                "name": t.map.name, "kind": t.map.kind, "d_a": t.map.d_a, "d_b": t.map.d_b,
                "bias": t.map.bias() is not None, "block": t.map.block,
                "note": "; ".join(
                    filter(None, [t.map.note, _sharing(t.map.parameter, shared), *_notes(t)])
                ),
            }
            for t in self.layers.taps
        ]  # fmt: skip
        pieces = [
            {
                "name": piece.name, "kind": "slice", "bias": False,
                "d_a": _length(piece.columns, t.map.d_a), "d_b": _length(piece.rows, t.map.d_b),
                "block": t.map.block, "note": f"a slice of {t.map.name}",
            }
            for t in self.layers.taps
            for piece in self.layers.parts[t.map.name]
        ]  # fmt: skip
        return layers + pieces

    def _manifest(self) -> dict[str, Any]:
        device = next((str(p.device) for p in self.model.parameters()), "cpu")
        return {
            "lawful": version("lawful"),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seed": self.seed,
            "model": {
                "class": type(self.model).__name__,
                "parameters": sum(p.numel() for p in self.model.parameters()),
                "repr": repr(self.model)[:20_000],
            },
            "optimizer": None if self.optimizer is None else _optimizer(self.optimizer),
            "schedule": self.schedule.name,
            "source": "stream" if self.probe is None else "probe",
            "laws": [law.name for law in self.laws],
            "symmetries": [s.name for s in self.symmetries],
            "layers": self._layers(),
            "unobserved": [asdict(u) for u in self.unobserved],
            "environment": {
                "python": platform.python_version(), "torch": torch.__version__,
                "platform": platform.platform(), "device": device, "processes": self.ranks.size,
            },
            "status": "running",
            "steps": self.step,
            **self._extra,
        }  # fmt: skip


def _is_compiled(module: nn.Module) -> bool:
    compiled_call = getattr(module, "_compiled_call_impl", None)
    return isinstance(module, torch._dynamo.OptimizedModule) or compiled_call is not None


def _warn(told: str, stacklevel: int) -> None:
    warnings.warn(told, LawfulWarning, stacklevel=stacklevel)


def _too_short(steps: int, share: float) -> str:
    return (
        f"only the initialisation was measured: {share:.0%} of the work of {steps:,} steps affords "
        "no second window; schedule=lawful.log_spaced(40) or at(steps) asks for no share"
    )


def _rate_rows(step: int, rates: tuple[float, float]) -> list[Measurement]:
    return [
        Measurement(step, "", "learning_rate", rates[0], 0.0),
        Measurement(step, "", "weight_decay", rates[1], 0.0),
    ]


def _optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {
        "class": type(optimizer).__name__,
        "groups": [
            {k: (v.tolist() if isinstance(v, torch.Tensor) else v)
             for k, v in group.items() if k != "params"}
            | {"parameters": sum(p.numel() for p in group["params"])}
            for group in optimizer.param_groups
        ],
    }  # fmt: skip


def _sharing(parameter: nn.Parameter | None, everyone: list[nn.Parameter | None]) -> str:
    return "weight tied" if sum(p is parameter is not None for p in everyone) > 1 else ""


def _notes(tap: Tap) -> list[str]:
    frozen = tap.map.parameter is not None and not tap.map.parameter.requires_grad
    sampled = "of a large batch half was taken (every other one, of patches at random), and "
    sampled += f"{tap.rows_cap} rows at most"
    return ["frozen"] * frozen + [sampled] * tap.sampled


def _length(cut: slice | None, size: int) -> int:
    return size if cut is None else len(range(*cut.indices(size)))


class _Door(types.ModuleType):
    """`lawful.observe` is this module and the function in it: importing one hides neither."""

    def __call__(self, *args: Any, **kwargs: Any) -> Observation:
        return observe(*args, **kwargs)


sys.modules[__name__].__class__ = _Door

if __name__ == "__main__":  # `python -m lawful.observe train.py`
    from .cli import main

    main(["observe", *sys.argv[1:]])
