"""DCS: every mirror is a projector, every penalty its closed form, every collapse at λ_c."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lawful.methods import (
    Groups,
    LowRank,
    Mirror,
    Sparse,
    Subspace,
    Tied,
    critical_decay,
    dcs,
    fold,
    parameter_groups,
)
from lawful.methods.dcs import divide, product


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def orthonormal(n: int, k: int) -> Tensor:
    return torch.linalg.qr(torch.randn(n, k, generator=generator(9), dtype=torch.float64)).Q


MIRRORS = [
    Sparse(),
    Groups(0),
    Groups(1),
    Groups(-1),
    LowRank(),
    Tied([(0, 2), (3, 1)]),
    Tied([(0, 1)], dim=1),
    Subspace(orthonormal(12, 3)),
    Subspace(orthonormal(12, 3), together=True),
]


class Weight(nn.Module):
    """A model that is one parameter, to minimise ‖θ − target‖²."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(start.clone())

    def fit(self, target: Tensor, decay: float, steps: int = 3000) -> Tensor:
        """Gradient descent with decay on the factors, then the plain parameter."""
        optimiser = torch.optim.SGD(parameter_groups(self, decay), lr=0.02, momentum=0.9)
        for _ in range(steps):
            optimiser.zero_grad()
            (self.theta - target).square().sum().backward()
            optimiser.step()
        found: Tensor = fold(self).theta  # type: ignore[assignment]
        return found.detach()


def target(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(4), dtype=torch.float64)


@pytest.mark.parametrize("mirror", MIRRORS, ids=lambda m: f"{type(m).__name__}-{m.rule}")
def test_split_and_lift_are_one_orthonormal_map(mirror: Mirror) -> None:
    """OᵀO = I and ⟨Oᵀθ, c⟩ = ⟨θ, Oc⟩; factors reproduce the parameter exactly."""
    theta = target(4, 3)
    c = mirror.split(theta)
    other = torch.randn(c.shape, generator=generator(5), dtype=torch.float64)
    assert torch.allclose(mirror.split(mirror.lift(other, theta.shape)), other, atol=1e-14)
    assert float((c * other).sum()) == pytest.approx(
        float((theta * mirror.lift(other, theta.shape)).sum())
    )
    if mirror.whole:
        assert torch.allclose(mirror.lift(c, theta.shape), theta, atol=1e-14)
    model = dcs(Weight(theta), "theta", mirror, generator=generator(6))
    assert torch.allclose(model.theta, theta, atol=1e-14)


@pytest.mark.parametrize("shape", [(2, 5), (5, 2), (3, 3)])
@pytest.mark.parametrize("rule", ["entries", "together", "rank"])
def test_least_squares_of_the_factors_are_the_penalty(rule: str, shape: tuple[int, int]) -> None:
    c = target(*shape)
    a, b = divide(c, rule, generator(8))
    assert torch.allclose(product(a, b, rule), c, atol=1e-13)
    penalty = {
        "entries": float(c.abs().sum()),
        "together": float(c.norm(dim=1).sum()),
        "rank": float(torch.linalg.svdvals(c).sum()),
    }[rule]
    assert 0.5 * float(a.square().sum() + b.square().sum()) > penalty
    if rule == "rank":
        L, S, R = torch.linalg.svd(c, full_matrices=False)
        a, b = L * S.sqrt(), S.sqrt()[:, None] * R
    else:
        size = c.abs() if rule == "entries" else c.norm(dim=1, keepdim=True)
        a, b = size.sqrt(), c / size.sqrt()
    assert 0.5 * float(a.square().sum() + b.square().sum()) == pytest.approx(penalty)


def shrunk(c: Tensor, rule: str, amount: float) -> Tensor:
    """The proximal map of amount × the penalty of a rule."""
    if rule == "rank":
        L, S, R = torch.linalg.svd(c, full_matrices=False)
        return L * (S - amount).clamp(min=0) @ R
    size = c.abs() if rule == "entries" else c.norm(dim=1, keepdim=True)
    return c * (1 - amount / size).clamp(min=0)


@pytest.mark.parametrize("mirror", MIRRORS, ids=lambda m: f"{type(m).__name__}-{m.rule}")
def test_the_minimum_is_the_proximal_map(mirror: Mirror) -> None:
    """‖θ − t‖² + λ·penalty: coefficients soft-thresholded by λ/2, the symmetric part untouched."""
    t, decay = target(4, 3), 1.0
    wanted = t + mirror.lift(
        shrunk(mirror.split(t), mirror.rule, decay / 2) - mirror.split(t), t.shape
    )
    found = dcs(Weight(0.5 * target(3, 4).T), "theta", mirror, generator=generator(7)).fit(t, decay)
    assert float((found - wanted).abs().max()) < 1e-3


@pytest.mark.parametrize("mirror", MIRRORS, ids=lambda m: f"{type(m).__name__}-{m.rule}")
def test_it_collapses_above_the_predicted_decay_and_not_below(mirror: Mirror) -> None:
    """λ_c from the gradient on the symmetric plane alone; ±5 % brackets the transition."""
    t = target(4, 3)
    symmetric = t - mirror.lift(mirror.split(t), t.shape)
    predicted = float(critical_decay(2 * (symmetric - t), mirror)[0])
    left = {}
    for share in (0.95, 1.05):
        model = dcs(Weight(t), "theta", mirror, generator=generator(1))
        left[share] = float(mirror.split(model.fit(t, share * predicted, steps=4000)).norm())
    assert left[1.05] < 1e-3
    # Along the last mirror to go, what is left is 2.5 % of λ_c: t shrunk by λ/2.
    assert left[0.95] == pytest.approx(0.025 * predicted, rel=0.02)


