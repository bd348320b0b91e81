"""Trace and spectral density of a symmetric operator known only by its products.

    Hutchinson   tr A ≈ (1/m) Σ zᵀA z,     z random signs;  Var = 2(‖A‖² − Σ A_ii²)/m
    Hutch++      tr A = tr QᵀAQ + tr (1−QQᵀ)A(1−QQᵀ),     Q an orthonormal basis of A·signs

Hutch++ takes the outlying eigenvalues out exactly and leaves the bulk to chance: 2m/3 products for
Q and its image, m/3 for the rest. Its error falls as 1/m where Hutchinson's falls as 1/√m. Both
errors come from the spread over the random probes.

    density      φ(t) = (1/D) Σ δ(t − λ_i) ≈ mean over starts of Σ_j τ_j δ(t − θ_j)

θ_j are the Ritz values of Lanczos from a random start and τ_j the squared first components of
their vectors (Gauss quadrature): exact for polynomials of degree 2·steps − 1.

Sources: M. Hutchinson, Comm. Stat. 18 (1989) 1059; R. Meyer et al., SOSA 2021, arXiv 2010.09649;
G. Golub and G. Meurant, Matrices, Moments and Quadrature (2010); B. Ghorbani et al., ICML 2019.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .eigen import Matvec


def hutchinson(
    matvec: Matvec, like: Tensor, *, probes: int = 20, seed: int = 0
) -> tuple[float, float]:
    """(trace, standard error) from `probes` products; like: any (D,) of dtype and device.

    The error is NaN with one probe.

    >>> hutchinson(lambda v: 2 * v, torch.zeros(5), probes=3)
    (10.0, 0.0)
    """
    return _mean([float(z.double() @ matvec(z).double()) for z in _signs(like, probes, seed)])


def hutch_plus_plus(
    matvec: Matvec, like: Tensor, *, probes: int = 21, seed: int = 0
) -> tuple[float, float]:
    """(trace, standard error) from `probes` ≥ 3 products, a third of them each as above.

    Raises `ValueError` for fewer than three.
    """
    if probes < 3:
        raise ValueError(f"probes={probes}: Hutch++ divides them by three; give at least 3")
    D = len(like)
    m = min(probes // 3, D)
    signs = _signs(like, 2 * m, seed)
    Q = torch.linalg.qr(torch.stack([matvec(z) for z in signs[:m]], dim=1))[0]
    inside = sum(float(q.double() @ matvec(q).double()) for q in Q.T)
    if m == D:
        return inside, 0.0
    rest = [z - Q @ (Q.T @ z) for z in signs[m:]]
    outside, stderr = _mean([float(z.double() @ matvec(z).double()) for z in rest])
    return inside + outside, stderr


def spectral_density(
    matvec: Matvec, like: Tensor, *, steps: int = 30, starts: int = 3, seed: int = 0
) -> NDArray[np.float64]:
    """(2, starts · steps): nodes θ_j, rising, and their weights τ_j, which sum to one.

    A share Σ τ_j over an interval is the share of eigenvalues there.
    """
    found = [_quadrature(matvec, z, steps) for z in _signs(like, starts, seed)]
    nodes, weights = (np.concatenate(part) for part in zip(*found, strict=True))
    order = nodes.argsort()
    return np.stack([nodes[order], weights[order] / starts])


def _quadrature(
    matvec: Matvec, z: Tensor, steps: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss nodes and weights of one start, with full orthogonalisation."""
    V = (z / torch.linalg.vector_norm(z))[None]
    alpha: list[float] = []
    beta: list[float] = []
    while True:
        image = matvec(V[-1])
        alpha.append(float(V[-1].double() @ image.double()))
        for _ in range(2):
            image = image - V.T @ (V @ image)
        left = float(torch.linalg.vector_norm(image))
        if len(alpha) == min(steps, len(z)) or left <= 1e-6 * max(map(abs, alpha)):
            T = np.diag(alpha) + np.diag(beta, 1) + np.diag(beta, -1)
            nodes, vectors = np.linalg.eigh(T)
            return nodes, vectors[0] ** 2
        beta.append(left)
        V = torch.cat([V, (image / left)[None]])


def _signs(like: Tensor, count: int, seed: int) -> Tensor:
    """(count, D) random ±1, the same for the same seed on every device."""
    generator = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 2, (count, len(like)), generator=generator)
    return (2 * bits - 1).to(like)


def _mean(values: list[float]) -> tuple[float, float]:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return float(np.mean(values)), spread / math.sqrt(len(values))
