"""Eigenvalues, traces and densities of matrices that can be written down."""

import numpy as np
import pytest
import torch

from lawful.estimators.eigen import Memory, _Belief, top_eigenpairs, warm_start
from lawful.estimators.trace import hutch_plus_plus, hutchinson, spectral_density

F64 = torch.float64


def matrix(seed, D=300, outliers=(9.0, 7.5, 5.0)):
    """A Wigner bulk in [−1, 1] with a few outliers."""
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(D, D, dtype=F64, generator=generator) / (2 * D) ** 0.5
    A = (A + A.T) / 2**0.5 / 2**0.5
    Q, _ = torch.linalg.qr(torch.randn(D, len(outliers), dtype=F64, generator=generator))
    return A + Q @ torch.diag(torch.tensor(outliers, dtype=F64)) @ Q.T


@pytest.mark.parametrize("k", [1, 3])
def test_top_eigenvalues_and_their_bounds(k):
    for seed in range(20):
        A = matrix(seed)
        truth = torch.linalg.eigvalsh(A).flip(0)[:k]
        found = top_eigenpairs(A.matmul, torch.ones(300, dtype=F64), k=k, tolerance=1e-4)
        assert found.converged
        error = (found.values - truth).abs()
        assert bool((error <= found.bounds).all())
        assert bool((error < 1e-3 * truth[0]).all())
        torch.testing.assert_close(found.vectors @ found.vectors.T, torch.eye(k, dtype=F64))


def test_float32_and_a_restart():
    d = torch.linspace(0, 1, 2000)
    found = top_eigenpairs(lambda v: d * v, torch.ones(2000), tolerance=1e-5, limit=400)
    assert found.products > 40
    assert float(found.values[0]) == pytest.approx(1, rel=1e-4)


def test_a_memory_saves_products():
    A, B = matrix(0), matrix(0) + 0.02 * matrix(1)
    first = top_eigenpairs(A.matmul, torch.ones(300, dtype=F64))
    noise = torch.randn(300, dtype=F64, generator=torch.Generator().manual_seed(0))
    start = warm_start(first.memory, noise, noise)
    warm = top_eigenpairs(B.matmul, start, memory=first.memory)
    truth = float(torch.linalg.eigvalsh(B)[-1])
    assert warm.products <= 4 < first.products
    assert float(warm.values[0]) == pytest.approx(truth, rel=1e-3)


def test_without_a_memory_it_is_lanczos():
    """The best vector of the Krylov space K_n, and a value between what it may be."""
    A, start = matrix(2), torch.ones(300, dtype=F64)
    truth = float(torch.linalg.eigvalsh(A)[-1])
    for n in (6, 7, 8):
        found = top_eigenpairs(A.matmul, start, tolerance=0.0, residual=0.0, limit=n)
        powers = [start]
        for _ in range(n - 1):
            powers.append(A @ powers[-1] / 9)
        K, _ = torch.linalg.qr(torch.stack(powers).T)
        _, mixing = torch.linalg.eigh(K.T @ A @ K)
        torch.testing.assert_close((K @ mixing[:, -1]).abs(), found.vectors[0].abs())
        assert found.products == n
        assert abs(float(found.values[0]) - truth) <= float(found.errors[0])


def test_what_is_remembered_is_exact_where_it_was_asked():
    """M v = A v for every direction asked, before and after a restart."""
    A = matrix(5)
    belief = _Belief(A.matmul, None, torch.ones(1, 300, dtype=F64))
    for _ in range(14):
        belief.ask(belief.ritz().proposal(1))
    before = belief.ritz()
    for keep in (15, 5):
        belief.restart(keep)
        asked = belief.S @ belief.Q
        torch.testing.assert_close(belief.S @ belief.M @ belief.Q, asked @ A)
        torch.testing.assert_close(belief.Q @ belief.Q.T, torch.eye(len(belief.Q), dtype=F64))
        torch.testing.assert_close(belief.ritz().values, before.values[:keep])


def test_neighbours_that_change_places_are_both_in_sight():
    """λ_1 and λ_2 swap between two solves; the gradient knows neither."""
    d = torch.cat([torch.linspace(-0.2, 0.2, 98, dtype=F64), torch.tensor([1.00, 1.05], dtype=F64)])
    gradient = (torch.arange(100) < 98).to(F64)
    noise = torch.randn(100, dtype=F64, generator=torch.Generator().manual_seed(0))
    first = top_eigenpairs(lambda v: d * v, noise, tolerance=1e-4)
    assert float(first.values[0]) == pytest.approx(1.05, rel=1e-4)
    swapped = torch.cat([d[:98], d[[99, 98]]])
    start = warm_start(first.memory, gradient, noise)
    found = top_eigenpairs(lambda v: swapped * v, start, memory=first.memory)
    assert float(found.values[0]) == pytest.approx(1.05, rel=1e-3)
    assert found.products <= 5


