"""teleport: the function unchanged to rounding, the charge on its target, noise balanced."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from lawful.methods import (
    charges,
    rescale,
    spred,
    teleport_charge,
    teleport_linear,
    teleport_noise,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def mlp(activation: nn.Module, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6, bias=bias), activation, nn.Linear(6, 3)).double()


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 2), nn.LeakyReLU(), nn.Flatten(),
        nn.Linear(36, 3),
    ).double()  # fmt: skip


def close(model: nn.Module, x: Tensor, before: Tensor) -> bool:
    return float((model(x).detach() - before).norm() / before.norm()) < 1e-12


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.LeakyReLU(0.2), nn.Identity()])
@pytest.mark.parametrize("target", [0.0, 2.5, -1.0])
def test_the_charge_moves_to_its_target_and_the_function_does_not(
    activation: nn.Module, target: float
) -> None:
    model, x = mlp(activation), normal(20, 4)
    before = model(x).detach()
    alpha = teleport_charge(model, "0", "2", target, example=x)
    assert torch.allclose(charges(model, "0", "2"), torch.full((6,), target).double(), atol=1e-12)
    assert close(model, x, before)
    assert alpha.shape == (6,)
    again = teleport_charge(model, "0", "2", target)
    assert float(again.abs().max()) < 1e-12


def test_in_float32_the_function_is_kept_to_1e_6() -> None:
    model, x = mlp(nn.ReLU()).float(), normal(20, 4).float()
    before = model(x).detach()
    teleport_charge(model, "0", "2", 5.0, example=x)
    assert float((model(x).detach() - before).norm() / before.norm()) < 1e-6


def test_convolutions_and_a_flatten_between_layers() -> None:
    model, x = convolutional(), normal(3, 2, 6, 6)
    before = model(x).detach()
    targets = normal(5, seed=3)
    teleport_charge(model, "0", "2", targets, example=x)
    teleport_charge(model, "2", "5", 1.0, example=x)
    assert torch.allclose(charges(model, "2", "5"), torch.ones(4).double(), atol=1e-12)
    assert close(model, x, before)


def test_zero_is_the_smallest_norm_on_the_orbit() -> None:
    model = mlp(nn.ReLU())
    teleport_charge(model, "0", "2")

    def norm2() -> float:
        return sum(float(p.detach().square().sum()) for p in model.parameters())

    least = norm2()
    for shift in (-0.1, 0.1):
        rescale(model, "0", "2", torch.full((6,), shift))
        assert norm2() > least
        rescale(model, "0", "2", torch.full((6,), -shift))


def test_a_dead_side_is_left_where_it_is() -> None:
    model = mlp(nn.ReLU())
    with torch.no_grad():
        model[2].weight[:, 1] = 0
    incoming = model[0].weight.detach().clone()
    alpha = teleport_charge(model, "0", "2", -1.0)
    assert alpha.isnan().tolist() == [False, True, False, False, False, False]
    assert torch.equal(model[0].weight[1], incoming[1])


def neuron_noise(model: nn.Sequential, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """s±: traces of the per-sample gradient covariance of every neuron's two blocks."""
    parameters = {n: p.detach() for n, p in model.named_parameters()}

    def loss(p: dict[str, Tensor], a: Tensor, b: Tensor) -> Tensor:
        return (functional_call(model, p, (a[None],)) - b).square().sum()

    g = vmap(grad(loss), (None, 0, 0))(parameters, x, y)
    spread = {name: v.var(0, correction=0) for name, v in g.items()}
    into = spread["0.weight"].sum(1) + spread["0.bias"]
    return into, spread["2.weight"].sum(0)


@pytest.mark.parametrize("weight_decay", [0.0, 0.02])
def test_the_noise_equilibrium_balances_noise_and_decay(weight_decay: float) -> None:
    """On a network: residual ≤ 1e-10 of what it is 0.2 away, signs +, 0, −."""
    model, x, y = mlp(nn.ReLU()), normal(64, 4), normal(64, 3, seed=2)
    eta, batch = 0.05, 4
    noise = neuron_noise(model, x, y)
    teleport_noise(
        model, "0", "2", *noise, eta=eta, batch=batch, weight_decay=weight_decay, example=x
    )

    def drift() -> Tensor:
        into, out = neuron_noise(model, x, y)
        forgotten = (2 * eta * weight_decay - (eta * weight_decay) ** 2) * charges(model, "0", "2")
        return eta**2 / batch * (into - out) - forgotten

    here = drift()
    rescale(model, "0", "2", torch.full((6,), -0.2))
    below = drift()
    rescale(model, "0", "2", torch.full((6,), 0.4))
    above = drift()
    assert bool((below > 0).all())
    assert bool((above < 0).all())
    assert float((here / below).abs().max()) < 1e-10


def pair(bias: bool, hidden: int) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, hidden, bias=bias), nn.Linear(hidden, 3)).double()


def moment(d: int, seed: int) -> Tensor:
    A = normal(d, 2 * d, seed=seed) * torch.arange(1, d + 1).double()[:, None] ** 0.5
    return A @ A.T / (2 * d)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("hidden", [2, 3, 7])
