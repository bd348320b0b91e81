"""The largest eigenvalues of a symmetric operator known only by its products v ↦ A v.

Rayleigh–Ritz. On the orthonormal directions S that were asked so far the best values are those of
SᵀAS. For the Ritz pairs (θ_i, u_i), falling, with residuals r_i = A u_i − θ_i u_i,

    θ_i ≤ λ_i;    some eigenvalue lies within ‖r_i‖ of θ_i                              (bound)

The bound is rigorous (Krylov–Weinstein), loose, and blind to one thing: it does not say *which*
eigenvalue is near.

Belief. Along with S goes a symmetric matrix M of low rank that stands for A. It begins as an
earlier operator is remembered, or as zero, and every answer A v changes it as little as it can:

    M ← P M P + A v vᵀ + v vᵀA − v (vᵀA v) vᵀ,    P = 1 − v vᵀ            (M v = A v from now on)

This is the least change in the Frobenius norm (Powell's symmetric form of Broyden's update). The
top eigenvector of M is the next direction to ask. Without a memory that is Lanczos, for then the
part of it outside S is the residual. With one it is Davidson's correction (θ − M)⁻¹ r, in which
neighbours that are remembered count for what they are.

Error. How far θ is below λ depends on the curvature along r. If A were M, where unknown directions
count zero, it would be e_−; if r lay along the next eigenvalue that is known, it would be e_+
(Temple; Mathias for clusters):

    e_− = λ_i(M) − θ_i,     e_+ ≈ ‖r‖²/(θ_i − θ_next),  ‖r‖² over the cluster down to θ_next

The truth is mostly between the two, so θ + √(e_− e_+) is given, and ½(e_+ − e_−) decides when to
stop, together with the bound. A memory is not trusted blindly. The operator may have risen where
nobody looked again: there M counts 1 + δ times (δ = DRIFT), so that an eigenvector that may have
overtaken the first is asked for. And what the start brings beside the memory may be an eigenvector
as large as the first: e_+ is at least the part of ‖r‖ that lies along it.

Misconvergence. A start with little of u_1 and much of u_2 converges to λ_2 first, and the residual
shows u_1 only on the way down from about |λ_1 − λ_2|. Eight products guard a cold start: on 72
Hessians of nine small architectures, eight starts each, 0.5 % were taken in. In a series, memory
and the directions mixed into the start do it: in twelve series (`benchmarks/curvature_series.py`,
seeds 0, 1, 2) one of 732 measurements. Of an eigenvalue with several eigenvectors one start sees
one.

Sources: M. J. D. Powell, in Nonlinear Programming (1970) 31; E. R. Davidson, J. Comput. Phys. 17
(1975) 87; K. Wu and H. Simon, SIAM J. Matrix Anal. 22 (2000) 602 (thick restart); B. N. Parlett,
The Symmetric Eigenvalue Problem, ch. 4, 10, 11 (bounds).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

Matvec = Callable[[Tensor], Tensor]

DRIFT = 0.05
"""Share by which remembered curvature may have risen unseen."""

KEPT = 6
"""Eigenpairs that are remembered beyond those wanted."""

ROOM = 40
"""Directions in the basis before it is restarted."""


@dataclass(frozen=True)
class Memory:
    """An operator as it was believed to be: Σ_i values_i q_i q_iᵀ.

    values:  (m,) falling, float64.
    vectors: (m, D) orthonormal rows.
    """

    values: Tensor
    vectors: Tensor


@dataclass(frozen=True)
class Eigenpairs:
    """The k largest eigenvalues, as far as they are known.

    values:    (k,) falling to within their errors, float64.
    vectors:   (k, D) orthonormal rows.
    bounds:    (k,) an eigenvalue is no farther than this.
    errors:    (k,) half the range in which the eigenvalue is believed to lie.
    converged: whether errors and bounds met what was asked.
    products:  products with A that were spent.
    memory:    to start a later solve from.
    """

    values: Tensor
    vectors: Tensor
    bounds: Tensor
    errors: Tensor
    converged: bool
    products: int
    memory: Memory


def top_eigenpairs(
    matvec: Matvec,
    start: Tensor,
    *,
    memory: Memory | None = None,
    k: int = 1,
    tolerance: float = 2e-3,
    residual: float = 0.05,
    limit: int = 200,
) -> Eigenpairs:
    """The k algebraically largest eigenvalues of A.

    matvec:    (D,) → (D,), symmetric; its dtype and device are those of `start`.
    start:     (D,) or (s, D): directions to begin with.
    memory:    of an earlier solve.
    tolerance: stop when every error is ≤ tolerance · max |θ|,
    residual:  every ‖r‖ ≤ residual · max |θ|, and k + 2 products were spent, without a memory
               4(k + 1).
    limit:     stop unconverged after so many products.

    Raises `ValueError` for a start of zeros or in half precision or k < 1, `ArithmeticError` when
    a product is not finite.

    >>> d = torch.arange(50.0, dtype=torch.float64)
    >>> found = top_eigenpairs(lambda v: d * v, torch.ones(50, dtype=torch.float64), k=2)
    >>> [round(float(x), 1) for x in found.values], found.converged
    ([49.0, 48.0], True)
    """
    queue = torch.atleast_2d(start)
    D = queue.shape[1]
    if k < 1:
        raise ValueError(f"k={k}: ask for at least one eigenvalue")
    if torch.finfo(queue.dtype).bits < 32:
        raise ValueError(f"start is {queue.dtype}, too coarse to tell directions: give float32")
    k = min(k, D)
    least = 4 * (k + 1) if memory is None else k + 2
    belief = _Belief(matvec, memory, queue)
    if belief.products == 0:
        raise ValueError("start is zero: give a direction to begin with")
    while True:
        ritz = belief.ritz()
        enough = belief.products >= least and ritz.meets(k, tolerance, residual)
        whole = len(belief.S) == D
        if enough or whole or belief.products >= limit:
            return belief.report(ritz, k, enough or whole)
        if not belief.ask(ritz.proposal(k)):
            generator = torch.Generator().manual_seed(belief.products)
            # An invariant subspace: look elsewhere.
            belief.ask(belief.coordinates(torch.randn(D, generator=generator).to(queue)))
        if len(belief.Q) >= max(ROOM, 6 * k):
            belief.restart(max(ROOM // 4, 2 * k))


@dataclass(frozen=True)
class _Ritz:
    """What the answers say, and what is believed beyond them; in the basis of a `_Belief`.

    values, vectors: (j,), (j, n) of SᵀAS.      residuals: (j,) ‖A u − θ u‖.
    low, high:       (j,) e_− and e_+.          believed:  (n, n) eigenvectors of M, falling.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    low: Tensor
    high: Tensor
    believed: Tensor

    @property
    def errors(self) -> Tensor:
        return (self.high - self.low) / 2

    @property
    def correction(self) -> Tensor:
        return (self.low * self.high).sqrt()

    def meets(self, k: int, tolerance: float, residual: float) -> bool:
        scale = float(self.values.abs().max())
        small = bool((self.residuals[:k] <= residual * scale).all())
        return small and bool((self.errors[:k] <= tolerance * scale).all())

    def proposal(self, k: int) -> Tensor:
        """The believed eigenvector that the answers know least of."""
        known = len(self.values)
        return self.believed[known if known < k else int(self.high[:k].argmax())]


