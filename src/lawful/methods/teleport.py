"""teleport: go along a symmetry's orbit, at no cost in loss, to where training would take ages.

Rescaling. Between two layers with a positively homogeneous activation (ReLU, leaky ReLU, none),
neuron i has an orbit and a charge,

    (W₁, b₁)_i ← e^{α} (W₁, b₁)_i,   W₂_{:,i} ← e^{−α} W₂_{:,i},
    C_i = ‖(W₁, b₁)_i‖² − ‖W₂_{:,i}‖²      (gradient flow keeps it, SGD noise and decay move it),

and C(α) = a e^{2α} − b e^{−2α} takes every value once:  e^{2α} = (c + √(c² + 4ab)) / 2a.
The noise equilibrium α* is where decay and noise balance (theory.noise_equilibrium, in closed
form from the two norms and the gradient noise s± on the two blocks). One neuron's α changes no
other neuron's gradients, so all go at once, exactly.

GL. With nothing between two linear layers the orbit is W₁ ← M W₁, W₂ ← W₂ M⁻¹. Under label
noise of covariance Σ_ε and input second moment Σ_x, SGD relaxes to W₁Σ̄_xW₁ᵀ = W₂ᵀΣ̄_εW₂ with
Σ̄ = Σ/TrΣ (without the traces the statement is wrong). That state
is known in closed form up to a rotation Z of the hidden units (theory.linear_equilibrium); the
one nearest to where the layers are is taken. Hidden units beyond the rank of W₂W₁ end at zero on
both sides, as they do under SGD.

A momentum buffer belongs to the old point: build a new optimiser after a teleport.

Source: Ziyin, Wang, Wu, "Parameter Symmetry and Noise Equilibrium of Stochastic Gradient
Descent", NeurIPS 2024, arXiv 2402.07193; closed forms derived; "teleportation" as in Zhao,
Dehmamy, Walters, Yu, "Symmetry Teleportation", NeurIPS 2022, arXiv 2205.10637.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..theory.linear_equilibrium import equilibrium
from ..theory.noise_equilibrium import equilibrium_two_signs

Layer = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def charges(model: nn.Module, first: str, second: str) -> Tensor:
    """C_i = ‖(W₁, b₁)_i‖² − ‖W₂_{:,i}‖² of every neuron between two layers: (h,)."""
    into, out = _squares(*_pair(model, first, second))
    return into - out


def rescale(
    model: nn.Module, first: str, second: str, alpha: Tensor, *, example: Tensor | None = None
) -> nn.Module:
    """Move every neuron by its α along the orbit, in place; returns the model.

    alpha:   (h,); NaN leaves a neuron where it is.
    example: an input; if given, the model's output on it is compared before and after (in eval
             mode), and the move is taken back with a ValueError if it has changed. Without it
             nobody checks that what stands between the two layers is homogeneous.
    """
    a, b = _pair(model, first, second)
    if alpha.shape != (len(a.weight),):
        raise ValueError(
            f"alpha has shape {tuple(alpha.shape)}; {first!r} has {len(a.weight)} neurons: "
            "give one number each"
        )
    factor = alpha.nan_to_num(0.0).to(a.weight).exp()
    with torch.no_grad(), _unchanged(model, (a, b), example):
        a.weight.mul_(factor.reshape(-1, *[1] * (a.weight.dim() - 1)))
        if a.bias is not None:
            a.bias.mul_(factor)
        _columns(b, len(factor)).div_(factor[:, None])
    return model


def teleport_charge(
    model: nn.Module,
    first: str,
    second: str,
    charge: float | Tensor = 0.0,
    *,
    example: Tensor | None = None,
) -> Tensor:
    """Take every neuron to a given charge, in place; returns α (h,).

    charge: one number or (h,). 0 is the balanced state, where weight decay leads and where the
            norm ‖W₁‖² + ‖W₂‖² is least on the orbit.
    α is NaN, and the neuron not moved, where one side is zero and the charge is not on its orbit.
    """
    into, out = _squares(*_pair(model, first, second))
    alpha = scale_to_charge(into, out, torch.as_tensor(charge).to(into))
    rescale(model, first, second, alpha, example=example)
    return alpha


def teleport_noise(
    model: nn.Module,
    first: str,
    second: str,
    noise_in: Tensor,
    noise_out: Tensor,
    *,
    eta: float,
    batch: int,
    weight_decay: float = 0.0,
    example: Tensor | None = None,
) -> Tensor:
    """Take every neuron to its noise equilibrium, in place; returns α* (h,).

    noise_in, noise_out: (h,), s± ≥ 0: trace of the per-sample gradient covariance (batch 1) on
        (W₁, b₁)_i and on W₂_{:,i}, at the present weights.
    eta, batch, weight_decay: of the SGD run (coupled decay, as in torch).
    α* is NaN, and the neuron not moved, where no finite equilibrium exists (no noise on a side).

    Valid for plain SGD. The prediction is for the present noise: after a long run the loss and
    with it s± have changed, and the call can be repeated.
    """
    into, out = _squares(*_pair(model, first, second))
    for name, noise in (("noise_in", noise_in), ("noise_out", noise_out)):
        if noise.shape != into.shape or not bool((noise >= 0).all()):
            raise ValueError(
                f"{name} of shape {tuple(noise.shape)}: give one trace ≥ 0 for each of the "
                f"{len(into)} neurons of {first!r}"
            )
    run = {"eta": eta, "batch": batch, "weight_decay": weight_decay}
    _check_run(**run)
    blocks = zip(*(v.tolist() for v in (into, out, noise_in, noise_out)), strict=True)
    alpha = into.new_tensor([equilibrium_two_signs(*four, **run) for four in blocks])  # type: ignore
    alpha = _finite(alpha)
    rescale(model, first, second, alpha, example=example)
    return alpha


def teleport_linear(
    model: nn.Module,
    first: str,
    second: str,
    *,
    input_moment: Tensor | None = None,
    noise_moment: Tensor | None = None,
    example: Tensor | None = None,
) -> Tensor:
    """Take two linear layers with nothing between them to their equilibrium, in place.

    input_moment: Σ_x = E[xxᵀ], (d_in, d_in), of the input of `first`; with a bias there
                  (d_in+1, d_in+1), of (x, 1).  Positive definite.
    noise_moment: Σ_ε, (d_out, d_out), of the label noise (residual).  Positive definite.
    Both None is the balanced state W₁W₁ᵀ = W₂ᵀW₂ (Σ = I, no traces), where decay leads; with one
    given, the other is isotropic noise, Σ = I.

    Returns the spectrum of W₁Σ_xW₁ᵀ there, S·√(TrΣ_x/TrΣ_ε), largest first.
    """
    a, b = _pair(model, first, second)
    for name, layer in ((first, a), (second, b)):
        if not isinstance(layer, nn.Linear):
            raise ValueError(
                f"{name!r} is a {type(layer).__name__}; GL teleport is for nn.Linear: "
                "use teleport_charge"
            )
    bias = [] if a.bias is None else [a.bias[:, None]]
    W1 = torch.cat([a.weight, *bias], dim=1).detach().double()
    Sx, Se = _moment(input_moment, W1.shape[1], W1), _moment(noise_moment, len(b.weight), W1)
    new1, new2, spectrum = linear_equilibrium(W1, b.weight.detach().double(), Sx, Se)
    if input_moment is None and noise_moment is None:
        kappa2 = float(Sx.trace() / Se.trace()) ** 0.5
        new1, new2, spectrum = new1 / kappa2**0.5, new2 * kappa2**0.5, spectrum / kappa2
    with torch.no_grad(), _unchanged(model, (a, b), example):
        a.weight.copy_(new1[:, : a.weight.shape[1]])
        if a.bias is not None:
            a.bias.copy_(new1[:, -1])
        b.weight.copy_(new2)
    return spectrum


def scale_to_charge(into: Tensor, out: Tensor, charge: Tensor) -> Tensor:
    """α with into·e^{2α} − out·e^{−2α} = charge; NaN where no finite α gives it.

    >>> scale_to_charge(torch.tensor([4.0]), torch.tensor([1.0]), torch.tensor(0.0)).exp() ** 2
    tensor([0.5000])
    """
    root = torch.sqrt(charge**2 + 4 * into * out)
    # The two forms are equal; each avoids the difference of two near-equal numbers.
    z = torch.where(charge > 0, (charge + root) / (2 * into), 2 * out / (root - charge))
    return _finite(z.log() / 2)


def linear_equilibrium(
    W1: Tensor, W2: Tensor, Sx: Tensor, Se: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(W₁, W₂, spectrum of W₁Σ_xW₁ᵀ) at the equilibrium, rotated next to W₁; float64.

    W1 (h, d_in), W2 (d_out, h), Sx (d_in, d_in), Se (d_out, d_out). Of all rotations Z of the
    hidden units, the polar factor of W₁Σ_xW₁*ᵀ brings ZW₁* nearest to W₁, seen through Σ_x.
    """
    V = (W2 @ W1).cpu().numpy()
    there = equilibrium(V, Sx.cpu().numpy(), Se.cpu().numpy(), width=len(W1))
    first, last = (torch.from_numpy(w).to(W1.device) for w in there.weights)
    left, _, right = torch.linalg.svd(W1 @ Sx @ first.mT)
    Z = left @ right
    spectrum = torch.from_numpy(there.spectrum).to(W1.device) * (Sx.trace() / Se.trace()).sqrt()
    return Z @ first, last @ Z.mT, spectrum


