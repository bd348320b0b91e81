"""How a compiled graph tells of its passes: two operators that it calls and never looks into.

What Python of ours `torch.compile` takes into a graph is fixed there: a count becomes a constant,
and a sum that the backward pass writes into is held by autograd to be unchanged until then, which
two forward passes before one backward pass would break. So the graph calls out,

    begin(n, batch) → ticket     as a forward pass of the model begins,
    gradient(h, g, ticket, n)    as the gradient g at the output of a map with input h arrives,

and what is then done is what is done without a compiler. Here n is the number of the object that
is told. A ticket is how the two know each other: it goes through the graph from forward to
backward pass, and says which pass a gradient belongs to, and of how many samples.

The operators are marked as effects, in order: none is left out, merged or moved past another.
Where torch has no such mark, the layers of a compiled model are reported as never called.
"""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.library import custom_op

try:
    from torch._higher_order_ops import effects
except ImportError:  # no name of torch's public ones: without effects graphs leave us out
    effects = None  # type: ignore[assignment]

_told: WeakValueDictionary[int, Any] = WeakValueDictionary()
_numbers = count()
NOWHERE, UNKNOWN = -1, -1  # the pass of a call that nobody hears of; a batch of unknown size


def number(told: object) -> int:
    """A number for graphs to call this object by; it keeps nothing alive."""
    n = next(_numbers)
    _told[n] = told
    return n


def ticket(of_pass: int, batch: int | None) -> Tensor:
    """The two as a tensor, which is what a graph can hand on."""
    return torch.tensor([of_pass, UNKNOWN if batch is None else batch], device="cpu")


# A recorded CUDA graph would be played back without us.
_ours = partial(custom_op, mutates_args=())
if hasattr(torch.Tag, "cudagraph_unsafe"):
    _ours = partial(_ours, tags=(torch.Tag.cudagraph_unsafe,))


@_ours("lawful::begin")
def begin(n: int, batch: int | None) -> Tensor:
    """A forward pass of the model begins, with so many samples: its ticket."""
    return _told[n].begin(batch) if n in _told else ticket(NOWHERE, None)


@_ours("lawful::gradient")
def gradient(h: Tensor, g: Tensor, of: Tensor, n: int) -> None:
    """The gradient g at the output of a map arrives; h was its input in the pass of this ticket."""
    of_pass, batch = of.tolist()
    if n in _told:
        _told[n].arrived(h, g, None if batch == UNKNOWN else batch, of_pass)


@begin.register_fake
def _(n: int, batch: int | None) -> Tensor:
    return torch.empty(2, dtype=torch.int64, device="cpu")


@gradient.register_fake
def _(h: Tensor, g: Tensor, of: Tensor, n: int) -> None:
    return None


for _operator in (begin, gradient) if hasattr(effects, "_register_effectful_op") else ():
    effects._register_effectful_op(_operator._opoverload, effects._EffectType.ORDERED)
