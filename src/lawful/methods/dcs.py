"""DCS: any structure that a mirror can name (sparse, grouped, low-rank, tied) by weight decay.

A mirror is a matrix O with orthonormal columns; its symmetric states are Oᵀθ = 0. Differentiable
constraint by symmetry gives the model that mirror, whether or not the loss had it:

    θ = (I − OOᵀ) w + O c,     c = u ⊙ v  (entries)   or   c = s·v  (together, s a number),

with decay λ on the two factors and none on w. The swap (u, v) → (−u, −v) changes no output, so
it is a mirror symmetry, and at the least squares of the factors the decay is

    λ/2 (‖u‖² + ‖v‖²) = λ‖Oᵀθ‖₁   (entries),      λ‖Oᵀθ‖₂   (together),     λ‖W‖_*   (rank).

When it collapses. At u = v = 0 the Hessian of L in one pair is [[0, g], [g, 0]] with
g = (Oᵀ∇L)_j, least eigenvalue −|g|; the law of mirror symmetry γ_c = −½ λ_min with λ = 2γ reads

    λ_c = |g| (entries),   ‖g‖₂ over the group (together),   the singular values of ∇L (rank),

g taken on the symmetric plane, at the minimum there. Where L is convex in θ the collapse is
exact on both sides of λ_c: below it no minimum is symmetric, above it all are. `critical_decay`
gives the list, one number a mirror.

Source: the construction, Ziyin et al., "Symmetry Induces Structure and Constraint of Learning",
ICML 2024, arXiv 2309.16932; formulas and thresholds derived above. "together" is the scalar-times-
weights form of the group lasso, "rank" the variational form of the nuclear norm.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .parameters import Address, Reparametrisation, attach, find, normal
from .spred import companion


class Mirror(nn.Module):
    """O of one parameter, matrix-free: `split` is Oᵀ, `lift` is O.

    Coefficients c have shape (mirrors, k): `rule` says what one mirror is.
    rule:  "entries" (every coefficient), "together" (every row), "rank" (every singular value).
    whole: O spans the parameter, so there is no symmetric part w to keep.
    """

    rule: str = "entries"
    whole: bool = True

    def split(self, theta: Tensor) -> Tensor:
        """Oᵀθ: the parameter's shape -> (mirrors, k)."""
        raise NotImplementedError

    def lift(self, c: Tensor, shape: torch.Size) -> Tensor:
        """O c: (mirrors, k) -> the parameter's shape."""
        raise NotImplementedError

    def check(self, theta: Tensor) -> str:
        """What makes this mirror impossible for a parameter of that shape; empty when nothing."""
        return ""


class Sparse(Mirror):
    """Every weight its own mirror: O = I, penalty λ‖θ‖₁ (spred with two factors)."""

    def split(self, theta: Tensor) -> Tensor:
        return theta.reshape(1, -1)

    def lift(self, c: Tensor, shape: torch.Size) -> Tensor:
        return c.reshape(shape)


class Groups(Mirror):
    """Every slice along `dim` one mirror: whole neurons (0) or inputs (1) vanish together."""

    rule = "together"

    def __init__(self, dim: int = 0) -> None:
        super().__init__()
        self.dim = dim

    def split(self, theta: Tensor) -> Tensor:
        return theta.movedim(self.dim, 0).reshape(theta.shape[self.dim], -1)

    def lift(self, c: Tensor, shape: torch.Size) -> Tensor:
        order = list(shape)
        order.insert(0, order.pop(self.dim))
        return c.reshape(order).movedim(0, self.dim)

    def check(self, theta: Tensor) -> str:
        fits = -theta.dim() <= self.dim < theta.dim()
        return "" if fits else f"Groups(dim={self.dim}) needs a parameter with that dimension"


class LowRank(Mirror):
    """Every direction n one mirror, nᵀW = 0: W = U V, penalty λ‖W‖_* (the nuclear norm).

    Convolution kernels count as matrices (out, in·k).
    """

    rule = "rank"

    def split(self, theta: Tensor) -> Tensor:
        return theta.reshape(theta.shape[0], -1)

    def lift(self, c: Tensor, shape: torch.Size) -> Tensor:
        return c.reshape(shape)

    def check(self, theta: Tensor) -> str:
        return "" if theta.dim() > 1 else "LowRank() needs a matrix, not a vector"