def _pair(model: nn.Module, first: str, second: str) -> tuple[Layer, Layer]:
    """The two layers, checked: known, scalable, plain, untied, and fitting each other."""
    a, b = _layer(model, first, "first"), _layer(model, second, "second")
    if getattr(b, "groups", 1) != 1:
        raise ValueError(f"second={second!r} is a grouped convolution; only groups=1 mixes neurons")
    h, wide = len(a.weight), b.weight.shape[1]
    if wide % h or (wide != h and not isinstance(b, nn.Linear)):
        raise ValueError(
            f"second={second!r} takes {wide} inputs, first={first!r} gives {h}: they are not "
            "consecutive; name the layer that reads the output of the first"
        )
    return a, b


def _layer(model: nn.Module, name: str, argument: str) -> Layer:
    modules = dict(model.named_modules())
    if name not in modules:
        known = ", ".join(n for n, m in modules.items() if isinstance(m, Layer)) or "none"
        raise ValueError(f"{argument}={name!r} is no module of the model; its layers: {known}")
    layer = modules[name]
    if not isinstance(layer, Layer):
        raise ValueError(
            f"{argument}={name!r} is a {type(layer).__name__}; name a Linear or Conv layer"
        )
    if parametrize.is_parametrized(layer):
        raise ValueError(f"{argument}={name!r} is reparametrised; call fold(model) first")
    every = list(model.named_parameters(remove_duplicate=False))
    for leaf, own in layer.named_parameters(recurse=False):
        if isinstance(own, nn.parameter.UninitializedParameter):
            raise ValueError(f"{argument}={name!r} has no shape yet; call the model once on data")
        if not own.is_floating_point():
            raise ValueError(
                f"{argument}={name!r}: its {leaf} is {str(own.dtype).removeprefix('torch.')}; "
                "teleport before quantisation"
            )
        shared = [other for other, p in every if p is own and other != f"{name}.{leaf}".lstrip(".")]
        if shared:
            raise ValueError(f"{argument}={name!r}: its {leaf} is tied to {shared[0]!r}; untie it")
    return layer


