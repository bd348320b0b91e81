"""Curvature on a sample of the data, by Hessian-vector products only.

    trace of the blocks of H      E[v ⊙ Hv] over random signs v        (M. Hutchinson 1990)
    λ_max(H), λ_min(OᵀHO)         Lanczos

A product costs two gradients. The sample is cut so that a measurement stays affordable; where
even 16 samples are not, it is refused, with the number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .case import OPERATIONS, Case, Named

Array = NDArray[np.float64]
FEWEST = 16


class TooCostly(ValueError):
    """One sentence: curvature cannot be afforded on this model, or has no second derivative."""


@dataclass(frozen=True)
class Curvature:
    """The Hessian of the mean loss of the first `samples` samples, at any θ; never formed."""

    case: Case
    samples: int

    def gradient(self, theta: Named) -> Named:
        """∇L."""
        leaves = {n: t.clone().requires_grad_() for n, t in theta.items()}
        value = self.case.value(leaves, slice(0, self.samples))
        found = torch.autograd.grad(value, list(leaves.values()))
        return dict(zip(leaves, found, strict=True))

    def at(self, theta: Named) -> Callable[[Named], Named]:
        """v ↦ Hv at θ; tensors that v lacks count as zero."""
        leaves = {n: t.clone().requires_grad_() for n, t in theta.items()}
        value = self.case.value(leaves, slice(0, self.samples))
        first = torch.autograd.grad(value, list(leaves.values()), create_graph=True)

        def times(v: Named) -> Named:
            chosen = [(g, v[n]) for n, g in zip(leaves, first, strict=True) if n in v]
            flowing = [(g, w) for g, w in chosen if g.requires_grad]
            if not flowing:
                return {n: torch.zeros_like(t) for n, t in leaves.items()}
            dot = torch.stack([(g * w).sum() for g, w in flowing]).sum()
            second = torch.autograd.grad(
                dot, list(leaves.values()), retain_graph=True, allow_unused=True
            )
            return {
                n: torch.zeros_like(t) if h is None else h.detach()
                for (n, t), h in zip(leaves.items(), second, strict=True)
            }

        return times


def products(case: Case) -> int:
    """How many Hessian products on the fewest samples are affordable."""
    return int(OPERATIONS / (6 * FEWEST * max(case.operations, 1)))


def curvature(case: Case, number: int) -> Curvature:
    """On as many samples as `number` Hessian products may cost. Raises TooCostly."""
    samples = case.affordable(2 * number)
    if samples < min(FEWEST, case.size):
        raise TooCostly(
            f"{number} Hessian products on {FEWEST} samples cost more than is spent here "
            f"(one pass over a sample: {case.operations:.1e} operations)"
        )
    found = Curvature(case, samples)
    try:
        found.at(case.theta)({n: torch.ones_like(t) for n, t in case.theta.items()})
    except (RuntimeError, NotImplementedError) as error:
        raise TooCostly(f"the loss has no second derivative ({str(error)[:80]})") from error
    return found


def block_traces(
    times: Callable[[Named], Named], theta: Named, probes: int, seed: int
) -> tuple[Named, float]:
    """diag H for every parameter, and the standard error of its sum.

    An estimate whose sums over blocks are good; exact where there are no more parameters than
    probes.
    """
    g = torch.Generator().manual_seed(seed)
    size = sum(t.numel() for t in theta.values())
    exact = size <= probes
    total = {n: torch.zeros_like(t, dtype=torch.float64) for n, t in theta.items()}
    sums = []
    for i in range(size if exact else probes):
        if exact:
            v = unflat(np.eye(1, size, i)[0], theta)
        else:
            v = {n: torch.randint(2, t.shape, generator=g).to(t) * 2 - 1 for n, t in theta.items()}
        products = {n: (v[n] * h).double() for n, h in times(v).items()}
        for n, h in products.items():
            total[n] += h if exact else h / probes
        sums.append(sum(float(h.sum()) for h in products.values()))
    return total, 0.0 if exact else float(np.std(sums, ddof=1)) / probes**0.5


def extreme(times: Callable[[Array], Array], k: int, which: str, iterations: int) -> float:
    """The largest ("LA") or smallest ("SA") eigenvalue of a symmetric map of R^k.

    Lanczos; where it has not converged after `iterations`, its best value, which is a bound from
    inside the spectrum.
    """
    if k <= max(iterations, 3):
        dense = np.stack([times(column) for column in np.eye(k)], axis=1)
        values = np.linalg.eigvalsh((dense + dense.T) / 2)
        return float(values[-1] if which == "LA" else values[0])
    return _lanczos(times, k, which, iterations)


def _lanczos(times: Callable[[Array], Array], k: int, which: str, iterations: int) -> float:
    """Full reorthogonalisation; stops when the extreme Ritz value has settled to 1e-5."""
    rng = np.random.default_rng(0)
    q = rng.normal(size=k)
    basis, last = [q / np.linalg.norm(q)], np.inf
    alpha: list[float] = []
    beta: list[float] = []
    for _ in range(iterations):
        w = times(basis[-1])
        alpha.append(float(w @ basis[-1]))
        Q = np.stack(basis)
        w = w - Q.T @ (Q @ w)
        w = w - Q.T @ (Q @ w)
        ritz = np.linalg.eigvalsh(np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1))
        value = float(ritz[-1] if which == "LA" else ritz[0])
        norm = float(np.linalg.norm(w))
        if abs(value - last) < 1e-5 * np.abs(ritz).max() or norm < 1e-10 * np.abs(ritz).max():
            return value
        last = value
        beta.append(norm)
        basis.append(w / norm)
    return value


def flat(v: Named, names: tuple[str, ...]) -> Array:
    """Named tensors laid end to end."""
    return np.concatenate([v[n].double().reshape(-1).numpy() for n in names])


def unflat(vector: Array, like: dict[str, Tensor]) -> Named:
    """The inverse of `flat`, in the order of `like`."""
    found, start = {}, 0
    for n, t in like.items():
        piece = vector[start : start + t.numel()]
        found[n] = torch.from_numpy(piece.copy()).to(t.dtype).view(t.shape)
        start += t.numel()
    return found
