"""spred: write a weight as a product of K factors, and ordinary weight decay makes it sparse.

    W = U₁ ⊙ U₂ ⊙ … ⊙ U_K,      decay λ on every factor.

At a given product the squares are least when all |U_k| are equal (arithmetic–geometric mean), so

    min_U L(W) + λ/2 Σ_k ‖U_k‖²   =   min_W L(W) + (K/2) λ Σ |w|^{2/K}.

K = 2 is the lasso, L(W) + λ‖W‖₁: the decay *is* the L1 strength, in the units of the training
loss, and local minima correspond one to one. K ≥ 3 is a non-convex L_{2/K} penalty, for which
w = 0 is always a local minimum. Zeros are approached, not reached: w ~ exp(−ηk(λ − |∂L/∂w|)).

The factor trap. Two programs that call their strength α rarely mean the same: scikit-learn's
Lasso(α) has the loss ½·mean, torch's MSELoss has mean, so λ = 2α. See `matched_decay`.

The sign trap. u² − v² is multiplied by (1−ηλ)² and otherwise kept by gradient flow, so where
|u| = |v| at the start neither can ever pass through zero, and w keeps its sign; minibatch noise,
momentum and Adam do not help. With K factors: where the smallest magnitude is attained twice.
Independent factors are never there. `spred` warns, `sign_trap` counts.

Sources: Ziyin & Wang, "spred: Solving L1 Penalty with SGD", ICML 2023, arXiv 2210.01212 (K = 2);
the constant K/2 and the trap at K factors derived above.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from .parameters import Reparametrisation, attach, find, originals, part, reparametrised, uniform

INITS = ("preserving", "independent", "balanced")


class SignTrapWarning(UserWarning):
    """Some weights start where their sign can never change."""


class Product(Reparametrisation):
    """W = U₁ ⊙ … ⊙ U_K; every original has the shape of W."""

    def __init__(self, depth: int, init: str, generator: torch.Generator | None) -> None:
        super().__init__()
        self.depth, self.init, self.generator = depth, init, generator

    def forward(self, *factors: Tensor) -> Tensor:
        """(U₁, …, U_K), each of shape (…) -> W, of the same shape."""
        return math.prod(factors[1:], start=factors[0])

    def right_inverse(self, W: Tensor) -> tuple[Tensor, ...]:
        """Factors for W by the chosen init; also called when a user assigns to the weight."""
        return factorise(W, self.depth, init=self.init, generator=self.generator)


def spred(
    model: nn.Module,
    names: str | Iterable[str],
    *,
    depth: int = 2,
    init: str = "preserving",
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Factorise the named parameters in place; returns the model.

    Then train `SGD(parameter_groups(model, decay=λ), lr)`, and `fold(model)` when done.

    names: dotted names or globs, as in `find`.
    depth: K ≥ 2 factors, penalty (K/2) λ Σ|w|^{2/K}.
    init:  "preserving"  U₂…U_K random and away from zero, U₁ = W/(U₂…U_K): the model's function
                         does not change, and no sign is trapped;
           "independent" every factor uniform in ±1/√fan_in, as in the official code: forgets W;
           "balanced"    |U_k| = |W|^{1/K}: keeps W, but freezes every sign. Warns.
    generator: source of the draws; None is torch's global one.

    Raises ValueError (argument, value, remedy); warns SignTrapWarning.
    """
    if depth < 2:
        raise ValueError(f"depth={depth}: a product needs at least 2 factors (2 is the lasso)")
    if init not in INITS:
        raise ValueError(f"init={init!r}: choose one of {', '.join(INITS)}")
    chosen = find(model, names, "spred")
    attach(chosen, lambda address: Product(depth, init, generator))
    shares = sign_trap(model)
    worst = max((address.name for address in chosen), key=lambda name: shares[name])
    if shares[worst] > 0:
        warnings.warn(
            f"spred: in {worst!r} {shares[worst]:.0%} of the weights have two smallest factors of "
            f"equal magnitude (init={init!r}): their signs cannot change, and training may not "
            'find the sparse solution. Use init="preserving" or "independent".',
            SignTrapWarning,
            stacklevel=2,
        )
    return model


def sign_trap(model: nn.Module, *, tolerance: float = 1e-6) -> dict[str, float]:
    """The share of weights whose sign is frozen, for every parameter under spred.

    A weight is frozen where the smallest |U_k| is attained by two factors, to `tolerance`
    relative. Read it at the start: decay balances the factors of *every* weight in time.
    """
    shares = {}
    for name, owner, leaf in reparametrised(model):
        if isinstance(part(owner, leaf), Product):
            shares[name] = frozen_share(originals(owner, leaf), tolerance)
    return shares


def frozen_share(factors: Sequence[Tensor], tolerance: float = 1e-6) -> float:
    """Share of entries where the two smallest of |U₁|…|U_K| agree to `tolerance` relative.

    >>> frozen_share([torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 3.0])])
    0.5
    """
    sizes = torch.stack([f.detach().abs() for f in factors]).sort(dim=0).values
    return float((sizes[1] - sizes[0] <= tolerance * sizes[1]).double().mean())


def matched_decay(strength: float, *, depth: int = 2, loss_factor: float = 1.0) -> float:
    """The weight decay λ that makes spred minimise ℓ + strength · Σ|w|^{2/K}.

    loss_factor: training loss divided by ℓ. The training loss is loss_factor·ℓ, so its penalty
                 must be loss_factor·strength too, and (K/2) λ is what spred applies.

    scikit-learn's Lasso(alpha=0.1) has ℓ = ½·mean squared error; torch's MSELoss is 2ℓ:

    >>> matched_decay(0.1, loss_factor=2)
    0.2
    """
    if not strength >= 0 or depth < 2 or not loss_factor > 0:
        raise ValueError(
            f"strength={strength}, depth={depth}, loss_factor={loss_factor}: "
            "need strength ≥ 0, depth ≥ 2, loss_factor > 0"
        )
    return loss_factor * strength * 2 / depth


def factorise(
    W: Tensor, depth: int, *, init: str, generator: torch.Generator | None = None
) -> tuple[Tensor, ...]:
    """(U₁, …, U_K) for W; the product is W except for init="independent". See `spred`."""
    if init == "balanced":
        size = W.abs() ** (1 / depth)
        return (size * W.sign(), *(size.clone() for _ in range(depth - 1)))
    if init == "independent":
        bound = _fan_in(W) ** -0.5
        return tuple(uniform(W, -bound, bound, generator) for _ in range(depth))
    others = [companion(W, depth, generator) for _ in range(depth - 1)]
    return (W / math.prod(others[1:], start=others[0]), *others)


def companion(W: Tensor, depth: int, generator: torch.Generator | None = None) -> Tensor:
    """A positive random factor, rms(W)^{1/K}·e^{±½}: at the scale of W, never near zero.

    Where w = 0 the other factor is then 0 and this one is not, so the weight can still learn:
    were both zero, it would stay zero for ever. A parameter that is all zeros gets the scale of
    a usual initialisation, 1/√fan_in, in place of its rms.
    """
    rms = float(W.detach().double().pow(2).mean().sqrt())
    scale = (rms or _fan_in(W) ** -0.5) ** (1 / depth)
    return scale * uniform(W, -0.5, 0.5, generator).exp()


def _fan_in(W: Tensor) -> int:
    """Entries that feed one output; a vector (a bias, a gain) counts as one row."""
    return max(W.numel() // W.shape[0] if W.dim() > 1 else W.numel(), 1)
