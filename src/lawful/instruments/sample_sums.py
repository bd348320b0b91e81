"""What one step shows of the samples of one map: their gradients' squared norms, and Hebb's update.

    Σ_s ‖g_s‖²/n        of weight and bias, from the rows of h and g (`estimators.per_sample`)
    Σ_s uᵀ g_s v/n      along a private random direction, to compare with the parameter's gradient
    Σ_s h_b h_aᵀ        where it is wanted: two thirds of a layer's forward and backward pass
                        = [W b] Σ_s (h_a; 1) h_aᵀ: where W lies in shards the sum on the right is
                        kept, as nobody promises that W is whole when a gradient arrives

A tap feeds it in place of its moments; nothing is kept but sums, except for a map that is called
several times in a pass, whose rows wait for the next call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..estimators import per_sample
from ..estimators.stream import rank_update, symmetrise
from .distributed import sharded
from .maps import LinearMap
from .tap import Scale


class SampleSums:
    """Sums over the samples of one step, fed by a tap in place of its moments."""

    def __init__(self, map: LinearMap, seed: int, scale: Scale) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.map, self.scale = map, scale
        self.u = torch.randn(map.d_a, generator=generator)
        self.v = torch.randn(map.d_b, generator=generator)
        self.repeats = False  # the map is called several times in a pass: hold its rows
        self.begin(hebbian=False)

    def begin(self, *, hebbian: bool) -> None:
        """A new step."""
        self.sizes: list[int] = []
        self.broken = False
        self.norm2 = self.norm2_b = self.projection = self.size = torch.zeros(())
        self.wants_hebbian = hebbian
        self.hebbian: Tensor | None = None  # of a weight in shards, what `update_of` takes
        self.rows = 0
        self._held: list[tuple[Tensor, Tensor]] = []

    def update(self, h: Tensor, g: Tensor, *, again: bool = False) -> None:
        """Rows of one call: h (n, T, d_a), g (n, T, d_b) of the per-sample loss.

        again: of the samples of the last call, whose gradients then add before they are squared.
        The first time a map does that, its earlier rows are gone and the step does not count.
        """
        h = widened(h)  # of half precision, which g is brought from as well
        self.u, self.v = self.u.to(h), self.v.to(h)
        if again and not self._held:
            self.repeats = self.broken = True
            return
        if again:
            h = torch.cat([self._held[-1][0], h], dim=1)
            g = torch.cat([self._held[-1][1], g], dim=1)
            self._add(*self._held.pop(), sign=-1)
        else:
            self.sizes.append(h.shape[0])
        self._add(h, g, sign=1)
        if self.repeats:
            self._held = [(h, g)]

    def _add(self, h: Tensor, g: Tensor, *, sign: int) -> None:
        n = h.shape[0]
        self.norm2 = self.norm2.to(h.device) + sign * per_sample.norm2(h, g).sum() / n
        of_bias = g.sum(1) if g.shape[1] > 1 else g
        self.norm2_b = self.norm2_b.to(h.device) + sign * of_bias.square().sum().double() / n
        seen = ((h @ self.u) * (g @ self.v)).sum(1) / (n if self.scale.mean else 1)
        self.projection = self.projection.to(h.device) + sign * seen.sum()
        self.size = self.size.to(h.device) + sign * seen.abs().sum()
        self.rows += sign * h.shape[0] * h.shape[1]
        if self.wants_hebbian:
            rows = h.flatten(0, 1)
            if sharded(self.map.parameter):
                M = inputs(rows)
            else:
                M = hebbian(widened(self.map.weight()), self.map.bias(), rows)
            self.hebbian = sign * M if self.hebbian is None else self.hebbian + sign * M


def hebbian(W: Tensor, b: Tensor | None, h: Tensor) -> Tensor:
    """Σ h_b h_aᵀ with h_b = W h_a + b: W (d_b, d_a), h (n, d_a) → (d_b, d_a).

    Through Σ h_a h_aᵀ where that is less work.
    """
    (d_b, d_a), n, h = W.shape, len(h), h.to(W.dtype)
    if n * d_a * 9 / 16 + d_b * d_a < 2 * n * d_b:
        return update_of(W, b, inputs(h))
    return (h @ W.T if b is None else torch.addmm(b.to(h.dtype), h, W.T)).T @ h


def inputs(h: Tensor) -> Tensor:
    """Σ (h_a; 1) h_aᵀ: (d_a + 1, d_a)."""
    H = h.new_zeros(h.shape[1], h.shape[1])
    rank_update(H, h)
    return torch.cat([symmetrise(H), h.sum(0, keepdim=True)])


def update_of(W: Tensor, b: Tensor | None, seen: Tensor) -> Tensor:
    """Hebb's update [W b] Σ (h_a; 1) h_aᵀ: (d_b, d_a)."""
    M = W @ seen[:-1]
    return M if b is None else M.addr_(b.to(M.dtype), seen[-1])


def _wide(t: Tensor) -> torch.dtype:
    return torch.float64 if t.dtype == torch.float64 else torch.float32


def widened(t: Tensor) -> Tensor:
    return t.detach().to(_wide(t))
