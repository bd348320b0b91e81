"""A small GPT: a pre-norm decoder on characters (A. Radford et al. 2019).

    x ← token + position;   x ← x + proj(Attention(LN x));   x ← x + down(φ(up(LN x)))
    Attention, per head:  softmax(q kᵀ/√d + mask) v,   (q, k, v) = the three parts of qkv(x)

`qkv` is one linear map of 3·width outputs: the rows of q, then k, then v, each divided into
`n_head` slices of width/n_head rows. Attention is written out; `sdpa=True` uses torch's fused
kernel, which gives the same numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention


class Attention(nn.Module):
    """Causal self-attention with fused q, k, v: (N, T, width) → (N, T, width)."""

    mask: Tensor

    def __init__(self, width: int, n_head: int, context: int, *, sdpa: bool, bias: bool) -> None:
        super().__init__()
        if width % n_head:
            raise ValueError(f"width={width} is not a multiple of heads={n_head}; make it one")
        self.n_head, self.sdpa = n_head, sdpa
        self.qkv = nn.Linear(width, 3 * width, bias=bias)
        self.proj = nn.Linear(width, width, bias=bias)
        future = torch.ones(context, context, dtype=torch.bool).triu(1)
        self.register_buffer("mask", future, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        N, T, width = x.shape
        heads = self.qkv(x).view(N, T, 3, self.n_head, width // self.n_head)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # each (N, n_head, T, width / n_head)
        if self.sdpa:
            y = scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            score = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
            y = score.masked_fill(self.mask[:T, :T], -math.inf).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(N, T, width))


class Block(nn.Module):
    """Attention and a two-layer MLP, each after a LayerNorm and beside a skip."""

    def __init__(self, width: int, n_head: int, context: int, *, sdpa: bool, bias: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, n_head, context, sdpa=sdpa, bias=bias)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width, bias=bias)
        self.down = nn.Linear(4 * width, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.down(gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Character numbers (N, T) → logits (N, T, vocabulary), T ≤ context."""

    def __init__(
        self,
        vocabulary: int,
        *,
        context: int = 64,
        depth: int = 4,
        heads: int = 4,
        width: int = 64,
        sdpa: bool = False,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.context = context
        self.token = nn.Embedding(vocabulary, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(
            Block(width, heads, context, sdpa=sdpa, bias=bias) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        T = tokens.shape[1]
        if self.context < T:
            raise ValueError(f"a window of {T} characters; the model's context is {self.context}")
        x = self.token(tokens) + self.position(torch.arange(T, device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))
