"""A tap on one linear map: pairs its input h_a with the gradient g_b at its output.

The pair is formed when the gradient arrives, so a forward pass that is never differentiated
(validation, the first pass of a checkpointed block) counts for nothing, and one that is
differentiated counts once. A module called several times in a step pools its calls.

A tensor hook on the output is used, never a module's backward hook: it sees the gradient
before any in-place activation, costs half as much, and compiles without a graph break. A compiled
graph calls out at the same two moments (see `compiled`), and the rest is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..estimators.moments import normalised
from ..estimators.stream import KEEP_ROWS, MomentStream
from . import compiled
from .attention import ShownInGraph, watch_attention
from .distributed import sharded
from .maps import LinearMap, Positions, input_rows, output_rows, positions, unbatched

View = Callable[[Tensor], Tensor]
THINNED, THINNED_SAMPLES = 512, 64


def as_is(t: Tensor) -> Tensor:
    return t


class Scale:
    """What turns an autograd gradient into the gradient of the per-sample loss ℓ.

    With L = (1/n) Σ ℓ_i the gradient of L is 1/n of that of ℓ, so g is multiplied by the batch
    size n, by the micro-batches that are averaged into one step, and divided by the factor of
    an AMP loss scaler. With a summed loss only the last remains. Where several processes average
    their gradients, n counts the samples of this one (see `distributed`).
    """

    def __init__(self, reduction: str, accumulation: int, scaler: Any = None) -> None:
        self.mean, self.accumulation = reduction == "mean", accumulation
        enabled = scaler is not None and getattr(scaler, "is_enabled", lambda: True)()
        self.scaler = scaler if enabled else None
        self.batch: int | None = None
        self.passes = 0  # forward passes of the model: calls within one share their samples
        self.number, self.ticket = compiled.number(self), compiled.ticket(0, None)

    def begin(self, batch: int | None) -> Tensor:
        """A forward pass of the model begins, with so many samples; its ticket."""
        self.passes += 1
        self.batch, self.ticket = batch, compiled.ticket(self.passes, batch)
        return self.ticket

    def factor(self, samples: int) -> float:
        return float(samples * self.accumulation) if self.mean else 1.0

    def unscaled(self, g: Tensor) -> Tensor:
        """Divide out the loss scale on the device, so that no step waits for the host."""
        if self.scaler is None:
            return g
        return g / self.scaler.scale(torch.ones((), device=g.device))


class Watching(Protocol):
    """What watches a layer through hooks; problem: why it does so no longer."""

    problem: str


@contextmanager
def harmless(watching: Watching) -> Iterator[None]:
    """A failure in here is this layer's problem, never the training run's."""
    try:
        yield
    except Exception as error:
        told = isinstance(error, ValueError)
        watching.problem = str(error) if told else f"{type(error).__name__}: {error}"


class Tap:
    """Collects the moments of one map while `active`.

    rows_cap: at most this many rows are taken from a batch, at positions drawn at random for
              each batch from a private generator; convolutions would cost more than training.
    half_positions: of sequences every other position is taken, of images half of them at random,
              down to 512 rows.
    half_samples: of plain samples every other one is taken, down to 64.
    normalise: divide each row by its norm before it is summed.
    """

    def __init__(
        self,
        map: LinearMap,
        scale: Scale,
        *,
        seed: int,
        batch_dim: int = 0,
        normalise: bool = False,
    ) -> None:
        self.map, self.scale, self.normalise = map, scale, normalise
        # The tensors of an attention module are brought to samples first before we see them.
        self.batch_dim = 0 if map.kind == "attention" else batch_dim
        self.active = self.compiled = self.half_positions = self.half_samples = False
        self.number = compiled.number(self)
        self._latest: tuple[int, int] | None = None
        self.problem = ""
        self.sampled = False
        self.ever = False
        self.stream = MomentStream(map.d_a, map.d_b, seed=seed)
        self.rows_cap = max(16 * max(map.d_a, map.d_b), 4096)
        self._generator = torch.Generator().manual_seed(seed + 1)
        self._half = 1  # which half of the samples was taken last
        self._others: int | None = None  # where the positions begin that the last batch left out
        self._trusted = False
        self._rows_of_h = output_rows if map.kind == "embedding" else input_rows

    def on_output(self, x: Tensor | None, y: Tensor, see: View = as_is, cut: View = as_is) -> None:
        """Watch one call of the map: input x (None for an embedding), output y.

        see: brings x and y to one sample a leading index; cut: takes this map's columns of y.
        """
        if not self.active or self.problem or not y.requires_grad:
            return
        if torch.compiler.is_compiling():
            if self.compiled:
                self._trace(x, y, see, cut)
            else:
                self.problem = "called in a compiled function: compile the model, and observe that"
            return
        with harmless(self):
            self._watch(x, y, see, cut)

    def _watch(self, x: Tensor | None, y: Tensor, see: View, cut: View) -> None:
        h = see(y.detach().clone() if x is None else x.detach())
        self._check(h, see(cut(y.detach())))
        if self._unguarded(x):
            h = h.clone()
        version, call = h._version, (self.scale.batch, self.scale.passes)
        held = [h]  # let go after one use: the backward pass frees activations as it goes

        def on_gradient(g: Tensor) -> None:
            if not held or not self.active or self.problem:
                return
            h = held.pop()
            with harmless(self):
                if h._version != version:
                    raise ValueError("its input was overwritten in place before the backward pass")
                self.take(h, see(cut(g.detach())), *call)

        y.register_hook(on_gradient)

    def _unguarded(self, x: Tensor | None) -> bool:
        """Whether autograd lets the input of a frozen weight be overwritten before we read it."""
        p = self.map.parameter
        return x is not None and p is not None and not p.requires_grad

    @torch.no_grad()
    def take(
        self, h: Tensor, g: Tensor, batch: int | None = None, of_pass: int | None = None
    ) -> None:
        """Add one call's rows: h as it went in, g as autograd gave it.

        batch:   samples in the batch of that call, where it is known.
        of_pass: the forward pass it was part of; the samples of one pass are the same.
        """
        with torch.autocast(g.device.type, enabled=False):
            batch = None if unbatched(self.map, g) else batch
            clusters, T = positions(self.map, g, batch, self.batch_dim)
            at = self._thinned(clusters, T, g.device)
            y = output_rows(self.map, g, batch, at, self.batch_dim)
            x = self._rows_of_h(self.map, h, batch, at, self.batch_dim)
            if self.half_samples and T == 1 and clusters >= 2 * THINNED_SAMPLES:
                self.sampled = True
                if self._latest is None or self._latest[0] != of_pass:
                    self._half = 1 - self._half  # the calls of one pass take the same samples
                x, y = x[self._half :: 2], y[self._half :: 2]
            y = self.scale.unscaled(_wide(y)) * self.scale.factor(batch or clusters)
            if self.scale.scaler is not None and not torch.isfinite(y).all():
                return  # the scale was too large: the scaler passes this batch over, and so do we
            if self.normalise:
                x, y = normalised(x), normalised(y)
            this = None if of_pass is None else (of_pass, x.shape[0])
            self.stream.update(x, y, again=this is not None and this == self._latest)
            self._latest = this
            self.ever = True

    def _thinned(self, clusters: int, T: int, device: torch.device) -> Positions:
        """The positions to take of a batch, by the private generator; None for all of them.

        Half the positions of sequences are every other one, read where they lie, without a copy:
        from the first or from the second, as chance will, and in the next batch the others.
        """
        rows = clusters * T
        cap = min(self.rows_cap, max(THINNED, rows // 2)) if self.half_positions else self.rows_cap
        if rows <= cap or T == 1:
            return None
        self.sampled = True
        if cap == rows // 2 and T >= 2 * KEEP_ROWS and self.map.kind != "conv":
            first, self._others = self._others, None
            if first is None:
                first = int(torch.randint(2, (), generator=self._generator))
                self._others = 1 - first
            return slice(first, None, 2)
        drawn = torch.randperm(T, generator=self._generator)[: max(2, cap // clusters)]
        return drawn.to(device)

    def begin(self) -> None:
        """Start from zero."""
        self.stream.reset()
        self._latest = self._others = None

    def _trace(self, x: Tensor | None, y: Tensor, see: View, cut: View) -> None:
        """`_watch`, as a graph being compiled is to do it."""
        h, n = see(y.detach().clone() if x is None else x.detach()), self.number
        ticket = self.scale.ticket

        def on_gradient(g: Tensor) -> None:
            compiled.gradient(h, see(cut(g.detach())), ticket, n)

        y.register_hook(on_gradient)

    def arrived(self, h: Tensor, g: Tensor, batch: int | None, of_pass: int) -> None:
        """A graph has come to the gradient of a call, which was part of this pass."""
        if self.active and not self.problem:
            with harmless(self):
                self.take(h, g, batch, of_pass)

    def _check(self, h: Tensor, y: Tensor) -> None:
        """Once: is the output really W h + b? A subclass or another hook may have changed it."""
        if self._trusted or self.map.kind == "embedding" or y.numel() == 0:
            return
        self._trusted = True
        with torch.no_grad(), torch.autocast(h.device.type, enabled=False):
            at = torch.zeros(1, dtype=torch.long, device=h.device)
            x = input_rows(self.map, h, None, at, self.batch_dim)[:1].double()
            seen = output_rows(self.map, y, None, at, self.batch_dim)[:1].double()
            bias = self.map.bias()
            want = x @ self.map.weight().double().T + (0.0 if bias is None else bias.double())
            difference, size = float((want - seen).norm()), float(seen.norm())
        tolerance = 1e-3 if y.dtype in (torch.float32, torch.float64) else 5e-2
        if difference > max(tolerance * size, 1e-6):
            raise ValueError(
                f"its output is not W h + b (difference {difference:.2g}, norm {size:.2g}): "
                "a subclass, a wrapper or another hook adds to it"
            )


def _wide(t: Tensor) -> Tensor:
    """At least float32: n times a float16 gradient may overflow."""
    return t if t.dtype == torch.float64 else t.float()


class Hooks:
    """The hooks that feed a set of taps; `place` and `lift` them around measured steps."""

    def __init__(self, model: nn.Module, taps: list[Tap], scale: Scale, batch_dim: int) -> None:
        self.model, self.taps, self.scale, self.batch_dim = model, taps, scale, batch_dim
        self.of_module: dict[nn.Module, list[Tap]] = {}
        for tap in taps:
            self.of_module.setdefault(tap.map.module, []).append(tap)
        # A sharded weight is whole only until the module's own hook takes it apart again.
        self._prepend = any(sharded(p) for p in model.parameters())
        self._handles: list[torch.utils.hooks.RemovableHandle | ShownInGraph] = []

    def place(self) -> None:
        """Put the hooks on (nothing happens when they are already there)."""
        if self._handles:
            return
        self._handles.append(
            self.model.register_forward_pre_hook(self._batch_size, with_kwargs=True)
        )
        for module, taps in self.of_module.items():
            if all(t.problem for t in taps):
                continue
            if isinstance(module, nn.MultiheadAttention):
                shown = [ShownInGraph(module, taps)] if taps[0].compiled else None
                self._handles += shown or watch_attention(module, taps)
            else:
                hook = _feed(taps[0])
                self._handles.append(
                    module.register_forward_hook(hook, with_kwargs=True, prepend=self._prepend)
                )

    def lift(self) -> None:
        """Take every hook off again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _batch_size(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        batch = None
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.dim() > 0:
                batch = value.shape[min(self.batch_dim, value.dim() - 1)]
                break
        if not torch.compiler.is_compiling():
            self.scale.begin(batch)
        elif torch.is_grad_enabled() and any(t.active for t in self.taps):
            self.scale.ticket = compiled.begin(self.scale.number, batch)


def _feed(tap: Tap) -> Callable[..., None]:
    def on_forward(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        if not tap.active or not isinstance(output, Tensor):
            return
        if tap.map.kind == "embedding":
            tap.on_output(None, output)
            return
        x = first_input(args, kwargs)
        if isinstance(x, Tensor):
            tap.on_output(x, output)

    return on_forward


def first_input(args: tuple, kwargs: dict) -> Any:
    """What a module was called with, also by its name; None without an argument."""
    return args[0] if args else next(iter(kwargs.values()), None)
