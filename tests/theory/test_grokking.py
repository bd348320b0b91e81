"""The construction adds modulo p; its rows are waves; the closed kernel is autograd's."""

import pytest
import torch

from lawful.estimators.fourier import fourier_power, inverse_participation, null_participation
from lawful.theory.grokking import construction, kernel, pairs, scores


@pytest.mark.parametrize(("units", "least"), [(64, 0.9), (512, 1.0)])
def test_the_construction_answers_right(units, least):
    U, V = construction(31, units, generator=torch.Generator().manual_seed(0))
    x, y = pairs(31)
    right = (scores(U, V, x).argmax(1) == y).double().mean()
    assert right >= least
    torch.testing.assert_close(inverse_participation(U[:, :31]), torch.ones(units).double())
    shuffled = scores(U, V[:, torch.randperm(units, generator=torch.Generator().manual_seed(1))], x)
    assert (shuffled.argmax(1) == y).double().mean() < 0.3


def test_the_kernel_is_autograds():
    draw = torch.Generator().manual_seed(0)
    U, V = (torch.randn(s, generator=draw, dtype=torch.float64) for s in ((5, 6), (3, 5)))
    x = pairs(3)[0][:4]
    J = [
        torch.autograd.functional.jacobian(lambda u, v: scores(u, v, x), (U, V))[i] for i in (0, 1)
    ]
    flat = torch.cat([j.reshape(4, 3, -1) for j in J], 2)
    torch.testing.assert_close(kernel(U, V, x), torch.einsum("ncp,mcp->nm", flat, flat))


def test_the_null_of_gaussian_rows():
    W = torch.randn(20_000, 31, generator=torch.Generator().manual_seed(0))
    assert float(inverse_participation(W).mean()) == pytest.approx(null_participation(31), rel=0.01)
    assert torch.allclose(fourier_power(W).sum(-1), torch.ones(20_000))
    # A constant added to a row changes nothing: frequency zero is dropped.
    torch.testing.assert_close(inverse_participation(W + 3), inverse_participation(W), atol=1e-4,
                               rtol=1e-3)  # fmt: skip


def test_even_p_is_refused():
    with pytest.raises(ValueError, match="p=30"):
        construction(30, 4, generator=torch.Generator())
    with pytest.raises(ValueError, match="d=30"):
        null_participation(30)
