"""How the projections of `nn.MultiheadAttention` are seen: it applies them without a module call.

Its forward is one call of `F.multi_head_attention_forward`, which knows the projections as
`linear` and `_in_projection_packed`. Whatever `batch_first` says, in there tensors are (L, N, E)
and, for the output projection, (L·N, E): samples are brought to the front before a tap sees them.

    eager       for the time of a call, a mode of torch functions sees each `linear`
    compiled    until `remove`, the module's `forward` is torch's own code, in which these two
                names mean the same operation followed by a word to the taps: a mode would break
                the graph. The arithmetic is the same, and so are the parameters of the run.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

if TYPE_CHECKING:
    from .tap import Tap

ENDS = ("in_proj.q", "in_proj.k", "in_proj.v", "out_proj")


def watch_attention(module: nn.MultiheadAttention, taps: list[Tap]) -> list[RemovableHandle]:
    """Hooks that open the mode around each call."""
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


class _Projections(TorchFunctionMode):
    """Sees the `linear` calls of one call of the module."""

    def __init__(self, module: nn.MultiheadAttention, taps: list[Tap]) -> None:
        super().__init__()
        self.module = module
        *self.packed, self.out = _by_projection(taps)
        self._samples = 1

    def __torch_function__(self, func, _types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:  # a mode is set aside while it handles a call: look inside this one
                return _renamed(func, has_torch_function=_no)(*args, **kwargs)
        y = func(*args, **kwargs)
        if func is F.linear:
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


class ShownInGraph:
    """Gives the module a `forward` whose projections a compiled graph shows, until `remove`."""

    def __init__(self, module: nn.MultiheadAttention, taps: list[Tap]) -> None:
        self.module = module
        functions = types.SimpleNamespace(**vars(F))
        functions.multi_head_attention_forward = _showing(taps)
        forward = _renamed(nn.MultiheadAttention.forward, F=functions)
        # Bound, so that a deep copy of the model has one of its own.
        vars(module)["forward"] = types.MethodType(forward, module)

    def remove(self) -> None:
        vars(self.module).pop("forward", None)


def hides_in_graph(module: nn.Module) -> bool:
    """Whether a compiled graph cannot show the projections: the code may not be torch's."""
    if not isinstance(module, nn.MultiheadAttention):
        return False
    return type(module).forward is not nn.MultiheadAttention.forward or "forward" in vars(module)


def _showing(taps: list[Tap]) -> Callable[..., Any]:
    """`F.multi_head_attention_forward`, told to the taps."""
    *packed, out = _by_projection(taps)
    plain = vars(F)["_in_projection_packed"]

    def project(
        q: Tensor, k: Tensor, v: Tensor, w: Tensor, b: Tensor | None = None
    ) -> list[Tensor]:
        projected = plain(q, k, v, w, b)
        for x, y, watching in zip((q, k, v), projected, packed, strict=True):
            for tap in watching:
                tap.on_output(x, y, samples_first)
        return projected

    def linear(x: Tensor, weighted: tuple[Tensor, int], bias: Tensor | None) -> Tensor:
        weight, samples = weighted
        y = F.linear(x, weight, bias)
        for tap in out:
            tap.on_output(x, y, partial(samples_first, samples=samples))
        return y

    attend = _renamed(
        F.multi_head_attention_forward,
        has_torch_function=_no, _in_projection_packed=project, linear=linear,
        _check_key_padding_mask=_check_mask,
    )  # fmt: skip

    def multi_head_attention_forward(query: Tensor, *args: Any, **kwargs: Any) -> Any:
        # The rows of the output projection no longer show how many samples they are of: the
        # weight, which goes through untouched, brings that along.
        *before, weight, bias = args
        samples = query.shape[1] if query.dim() == 3 else 1
        return attend(query, *before, (weight, samples), bias, **kwargs)

    return multi_head_attention_forward


def samples_first(t: Tensor, samples: int | None = None) -> Tensor:
    """(L, N, E) → (N, L, E), also when the first two were folded into one."""
    return (t if samples is None else t.unflatten(0, (-1, samples))).transpose(0, 1)


def _by_projection(taps: Sequence[Tap]) -> list[list[Tap]]:
    return [[t for t in taps if t.map.name.endswith(end)] for end in ENDS]


def _columns(start: int, stop: int) -> Callable[[Tensor], Tensor]:
    return lambda t: t[..., start:stop]


def _no(_: object) -> bool:
    return False


def _check_mask(mask: Tensor, length: int, samples: int) -> None:
    """What torch checks in a way that breaks the graph."""
    if tuple(mask.shape) != (samples, length):
        raise AssertionError(
            f"Expected key_padding_mask of shape {(samples, length)}, got {tuple(mask.shape)}"
        )


def _renamed(function: Callable[..., Any], **names: Any) -> Callable[..., Any]:
    """The same code, where some of the names it uses mean something else.

    With `has_torch_function` saying no it runs, unhanded. Its other names are those of now; they
    are of no module by name, which is where the compiler would look them up instead.
    """
    known = {name: it for name, it in function.__globals__.items() if name != "__name__"}
    return types.FunctionType(
        function.__code__, known | names, function.__name__, function.__defaults__,
        function.__closure__,
    )  # fmt: skip
