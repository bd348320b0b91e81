"""Which matrices leave every score q_tᵀ K_ts k_s unchanged.

    X_hᵀ K^h_p + K^h_p Y = 0  for all pairs p of positions and all query heads h of one key head
    ⇔  X_h = −(K^h_0 Y K^h_0⁻¹)ᵀ  and  Y commutes with every  C^h_p = (K^h_0)⁻¹ K^h_p

The C_p are cut into the smallest blocks that none of them leaves (2 × 2 planes for rotary
positions); between two blocks a, b the solutions of C^a_p Z = Z C^b_p are a small null space.
For rotations at d/2 different speeds this gives aI + bJ in each plane: d dimensions, not d².
"""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
LARGEST_BLOCK = 16


def key_side(kernels: Matrix) -> Matrix | None:
    """All Y, as a basis (n, d, d), for kernels (heads, pairs, d, d).

    None: every d × d matrix is a solution. An empty basis when a kernel is singular, or when
    the blocks are larger than can be solved (nothing is proposed then).
    """
    d = kernels.shape[-1]
    if min(np.linalg.svd(k[0], compute_uv=False)[-1] for k in kernels) < 1e-9:
        return np.zeros((0, d, d))
    c = np.concatenate([np.linalg.solve(k[0][None], k) for k in kernels])
    if np.abs(c - np.eye(d)).max() < 1e-12:
        return None
    near = np.abs(c).max(0) > 1e-12
    _, block = scipy.sparse.csgraph.connected_components(near, directed=False)
    blocks = [np.flatnonzero(block == b) for b in range(block.max() + 1)]
    if max(map(len, blocks)) > LARGEST_BLOCK:
        return np.zeros((0, d, d))
    found = []
    for a in blocks:
        for b in blocks:
            for z in _intertwiners(c[:, a][:, :, a], c[:, b][:, :, b]):
                y = np.zeros((d, d))
                y[np.ix_(a, b)] = z
                found.append(y)
    return np.array(found).reshape(-1, d, d)


def _intertwiners(left: Matrix, right: Matrix) -> Matrix:
    """A basis (n, s, t) of the Z with left_p Z = Z right_p, for left (p, s, s), right (p, t, t)."""
    s, t = left.shape[-1], right.shape[-1]
    if s == t == 2:
        return _planes(left, right)
    rows = [
        np.kron(l, np.eye(t)) - np.kron(np.eye(s), r.T) for l, r in zip(left, right, strict=True)
    ]
    return scipy.linalg.null_space(np.concatenate(rows), rcond=1e-10).T.reshape(-1, s, t)


def _planes(left: Matrix, right: Matrix) -> Matrix:
    """The same for two planes; two different rotations have nothing in common: quick exit."""
    turns = np.abs(np.trace(left, axis1=1, axis2=2) - np.trace(right, axis1=1, axis2=2)).max()
    if turns > 1e-10:
        return np.zeros((0, 2, 2))
    eye = np.eye(2)
    rows = [np.kron(l, eye) - np.kron(eye, r.T) for l, r in zip(left, right, strict=True)]
    return scipy.linalg.null_space(np.concatenate(rows), rcond=1e-10).T.reshape(-1, 2, 2)


def query_side(y: Matrix, kernel: Matrix) -> Matrix:
    """X_h = −(K_0 Y K_0⁻¹)ᵀ for a basis y (n, d, d) and K_0 = kernel[0] of this head."""
    k = kernel[0]
    return -np.swapaxes(k @ y @ np.linalg.inv(k), -1, -2)