class _Belief:
    """A as it is believed to be.

    Q: (n, D) orthonormal rows.    M: (n, n) A in this basis.
    S: (j, n) orthonormal, the directions asked so far; there M is A.
    F: (f, n) orthonormal, what the start brought beside a memory.
    """

    def __init__(self, matvec: Matvec, memory: Memory | None, start: Tensor) -> None:
        self.matvec, self.products = matvec, 0
        self.Q = self._room = start[:0] if memory is None else memory.vectors
        self.M = torch.diag(torch.zeros(0) if memory is None else memory.values).double()
        self.S = self.F = self.M[:0]
        directions = [self.coordinates(t) for t in start]
        if memory is not None:
            self.F = torch.eye(len(self.M), dtype=torch.float64)[len(memory.values) :]
        for c in directions:
            self.ask(c)

    def coordinates(self, t: Tensor) -> Tensor:
        """t in the basis, which grows by what is new in t."""
        length = left = torch.linalg.vector_norm(t)
        inside = t.new_zeros(len(self.Q))
        for _ in range(3):  # once loses orthogonality, unless little was taken away
            part = self.Q @ t
            inside, t = inside + part, torch.addmv(t, self.Q.T, part, alpha=-1)
            before, left = left, torch.linalg.vector_norm(t)
            if left > 0.7 * before:
                break
        if left > 100 * torch.finfo(t.dtype).eps * length:
            self._append(t / left)
            self.M = pad(self.M, (0, 1, 0, 1))
            self.S, self.F = pad(self.S, (0, 1)), pad(self.F, (0, 1))
            inside = torch.cat([inside, left[None]])
        return inside.cpu().double()

    def _append(self, q: Tensor) -> None:
        """One row more, in room that is made for several at a time: Q is long."""
        n = len(self.Q)
        if n == len(self._room):
            self._room = torch.cat([self.Q, self.Q.new_empty(n // 2 + 8, len(q))])
        self._room[n] = q
        self.Q = self._room[: n + 1]

    def ask(self, c: Tensor) -> bool:
        """A v for the part v of c that was not asked yet; False when there is none."""
        c = pad(c, (0, len(self.M) - len(c)))
        for _ in range(2):
            length = torch.linalg.vector_norm(c)
            c = c - (self.S @ c) @ self.S
            left = torch.linalg.vector_norm(c)
            if not left > 100 * torch.finfo(self.Q.dtype).eps * length:
                return False
            c = c / left
        image = self.matvec(c.to(self.Q) @ self.Q)
        self.products += 1
        if not bool(torch.isfinite(image).all()):
            raise ArithmeticError("a product with the operator is not finite")
        z = self.coordinates(image)
        c = pad(c, (0, len(z) - len(c)))
        rest = _without(c[None], self.M)
        self.M = rest + z[:, None] * c + c[:, None] * z - (c @ z) * c[:, None] * c
        self.S = torch.cat([self.S, c[None]])
        return True

    def ritz(self) -> _Ritz:
        values, mixing = _eigh(self.S @ self.M @ self.S.T)
        u = mixing @ self.S
        r = u @ self.M - values[:, None] * u
        rounding = torch.finfo(self.Q.dtype).eps * float(values.abs().max())
        residuals = torch.linalg.vector_norm(r, dim=1).clamp_min(rounding)
        rest = _without(self.S, self.M)
        raised, vectors = _eigh(self.M + DRIFT * rest)
        elsewhere = (1 + DRIFT) * float(_eigh(rest)[0][0])
        low = (_eigh(self.M)[0][: len(values)] - values).clamp_min(0)
        high = _temple(values, residuals.square(), elsewhere)
        high = torch.maximum(high, raised[: len(values)] - values)
        high = torch.maximum(high, torch.linalg.vector_norm(r @ self.F.T, dim=1))
        above = values > 0  # zero, believed of the unknown, says nothing of what lies below it
        low, high = torch.where(above, low, 0), torch.where(above, high, residuals)
        return _Ritz(values, u, residuals, low, high, vectors)

    def restart(self, keep: int) -> None:
        """Keep the best Ritz vectors with their images, and the best of what is believed."""
        _, mixing = _eigh(self.S @ self.M @ self.S.T)
        u = mixing[:keep] @ self.S
        _, best = _eigh(self.M)
        rows = torch.cat([u, u @ self.M, best[:KEPT]])
        _, sizes, axes = torch.linalg.svd(rows, full_matrices=False)
        axes = axes[sizes > 1e-9 * sizes[0]]
        self.Q = self._room = axes.to(self.Q) @ self.Q
        self.M, self.S, self.F = axes @ self.M @ axes.T, u @ axes.T, self.F @ axes.T

    def report(self, ritz: _Ritz, k: int, converged: bool) -> Eigenpairs:
        believed, vectors = _eigh(self.M)
        keep = k + KEPT
        return Eigenpairs(
            (ritz.values + ritz.correction)[:k], ritz.vectors[:k].to(self.Q) @ self.Q,
            (ritz.residuals + ritz.correction)[:k], ritz.errors[:k], converged, self.products,
            Memory(believed[:keep], vectors[:keep].to(self.Q) @ self.Q),
        )  # fmt: skip


def _eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, falling, and eigenvectors as rows."""
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    return values.flip(0), vectors.flip(1).T


def _without(S: Tensor, M: Tensor) -> Tensor:
    """P M P, P taking out the span of the orthonormal rows S."""
    M = M - S.T @ (S @ M)
    return M - (M @ S.T) @ S


def _temple(values: Tensor, power: Tensor, elsewhere: float) -> Tensor:
    """e_+ of every Ritz value: the least over clusters 1 … p; at most the residual.

    power: ‖r‖².  elsewhere: the largest value believed of directions that were not asked.
    """
    found, total = power.sqrt(), power.cumsum(0)
    after = torch.cat([values[1:], values.new_full((1,), -math.inf)]).clamp_min(elsewhere)
    for i, value in enumerate(values):
        gap, size = value - after[i:], total[i:]
        quadratic = 2 * size / (gap + (gap.square() + 4 * size).sqrt())
        found[i] = min([float(found[i]), *quadratic[gap > 0].tolist()])
    return found


def warm_start(memory: Memory | None, gradient: Tensor, noise: Tensor) -> Tensor:
    """A direction to begin with: the last eigenvector, a little gradient, a little noise.

    memory: of the last solve, or None for a cold start, where the gradient leads: during training
            it points along the outlying eigenvectors more than any random direction.

    >>> warm_start(None, torch.tensor([2.0, 0.0]), torch.tensor([0.0, 3.0]))
    tensor([1.0000, 0.3000])
    """
    g, z = (v / torch.linalg.vector_norm(v).clamp_min(1e-30) for v in (gradient, noise))
    return g + 0.3 * z if memory is None else memory.vectors[0] + 0.05 * g + 0.03 * z
