"""AGOP against autograd, and the ansatz where it is a theorem."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lawful.estimators import feature_ansatz as fa


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(x: torch.Tensor, W: torch.Tensor, A: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    outputs = torch.tanh(x @ W.T) @ A.T
    columns = outputs.unbind(1)
    return [torch.autograd.grad(f.sum(), x, retain_graph=True)[0] for f in columns]


def test_agop_equals_the_jacobian_definition() -> None:
    x, W, A = randn(20, 5), randn(7, 5, seed=1), randn(3, 7, seed=2)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: A @ torch.tanh(W @ v)))(x)
    expected = torch.einsum("noi,noj->ij", jacobian, jacobian) / 20
    torch.testing.assert_close(fa.agop(gradients(x, W, A)).mean, expected)


def test_parts_merge_exactly() -> None:
    x, W, A = randn(20, 5), randn(7, 5, seed=1), randn(3, 7, seed=2)
    whole = fa.agop(gradients(x, W, A))
    parts = [fa.agop(gradients(part, W, A)) for part in x.split(6)]
    merged = fa.merge(reversed(parts))
    assert merged.samples == 20
    torch.testing.assert_close(merged.mean, whole.mean)


def test_positions_are_pooled_and_float32_is_accumulated_in_float64() -> None:
    g = randn(4, 6, 5).float()
    result = fa.agop([g])
    assert result.samples == 4
    assert result.total.dtype == torch.float64
    torch.testing.assert_close(result.total, torch.einsum("nti,ntj->ij", g.double(), g.double()))


def test_linear_network_has_the_ansatz_built_in() -> None:
    """f = AWx with AᵀA = I: AGOP = WᵀW, s = 1. f = AWx, A = (WWᵀ)^½: s = 1/2."""
    W = randn(6, 9, seed=3)
    A = torch.linalg.qr(randn(8, 6, seed=4))[0]
    first = fa.agop((A @ W).unsqueeze(1).expand(-1, 4, -1))
    assert fa.nfa(W, first.mean) == pytest.approx(1.0)
    second = (root := fa.psd_power(W @ W.T, 0.5) @ W).T @ root
    assert fa.nfa(W, second, power=0.5) == pytest.approx(1.0)
    assert fa.nfa(W, second) < 0.999


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 10), st.integers(2, 6))
def test_ansatz_ignores_scales_and_order_of_samples(seed: int, scale: float, d: int) -> None:
    W, g = randn(4, d, seed=seed), randn(12, d, seed=seed + 1)
    value = fa.nfa(W, fa.agop([g]).mean, 0.5)
    assert -1 - 1e-9 <= value <= 1 + 1e-9
    assert fa.nfa(W * scale, fa.agop([g.flip(0) * scale]).mean, 0.5) == pytest.approx(value)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5), st.floats(0.25, 2))
def test_powers_invert_each_other(seed: int, rank: int, power: float) -> None:
    x = randn(rank, 5, seed=seed)
    A = x.T @ x
    torch.testing.assert_close(
        fa.psd_power(fa.psd_power(A, power), 1 / power), A, rtol=1e-5, atol=1e-6
    )


def test_negative_power_is_that_of_the_pseudo_inverse() -> None:
    x = randn(2, 5, seed=6)
    A = x.T @ x
    torch.testing.assert_close(fa.psd_power(A, -1.0), torch.linalg.pinv(A, hermitian=True))


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="empty"):
        fa.agop([])
    with pytest.raises(ValueError, match="3 and 4"):
        fa.agop([randn(3, 2), randn(4, 2)])
    with pytest.raises(ValueError, match=r"must be \(5, 5\)"):
        fa.nfa(randn(3, 5), randn(3, 3))
    assert math.isnan(fa.nfa(randn(3, 5), torch.full((5, 5), math.nan), 0.5))
    assert math.isnan(fa.nfa(randn(3, 5), torch.zeros(5, 5)))
    assert fa.Agop(torch.zeros(2, 2), 0).mean.isnan().all()
