"""Which modules are linear maps h_b = W h_a + b, and how their tensors become rows.

    Linear            h: (n, *, d_a)        W: weight
    Conv1d, Conv2d    h: patches (n, L, C·k) at every output position, W: weight as (d_b, C·k)
    Embedding         output side only: the input is one-hot, W: weightᵀ, H_b of the outputs
    MultiheadAttention  q, k, v and output projections, which it applies without a module call

A *cluster* is one sample of the batch (its leading dimension); everything else that is not the
feature dimension counts as positions of that sample.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


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
    def block(self) -> str:
        """The block a layer belongs to: its path up to the first number, or its parent."""
        numbered = re.match(r"^(.*?\d+)(\.|$)", self.name)
        return numbered.group(1) if numbered else self.name.rpartition(".")[0]


def linear_maps(name: str, module: nn.Module) -> list[LinearMap]:
    """The linear maps that this very module is (none for containers, norms, activations).

    Raises `TypeError` with the reason when it is a map of a kind that cannot be observed.
    """
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


def input_rows(
    map: LinearMap, x: Tensor, batch: int | None, at: Tensor | None, batch_dim: int = 0
) -> Tensor:
    """(n, T, d_a) rows of the input x, at the positions `at` only (all of them when None)."""
    if map.kind == "conv":
        return _patches(map.module, x, at)
    rows = _clustered(x, batch, batch_dim)
    return rows if at is None else rows[:, at]


def output_rows(
    map: LinearMap, y: Tensor, batch: int | None, at: Tensor | None, batch_dim: int = 0
) -> Tensor:
    """(n, T, d_b) rows of an output-shaped tensor (h_b or its gradient)."""
    if map.kind == "conv":
        batched = y.flatten(2) if y.dim() == map.module.weight.dim() else y.flatten(1).unsqueeze(0)
        return (batched if at is None else batched[:, :, at]).transpose(1, 2)
    rows = _clustered(y, batch, batch_dim)
    return rows if at is None else rows[:, at]


def positions(map: LinearMap, y: Tensor, batch: int | None, batch_dim: int = 0) -> tuple[int, int]:
    """(clusters, rows per cluster) of an output-shaped tensor."""
    if map.kind == "conv":
        unbatched = y.dim() < map.module.weight.dim()
        return (1 if unbatched else y.shape[0]), y[0, 0].numel() if not unbatched else y[0].numel()
    shape = _clustered(y, batch, batch_dim).shape
    return shape[0], shape[1]


def _clustered(x: Tensor, batch: int | None, batch_dim: int) -> Tensor:
    """(n, T, d): one cluster a sample, also when samples were folded into the leading axis."""
    if x.dim() == 1:
        return x.view(1, 1, -1)
    if batch_dim and x.dim() > 2:
        x = x.movedim(batch_dim, 0)
    rows = x.unsqueeze(1) if x.dim() == 2 else x.flatten(1, -2)
    if batch and rows.shape[0] != batch and rows.shape[0] % batch == 0:
        rows = rows.reshape(batch, -1, rows.shape[-1])
    return rows


def _patches(conv: nn.Module, x: Tensor, at: Tensor | None) -> Tensor:
    """(n, L, C·k) input patches of a convolution; only the wanted positions are copied."""
    assert isinstance(conv, nn.Conv1d | nn.Conv2d)
    flat = isinstance(conv, nn.Conv1d)
    if x.dim() < conv.weight.dim():
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


def _linear(name: str, m: nn.Module, d_a: int, d_b: int) -> LinearMap:
    return LinearMap(
        name,
        "linear",
        d_a,
        d_b,
        m,
        weight=lambda: m.weight.detach(),
        bias=lambda: _detached(m.bias),
        parameter=_own(m, "weight"),
    )


def _transposed(name: str, m: nn.Module) -> LinearMap:
    """The Conv1D of GPT-2 code: a Linear whose weight is stored (d_a, d_b)."""
    d_a, d_b = m.weight.shape
    return LinearMap(
        name,
        "linear",
        d_a,
        d_b,
        m,
        weight=lambda: m.weight.detach().T,
        bias=lambda: _detached(m.bias),
        parameter=_own(m, "weight"),
        gradient=lambda grad: grad.T,
    )


def _conv(name: str, m: nn.Conv1d | nn.Conv2d) -> LinearMap:
    if m.groups != 1:
        raise TypeError(f"a convolution in {m.groups} groups is {m.groups} maps, not unfolded")
    d_a = m.weight[0].numel()
    return LinearMap(
        name,
        "conv",
        d_a,
        m.out_channels,
        m,
        weight=lambda: m.weight.detach().flatten(1),
        bias=lambda: _detached(m.bias),
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
        weight=lambda: m.weight.detach().T,
        bias=lambda: None,
        note="output side only: its input is one-hot",
    )


def _attention(name: str, m: nn.MultiheadAttention) -> list[LinearMap]:
    if not m._qkv_same_embed_dim:
        raise TypeError("attention with key or value dimensions of their own is not unpacked")
    if m.bias_k is not None or m.add_zero_attn:
        raise TypeError("attention with extra key/value rows is not unpacked")
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
                weight=lambda r=rows: m.in_proj_weight.detach()[r],
                bias=lambda r=rows: _detached(m.in_proj_bias, r),
                parameter=_own(m, "in_proj_weight"),
                gradient=lambda grad, r=rows: grad[r],
            )
        )
    out = LinearMap(
        f"{name}.out_proj",
        "attention",
        E,
        E,
        m,
        weight=lambda: m.out_proj.weight.detach(),
        bias=lambda: _detached(m.out_proj.bias),
        parameter=_own(m.out_proj, "weight"),
    )
    return [*maps, out]


def _detached(bias: Tensor | None, rows: slice = slice(None)) -> Tensor | None:
    return None if bias is None else bias.detach()[rows]
