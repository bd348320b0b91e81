"""The closed-form gradients against autograd, the entropy against its definition."""

import pytest
import torch

from lawful.lab.models.deep_linear import deep_linear, entropic_minimum, loss_and_entropy
from lawful.theory.deep_linear_entropy import layer_gradient_norm2

F64 = torch.float64


@pytest.fixture
def net():
    draw = torch.Generator().manual_seed(0)
    ends = (torch.randn(n, n, generator=draw, dtype=F64) for n in (4, 3))
    M_in, M_out = ends
    return deep_linear((4, 6, 5, 3), 2, M_in=M_in, M_out=M_out, generator=draw)


def test_gradients_are_those_of_autograd(net):
    x, y = torch.randn(2, 4, 7, dtype=F64), torch.randn(2, 3, 7, dtype=F64)
    weights = [W.clone().requires_grad_() for W in net.weights]
    out = net.M_out @ weights[2] @ weights[1] @ weights[0] @ net.M_in @ x
    (out - y).square().sum(1).mean(1).sum().backward()
    for found, W in zip(net.gradients(x, y), weights, strict=True):
        torch.testing.assert_close(found, W.grad)
    single = [net.gradients(x[..., [s]], y[..., [s]]) for s in range(7)]
    norms = torch.stack([torch.stack([g.square().sum((1, 2)) for g in one]) for one in single])
    torch.testing.assert_close(net.sample_norm2(x, y), norms.mean(0))


def test_the_population_is_a_batch_of_roots(net):
    """Many samples with noise, or d columns without: one gradient."""
    V = torch.randn(3, 4, dtype=F64)
    x = torch.randn(2, 4, 400_000, generator=torch.Generator().manual_seed(1), dtype=F64)
    sampled = net.gradients(x, V @ x + 0.1 * torch.randn(2, 3, 400_000, dtype=F64))
    columns = 2 * torch.eye(4, dtype=F64).expand(2, 4, 4)
    for a, b in zip(sampled, net.gradients(columns, V @ columns), strict=True):
        assert float((a - b).norm() / b.norm()) < 0.02


def test_the_minimum_of_the_entropy_has_the_gradients_of_the_formula(net):
    draw = torch.Generator().manual_seed(2)
    V, Sigma = (
        torch.randn(3, 4, generator=draw, dtype=F64),
        torch.diag(torch.tensor([0.6, 0.3, 0.1])),
    )
    Sigma = Sigma.double()
    end = entropic_minimum(net, V, Sigma)
    loss, entropy = loss_and_entropy(
        [W[0] for W in end.weights], end.M_in[0], end.M_out[0], V, Sigma
    )
    formula = layer_gradient_norm2(
        V.numpy(), torch.eye(4).double().numpy(), Sigma.numpy(), depth=3,
        M_in=net.M_in[0].numpy(), M_out=net.M_out[0].numpy(),
    )  # fmt: skip
    assert float(loss) < 1e-8
    assert float(entropy) == pytest.approx(3 * formula / 4, rel=1e-3)