class Tied(Mirror):
    """Neurons i and j equal: O = (e_i − e_j)/√2 ⊗ I over slices along `dim`, one mirror a pair.

    Name the incoming weight and the bias: two neurons that agree there act as one, whatever
    follows. Each parameter carries its own penalty, λ Σ_pairs ‖θ_i − θ_j‖/√2. Tied neurons see one
    gradient up to their outgoing weights, so it vanishes across the mirror at every tied minimum:
    λ_c = 0 there, any decay makes the tie a local minimum, and how much decay it takes to get
    there from afar is a global question that λ_c does not answer.
    """

    rule, whole = "together", False
    first: Tensor
    second: Tensor

    def __init__(self, pairs: Iterable[tuple[int, int]], dim: int = 0) -> None:
        super().__init__()
        chosen = [tuple(pair) for pair in pairs]
        flat = [index for pair in chosen for index in pair]
        if not flat or len(set(flat)) < len(flat) or min(flat) < 0:
            raise ValueError(
                f"pairs={chosen}: give at least one pair of neurons ≥ 0, each neuron at most once"
            )
        self.dim = dim
        self.register_buffer("first", torch.tensor([i for i, _ in chosen]))
        self.register_buffer("second", torch.tensor([j for _, j in chosen]))

    def split(self, theta: Tensor) -> Tensor:
        slices = theta.movedim(self.dim, 0)
        return (slices[self.first] - slices[self.second]).reshape(len(self.first), -1) / 2**0.5

    def lift(self, c: Tensor, shape: torch.Size) -> Tensor:
        order = list(shape)
        order.insert(0, order.pop(self.dim))
        half = (c / 2**0.5).reshape(len(c), *order[1:])
        out = half.new_zeros(order).index_add(0, self.first, half)
        return out.index_add(0, self.second, half, alpha=-1).movedim(0, self.dim)

    def check(self, theta: Tensor) -> str:
        if not -theta.dim() <= self.dim < theta.dim():
            return f"Tied(dim={self.dim}) needs a parameter with that dimension"
        last = int(torch.maximum(self.first, self.second).max())
        return "" if last < theta.shape[self.dim] else f"Tied pairs name neuron {last}"


class Subspace(Mirror):
    """Any O, written out: (entries of the parameter, k), orthonormal columns.

    together: one mirror Oᵀθ = 0, penalty λ‖Oᵀθ‖₂; else k mirrors, penalty λ‖Oᵀθ‖₁.
    """

    whole = False
    O: Tensor

    def __init__(self, O: Tensor, *, together: bool = False) -> None:
        super().__init__()
        if O.dim() != 2 or not _orthonormal(O):
            raise ValueError(
                f"O of shape {tuple(O.shape)} must be a matrix with OᵀO = I; "
                "orthonormalise its columns with torch.linalg.qr(O).Q"
            )
        self.register_buffer("O", O.detach().clone())
        self.rule = "together" if together else "entries"

    def split(self, theta: Tensor) -> Tensor:
        return (theta.reshape(-1) @ self.O)[None]

    def lift(self, c: Tensor, shape: torch.Size) -> Tensor:
        return (self.O @ c.reshape(-1)).reshape(shape)

    def check(self, theta: Tensor) -> str:
        fits = len(self.O) == theta.numel() and self.O.dtype == theta.dtype
        return "" if fits else f"O has {len(self.O)} rows of {self.O.dtype}"


class DCS(Reparametrisation):
    """θ = (I − OOᵀ) w + O·product(a, b); originals (w, a, b), or (a, b) where O is everything."""

    def __init__(
        self, mirror: Mirror, shape: torch.Size, generator: torch.Generator | None
    ) -> None:
        super().__init__()
        self.mirror, self.shape, self.generator = mirror, shape, generator
        self.free = 0 if mirror.whole else 1

    def forward(self, *parts: Tensor) -> Tensor:
        """([w,] a, b) -> θ."""
        *kept, a, b = parts
        c = product(a, b, self.mirror.rule)
        if not kept:
            return self.mirror.lift(c, self.shape)
        return kept[0] + self.mirror.lift(c - self.mirror.split(kept[0]), self.shape)

    def right_inverse(self, theta: Tensor) -> tuple[Tensor, ...]:
        """Factors that give θ exactly and are not balanced (see the sign trap of spred)."""
        factors = divide(self.mirror.split(theta), self.mirror.rule, self.generator)
        return factors if self.mirror.whole else (theta.clone(), *factors)


