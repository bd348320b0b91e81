"""Deep linear networks at the minimum of the entropic loss: one kernel for all of them.

Statement. Let f(x) = M_O W_D … W_1 M_I x with M_O, M_I fixed and invertible, ℓ = ‖f − y‖² and
y = Vx + ε, ε independent of x. Among all ways to write V, SGD with a small rate prefers the least
entropy S ∝ Σ_i E‖g_i‖², g_i the gradient of W_i. There every hidden layer i = 1 … D−1 has

    h_i(x)ᵀh_i(x′) ∝ k(x, x′) = xᵀ Σ_x^{−½} (Σ_x^{½} Vᵀ Σ_ε V Σ_x^{½})^{½} Σ_x^{−½} x′,
    E‖g_i‖² = 4 (ab)^{1/D} s^{2−2/D}  for every i = 1 … D,
        a = Tr M_Oᵀ Σ_ε M_O,   b = Tr M_I Σ_x M_Iᵀ,   s = Tr (Σ_x^{½} Vᵀ Σ_ε V Σ_x^{½})^{½}.

M_O, M_I, depth, width and the layer's index have dropped out of k: any two such networks trained
on the same task, even if each is shown its own linear transform of the inputs, represent it alike
("perfect platonic representation"). What does not drop out is a transform T of the labels, for
V → TV and Σ_ε → TΣ_εTᵀ change k unless T is orthogonal.

Derivation. The fixed ends are absorbed: in V′ = M_O⁻¹ V M_I⁻¹, Σ_ε′ = M_OᵀΣ_εM_O,
Σ_x′ = M_I Σ_x M_Iᵀ the network is a plain one, the minimum of S is its noise equilibrium
(theory.linear_equilibrium) and Tr Hess there is theory.sharpness.at_equilibrium: flattest if
Σ_ε′ ∝ I, sharper than that otherwise.

Saddles. A solution of rank r keeps the r largest s_k of S = (Σ_x^{½}VᵀΣ_εVΣ_x^{½})^{½}, and so
has alignment ‖s_{≤r}‖/‖s‖ with the full one.

Range. Minimum of L + S as η → 0; noise of full rank independent of x; no weight decay (it competes
with S at the ratio weight_decay/η); hidden widths at least rank V.

Source: Ziyin, Chuang, "Proof of a perfect platonic representation hypothesis", arXiv 2507.01098
(the theorem); the kernel, E‖g_i‖² and the rank-r alignment derived here.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def kernel(V: Array, Sigma_x: Array, Sigma_eps: Array) -> Array:
    """K (d_x, d_x) of k(x, x′) = xᵀKx′, up to a factor.

    V (d_y, d_x): the target map;  Sigma_x (d_x, d_x), Sigma_eps (d_y, d_y): of x and of ε.

    >>> kernel(np.diag([4.0, 1.0]), np.eye(2), np.eye(2)).tolist()
    [[4.0, 0.0], [0.0, 1.0]]
    """
    values, Q = np.linalg.eigh(Sigma_x)
    if not values[0] > 1e-12 * values[-1]:
        raise ValueError("Sigma_x is singular: drop the input directions without variance")
    whitener = (Q / np.sqrt(values)) @ Q.T
    return np.asarray(whitener @ _root_signal(V, Sigma_x, Sigma_eps) @ whitener)


def layer_gradient_norm2(
    V: Array,
    Sigma_x: Array,
    Sigma_eps: Array,
    *,
    depth: int,
    M_in: Array | None = None,
    M_out: Array | None = None,
) -> float:
    """E‖g_i‖² of one sample, the same for every layer; M_in and M_out default to the identity.

    >>> layer_gradient_norm2(np.eye(2), np.eye(2), np.eye(2), depth=2)
    16.0
    """
    if depth < 2:
        raise ValueError(f"depth={depth}: one layer has nothing to balance; give 2 or more")
    a = np.trace(Sigma_eps if M_out is None else M_out.T @ Sigma_eps @ M_out)
    b = np.trace(Sigma_x if M_in is None else M_in @ Sigma_x @ M_in.T)
    s = np.trace(_root_signal(V, Sigma_x, Sigma_eps))
    return float(4 * (a * b) ** (1 / depth) * s ** (2 - 2 / depth))


def alignment(K: Array, other: Array, Sigma_x: Array) -> float:
    """⟨k, k′⟩/‖k‖‖k′‖ over pairs of independent x of covariance Sigma_x: 1 iff proportional.

    The uncentred linear CKA of the representations whose kernels these are. A few large
    directions dominate it: unaligned networks score 0.5 to 0.8, so look at 1 − alignment.

    >>> round(alignment(np.diag([3.0, 4.0]), np.eye(2), np.eye(2)), 3)
    0.99
    """
    pair = [M @ Sigma_x for M in (K, other)]
    inner = [np.trace(pair[0] @ pair[i]) for i in (0, 1)]
    return float(inner[1] / np.sqrt(inner[0] * np.trace(pair[1] @ pair[1])))


def saddle_alignment(V: Array, Sigma_x: Array, Sigma_eps: Array, *, rank: int) -> float:
    """Alignment of a network stuck at the rank-r saddle with one that is not: ‖s_{≤r}‖/‖s‖.

    >>> saddle_alignment(np.diag([4.0, 3.0]), np.eye(2), np.eye(2), rank=1)
    0.8
    """
    s = np.linalg.eigvalsh(_root_signal(V, Sigma_x, Sigma_eps))[::-1]
    if not 1 <= rank <= len(s):
        raise ValueError(f"rank={rank}: give 1 to {len(s)}")
    return float(np.linalg.norm(s[:rank]) / np.linalg.norm(s))


def _root_signal(V: Array, Sigma_x: Array, Sigma_eps: Array) -> Array:
    """(Σ_x^{½} Vᵀ Σ_ε V Σ_x^{½})^{½}; its eigenvalues are S."""
    values, Q = np.linalg.eigh(Sigma_x)
    root = (Q * np.sqrt(np.clip(values, 0, None))) @ Q.T
    squared, Q = np.linalg.eigh(root @ V.T @ Sigma_eps @ V @ root)
    return np.asarray((Q * np.sqrt(np.clip(squared, 0, None))) @ Q.T)
