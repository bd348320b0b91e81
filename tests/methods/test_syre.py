"""syre breaks exact invariance for good; a single perturbation does so only below γ_c."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lawful.methods import fold, parameter_groups, perturb_once, syre


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Square(nn.Module):
    """A toy, (w²x − y)² with E x² = E xy = 1: mirror w → −w, γ_c = 2E[xy] = 2."""

    def __init__(self, w: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w, dtype=torch.float64))

    def end(self, groups: object, steps: int = 3000) -> float:
        optimiser = torch.optim.SGD(groups, lr=0.02)  # type: ignore[arg-type]
        for _ in range(steps):
            optimiser.zero_grad()
            (self.w**2 - 1).square().backward()
            optimiser.step()
        return float(fold(self).w.detach())  # type: ignore[arg-type]


def decayed(model: nn.Module, gamma: float) -> list[dict[str, object]]:
    """L + γ‖θ‖² is torch's weight_decay 2γ."""
    return [{"params": list(model.parameters()), "weight_decay": 2 * gamma}]


def test_below_the_threshold_plain_decay_sits_on_the_saddle_and_syre_leaves_it() -> None:
    gamma, minimum = 0.5, (1 - 0.5 / 2) ** 0.5  # w*² = (2E[xy] − γ)/(2E[x²])
    stuck = Square(0.0)
    assert stuck.end(decayed(stuck, gamma)) == 0.0
    free = syre(Square(0.0), sigma=0.01, generator=generator())
    assert abs(free.end(parameter_groups(free, 2 * gamma))) == pytest.approx(minimum, abs=0.01)
    # The honest control: one push off the saddle does the same here.
    pushed = perturb_once(Square(0.0), sigma=0.01, generator=generator())
    assert abs(pushed.end(decayed(pushed, gamma))) == pytest.approx(minimum, abs=1e-6)


def test_above_the_threshold_only_syre_keeps_the_symmetry_broken() -> None:
    """s* ≈ γ s₀/(γ − γ_c) against exactly 0: the pitchfork is imperfect, not absent."""
    gamma, sigma = 3.0, 0.01
    free = syre(Square(0.3), sigma=sigma, generator=generator())
    offset = float(free.parametrizations.w[0].offset)  # type: ignore[union-attr, index]
    assert free.end(parameter_groups(free, 2 * gamma)) == pytest.approx(
        gamma * offset / (gamma - 2), rel=0.01
    )
    pushed = perturb_once(Square(0.3), sigma=sigma, generator=generator())
    assert abs(pushed.end(decayed(pushed, gamma))) < 1e-12


def clones() -> tuple[nn.Sequential, Tensor, Tensor]:
    """16 tanh neurons of which 14 are one, and a target of 4 neurons."""
    g = generator(2)
    x = torch.randn(128, 4, generator=g, dtype=torch.float64)
    y = torch.tanh(x @ torch.randn(4, 4, generator=g, dtype=torch.float64)).sum(1, keepdim=True)
    net = nn.Sequential(nn.Linear(4, 16, bias=False), nn.Tanh(), nn.Linear(16, 1, bias=False))
    net.double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=g, dtype=torch.float64))
        net[0].weight[2:] = net[0].weight[2].clone()
        net[2].weight[:, 2:] = net[2].weight[:, 2:3].clone()
    return net, x, y


def distinct(net: nn.Sequential) -> int:
    return len(torch.unique((net[0].weight.detach() * 1e3).round(), dim=0))


def fit(net: nn.Sequential, groups: object, x: Tensor, y: Tensor) -> float:
    optimiser = torch.optim.SGD(groups, lr=0.05, momentum=0.9)  # type: ignore[arg-type]
    for _ in range(2500):
        optimiser.zero_grad()
        loss = nn.functional.mse_loss(net(x), y)
        loss.backward()
        optimiser.step()
    return float(loss.detach())


def test_cloned_neurons_come_apart_under_syre_and_under_the_control() -> None:
    """Clones train exactly like a smaller net; both remedies reach the same low loss."""
    errors, counts = {}, {}
    for name in ("decay", "syre", "control"):
        net, x, y = clones()
        if name == "syre":
            syre(net, sigma=0.05, generator=generator(3))
        if name == "control":
            perturb_once(net, sigma=0.05, generator=generator(3))
        decay = 1e-4
        groups = decayed(net, decay / 2) if name != "syre" else parameter_groups(net, decay)
        errors[name] = fit(net, groups, x, y)
        counts[name] = distinct(fold(net))  # type: ignore[arg-type]
    assert counts == {"decay": 3, "syre": 16, "control": 16}
    assert errors["decay"] > 10 * errors["syre"]
    assert errors["control"] < 3 * errors["syre"]


def test_offset_and_scale_are_drawn_once_and_saved() -> None:
    model = syre(nn.Linear(50, 40), "weight", sigma=0.3, spread=0.5, generator=generator(4))
    part = model.parametrizations.weight[0]  # type: ignore[union-attr, index]
    assert float(part.offset.std()) == pytest.approx(0.3, rel=0.05)
    assert float((-2 * part.scale.log()).std()) == pytest.approx(0.5, rel=0.05)
    keys = set(model.state_dict())
    assert {"parametrizations.weight.0.offset", "parametrizations.weight.0.scale"} <= keys
    plain = syre(nn.Linear(5, 4), "weight", sigma=0.3)
    assert torch.equal(plain.parametrizations.weight[0].scale, torch.ones(4, 5))  # type: ignore[union-attr, index]


def test_the_decayed_distance_is_the_weighted_one() -> None:
    """λ/2 ‖φ‖² = λ/2 Σ D_i (θ_i − θ₀_i)²."""
    model = syre(nn.Linear(3, 2), "weight", sigma=0.3, spread=1.0)
    part = model.parametrizations.weight  # type: ignore[union-attr]
    D = part[0].scale ** -2  # type: ignore[index]
    with torch.no_grad():
        assert torch.allclose(
            part.original.square(),
            D * (model.weight - part[0].offset) ** 2,
            rtol=1e-4,  # type: ignore
        )


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_wrong_arguments_are_refused(sigma: float) -> None:
    for method in (syre, perturb_once):
        with pytest.raises(ValueError, match=f"sigma={sigma}: give the standard deviation"):
            method(nn.Linear(2, 2), sigma=sigma)
    with pytest.raises(ValueError, match="spread=-1"):
        syre(nn.Linear(2, 2), sigma=0.1, spread=-1)
