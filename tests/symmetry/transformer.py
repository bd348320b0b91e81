"""A pre-norm transformer with rotary positions, grouped-query attention and SwiGLU, for tests."""

import torch
from torch import nn
from torch.nn import functional as F


def rotate(x, part):
    """Rotary positions on the first `part` of the features."""
    T = x.shape[-2]
    speed = 100.0 ** (-torch.arange(0, part, 2, dtype=x.dtype) / part)
    angle = torch.arange(T, dtype=x.dtype)[:, None] * speed
    cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)
    y = x[..., :part]
    a, b = y.chunk(2, -1)
    turned = y * cos + torch.cat((-b, a), -1) * sin
    return torch.cat((turned, x[..., part:]), -1)


class HandNorm(nn.Module):
    """RMSNorm written out, as in much published code."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True)))


class Block(nn.Module):
    def __init__(self, width, heads, groups, *, rotary, norm, qk_norm):
        super().__init__()
        self.heads, self.groups, self.d = heads, groups, width // heads
        self.rotary, self.qk_norm = rotary, qk_norm
        self.norm1, self.norm2 = norm(width), norm(width)
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, groups * self.d)
        self.v = nn.Linear(width, groups * self.d)
        self.proj = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, 2 * width, bias=False)
        self.up = nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x):
        N, T, width = x.shape
        z = self.norm1(x)
        q = self.q(z).view(N, T, self.heads, self.d).transpose(1, 2)
        k = self.k(z).view(N, T, self.groups, self.d).transpose(1, 2)
        v = self.v(z).view(N, T, self.groups, self.d).transpose(1, 2)
        if self.qk_norm:
            q, k = F.rms_norm(q, (self.d,)), F.rms_norm(k, (self.d,))
        if self.rotary:
            q, k = rotate(q, self.rotary), rotate(k, self.rotary)
        each = self.heads // self.groups
        k, v = k.repeat_interleave(each, 1), v.repeat_interleave(each, 1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(N, T, width))
        z = self.norm2(x)
        return x + self.down(F.silu(self.gate(z)) * self.up(z))


class Transformer(nn.Module):
    """Tokens (N, T) → logits (N, T, vocabulary). rotary: features turned per head, 0 for none."""

    def __init__(
        self,
        vocabulary=7,
        width=16,
        *,
        heads=4,
        groups=2,
        depth=1,
        rotary=0,
        tied=False,
        norm=lambda n: nn.RMSNorm(n, eps=0.0),
        qk_norm=False,
    ):
        super().__init__()
        kinds = {"rotary": rotary, "norm": norm, "qk_norm": qk_norm}
        self.token = nn.Embedding(vocabulary, width)
        self.blocks = nn.Sequential(*(Block(width, heads, groups, **kinds) for _ in range(depth)))
        self.norm = norm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.head.weight = self.token.weight

    def forward(self, tokens):
        return self.head(self.norm(self.blocks(self.token(tokens))))


def next_token(logits, y):
    return F.cross_entropy(logits.flatten(0, 1), y.flatten())
