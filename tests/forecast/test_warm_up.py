"""Curvature by products against the dense Hessian; the advice against `advise_warmup`."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lawful.forecast import Forecast, Training, predict
from lawful.forecast.case import case_of
from lawful.forecast.warm_up import _blocks
from lawful.methods import stable_rate
from lawful.symmetry import Shifting

G = torch.Generator().manual_seed(0)
X = torch.randn(512, 3, generator=G, dtype=torch.float64)
Y = torch.randn(512, 2, generator=G, dtype=torch.float64)


def net(width: int = 12, scale: float = 1.0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 2)).double()
    with torch.no_grad():
        made[2].weight.mul_(scale)
    return made


def of(found: list[Forecast], name: str) -> Forecast:
    (chosen,) = (f for f in found if f.theory == "warm-up" and f.name == name)
    return chosen


def dense(model: nn.Module) -> Tensor:
    names = [n for n, _ in model.named_parameters()]
    shapes = [p.shape for p in model.parameters()]
    sizes = [p.numel() for p in model.parameters()]

    def loss(theta: Tensor) -> Tensor:
        pieces = [t.view(s) for t, s in zip(theta.split(sizes), shapes, strict=True)]
        named = dict(zip(names, pieces, strict=True))
        return F.mse_loss(torch.func.functional_call(model, named, (X,)), Y)

    flat = torch.cat([p.detach().flatten() for p in model.parameters()])
    return torch.autograd.functional.hessian(loss, flat)


def test_curvature_is_that_of_the_dense_hessian() -> None:
    """λ_max by Lanczos to 1e-3; Tr H by 32 random probes within three of their standard errors."""
    model = net()
    H = dense(model)
    found = predict(model, (X, Y), F.mse_loss, lr=0.1, batch_size=8, samples=512)
    top, trace = float(torch.linalg.eigvalsh(H)[-1]), float(H.trace())
    off = float((H - H.diagonal().diag()).square().sum())
    error = 3 * math.sqrt(2 * off / 32)
    assert of(found, "hessian_top").value == pytest.approx(top, rel=1e-3)
    assert of(found, "hessian_trace").value == pytest.approx(trace, abs=error)
    rate = stable_rate(of(found, "hessian_trace").value, of(found, "hessian_top").value, 8)
    assert of(found, "stable_lr").value == pytest.approx(rate)


def scalar(trace: float, product: float = 15.0) -> tuple[nn.Sequential, Tensor, Tensor]:
    """y = u w x at a minimum of 2(u² + w²) = trace, label noise of deviation 2 (exactly ⊥ x)."""
    total = trace / 2
    u = math.sqrt((total + math.sqrt(total**2 - 4 * product**2)) / 2)
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        model[0].weight.fill_(product / u)
        model[1].weight.fill_(u)
    g = torch.Generator().manual_seed(1)
    x, e = (torch.randn(4096, 1, generator=g, dtype=torch.float64) for _ in range(2))
    x = x / x.square().mean().sqrt()
    return model, x, product * x + 2 * (e - x * (x * e).mean())


def test_the_warmup_of_the_smallest_net_is_the_known_one() -> None:
    """Tr H = 433 wants lr below .0015; at .008 the forecast is the integral of `advise_warmup`."""
    from lawful.methods import Rescaling, advise_warmup

    model, x, y = scalar(433.0)
    found = predict(model, (x, y), F.mse_loss, lr=0.008, batch_size=1, samples=4096)
    steps = of(found, "warmup_steps")
    w2, u2 = (float(p.detach().square()) for p in model.parameters())
    orbit = Rescaling(w2, u2, 16 * u2, 16 * w2, 2 * u2, 2 * w2)
    known = advise_warmup(orbit, eta=0.008, batch=1, top=433.0)
    assert of(found, "hessian_trace").value == pytest.approx(433, rel=0.02)
    assert steps.value == pytest.approx(known.steps, rel=0.15)
    assert steps.applies == "partly"
    assert of(predict(model, (x, y), F.mse_loss, lr=1e-4, batch_size=1), "warmup_steps").value == 0


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))


def test_of_a_packed_tensor_a_symmetry_holds_what_it_moves() -> None:
    """A head is a part of `in_proj_weight`, found here by where its generator is not zero."""
    data = X[:, :1, None].expand(-1, 3, 8) * torch.arange(1.0, 9.0), Y
    case = case_of(Attending(), data, F.mse_loss, Training("sgd", 0.1, 8), samples=16, seed=0)
    assert len(case.families) > 2
    for _, family in case.families:
        if any(isinstance(a, Shifting) for a in family.actions):
            continue
        draw = torch.randn(family.dimension, dtype=torch.float64)
        theta = {n: torch.rand_like(t) for n, t in case.theta.items()}
        velocity = family.generator(draw).velocity(theta)
        moved = {n: (velocity[n] != 0).double() for n in family.parameters}
        ones = {n: torch.ones_like(t) for n, t in theta.items()}
        block = _blocks(case, family, ones)
        assert block.trace() == sum(float(t.sum()) for t in moved.values())
        norm2 = sum(float((t * case.theta[n].square()).sum()) for n, t in moved.items())
        assert block.norm_in + block.norm_out == pytest.approx(norm2)


def test_where_no_warmup_helps() -> None:
    """A tanh net has no rescaling: nothing to follow."""
    found = predict(net(scale=30.0), (X, Y), F.mse_loss, lr=5.0, batch_size=8)
    assert math.isinf(of(found, "warmup_steps").value)
    assert "lower lr 5" in of(found, "warmup_steps").sentence


def test_not_applicable_to_adam() -> None:
    found = predict(net(), (X, Y), F.mse_loss, optimizer="adam", lr=1e-3, batch_size=8)
    assert of(found, "none").applies == "no"
