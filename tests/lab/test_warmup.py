"""The warm-up world: its steps, its Hessian's trace and its advice."""

import numpy as np
import pytest
import torch

from lawful.lab.experiments import warmup as world


def net(seed=0):
    return world.start(world.Warmup(replicas=2, trace=180.0), np.random.default_rng(seed))


def loss(u, w, one, x, eps):
    y = one.u_true * (x @ one.w_true)[:, None] + eps
    return (u * (w * torch.as_tensor(x)).sum(1, keepdim=True) - torch.as_tensor(y)).square().sum()


def test_a_step_is_that_of_autograd_and_the_start_is_as_sharp_as_asked():
    one, rng = net(), np.random.default_rng(1)
    assert one.trace() == pytest.approx([180.0, 180.0])
    x, eps = rng.normal(size=(2, 2, world.D))
    u, w = (torch.as_tensor(v).clone().requires_grad_() for v in (one.u, one.w))
    loss(u, w, one, x, eps).backward()
    after = one.sgd(x, eps, 0.01)
    assert np.allclose(after.u, (u - 0.01 * u.grad).detach())
    assert np.allclose(after.w, (w - 0.01 * w.grad).detach())


def test_descent_follows_the_mean_and_keeps_the_charge():
    one, rng = net(), np.random.default_rng(2)
    x = rng.normal(size=(200_000, world.D))
    mean = np.mean(
        [
            (one.u[0] * (x @ one.w[0])[:, None] - one.u_true * (x @ one.w_true)[:, None])
            * 2
            * (x @ one.w[0])[:, None]
        ],
        1,
    )
    assert np.allclose((one.u - one.descend(1.0).u)[0], mean, atol=0.05 * np.abs(mean).max())
    later = one
    for _ in range(5000):
        later = later.descend(1e-3)
    assert later.charge() == pytest.approx(one.charge(), rel=0.01)
    assert np.linalg.norm(later.u[0]) * np.linalg.norm(later.w[0]) == pytest.approx(1.5, rel=1e-3)


def test_the_trace_is_the_hessians():
    one = net()

    def mean_loss(flat):
        u, w = flat[: world.D], flat[world.D :]
        gap = torch.outer(u, w) - torch.outer(*map(torch.as_tensor, (one.u_true, one.w_true)))
        return gap.square().sum()

    flat = torch.as_tensor(np.concatenate([one.u[0], one.w[0]]))
    trace = torch.autograd.functional.hessian(mean_loss, flat).trace()
    assert float(trace) == pytest.approx(one.trace()[0])


def test_the_advice_ends_at_the_flattest_minimum():
    said = world.advise(net(), world.Warmup())
    assert said.trace_equilibrium == pytest.approx(4 * world.D * world.PRODUCT)
