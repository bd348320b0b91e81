"""A network that adds modulo p by waves: the solution that grokking ends in, written down.

Inputs are two one-hot digits (a, b), outputs p scores, one hidden layer of N units, φ(u) = u²:

    hidden  u_n = cos(2πk_n a/p + φ_n) + cos(2πk_n b/p + ψ_n)
    output  f_c = Σ_n cos(2πk_n c/p + φ_n + ψ_n) u_n²

The cross term of u² is cos(2πk(a+b)/p + φ+ψ) + cos(2πk(a−b)/p + φ−ψ). Against the output wave the
first leaves ½cos(2πk(a+b−c)/p), which adds up over units at c = a+b; all else has a free phase and
averages out as N^−½. So N random units are enough: every frequency a few times over.

Every weight row is one wave: its inverse participation ratio (`estimators.fourier`) is 1, and that
of a random row 2/(K+1), K = (p−1)/2 frequencies. That number is the progress measure.

Range. p odd, N ≫ p for exact answers (p = 31: accuracy .97 at N = 64, 1 from N = 256).

Source: Gromov, arXiv 2301.02679 (the construction); Nanda et al., arXiv 2301.05217 (progress
measures).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def construction(p: int, units: int, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """U (units, 2p) and V (p, units) of the solution, float64, random frequencies and phases.

    Raises ValueError for p that is not odd and at least 3.
    """
    if p < 3 or p % 2 == 0:
        raise ValueError(f"p={p}: waves come in pairs for odd p of at least 3")
    k = torch.randint(1, (p + 1) // 2, (units, 1), generator=generator).double()
    first, second = 2 * math.pi * torch.rand(2, units, 1, generator=generator, dtype=torch.float64)
    angle = 2 * math.pi * k * torch.arange(p) / p
    U = torch.cat([torch.cos(angle + first), torch.cos(angle + second)], 1)
    return U, torch.cos(angle + first + second).T.contiguous()


def pairs(p: int) -> tuple[Tensor, Tensor]:
    """All p² questions as one-hot rows (p², 2p), float64, and their answers (a + b) mod p.

    >>> x, y = pairs(3)
    >>> x.shape, y.tolist()
    (torch.Size([9, 6]), [0, 1, 2, 1, 2, 0, 2, 0, 1])
    """
    a, b = torch.cartesian_prod(torch.arange(p), torch.arange(p)).T
    one = torch.eye(p, dtype=torch.float64)
    return torch.cat([one[a], one[b]], 1), (a + b) % p


def scores(U: Tensor, V: Tensor, x: Tensor) -> Tensor:
    """V (Ux)²: U (…, N, 2p), V (…, p, N), x (n, 2p) -> (…, n, p)."""
    return (x @ U.mT).square() @ V.mT


def kernel(U: Tensor, V: Tensor, x: Tensor) -> Tensor:
    """Tangent kernel of that network, its trace over outputs: Σ_c ∇f_c(x)·∇f_c(x'), (…, n, n).

    Θ(x, x') = p · (u²)·(u'²) + 4 (x·x') Σ_n ‖V_·n‖² u_n u'_n
    """
    u = x @ U.mT
    through = u * V.square().sum(-2).unsqueeze(-2)
    return V.shape[-2] * u.square() @ u.square().mT + 4 * (x @ x.mT) * (through @ u.mT)
