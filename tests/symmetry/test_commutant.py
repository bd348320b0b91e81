"""The matrices that leave scores alone, against the null space of the full linear system."""

import numpy as np
import pytest
from scipy.linalg import block_diag, null_space

from lawful.symmetry.commutant import key_side, query_side


def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def brute(kernels):
    """dim {(X_h), Y : X_hᵀ K + K Y = 0}, from one big system."""
    heads, pairs, d, _ = kernels.shape
    rows = []
    for h in range(heads):
        for p in range(pairs):
            k = kernels[h, p]
            row = np.zeros((d * d, (heads + 1) * d * d))
            swap = np.eye(d * d).reshape(d, d, d, d).transpose(1, 0, 2, 3).reshape(d * d, -1)
            row[:, h * d * d : (h + 1) * d * d] = np.kron(np.eye(d), k.T) @ swap
            row[:, heads * d * d :] = np.kron(k, np.eye(d))
            rows.append(row)
    return null_space(np.concatenate(rows), rcond=1e-10).shape[1]


@pytest.mark.parametrize("speeds", [(1.0, 0.3), (1.0, 1.0), (1.0, 0.0), (0.7, 0.2, 0.05)])
def test_rotations(speeds):
    kernels = np.array([[block_diag(*(rotation(s * t) for s in speeds)) for t in (0, 1, 2, 5)]] * 2)
    y = key_side(kernels)
    assert len(y) == brute(kernels)
    for h in range(2):
        x = query_side(y, kernels[h])
        for k in kernels[h]:
            assert np.abs(np.swapaxes(x, -1, -2) @ k + k @ y).max() < 1e-12


def test_without_positions_every_matrix_is_allowed():
    assert key_side(np.eye(3)[None, None].repeat(4, 1)) is None


def test_a_singular_kernel_proposes_nothing():
    assert len(key_side(np.diag([1.0, 0.0])[None, None])) == 0
