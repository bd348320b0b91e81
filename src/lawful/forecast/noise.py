"""The noise of the gradient on a sample of the data, where a symmetry looks at it.

    Σ₁ = Cov(∇ℓ(θ, x)) per sample,     of which  diag Σ₁  and, where a family mixes vectors,
    N  = Σ_r E[(g_r − ḡ_r)(g_r − ḡ_r)ᵀ]   of the k-vectors g_r that a symmetry mixes    (k, k).

From gradients of n groups of m samples: Σ₁ = m · Cov(group), unbiased (n − 1), and the squared
mean ḡ² has its own error Σ₁/nm taken off. Groups are single samples where those are independent.
Its relative error is about √(2/n).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..symmetry import Mixing

if TYPE_CHECKING:
    from .case import Case, Named


@dataclass(frozen=True)
class GradientNoise:
    """variance: diag Σ₁ and mean: ḡ, by parameter; outer: N of each mixing action.

    groups: n; samples: n·m.
    """

    variance: Named
    mean: Named
    outer: dict[int, Tensor]
    groups: int
    samples: int

    def share(self, names: tuple[str, ...], batch: int) -> float:
        """‖ḡ‖²/E‖g‖² of a mini-batch on some parameters: 0 on a valley of minima, 1 without noise.

        The estimate of ‖ḡ‖² carries Tr Σ₁/nm of noise, which is taken off.
        """
        noise = sum(float(self.variance[n].sum()) for n in names)
        raw = sum(float(self.mean[n].square().sum()) for n in names)
        mean = max(raw - noise / self.samples, 0.0)
        return mean / (mean + noise / batch) if mean + noise > 0 else 0.0

    def excess(self, theta: Named, weight_decay: float) -> float:
        """‖ḡ + wθ‖² over what sampling alone gives: about 1 at a minimum, inf without noise."""
        noise = sum(float(v.sum()) for v in self.variance.values()) / self.samples
        pulls = ((m, weight_decay * theta[n]) for n, m in self.mean.items())
        raw = sum(float((m + pull).square().sum()) for m, pull in pulls)
        return raw / noise if noise > 0 else math.inf * raw if raw > 0 else 1.0


def gradient_noise(case: Case) -> GradientNoise:
    """One pass over the sample; `outer` is keyed by the id() of each mixing action."""
    width = 1 if case.independent else max(2, min(case.training.batch_size, case.size // 8))
    count = max(case.affordable(1) // width, 4)
    parts = [slice(i, i + width) for i in range(0, case.size - width + 1, width)][:count]
    actions = [a for _, f in case.families for a in f.actions if isinstance(a, Mixing)]
    total: Named = {n: torch.zeros_like(t, dtype=torch.float64) for n, t in case.theta.items()}
    squares = {n: torch.zeros_like(t) for n, t in total.items()}
    outer = {id(a): torch.zeros(a.at.shape[1], a.at.shape[1]).double() for a in actions}
    for part in parts:
        g = case.gradient(part)
        for name, t in g.items():
            total[name] += t
            squares[name] += t.double().square()
        for a in actions:
            outer[id(a)] += gram(a, g[a.parameter])
    n = len(parts)
    mean = {name: t / n for name, t in total.items()}
    scale = width / (n - 1)
    variance = {k: ((q - n * mean[k].square()) * scale).clamp_min(0) for k, q in squares.items()}
    centred = {id(a): (outer[id(a)] - n * gram(a, mean[a.parameter])) * scale for a in actions}
    return GradientNoise(variance, mean, centred, n, n * width)


def gram(a: Mixing, t: Tensor) -> Tensor:
    """Σ_r t_r t_rᵀ of the k-vectors that an action mixes: (k, k)."""
    vectors = t.double().movedim(a.axis, -1)[..., a.at].reshape(-1, a.at.shape[1])
    return vectors.T @ vectors
