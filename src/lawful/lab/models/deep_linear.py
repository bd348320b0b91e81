"""Deep linear networks with fixed ends, many side by side, and their SGD in closed form.

    f(x) = M_O W_D … W_1 M_I x,     ℓ = ‖f(x) − y‖²,     ∂ℓ/∂W_i = δ_i h_{i−1}ᵀ,
    h_0 = M_I x,  h_i = W_i h_{i−1},     δ_D = 2 M_Oᵀ(f − y),  δ_{i−1} = W_iᵀ δ_i.

K networks of one shape are K slices of every tensor, so a sweep costs one loop. A batch is the
columns of x. The gradient over a whole population of covariance Σ_x is that of the batch √d Σ_x^{½}
(d columns) with the noise of the labels left out.

On the minima the residual is the label noise, and the entropy of one-sample steps is η times

    S = Σ_i Tr(A_iᵀΣ_εA_i) Tr(B_iΣ_xB_iᵀ),     A_i = M_O W_D … W_{i+1},   B_i = W_{i−1} … W_1 M_I,

a quarter of Σ_i E‖g_i‖². `entropic_minimum` descends it without any noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class DeepLinear:
    """K networks.

    weights: W_1 … W_D, each (K, d_i, d_{i−1}); `step` changes them in place.
    M_in:    (K, d_0, d_x);  M_out: (K, d_y, d_D): not trained.
    """

    weights: list[Tensor]
    M_in: Tensor
    M_out: Tensor

    def maps(self) -> list[Tensor]:
        """x -> h_i for i = 0 … D: (K, d_i, d_x) each."""
        found = [self.M_in]
        for W in self.weights:
            found.append(W @ found[-1])
        return found

    def kernels(self) -> list[Tensor]:
        """K_i with h_i(x)ᵀh_i(x′) = xᵀK_i x′, for the hidden layers i = 1 … D−1."""
        return [C.mT @ C for C in self.maps()[1:-1]]

    def signals(self, x: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """(h_0 … h_{D−1}, δ_1 … δ_D) for x (K, d_x, n), y (K, d_y, n)."""
        h = [self.M_in @ x]
        for W in self.weights:
            h.append(W @ h[-1])
        delta = [2 * self.M_out.mT @ (self.M_out @ h[-1] - y)]
        for W in reversed(self.weights[1:]):
            delta.append(W.mT @ delta[-1])
        return h[:-1], delta[::-1]

    def gradients(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """The mean gradient of a batch, one tensor a layer."""
        pairs = zip(*self.signals(x, y), strict=True)
        return [delta @ h.mT / x.shape[-1] for h, delta in pairs]

    def sample_norm2(self, x: Tensor, y: Tensor) -> Tensor:
        """E‖g_i‖² over single samples, (D, K): the sample's gradient is an outer product."""
        pairs = zip(*self.signals(x, y), strict=True)
        return torch.stack([(h.square().sum(1) * d.square().sum(1)).mean(-1) for h, d in pairs])

    def step(self, x: Tensor, y: Tensor, eta: Tensor, weight_decay: Tensor | float = 0.0) -> None:
        """W ← W − η(g + weight_decay W); eta and weight_decay broadcast against (K, 1, 1)."""
        for W, g in zip(self.weights, self.gradients(x, y), strict=True):
            W -= eta * (g + weight_decay * W)


def deep_linear(
    sizes: Sequence[int],
    copies: int,
    *,
    M_in: Tensor,
    M_out: Tensor,
    gain: float = 1.0,
    generator: torch.Generator,
) -> DeepLinear:
    """`copies` equal networks, W_i ~ N(0, gain²/d_{i−1}), sizes d_0 … d_D, float64.

    M_in (d_0, d_x) and M_out (d_y, d_D) are shared by all copies.
    """
    weights = [
        gain / a**0.5 * torch.randn(b, a, generator=generator, dtype=torch.float64)
        for a, b in pairwise(sizes)
    ]
    spread = [W.expand(copies, *W.shape).clone() for W in weights]
    return DeepLinear(spread, M_in.expand(copies, *M_in.shape), M_out.expand(copies, *M_out.shape))


def entropic_minimum(
    net: DeepLinear, V: Tensor, Sigma_eps: Tensor, *, decay_over_rate: float = 0.0
) -> DeepLinear:
    """Where the first of the networks ends if L + ηS + (w/2)‖W‖² is minimised as η → 0.

    V (d_y, d_x): target map, of x with covariance I;  Sigma_eps (d_y, d_y): of the label noise.
    decay_over_rate: w/η, kept as η → 0.

    L-BFGS from the present weights with L/η + S + …, at η = 1e-2 … 1e-5 in turn.
    """
    weights = [W[0].clone().requires_grad_() for W in net.weights]
    for eta in (1e-2, 1e-3, 1e-4, 1e-5):
        solver = torch.optim.LBFGS(
            weights, max_iter=400, history_size=50, line_search_fn="strong_wolfe",
            tolerance_grad=1e-12, tolerance_change=1e-14,
        )  # fmt: skip

        def closure(eta: float = eta, solver: torch.optim.LBFGS = solver) -> Tensor:
            solver.zero_grad()
            loss, entropy = loss_and_entropy(weights, net.M_in[0], net.M_out[0], V, Sigma_eps)
            penalty = sum(W.square().sum() for W in weights)
            objective = loss / eta + entropy + decay_over_rate / 2 * penalty
            objective.backward()
            return objective

        solver.step(closure)
    return DeepLinear([W.detach()[None] for W in weights], net.M_in[:1], net.M_out[:1])


def loss_and_entropy(
    weights: list[Tensor], M_in: Tensor, M_out: Tensor, V: Tensor, Sigma_eps: Tensor
) -> tuple[Tensor, Tensor]:
    """(L less its floor, S) of one network, weights (d_i, d_{i−1}), for x of covariance I."""
    B, A = [M_in], [M_out]
    for W in weights:
        B.append(W @ B[-1])
    for W in reversed(weights[1:]):
        A.insert(0, A[0] @ W)
    pairs = zip(A, B, strict=False)
    entropy = sum((a * (Sigma_eps @ a)).sum() * b.square().sum() for a, b in pairs)
    return (M_out @ B[-1] - V).square().sum(), torch.as_tensor(entropy)