def dcs(
    model: nn.Module,
    names: str | Iterable[str],
    mirror: Mirror,
    *,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Give each named parameter the mirror, in place, its function unchanged; returns the model.

    Then train `SGD(parameter_groups(model, decay=λ), lr)`, and `fold(model)` when done.

    mirror: Sparse(), Groups(dim), LowRank(), Tied(pairs, dim) or Subspace(O); each parameter gets
            a copy of its own.
    generator: source of the draws of the second factor; None is torch's global one.

    Raises ValueError when a parameter cannot be reparametrised or has not the mirror's shape.
    """
    if not isinstance(mirror, Mirror):
        raise ValueError(f"mirror={mirror!r}: pass an instance such as Groups(dim=0) or LowRank()")
    chosen = find(model, names, "dcs")
    for address in chosen:
        _check_fits(mirror, address.tensor, f"{address.name!r}")

    def make(address: Address) -> DCS:
        own = copy.deepcopy(mirror).to(address.tensor.device)
        return DCS(own, address.tensor.shape, generator)

    attach(chosen, make)
    return model


def critical_decay(gradient: Tensor, mirror: Mirror) -> Tensor:
    """λ_c of every mirror, largest first: all have collapsed where λ exceeds the first.

    gradient: ∂L/∂θ (no decay) of the plain parameter, at the minimum of L on the symmetric
              plane Oᵀθ = 0. With mirrors that are partly collapsed, take it at that minimum.

    >>> critical_decay(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), Groups(dim=0))
    tensor([5., 1.])
    """
    _check_fits(mirror, gradient, "gradient")
    g = mirror.split(gradient)
    if mirror.rule == "rank":
        return torch.linalg.svdvals(g)
    sizes = g.abs().flatten() if mirror.rule == "entries" else g.norm(dim=1)
    return sizes.sort(descending=True).values


def product(a: Tensor, b: Tensor, rule: str) -> Tensor:
    """c of the two factors: a matrix product for "rank", else entrywise (a may be a column)."""
    return a @ b if rule == "rank" else a * b


def divide(c: Tensor, rule: str, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """(a, b) with product(a, b) = c: one is random at the scale of c, the other follows.

    c: (mirrors, k).  entries: both (mirrors, k).  together: (mirrors, 1) and (mirrors, k).
    rank: (mirrors, r) and (r, k) with r = min(mirrors, k).
    """
    if rule == "entries":
        b = companion(c, 2, generator)
        return c / b, b
    if rule == "together":
        a = companion(c[:, :1].new_full((len(c), 1), _rms(c)), 2, generator)
        return a, c / a
    # A random rotation times the scale is square, well conditioned and inverted by transposing.
    side = min(c.shape)
    scale = max(_rms(c), torch.finfo(c.dtype).tiny) ** 0.5 * side**0.25 or 1.0
    Q = torch.linalg.qr(normal(c.new_empty(side, side), generator)).Q * scale
    return (c @ Q.mT / scale**2, Q) if c.shape[1] == side else (Q, Q.mT @ c / scale**2)


def _rms(c: Tensor) -> float:
    return float(c.detach().double().pow(2).mean().sqrt())


def _orthonormal(O: Tensor) -> bool:
    eye = torch.eye(O.shape[1], dtype=O.dtype, device=O.device)
    return bool((O.mT @ O - eye).abs().max() < 1e-5) if O.is_floating_point() else False


def _check_fits(mirror: Mirror, theta: Tensor, name: str) -> None:
    reason = mirror.check(theta)
    if reason:
        raise ValueError(f"dcs: {name} has shape {tuple(theta.shape)} ({theta.dtype}); {reason}")
