"""Small models of every kind of symmetry, in double precision, with data and loss."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from transformer import Transformer, next_token

from lawful.symmetry import Discrete, Family, Scaling, Symmetry


class LoRA(nn.Module):
    """A frozen-style base map and a low-rank correction."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.a = nn.Linear(5, 6), nn.Linear(5, 2, bias=False)
        self.b, self.head = nn.Linear(2, 6, bias=False), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.relu(self.base(x) + 0.5 * self.b(self.a(x))))


def net(*middle, d=4, width=6):
    return nn.Sequential(nn.Linear(d, width), *middle, nn.Linear(width, 3))


def built(make, dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return make().to(dtype)


def points(n=16, d=4, classes=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn(n, d, generator=g, dtype=torch.float64),
        torch.randint(classes, (n,), generator=g),
    )


def tokens(n=6, T=7, vocabulary=7):
    g = torch.Generator().manual_seed(0)
    x = torch.randint(vocabulary, (n, T + 1), generator=g)
    x.view(-1)[:vocabulary] = torch.arange(vocabulary)
    return x[:, :-1], x[:, 1:]


MODELS = {
    "ReLU": (lambda: net(nn.ReLU()), points, F.cross_entropy),
    "tanh": (lambda: net(nn.Tanh()), points, F.cross_entropy),
    "linear": (lambda: net(), points, F.cross_entropy),
    "LN": (lambda: net(nn.LayerNorm(6, eps=0), nn.ReLU()), points, F.cross_entropy),
    "RMS": (lambda: net(nn.RMSNorm(6, eps=0)), points, F.cross_entropy),
    "BN": (lambda: net(nn.BatchNorm1d(6, eps=1e-30), nn.ReLU()), points, F.cross_entropy),
    "LoRA": (LoRA, lambda: points(d=5), F.cross_entropy),
    "attention": (Transformer, tokens, next_token),
    "rotary": (lambda: Transformer(rotary=4), tokens, next_token),
}


def claimed(act, name="claim"):
    """A symmetry that somebody claims, true or not."""
    kind = act.kind if isinstance(act, Discrete) else "claimed"
    size = act.size if isinstance(act, Discrete) else act.dimension
    return Symmetry(name, kind, (name,), act, "", size, 0, 0.0, True, "by hand", "")


def rescale(width, low="0", high="2", bias=True):
    """Rows of `low` up, columns of `high` down."""
    i = torch.arange(width)
    moves = [Scaling(f"{low}.weight", 0, i, 1.0), Scaling(f"{high}.weight", 1, i, -1.0)]
    return Family((*moves, Scaling(f"{low}.bias", 0, i, 1.0)) if bias else tuple(moves), width)
