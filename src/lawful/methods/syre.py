"""syre: remove the symmetries of a model, by decaying its weights to a random point, not to zero.

    θ = θ₀ + D^{−½} φ,     θ₀ ~ N(0, σ₀² I) drawn once,     decay λ on φ,

which is L(θ) + λ/2 ‖θ − θ₀‖²_D. A sign flip, a swap of neurons or a rotation that left L and ‖θ‖²
alone does not leave ‖θ − θ₀‖² alone, so no symmetric state is invariant any more. With D = I a
continuous group may keep a part that fixes θ₀; a random positive D ("advanced removal" of the
source) leaves nothing. Above the critical decay the collapse becomes incomplete instead of
exact: the order parameter ends at s* ≈ γ s₀/(γ − γ_c) in place of 0.

The honest control. What frees a network from a symmetric saddle is often just having been
pushed off it: a single perturbation of size σ₀, then plain decay, reaches the same loss or a
lower one wherever the decay is below γ_c (docs/methods.md has the numbers). What only syre does
is to keep the invariance broken under continued decay: above γ_c the perturbed network falls back
to the symmetric state exactly, syre does not. `perturb_once` is that control; run both.

Source: Ziyin, Xu, Chuang, "Remove Symmetries to Control Model Expressivity and Improve
Optimization", ICLR 2025, arXiv 2408.15495 (equation reconstructed); control and s* derived.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .parameters import Address, Reparametrisation, attach, find, normal


class Shift(Reparametrisation):
    """θ = θ₀ + φ·D^{−½}; θ₀ and D^{−½} are buffers, so `state_dict` carries them."""

    offset: Tensor
    scale: Tensor

    def __init__(self, offset: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("offset", offset)
        self.register_buffer("scale", scale)

    def forward(self, phi: Tensor) -> Tensor:
        """φ -> θ, same shape."""
        return self.offset + self.scale * phi

    def right_inverse(self, theta: Tensor) -> Tensor:
        """θ -> φ."""
        return (theta - self.offset) / self.scale


def syre(
    model: nn.Module,
    names: str | Iterable[str] = "*",
    *,
    sigma: float,
    spread: float = 0.0,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Move the point that decay pulls to, in place; returns the model.

    The function is unchanged at this moment; it moves when decay acts, so train with
    `SGD(parameter_groups(model, decay=λ), lr)`: without decay syre does nothing at all.

    names:  dotted names or globs; all parameters by default.
    sigma:  σ₀ > 0, the distance per weight between θ₀ and zero, in units of the weights. Small
            against the weights (a few per cent of their rms) bends the model least.
    spread: D_i = e^{spread·N(0,1)}; 0 is D = I. It also scales each weight's step by 1/D_i.

    Raises ValueError (argument, value, remedy).
    """
    _check_sigma(sigma)
    if not spread >= 0:
        raise ValueError(f"spread={spread}: give a number ≥ 0 (0 is the plain form)")

    def make(address: Address) -> Shift:
        like = address.tensor.detach()
        offset = sigma * normal(like, generator)
        draw = normal(like, generator) if spread else torch.zeros_like(offset)
        return Shift(offset, (-0.5 * spread * draw).exp())

    attach(find(model, names, "syre"), make)
    return model


def perturb_once(
    model: nn.Module,
    names: str | Iterable[str] = "*",
    *,
    sigma: float,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """The control: add N(0, σ₀²) to the named parameters once, in place; returns the model."""
    _check_sigma(sigma)
    with torch.no_grad():
        for address in find(model, names, "perturb_once"):
            address.tensor.add_(sigma * normal(address.tensor, generator))
    return model


def _check_sigma(sigma: float) -> None:
    if not 0 < sigma < float("inf"):
        raise ValueError(f"sigma={sigma}: give the standard deviation of the offset, a number > 0")