def _columns(second: Layer, h: int) -> Tensor:
    """W₂ seen as (d_out, h, rest): a flatten before it keeps the inputs of a channel together."""
    return second.weight.view(len(second.weight), h, -1)


def _squares(first: Layer, second: Layer) -> tuple[Tensor, Tensor]:
    """(‖(W₁, b₁)_i‖², ‖W₂_{:,i}‖²) of every neuron, (h,) each."""
    with torch.no_grad():
        into = first.weight.flatten(1).square().sum(1)
        if first.bias is not None:
            into = into + first.bias.square()
        return into, _columns(second, len(into)).square().sum((0, 2))


@contextmanager
def _unchanged(
    model: nn.Module, layers: tuple[Layer, Layer], example: Tensor | None
) -> Iterator[None]:
    """Take the block's changes to the layers back, with a ValueError, if they change the output."""
    if example is None:
        yield
        return
    saved = [copy.deepcopy(layer.state_dict()) for layer in layers]
    before = _output(model, example)
    yield
    after = _output(model, example)
    change = float((after - before).norm() / before.norm())
    if not change <= torch.finfo(before.dtype).eps ** 0.5:
        for layer, state in zip(layers, saved, strict=True):
            layer.load_state_dict(state)
        raise ValueError(
            f"the output on example= changed by {change:.1e} of its norm, so this is no symmetry "
            "of the model: between the two layers there must be only ReLU, leaky ReLU or nothing "
            "(for GL: nothing), and no other reader. The weights are as before."
        )


def _output(model: nn.Module, example: Tensor) -> Tensor:
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        found = model(example)
    finally:
        for module, mode in training.items():
            module.training = mode
    if not isinstance(found, Tensor):
        raise ValueError(f"the model returns a {type(found).__name__}; example= needs one tensor")
    return found.clone()


def _moment(given: Tensor | None, d: int, like: Tensor) -> Tensor:
    if given is None:
        return torch.eye(d, dtype=torch.float64, device=like.device)
    if given.shape != (d, d):
        raise ValueError(
            f"a moment has shape {tuple(given.shape)}; these layers need {(d, d)} (with a bias in "
            "the first layer Σ_x is the moment of (x, 1))"
        )
    found = given.detach().double().to(like.device)
    values = torch.linalg.eigvalsh((found + found.mT) / 2)
    if not float(values[0]) > 1e-12 * float(values[-1]):
        raise ValueError(
            f"a moment has eigenvalues {float(values[0]):.1e} … {float(values[-1]):.1e}: it must "
            "be positive definite; add a small multiple of the identity"
        )
    return (found + found.mT) / 2


def _finite(x: Tensor) -> Tensor:
    return torch.where(x.isfinite(), x, torch.nan)


def _check_run(eta: float, batch: float, weight_decay: float) -> None:
    if not (0 < eta < float("inf") and batch >= 1 and 0 <= weight_decay < float("inf")):
        raise ValueError(
            f"eta={eta}, batch={batch}, weight_decay={weight_decay}: "
            "need eta > 0, batch ≥ 1, weight_decay ≥ 0"
        )
