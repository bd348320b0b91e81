"""A tap on one linear map: pairs its input h_a with the gradient g_b at its output.

The pair is formed when the gradient arrives, so a forward pass that is never differentiated
(validation, the first pass of a checkpointed block) counts for nothing, and one that is
differentiated counts once. A module called several times in a step pools its calls.

A tensor hook on the output is used, never a module's backward hook: it sees the gradient
before any in-place activation, costs half as much, and compiles without a graph break.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..estimators.moments import normalised
from ..estimators.stream import MomentStream
from .maps import LinearMap, input_rows, output_rows, positions


class Scale:
    """What turns an autograd gradient into the gradient of the per-sample loss ℓ.

    With L = (1/n) Σ ℓ_i the gradient of L is 1/n of that of ℓ, so g is multiplied by the batch
    size n, by the micro-batches that are averaged into one step, and divided by the factor of
    an AMP loss scaler. With a summed loss only the last remains.
    """

    def __init__(self, reduction: str, accumulation: int, scaler: object | None) -> None:
        self.mean, self.accumulation, self.scaler = reduction == "mean", accumulation, scaler
        self.batch: int | None = None

    def factor(self, clusters: int) -> float:
        return float((self.batch or clusters) * self.accumulation) if self.mean else 1.0

    def unscaled(self, g: Tensor) -> Tensor:
        """Divide out the loss scale on the device, so that no step waits for the host."""
        if self.scaler is None:
            return g
        one = torch.ones((), device=g.device)
        return g.float() / self.scaler.scale(one).to(g.device)  # type: ignore[attr-defined]


class Tap:
    """Collects the moments of one map while `active`.

    rows_cap: at most this many rows are taken from a batch, at positions drawn at random for
              each batch from a private generator; convolutions would cost more than training.
    transform: None, or what each row is passed through before it is summed.
    """

    def __init__(
        self, map: LinearMap, scale: Scale, *, seed: int, batch_dim: int = 0, normalise: bool = False
    ) -> None:
        self.map, self.scale, self.batch_dim, self.normalise = map, scale, batch_dim, normalise
        self.active = False
        self.calls = 0
        self.problem = ""
        self.sampled = False
        self.ever = False
        self.shape: tuple[int, int] | None = None
        self.stream = MomentStream(map.d_a, map.d_b, seed=seed)
        self.rows_cap = max(16 * max(map.d_a, map.d_b), 4096)
        self._generator = torch.Generator().manual_seed(seed + 1)
        self._trusted = False

    def on_output(self, x: Tensor | None, y: Tensor) -> None:
        """Watch one call of the map: input x (None for an embedding), output y."""
        if not self.active or not y.requires_grad:
            return
        h = y.detach().clone() if x is None else x.detach()
        if torch.compiler.is_compiling():
            self._trace(h, y)
            return
        self._check(h, y)
        if self.problem:
            return
        if x is not None and self.map.parameter is not None and not self.map.parameter.requires_grad:
            h = h.clone()  # autograd does not guard this input against in-place writes
        version, done = h._version, False

        def on_gradient(g: Tensor) -> None:
            nonlocal done
            if done or not self.active:
                return
            done = True
            if h._version != version:
                self.problem = "its input was overwritten in place before the backward pass"
                return
            self.take(h, g.detach())

        y.register_hook(on_gradient)

    @torch.no_grad()
    def take(self, h: Tensor, g: Tensor) -> None:
        """Add one call's rows: h as it went in, g as autograd gave it."""
        with torch.autocast(g.device.type, enabled=False):
            batch = self.scale.batch
            clusters, T = positions(self.map, g, batch, self.batch_dim)
            at = None
            if clusters * T > self.rows_cap and T > 1:
                self.sampled = True
                some = max(2, self.rows_cap // clusters)
                at = torch.randperm(T, generator=self._generator)[:some].to(g.device)
            y = output_rows(self.map, g, batch, at, self.batch_dim)
            if self.map.kind == "embedding":
                x = output_rows(self.map, h, batch, at, self.batch_dim)
            else:
                x = input_rows(self.map, h, batch, at, self.batch_dim)
            y = self.scale.unscaled(y) * self.scale.factor(clusters)
            if self.normalise:
                x, y = normalised(x), normalised(y)
            self.stream.update(x, y)
            self.calls += 1
            self.ever = True

    def _trace(self, h: Tensor, y: Tensor) -> None:
        """Inside a compiled graph: in-place sums of static shape, scaled when they are read."""
        if self.map.kind == "conv":
            rows_of = lambda t: output_rows(self.map, t, None, None)  # noqa: E731
            x = input_rows(self.map, h, None, None)
        else:
            rows_of = lambda t: _flat(t, self.batch_dim)  # noqa: E731
            x = _flat(h, self.batch_dim)
        self.shape = (x.shape[0], x.shape[1])

        def on_gradient(g: Tensor) -> None:
            rows = rows_of(g.detach()).float() * self.scale.factor(x.shape[0])
            self.stream.trace(x.float(), rows)

        y.register_hook(on_gradient)

    def _check(self, h: Tensor, y: Tensor) -> None:
        """Once: is the output really W h + b? A subclass or another hook may have changed it."""
        if self._trusted or self.map.kind == "embedding":
            return
        self._trusted = True
        with torch.no_grad(), torch.autocast(h.device.type, enabled=False):
            at = torch.zeros(1, dtype=torch.long, device=h.device)
            x = input_rows(self.map, h, None, at, self.batch_dim)[:1].double()
            seen = output_rows(self.map, y.detach(), None, at, self.batch_dim)[:1].double()
            bias = self.map.bias()
            want = x @ self.map.weight().double().T + (0.0 if bias is None else bias.double())
            error = float((want - seen).norm() / seen.norm().clamp_min(1e-30))
        tolerance = 1e-3 if y.dtype in (torch.float32, torch.float64) else 5e-2
        if error > tolerance and float((want - seen).norm()) > 1e-6:
            self.problem = (
                f"its output is not W h + b (relative difference {error:.2g}): "
                "a subclass, a wrapper or another hook adds to it"
            )


def _flat(x: Tensor, batch_dim: int) -> Tensor:
    if batch_dim and x.dim() > 2:
        x = x.movedim(batch_dim, 0)
    return x.unsqueeze(1) if x.dim() == 2 else x.flatten(1, -2)


class Hooks:
    """The hooks that feed a set of taps; `place` and `lift` them around measured steps."""

    def __init__(self, model: nn.Module, taps: list[Tap], scale: Scale, batch_dim: int) -> None:
        self.model, self.scale, self.batch_dim = model, scale, batch_dim
        self.of_module: dict[nn.Module, list[Tap]] = {}
        for tap in taps:
            self.of_module.setdefault(tap.map.module, []).append(tap)
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def place(self) -> None:
        """Put the hooks on (nothing happens when they are already there)."""
        if self._handles:
            return
        self._handles.append(
            self.model.register_forward_pre_hook(self._batch_size, with_kwargs=True)
        )
        for module, taps in self.of_module.items():
            if isinstance(module, nn.MultiheadAttention):
                self._handles += _watch_attention(module, taps)
            else:
                self._handles.append(module.register_forward_hook(_feed(taps[0]), with_kwargs=True))

    def lift(self) -> None:
        """Take every hook off again."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _batch_size(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        if torch.compiler.is_compiling():
            return
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
    """Sees the `linear` calls that `nn.MultiheadAttention` makes without calling a module."""

    def __init__(self, module: nn.MultiheadAttention, taps: list[Tap]) -> None:
        super().__init__()
        self.module = module
        self.q, self.k, self.v, self.out = ([t for t in taps if t.map.name.endswith(e)] for e in
                                            ("in_proj.q", "in_proj.k", "in_proj.v", "out_proj"))

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        y = func(*args, **kwargs)
        if func is nn.functional.linear and len(args) > 1:
            self._seen(args[0], args[1], y)
        return y

    def _seen(self, x: Tensor, weight: Tensor, y: Tensor) -> None:
        storage, E = weight.untyped_storage().data_ptr(), self.module.embed_dim
        if storage == self.module.out_proj.weight.untyped_storage().data_ptr():
            for tap in self.out:
                tap.on_output(x, y)
        elif storage == self.module.in_proj_weight.untyped_storage().data_ptr():
            first = weight.storage_offset() // (E * E)
            for i in range(weight.shape[0] // E):
                for tap in (self.q, self.k, self.v)[first + i]:
                    _slice_of_output(tap, x, y, slice(i * E, (i + 1) * E))


def _slice_of_output(tap: Tap, x: Tensor, y: Tensor, rows: slice) -> None:
    """Feed a tap with one block of a fused projection's output."""
    if not tap.active or not y.requires_grad or tap.problem:
        return
    h, done = x.detach(), False

    def on_gradient(g: Tensor) -> None:
        nonlocal done
        if not done and tap.active:
            done = True
            tap.take(h, g.detach()[..., rows])

    y.register_hook(on_gradient)


def _watch_attention(
    module: nn.MultiheadAttention, taps: list[Tap]
) -> list[torch.utils.hooks.RemovableHandle]:
    open_modes: list[_Projections] = []

    def before(*_: object) -> None:
        if any(t.active for t in taps) and not torch.compiler.is_compiling():
            mode = _Projections(module, taps)
            mode.__enter__()
            open_modes.append(mode)

    def after(*_: object) -> None:
        if open_modes:
            open_modes.pop().__exit__(None, None, None)

    with warnings.catch_warnings():
        return [
            module.register_forward_pre_hook(before),
            module.register_forward_hook(after, always_call=True),
        ]