def test_features_of_a_classifier_vanish_at_the_critical_decay() -> None:
    """Cross-entropy, input features as groups: convex, so λ_c at W = 0 is exact; ±5 %."""
    x = torch.randn(200, 5, generator=generator(3), dtype=torch.float64)
    labels = (x @ target(5, 3)).argmax(1)
    plain = nn.Linear(5, 3, bias=False, dtype=torch.float64)
    nn.init.zeros_(plain.weight)
    nn.functional.cross_entropy(plain(x), labels).backward()
    assert plain.weight.grad is not None
    predicted = critical_decay(plain.weight.grad, Groups(dim=1))
    left = {}
    for share in (0.95, 1.05):
        model = dcs(
            nn.Linear(5, 3, bias=False).double(), "weight", Groups(1), generator=generator()
        )
        decay = share * float(predicted[0])
        optimiser = torch.optim.SGD(parameter_groups(model, decay), lr=0.3, momentum=0.9)
        for _ in range(2000):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x), labels).backward()
            optimiser.step()
        left[share] = fold(model).weight.detach().norm(dim=0)
    assert float(left[1.05].max()) < 1e-6
    assert float(left[0.95].max()) > 0.02
    # Just below λ_c it is the feature with the largest gradient, and no other, that comes back.
    assert int(left[0.95].argmax()) == int(plain.weight.grad.norm(dim=0).argmax())
    assert int((left[0.95] > 1e-3).sum()) == 1


def test_clones_cost_nothing_to_tie() -> None:
    """Two tied neurons see one gradient, up to their outgoing weights: λ_c = 0 at the tied minimum.

    So for incoming weights any λ > 0 makes the tie a local minimum, and a finite decay reaches it.
    """
    x = torch.randn(128, 2, generator=generator(3), dtype=torch.float64)
    weights = torch.tensor([[1.0, 0.6], [0.6, 1.0]], dtype=torch.float64)
    y, mirror, gaps = torch.tanh(x @ weights).sum(1, keepdim=True), Tied([(0, 1)]), []
    for decay in (0.0, 0.3):
        net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Tanh(), nn.Linear(2, 1, bias=False))
        net.double()
        with torch.no_grad():
            net[0].weight.copy_(torch.tensor([[1.0, 0.5], [0.5, 1.0]]))
            net[2].weight.fill_(1.0)
        net[2].weight.requires_grad_(False)
        dcs(net, "0.weight", mirror, generator=generator(2))
        optimiser = torch.optim.SGD(parameter_groups(net, decay), lr=0.1, momentum=0.9)
        for _ in range(1000):
            optimiser.zero_grad()
            nn.functional.mse_loss(net(x), y).backward()
            optimiser.step()
        gaps.append(float(mirror.split(fold(net)[0].weight.detach()).norm()))
    assert gaps[0] > 0.3
    assert gaps[1] < 1e-6


def test_a_bias_can_be_tied_and_a_kernel_low_rank() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(5, 4)).double()
    kernel, bias = model[0].weight.detach().clone(), model[1].bias.detach().clone()
    dcs(model, "0.weight", LowRank())
    dcs(model, "1.*", Tied([(0, 3)]))
    assert torch.allclose(model[0].weight, kernel, atol=1e-14)
    assert torch.allclose(model[1].bias, bias, atol=1e-14)
    assert model[0].parametrizations.weight.original0.shape == (4, 4)


def test_a_zero_parameter_can_still_learn() -> None:
    for mirror in (Sparse(), Groups(), LowRank(), Tied([(0, 1)])):
        model = dcs(Weight(torch.zeros(4, 3)), "theta", mirror)
        (model.theta * torch.randn(4, 3, generator=generator())).sum().backward()
        factors = list(model.parameters())[0 if mirror.whole else 1 :]
        assert max(float(p.grad.abs().max()) for p in factors if p.grad is not None) > 0


@pytest.mark.parametrize(
    ("mirror", "message"),
    [
        (Groups(dim=2), r"shape \(4, 3\).*Groups\(dim=2\)"),
        (Tied([(0, 4)]), "Tied pairs name neuron 4"),
        (Subspace(orthonormal(5, 2)), "O has 5 rows"),
        (Groups, "pass an instance such as"),
    ],
)
def test_a_mirror_that_does_not_fit_is_refused(mirror: Mirror, message: str) -> None:
    model = Weight(target(4, 3))
    with pytest.raises(ValueError, match=message):
        dcs(model, "theta", mirror)
    assert [name for name, _ in model.named_parameters()] == ["theta"]


def test_mirrors_refuse_what_is_not_one() -> None:
    with pytest.raises(ValueError, match=r"each neuron at most once"):
        Tied([(0, 1), (1, 2)])
    with pytest.raises(ValueError, match=r"torch\.linalg\.qr"):
        Subspace(torch.ones(4, 2))
    with pytest.raises(ValueError, match="needs a matrix"):
        dcs(nn.Linear(2, 2), "bias", LowRank())
