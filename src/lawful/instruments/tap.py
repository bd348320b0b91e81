"""A tap on one linear map: pairs its input h_a with the gradient g_b at its output.

The pair is formed when the gradient arrives, so a forward pass that is never differentiated
(validation, the first pass of a checkpointed block) counts for nothing, and one that is
differentiated counts once. A module called several times in a step pools its calls.

A tensor hook on the output is used, never a module's backward hook: it sees the gradient
before any in-place activation, costs half as much, and compiles without a graph break.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..estimators.moments import normalised
from ..estimators.stream import MomentStream
from .distributed import sharded
from .maps import LinearMap, input_rows, output_rows, positions, unbatched

View = Callable[[Tensor], Tensor]
THINNED, THINNED_SAMPLES = 512, 64


def as_is(t: Tensor) -> Tensor:
    return t


def samples_first(t: Tensor, samples: int | None = None) -> Tensor:
    """(L, N, E) → (N, L, E), also when the first two were folded into one."""
    return (t if samples is None else t.unflatten(0, (-1, samples))).transpose(0, 1)


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

    def prepare(self, device: torch.device) -> None:
        """Let the scaler make its factor now: its first use would do the same."""
        if self.scaler is not None:
            self.scaler.scale(torch.ones((), device=device))

    def factor(self, samples: int) -> float:
        return float(samples * self.accumulation) if self.mean else 1.0

    def unscaled(self, g: Tensor) -> Tensor:
        """Divide out the loss scale on the device, so that no step waits for the host."""
        if self.scaler is None:
            return g
        factor = getattr(self.scaler, "_scale", None)  # its method cannot be compiled
        if factor is None:
            factor = self.scaler.scale(torch.ones((), device=g.device))
        return g / factor.to(g.device)


class Tap:
    """Collects the moments of one map while `active`.

    rows_cap: at most this many rows are taken from a batch, at positions drawn at random for
              each batch from a private generator; convolutions would cost more than training.
    half_positions: of sequences and images half the positions are taken, down to 512 rows.
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
        self._latest: tuple[int, int] | None = None
        self.problem = ""
        self.sampled = False
        self.ever = False
        self.stream = MomentStream(map.d_a, map.d_b, seed=seed)
        self.rows_cap = max(16 * max(map.d_a, map.d_b), 4096)
        self._generator = torch.Generator().manual_seed(seed + 1)
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
                self._trace(y.detach().clone() if x is None else x.detach(), y)
            else:
                self.problem = "called in a compiled function: compile the model, and observe that"
            return
        with self._harmless():
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
            with self._harmless():
                if h._version != version:
                    raise ValueError("its input was overwritten in place before the backward pass")
                self.take(h, see(cut(g.detach())), *call)

        y.register_hook(on_gradient)

    def _unguarded(self, x: Tensor | None) -> bool:
        """Whether autograd lets the input of a frozen weight be overwritten before we read it."""
        p = self.map.parameter
        return x is not None and p is not None and not p.requires_grad

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """A failure in here is this layer's problem, never the training run's."""
        try:
            yield
        except Exception as error:
            told = isinstance(error, ValueError)
            self.problem = str(error) if told else f"{type(error).__name__}: {error}"

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
            at, cap = None, self.rows_cap
            if self.half_positions:
                cap = min(cap, max(THINNED, clusters * T // 2))
            if clusters * T > cap and T > 1:
                self.sampled = True
                some = max(2, cap // clusters)
                at = torch.randperm(T, generator=self._generator)[:some].to(g.device)
            y = output_rows(self.map, g, batch, at, self.batch_dim)
            x = self._rows_of_h(self.map, h, batch, at, self.batch_dim)
            if self.half_samples and T == 1 and clusters >= 2 * THINNED_SAMPLES:
                self.sampled = True
                first = (of_pass or 0) % 2  # the calls of one pass take the same samples
                x, y = x[first::2], y[first::2]
            y = self.scale.unscaled(_wide(y)) * self.scale.factor(batch or clusters)
            if self.scale.scaler is not None and not torch.isfinite(y).all():
                return  # the scale was too large: the scaler passes this batch over, and so do we
            if self.normalise:
                x, y = normalised(x), normalised(y)
            this = None if of_pass is None else (of_pass, x.shape[0])
            self.stream.update(x, y, again=this is not None and this == self._latest)
            self._latest = this
            self.ever = True

    def begin(self) -> None:
        """Start from zero."""
        self.stream.reset()
        self._latest = None

    def prepare(self) -> None:
        """Make ready for being part of a compiled graph."""
        W = self.map.weight()
        self.compiled = True
        self.stream.prepare(W)
        self.scale.prepare(W.device)

    def _trace(self, h: Tensor, y: Tensor) -> None:
        """Inside a compiled graph: in-place sums, every position, no branch on data.

        Here several calls in one pass count as samples of their own.
        """
        batch = None if unbatched(self.map, y) else self.scale.batch
        x = _wide(self._rows_of_h(self.map, h, batch, None, self.batch_dim))

        def on_gradient(g: Tensor) -> None:
            rows = _wide(output_rows(self.map, g.detach(), batch, None, self.batch_dim))
            rows = self.scale.unscaled(rows) * self.scale.factor(batch or rows.shape[0])
            pair = (normalised(x), normalised(rows)) if self.normalise else (x, rows)
            valid = None if self.scale.scaler is None else torch.isfinite(rows).all()
            self.stream.trace(*pair, valid)

        y.register_hook(on_gradient)

    def collect(self) -> None:
        """Bring what compiled graphs have summed into the totals."""
        self.stream.collect()
        self.ever = self.ever or self.stream.rows > 0

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
        self.model, self.scale, self.batch_dim = model, scale, batch_dim
        self.of_module: dict[nn.Module, list[Tap]] = {}
        for tap in taps:
            self.of_module.setdefault(tap.map.module, []).append(tap)
        # A sharded weight is whole only until the module's own hook takes it apart again.
        self._prepend = any(sharded(p) for p in model.parameters())
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

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
                self._handles += _watch_attention(module, taps)
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
        if not torch.compiler.is_compiling():
            self.scale.passes += 1
        self.scale.batch = None
        for value in (*args, *kwargs.values()):
            if isinstance(value, Tensor) and value.dim() > 0:
                self.scale.batch = value.shape[min(self.batch_dim, value.dim() - 1)]
                return


def _feed(tap: Tap) -> Callable[..., None]:
    def on_forward(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
        if not tap.active or not isinstance(output, Tensor):
            return
        if tap.map.kind == "embedding":
            tap.on_output(None, output)
            return
        x = args[0] if args else next(iter(kwargs.values()), None)
        if isinstance(x, Tensor):
            tap.on_output(x, output)

    return on_forward


class _Projections(TorchFunctionMode):
    """Sees the `linear` calls that `nn.MultiheadAttention` makes without calling a module.

    Whatever `batch_first` says, in there tensors are (L, N, E) and, for the output projection,
    (L·N, E): samples are brought to the front before a tap sees them.
    """

    def __init__(self, module: nn.MultiheadAttention, taps: list[Tap]) -> None:
        super().__init__()
        self.module = module
        ends = ("in_proj.q", "in_proj.k", "in_proj.v", "out_proj")
        *self.packed, self.out = ([t for t in taps if t.map.name.endswith(e)] for e in ends)
        self._samples = 1

    def __torch_function__(self, func, _types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        if func is nn.functional.multi_head_attention_forward:
            with self:  # a mode is set aside while it handles a call: look inside this one
                return _attend(*args, **kwargs)
        y = func(*args, **kwargs)
        if func is nn.functional.linear:
            self._seen(args[0], args[1], y)
        return y

    def _seen(self, x: Tensor, weight: Tensor, y: Tensor) -> None:
        storage, E = weight.untyped_storage().data_ptr(), self.module.embed_dim
        if storage == self.module.out_proj.weight.untyped_storage().data_ptr():
            for tap in self.out:
                tap.on_output(x, y, partial(samples_first, samples=self._samples))
        elif storage == self.module.in_proj_weight.untyped_storage().data_ptr():
            self._samples = x.shape[1]
            first = weight.storage_offset() // (E * E)
            for i in range(weight.shape[0] // E):
                for tap in self.packed[first + i]:
                    tap.on_output(x, y, samples_first, _columns(i * E, (i + 1) * E))


def _watch_attention(
    module: nn.MultiheadAttention, taps: list[Tap]
) -> list[torch.utils.hooks.RemovableHandle]:
    open_modes: list[_Projections] = []

    def before(*_: object) -> None:
        # Without gradients there is nothing to see, and a mode would rule out the fast path.
        listening = torch.is_grad_enabled() and any(t.active for t in taps)
        if not torch.compiler.is_compiling() and listening:
            open_modes.append(_Projections(module, taps))
            open_modes[-1].__enter__()

    def after(*_: object) -> None:
        if open_modes:
            open_modes.pop().__exit__(None, None, None)

    return [
        module.register_forward_pre_hook(before),
        module.register_forward_hook(after, always_call=True),
    ]


def _past_dispatch(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same code, under a name for `has_torch_function` that says no: it runs, unhanded."""
    names = function.__globals__ | {"has_torch_function": lambda _: False}
    return types.FunctionType(
        function.__code__, names, function.__name__, function.__defaults__, function.__closure__
    )


def _columns(start: int, stop: int) -> View:
    return lambda t: t[..., start:stop]


_attend = _past_dispatch(nn.functional.multi_head_attention_forward)