def test_linear_pairs_reach_the_normalised_balance(bias: bool, hidden: int) -> None:
    """W₁Σ̄_xW₁ᵀ = W₂ᵀΣ̄_εW₂, with traces; any width, below, at and above the rank."""
    model, x = pair(bias, hidden), normal(20, 5)
    before = model(x).detach()
    Sx, Se = moment(6 if bias else 5, 3), moment(3, 4)
    spectrum = teleport_linear(model, "0", "1", input_moment=Sx, noise_moment=Se, example=x)
    assert close(model, x, before)
    W1 = torch.cat([model[0].weight] + ([model[0].bias[:, None]] if bias else []), 1).detach()
    W2 = model[1].weight.detach()
    left, right = W1 @ Sx @ W1.T, W2.T @ Se @ W2
    assert torch.allclose(left / Sx.trace(), right / Se.trace(), atol=1e-12)
    assert not torch.allclose(left, right, rtol=0.1)
    found = torch.linalg.eigvalsh(left).flip(0)[: len(spectrum)]
    assert torch.allclose(found, spectrum, atol=1e-10)
    moved = [p.detach().clone() for p in model.parameters()]
    teleport_linear(model, "0", "1", input_moment=Sx, noise_moment=Se)
    for p, q in zip(model.parameters(), moved, strict=True):
        assert torch.allclose(p, q, atol=1e-9)


def test_without_moments_linear_pairs_are_balanced() -> None:
    model, x = pair(False, 3), normal(20, 5)
    before = model(x).detach()
    spectrum = teleport_linear(model, "0", "1", example=x)
    W1, W2 = model[0].weight.detach(), model[1].weight.detach()
    assert close(model, x, before)
    assert torch.allclose(W1 @ W1.T, W2.T @ W2, atol=1e-12)
    assert torch.allclose(spectrum, torch.linalg.svdvals(W2 @ W1), atol=1e-12)


@pytest.mark.parametrize("activation", [nn.GELU(), nn.Tanh(), nn.ReLU()])
def test_what_is_no_symmetry_is_taken_back(activation: nn.Module) -> None:
    model, x = mlp(activation), normal(20, 4)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    linear = isinstance(activation, nn.ReLU)  # a symmetry of rescaling, not of GL
    move = teleport_linear if linear else partial(teleport_charge, charge=3.0)
    with pytest.raises(ValueError, match=r"changed by .* no symmetry .* The weights are as before"):
        move(model, "0", "2", example=x)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key])


def test_the_check_leaves_modes_and_random_numbers_alone() -> None:
    model = nn.Sequential(*mlp(nn.ReLU()), nn.Dropout(0.5)).train()
    model[1].eval()
    state = torch.get_rng_state()
    teleport_charge(model, "0", "2", example=normal(5, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model] == [True, False, True, True]


def test_wrong_arguments_are_refused() -> None:
    model = mlp(nn.ReLU())
    with pytest.raises(ValueError, match=r"first='7' is no module of the model; its layers: 0, 2"):
        charges(model, "7", "2")
    with pytest.raises(ValueError, match=r"second='1' is a ReLU; name a Linear or Conv"):
        charges(model, "0", "1")
    with pytest.raises(ValueError, match=r"second='0' takes 4 inputs, first='2' gives 3"):
        charges(model, "2", "0")
    with pytest.raises(ValueError, match=r"alpha has shape \(2,\); '0' has 6 neurons"):
        rescale(model, "0", "2", torch.zeros(2))
    with pytest.raises(ValueError, match=r"noise_out of shape \(5,\)"):
        teleport_noise(model, "0", "2", torch.ones(6), torch.ones(5), eta=0.1, batch=1)
    with pytest.raises(ValueError, match=r"eta=0, batch=1"):
        teleport_noise(model, "0", "2", torch.ones(6), torch.ones(6), eta=0, batch=1)
    with pytest.raises(ValueError, match=r"these layers need \(5, 5\)"):
        teleport_linear(model, "0", "2", input_moment=torch.eye(4))
    with pytest.raises(ValueError, match=r"must be positive definite; add"):
        teleport_linear(model, "0", "2", noise_moment=torch.diag(torch.tensor([1.0, 1.0, 0.0])))
    with pytest.raises(ValueError, match=r"'0' is a Conv2d; GL teleport is for nn\.Linear"):
        teleport_linear(convolutional(), "0", "2")
    with pytest.raises(ValueError, match=r"second='1' is a grouped convolution"):
        charges(nn.Sequential(nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1, groups=2)), "0", "1")
    model[2].weight = nn.Parameter(model[2].weight.detach())
    spred(model, "0.weight")
    with pytest.raises(ValueError, match=r"first='0' is reparametrised; call fold"):
        charges(model, "0", "2")


def test_layers_that_cannot_be_scaled_are_refused() -> None:
    lazy = nn.Sequential(nn.LazyLinear(6), nn.ReLU(), nn.Linear(6, 3))
    with pytest.raises(ValueError, match=r"first='0' has no shape yet; call the model once"):
        teleport_charge(lazy, "0", "2")
    whole = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    whole[0].weight = nn.Parameter(torch.ones(6, 4, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match="its weight is int8; teleport before quantisation"):
        teleport_charge(whole, "0", "2")


def test_dropout_frozen_layers_and_integer_buffers_are_handled() -> None:
    """The output is compared in eval mode; a frozen layer moves as asked and stays frozen."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3))
    model[0].weight.requires_grad_(False)
    model.register_buffer("count", torch.tensor(3))
    teleport_charge(model, "0", "3", example=torch.randn(8, 4))
    assert float(charges(model, "0", "3").abs().max()) < 1e-6
    assert not model[0].weight.requires_grad
    assert model.training


def test_tied_layers_are_refused() -> None:
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 6))
    model[3].weight = model[0].weight
    with pytest.raises(ValueError, match=r"second='3': its weight is tied to '0\.weight'"):
        charges(model, "1", "3")


def test_no_noise_on_one_side_has_no_equilibrium() -> None:
    model = mlp(nn.ReLU())
    before = charges(model, "0", "2")
    alpha = teleport_noise(model, "0", "2", torch.ones(6), torch.zeros(6), eta=0.1, batch=1)
    assert bool(alpha.isnan().all())
    assert torch.equal(charges(model, "0", "2"), before)
    assert not math.isnan(float(before.sum()))