def test_an_eigenvector_that_the_gradient_shows_is_not_overlooked():
    """A new one overtakes the first: in no memory, a third of the gradient, a rest of noise."""
    d = torch.cat([torch.tensor([1.0, 0.5], dtype=F64), torch.linspace(-0.1, 0.1, 98, dtype=F64)])
    noise = torch.randn(100, dtype=F64, generator=torch.Generator().manual_seed(1))
    first = top_eigenpairs(lambda v: d * v, noise)
    later = torch.cat([d[:-1], torch.tensor([1.2], dtype=F64)])
    gradient = noise / noise.norm()
    gradient[-1] = 0.7
    start = warm_start(first.memory, gradient, noise)
    found = top_eigenpairs(lambda v: later * v, start, memory=first.memory)
    assert float(found.values[0]) == pytest.approx(1.2, rel=2e-3)


def test_hidden_eigenvectors_need_the_noise():
    """An exact eigenvector shows nothing else; `warm_start` mixes other directions in."""
    d = torch.tensor([1.0, 5.0, *[0.1] * 50], dtype=F64)
    old = torch.zeros(52, dtype=F64)
    old[0] = 1
    memory, noise = Memory(d[:1], old[None]), torch.ones(52, dtype=F64)
    found = top_eigenpairs(lambda v: d * v, warm_start(memory, noise, noise), memory=memory)
    assert float(found.values[0]) == pytest.approx(5, rel=1e-3)


def test_an_exhausted_start_looks_elsewhere_without_touching_the_global_generator():
    d = torch.tensor([1.0, 5.0, *[0.1] * 50], dtype=F64)
    before = torch.get_rng_state()
    first = torch.eye(52, dtype=F64)[0]
    found = [top_eigenpairs(lambda v: d * v, first).values for _ in range(2)]
    assert float(found[0][0]) == pytest.approx(5, rel=1e-3)
    assert torch.equal(*found)
    assert torch.equal(torch.get_rng_state(), before)


def test_operators_without_a_positive_eigenvalue():
    d = -torch.linspace(1, 3, 200, dtype=F64)
    found = top_eigenpairs(lambda v: d * v, torch.ones(200, dtype=F64), k=2)
    assert found.converged
    assert bool(((found.values - d[:2]).abs() <= found.bounds).all())
    assert float(found.values[0]) == pytest.approx(-1, rel=0.01)


def test_small_and_bad_operators():
    one = top_eigenpairs(lambda v: 3 * v, torch.ones(1, dtype=F64), k=5)
    assert one.values.tolist() == [3]
    zero = top_eigenpairs(lambda v: 0 * v, torch.ones(4, dtype=F64))
    assert float(zero.values[0]) == 0
    with pytest.raises(ValueError, match="start is zero"):
        top_eigenpairs(lambda v: v, torch.zeros(3))
    with pytest.raises(ValueError, match="at least one"):
        top_eigenpairs(lambda v: v, torch.ones(3), k=0)
    with pytest.raises(ValueError, match="give float32"):
        top_eigenpairs(lambda v: v, torch.ones(3, dtype=torch.bfloat16))
    with pytest.raises(ArithmeticError, match="not finite"):
        top_eigenpairs(lambda v: v * float("nan"), torch.ones(3))
    unfinished = top_eigenpairs(lambda v: torch.arange(99.0) * v, torch.ones(99), limit=3)
    assert not unfinished.converged


def test_traces_are_unbiased_and_their_errors_true():
    A = matrix(3)
    truth, zeros = float(A.trace()), torch.zeros(300, dtype=F64)
    for estimate in (hutchinson, hutch_plus_plus):
        found = np.array([estimate(A.matmul, zeros, probes=21, seed=s) for s in range(100)])
        error, stderr = found[:, 0] - truth, found[:, 1]
        assert abs(error.mean()) < 3 * error.std() / 10
        assert error.std() == pytest.approx(np.sqrt((stderr**2).mean()), rel=0.3)
    exact, stderr = hutch_plus_plus(A.matmul, zeros, probes=900)
    assert exact == pytest.approx(truth)
    assert stderr == 0
    with pytest.raises(ValueError, match="at least 3"):
        hutch_plus_plus(A.matmul, zeros, probes=2)


def test_density_of_nothing_is_a_line_at_zero():
    nodes, weights = spectral_density(lambda v: 0 * v, torch.zeros(9, dtype=F64), starts=2)
    assert nodes.tolist() == [0, 0]
    assert weights.tolist() == [0.5, 0.5]


def test_density_has_the_moments_of_the_spectrum():
    A = matrix(4)
    values = torch.linalg.eigvalsh(A).numpy()
    nodes, weights = spectral_density(A.matmul, torch.zeros(300, dtype=F64), steps=20, starts=20)
    assert weights.sum() == pytest.approx(1)
    assert nodes.max() == pytest.approx(values[-1], rel=1e-6)
    assert (nodes**2) @ weights == pytest.approx((values**2).mean(), rel=0.2)
