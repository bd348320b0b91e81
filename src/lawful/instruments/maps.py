"""Which modules are linear maps h_b = W h_a + b, and how their tensors become rows.

    Linear            h: (n, *, d_a)        W: weight
    Conv1d, Conv2d    h: patches (n, L, C·k) at every output position, W: weight as (d_b, C·k)
    Embedding         output side only: the input is one-hot, W: weightᵀ, H_b of the outputs
    MultiheadAttention  q, k, v and output projections, which it applies without a module call

A *cluster* is one sample of the batch (its leading dimension); everything else that is not the
feature dimension counts as positions of that sample.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from .distributed import sharded


@dataclass(frozen=True)
class LinearMap:
    """One observed linear map.

    name:    its path, as in `named_modules()` (plus `.q`, `.k`, `.v`, `.out` for attention).
    weight:  reads W as (d_b, d_a) now; bias reads b or gives None.
    kind:    `linear`, `conv`, `embedding`, `attention`.
    module:  the module whose call (or, for attention, whose functional call) is watched.
    parameter: the weight as it is trained, to find its gradient; None when it is computed.
    gradient: brings ∂L/∂parameter to the shape (d_b, d_a) of W.
    """

    name: str
    kind: str
    d_a: int
    d_b: int
    module: nn.Module
    weight: Callable[[], Tensor]
    bias: Callable[[], Tensor | None]
    parameter: nn.Parameter | None = None
    gradient: Callable[[Tensor], Tensor] = field(default=lambda grad: grad)
    note: str = ""

    @property
    def parameters(self) -> int:
        """How many numbers the map is made of: W (an embedding's is its whole table) and b."""
        bias = self.bias()
        return self.weight().numel() + (0 if bias is None else bias.numel())

    @property
    def block(self) -> str:
        """The block a layer belongs to: its path up to the first number, or its parent."""
        numbered = re.match(r"^(.*?\d+)(\.|$)", self.name)
        return numbered.group(1) if numbered else self.name.rpartition(".")[0]


def linear_maps(name: str, module: nn.Module) -> list[LinearMap]:
    """The linear maps that this very module is (none for containers, norms, activations).

    Raises `TypeError` with the reason when it is a map of a kind that cannot be observed, and
    `ValueError` when it is lazy and was never called.
    """
    if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():
        raise ValueError(
            f"layer {name!r} has no weights yet: run one batch through the model first"
        )
    if isinstance(module, nn.MultiheadAttention):
        return _attention(name, module)
    if isinstance(module, nn.Linear):
        return [_linear(name, module, module.in_features, module.out_features)]
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return [_conv(name, module)]
    if isinstance(module, nn.Embedding):
        return [_embedding(name, module)]
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        return [_transposed(name, module)]
    return []


def inner_modules(module: nn.Module) -> Iterator[nn.Module]:
    """The modules whose parameters make up the weight and bias of this map."""
    yield module
    if isinstance(module, nn.MultiheadAttention):
        yield module.out_proj
    elif parametrize.is_parametrized(module):
        yield from module.parametrizations.modules()  # type: ignore[union-attr]


def beside(module: nn.Module) -> list[str]:
    """Names of a map's own parameters that are neither its weight nor its bias."""
    known = {"weight", "bias", "in_proj_weight", "in_proj_bias"}
    known |= {f"weight{end}" for end in ("_orig", "_g", "_v")}  # the older normalising hooks
    return [name for name, p in module._parameters.items() if p is not None and name not in known]


def why_not(module: nn.Module) -> str:
    """The reason, for the coverage report, why a module with parameters is no observed map."""
    kind = type(module).__name__
    if "Norm" in kind:
        return "a normalisation acts neuron by neuron: it has no H, G, Z of its own"
    if isinstance(module, nn.RNNBase):
        return "a recurrent module multiplies inside one fused call that no hook sees"
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return "transposed convolutions are not unfolded"
    if isinstance(module, nn.Conv3d):
        return "three-dimensional convolutions are not unfolded"
    if isinstance(module, nn.Bilinear):
        return "a bilinear form is not a linear map of one input"
    if isinstance(module, nn.EmbeddingBag):
        return "bags are summed before they leave the module"
    return "its parameters are used in a way that is not a known linear map"


# -- rows ----------------------------------------------------------------------------------------

Positions = Tensor | slice | None  # those to take, all when None; of patches never a slice


def input_rows(
    map: LinearMap, x: Tensor, batch: int | None, at: Positions, batch_dim: int = 0
) -> Tensor:
    """(n, T, d_a) rows of the input x, at the positions `at` only (all of them when None)."""
    if map.kind == "conv":
        assert not isinstance(at, slice)
        return _folded(_patches(map.module, x, at), batch)
    rows = _clustered(x, batch, batch_dim)
    return rows if at is None else rows[:, at]


def output_rows(
    map: LinearMap, y: Tensor, batch: int | None, at: Positions, batch_dim: int = 0
) -> Tensor:
    """(n, T, d_b) rows of an output-shaped tensor (h_b or its gradient)."""
    if map.kind == "conv":
        y = y.flatten(1).unsqueeze(0) if unbatched(map, y) else y.flatten(2)
        return _folded((y if at is None else y[:, :, at]).transpose(1, 2), batch)
    rows = _clustered(y, batch, batch_dim)
    return rows if at is None else rows[:, at]


def positions(map: LinearMap, y: Tensor, batch: int | None, batch_dim: int = 0) -> tuple[int, int]:
    """(n, T) of an output-shaped tensor, as `at` counts them."""
    if map.kind == "conv":
        return (1, y[0].numel()) if unbatched(map, y) else (y.shape[0], y.shape[2:].numel())
    shape = _clustered(y, batch, batch_dim).shape
    return shape[0], shape[1]


def unbatched(map: LinearMap, y: Tensor) -> bool:
    """Whether the output y is that of one sample on its own, without a batch dimension."""
    if map.kind == "conv":
        return y.dim() < _dimensions(map.module)
    return y.dim() == 1


def _clustered(x: Tensor, batch: int | None, batch_dim: int) -> Tensor:
    """(n, T, d): one cluster a sample, also when samples were folded into the leading axis."""
    if x.dim() == 1:
        return x.view(1, 1, -1)
    if x.dim() > 2:
        return _folded(x.movedim(batch_dim, 0).flatten(1, -2), batch)
    if batch_dim and batch and len(x) % batch == 0:
        return x.unflatten(0, (-1, batch)).transpose(0, 1)
    return _folded(x.unsqueeze(1), batch)


def _folded(rows: Tensor, batch: int | None) -> Tensor:
    """(batch, T, d) when the leading axis holds several items (frames, windows) of each sample."""
    if batch and len(rows) != batch and len(rows) % batch == 0:
        return rows.reshape(batch, -1, rows.shape[-1])
    return rows


def _patches(conv: nn.Module, x: Tensor, at: Tensor | None) -> Tensor:
    """(n, L, C·k) input patches of a convolution; only the wanted positions are copied."""
    assert isinstance(conv, nn.Conv1d | nn.Conv2d)
    flat = isinstance(conv, nn.Conv1d)
    if x.dim() < _dimensions(conv):
        x = x.unsqueeze(0)
    pad = _padding(conv)
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    x = nn.functional.pad(x, pad, mode=mode).contiguous()
    if flat:
        x = x.unsqueeze(2)
    (kh, kw), (sh, sw), (dh, dw) = (
        (1, *v) if flat else v for v in (conv.kernel_size, conv.stride, conv.dilation)
    )
    n, C, height, width = x.shape
    out_h = (height - dh * (kh - 1) - 1) // sh + 1
    out_w = (width - dw * (kw - 1) - 1) // sw + 1
    sn, sC, sy, sx = x.stride()
    windows = x.as_strided(
        (n, out_h, out_w, C, kh, kw), (sn, sy * sh, sx * sw, sC, sy * dh, sx * dw)
    )
    if at is None:
        return windows.reshape(n, out_h * out_w, C * kh * kw)
    return windows[:, at // out_w, at % out_w].flatten(2)


def _dimensions(conv: nn.Module) -> int:
    """Dimensions of a batched input: 3 for Conv1d, 4 for Conv2d."""
    assert isinstance(conv, nn.Conv1d | nn.Conv2d)
    return len(conv.kernel_size) + 2


def _padding(conv: nn.Conv1d | nn.Conv2d) -> list[int]:
    """Padding as `torch.nn.functional.pad` wants it: last dimension first, (left, right)."""
    pads: list[int] = []
    for i in reversed(range(len(conv.kernel_size))):
        if conv.padding == "same":
            total = conv.dilation[i] * (conv.kernel_size[i] - 1)
            pads += [total // 2, total - total // 2]
        elif conv.padding == "valid":
            pads += [0, 0]
        else:
            pads += [int(conv.padding[i])] * 2
    return pads


# -- one constructor a kind ------------------------------------------------------------------------


def _own(module: nn.Module, name: str) -> nn.Parameter | None:
    """The trained parameter of that name, None when it is computed (a parametrisation)."""
    return module._parameters.get(name)


def _now(module: nn.Module, name: str) -> Tensor:
    """The tensor as the last forward pass used it.

    A computed one is asked for in evaluation mode: while training, `spectral_norm` moves its
    buffers each time the weight is read.
    """
    if not parametrize.is_parametrized(module, name):
        return getattr(module, name).detach()
    training = [m for m in module.parametrizations[name].modules() if m.training]  # type: ignore[union-attr, index]
    for part in training:
        part.training = False
    try:
        return getattr(module, name).detach()
    finally:
        for part in training:
            part.training = True


def _bias(module: nn.Module) -> Tensor | None:
    return None if getattr(module, "bias", None) is None else _now(module, "bias")


def _linear(name: str, m: nn.Module, d_a: int, d_b: int) -> LinearMap:
    return LinearMap(
        name,
        "linear",
        d_a,
        d_b,
        m,
        weight=lambda: _now(m, "weight"),
        bias=lambda: _bias(m),
        parameter=_own(m, "weight"),
    )


def _transposed(name: str, m: nn.Module) -> LinearMap:
    """The Conv1D of GPT-2 code: a Linear whose weight is stored (d_a, d_b)."""
    d_a, d_b = _now(m, "weight").shape
    return LinearMap(
        name,
        "linear",
        d_a,
        d_b,
        m,
        weight=lambda: _now(m, "weight").T,
        bias=lambda: _bias(m),
        parameter=_own(m, "weight"),
        gradient=lambda grad: grad.T,
    )


def _conv(name: str, m: nn.Conv1d | nn.Conv2d) -> LinearMap:
    if m.groups != 1:
        raise TypeError(f"a convolution in {m.groups} groups is {m.groups} maps, not unfolded")
    return LinearMap(
        name,
        "conv",
        m.in_channels * math.prod(m.kernel_size),
        m.out_channels,
        m,
        weight=lambda: _now(m, "weight").flatten(1),
        bias=lambda: _bias(m),
        parameter=_own(m, "weight"),
        gradient=lambda grad: grad.flatten(1),
        note="rows are unfolded patches",
    )


def _embedding(name: str, m: nn.Embedding) -> LinearMap:
    return LinearMap(
        name,
        "embedding",
        m.embedding_dim,
        m.embedding_dim,
        m,
        weight=lambda: _now(m, "weight").T,
        bias=lambda: None,
        parameter=_own(m, "weight"),
        gradient=lambda grad: grad.T,
        note="output side only: its input is one-hot",
    )


def _attention(name: str, m: nn.MultiheadAttention) -> list[LinearMap]:
    if not m._qkv_same_embed_dim:
        raise TypeError("attention with key or value dimensions of their own is not unpacked")
    if m.bias_k is not None or m.add_zero_attn:
        raise TypeError("attention with extra key/value rows is not unpacked")
    if sharded(m.in_proj_weight):
        raise TypeError("attention with its packed weights in shards is not unpacked")
    E = m.embed_dim
    maps = []
    for i, part in enumerate("qkv"):
        rows = slice(i * E, (i + 1) * E)
        maps.append(
            LinearMap(
                f"{name}.in_proj.{part}",
                "attention",
                E,
                E,
                m,
                weight=partial(_block, m, "in_proj_weight", rows),
                bias=partial(_block, m, "in_proj_bias", rows),
                parameter=_own(m, "in_proj_weight"),
                gradient=itemgetter(rows),
            )
        )
    out = LinearMap(
        f"{name}.out_proj",
        "attention",
        E,
        E,
        m,
        weight=lambda: _now(m.out_proj, "weight"),
        bias=lambda: _bias(m.out_proj),
        parameter=_own(m.out_proj, "weight"),
    )
    return [*maps, out]


def _block(module: nn.Module, name: str, rows: slice) -> Any:
    """Some rows of a packed parameter, None when the module has none of that name."""
    return None if getattr(module, name) is None else _now(module, name)[rows]
