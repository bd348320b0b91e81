"""Noise equilibrium of deep linear networks: where SGD leaves y ≈ W_D … W_1 x.

Statement. Among the factorisations of one end-to-end map V, SGD with label noise ε (covariance Σ_ε,
independent of x with covariance Σ_x) rests where neighbouring layers see equally anisotropic
signals. With A_i = cov(h_i), A_0 = Σ_x, and B_i = cov(backpropagated ε at h_i), B_D = Σ_ε,

    A_i / Tr A_{i−1} = B_i / Tr B_{i+1},        i = 1 … D−1.

For D = 2 and y = U W x:  W Σ_x Wᵀ / Tr Σ_x = Uᵀ Σ_ε U / Tr Σ_ε; the traces are essential.

Derivation. The charges are W_{i+1}ᵀW_{i+1} − W_i W_iᵀ. Their expected change in a step, from
∇_{W_i} = δ_i h_{i−1}ᵀ, is exactly

    η² E[ h_i h_iᵀ ‖δ_{i+1}‖² − δ_i δ_iᵀ ‖h_{i−1}‖² ]  =  4η² (A_i Tr B_{i+1} − B_i Tr A_{i−1}),

the right side because at the minimum the residual is ε, independent of h (δ = 2·B-signal).

Solution. With the SVD  L S′ Rᵀ = √Σ_ε V √Σ_x  and  ρ^D = Tr S′/√(Tr Σ_x Tr Σ_ε),

    W_1 √Σ_x = ρ √(Tr Σ_x/Tr S′) Q_1 √S′ Rᵀ,     √Σ_ε W_D = ρ √(Tr Σ_ε/Tr S′) L √S′ Q_{D−1}ᵀ,
    W_i = ρ Q_i Q_{i−1}ᵀ  in between:

both ends carry √S′, every inner layer is ρ times a (partial) isometry, and at either end
‖W_1√Σ_x‖²/Tr Σ_x = ρ² = ‖√Σ_ε W_D‖²/Tr Σ_ε.

Range. Loss ‖·‖² without ½, no momentum, no decay, η → 0 at η²·steps ≳ 2 (in units where weights
and noise are O(1)); η-corrections are of order ηTr H. In a layer wider than rank V only rank V
singular values equalise; the others keep what the initialisation gave them.

Source: Ziyin et al., arXiv 2402.07193 (two layers, deep balance); the D-layer form and the solution
derived here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LinearEquilibrium:
    """The equilibrium of a D-layer linear network.

    rho:      norm of the inner layers;  spectrum: S′ (r,), descending, without zeros.
    weights:  W_1 … W_D at the equilibrium, one representative of its rotations Q_i.
    """

    rho: float
    spectrum: Array
    weights: tuple[Array, ...]


def equilibrium(
    V: Array, Sigma_x: Array, Sigma_eps: Array, *, depth: int = 2, width: int | None = None
) -> LinearEquilibrium:
    """Where SGD carries the D factors of V (d_y, d_x).

    Sigma_x (d_x, d_x) and Sigma_eps (d_y, d_y) positive definite; width of every hidden layer,
    at least rank V (default: rank V). Directions beyond the rank are zero here.

    >>> equilibrium(np.diag([4.0, 1.0]), np.eye(2), np.eye(2)).weights[0].round(3).tolist()
    [[2.0, 0.0], [0.0, 1.0]]
    """
    if depth < 2:
        raise ValueError(f"depth={depth}: one layer has no charge; give 2 or more")
    root_x, root_eps = _root(Sigma_x, "Sigma_x"), _root(Sigma_eps, "Sigma_eps")
    L, S, Rt = np.linalg.svd(root_eps @ V @ root_x, full_matrices=False)
    rank = int(np.count_nonzero(S / max(S[0], 1e-300) > 1e-12))
    width = rank if width is None else width
    if rank == 0 or width < rank:
        raise ValueError(f"V has rank {rank}, width={width}: need 1 ≤ rank ≤ width")
    # A sign for each singular pair, so that a diagonal V gives diagonal factors.
    sign = np.sign(Rt[np.arange(rank), np.abs(Rt[:rank]).argmax(1)])
    L, S, Rt = L[:, :rank] * sign, S[:rank], Rt[:rank] * sign[:, None]
    trace_x, trace_eps, total = np.trace(Sigma_x), np.trace(Sigma_eps), S.sum()
    rho = float((total / np.sqrt(trace_x * trace_eps)) ** (1 / depth))
    embed = np.eye(width, rank)
    ends = np.sqrt(S)
    first = rho * np.sqrt(trace_x / total) * embed @ (ends[:, None] * Rt) @ np.linalg.inv(root_x)
    last = rho * np.sqrt(trace_eps / total) * np.linalg.inv(root_eps) @ (L * ends) @ embed.T
    inner = [rho * embed @ embed.T for _ in range(depth - 2)]
    return LinearEquilibrium(rho, S, (first, *inner, last))


def hidden_spectrum(V: Array, Sigma_x: Array, Sigma_eps: Array) -> Array:
    """Eigenvalues of cov(h_1) = W_1 Σ_x W_1ᵀ at a two-layer equilibrium: S′ √(Tr Σ_x/Tr Σ_ε).

    >>> hidden_spectrum(np.diag([2.0, 1.0]), np.eye(2), 4 * np.eye(2)).tolist()
    [2.0, 1.0]
    """
    S = equilibrium(V, Sigma_x, Sigma_eps).spectrum
    return np.asarray(S * np.sqrt(np.trace(Sigma_x) / np.trace(Sigma_eps)))


def signals(
    weights: Sequence[Array], Sigma_x: Array, Sigma_eps: Array
) -> tuple[list[Array], list[Array]]:
    """(A_0 … A_D) and (B_0 … B_D): covariances of h_i and of the backpropagated residual at h_i.

    weights: W_1 … W_D, each (d_i, d_{i−1});  Sigma_eps: covariance of the residual.
    """
    A, B = [Sigma_x], [Sigma_eps]
    for W in weights:
        A.append(W @ A[-1] @ W.T)
    for W in reversed(weights):
        B.insert(0, W.T @ B[0] @ W)
    return A, B


def gaps(
    weights: Sequence[Array], Sigma_x: Array, Sigma_eps: Array, *, normalised: bool = True
) -> Array:
    """‖X − Y‖/max(‖X‖, ‖Y‖) of X = A_i/Tr A_{i−1}, Y = B_i/Tr B_{i+1}, for i = 1 … D−1: (D−1,).

    Zero at the equilibrium. With normalised=False, X = A_i and Y = B_i: the shorthand without
    traces, which is wrong unless they agree. Average A and B over time before comparing: the
    gap of a fluctuating pair is several times larger.
    """
    A, B = signals(weights, Sigma_x, Sigma_eps)
    found = []
    for i in range(1, len(A) - 1):
        scales = (np.trace(A[i - 1]), np.trace(B[i + 1])) if normalised else (1.0, 1.0)
        X, Y = A[i] / scales[0], B[i] / scales[1]
        found.append(np.linalg.norm(X - Y) / max(np.linalg.norm(X), np.linalg.norm(Y)))
    return np.array(found)


def _root(Sigma: Array, name: str) -> Array:
    """The positive square root of a covariance matrix."""
    values, Q = np.linalg.eigh(Sigma)
    if not values[0] > 1e-12 * values[-1]:
        raise ValueError(f"{name} is not positive definite: drop the directions without variance")
    return np.asarray((Q * np.sqrt(values)) @ Q.T)
