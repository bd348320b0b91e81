"""Forecast: will this model train as its linearisation, or learn features?

On a few samples the Jacobian J of the outputs is taken, the linearised model is trained to the end
in closed form, δ = Jᵀ(JJᵀ)⁺Δ, Δ the change of outputs that is asked for, and the network is
evaluated there:

    ρ = ‖f(θ + δ) − f(θ) − Jδ‖/‖Jδ‖          lazy below 0.1, rich above 1

Outputs times α (and steps over α²) have ρ/α.

Rests on: gradient descent from here on a handful of samples, and on a Δ: targets less outputs for
numbers; for classes, where no Δ is ever enough, a margin of 5 nats. More samples make training
richer. Deterministic: dropout off.

Source: see `theory.lazy_rich`.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..instruments.neural_tangent import jacobian
from ..theory import lazy_rich as theory
from .case import Case, Named, quiet
from .forecast import Forecast, silent
from .wording import figure

THEORY = "lazy or rich"
POINTS = 24
ENTRIES = 3e7  # of the Jacobian
MARGIN = 5.0


def forecasts(case: Case) -> list[Forecast]:
    """ρ, its verdict, and the scale of outputs at which training is lazy."""
    rests = "Gradient descent from these weights on a few samples, dropout off."
    if not case.training.sgd:
        said = f"{case.training.optimizer} rescales gradients: its linearisation ends elsewhere."
        return [silent(THEORY, "", said, f"SGD; the optimiser is {case.training.optimizer}.")]
    found = outputs_wanted(case)
    if isinstance(found, str):
        return [silent(THEORY, "", found, rests)]
    x, f, wanted = found
    rho, samples = nonlinearity(case, x, f, wanted)
    if math.isnan(rho):
        said = "The outputs do not depend on the trained weights to first order: no linearisation."
        return [silent(THEORY, "", said, rests)]
    classes = not case.targets[0].is_floating_point()
    rests = (
        f"Gradient descent from these weights on {samples} samples, dropout off, "
        f"{'outputs moved to a margin of 5 nats' if classes else 'targets reached'}; "
        "more samples make it richer."
    )
    word, alpha = theory.regime(rho), theory.scale_to_be_lazy(rho)
    meaning = {
        "lazy": "the network trains as its linearisation",
        "between": "features move, the linearisation is a rough guide",
        "rich": "features are learned, the tangent kernel at the start says little",
    }[word]
    # Classes have no targets that could be reached, so there the number is a convention.
    applies = "partly" if classes else "yes"
    return [
        Forecast(
            THEORY, "nonlinearity", "", rho, "1",
            f"ρ = {figure(rho)}: {word}; {meaning}.", rests, applies,
        ),
        Forecast(
            THEORY, "lazy_scale", "", alpha, "1",
            f"Outputs times {figure(alpha)} (and the learning rate over its square) would be at "
            "the border of lazy.", rests, applies,
        ),
    ]  # fmt: skip


def outputs_wanted(case: Case) -> tuple[Tensor, Tensor, Tensor] | str:
    """(x, f, Δ) with f, Δ (n, C); or the sentence that says why there is none."""
    x, y = case.x, case.targets[0] if case.targets else None
    if not isinstance(x, Tensor) or not isinstance(y, Tensor) or not case.independent:
        return "Not computed: it takes one tensor of inputs, targets, and independent samples."
    with torch.no_grad(), quiet():
        f = functional_call(still(case.model), case.theta, (x,))
    if not isinstance(f, Tensor) or f.dim() < 1 or len(f) != len(x):
        return "Not computed: the model does not give one row of outputs a sample."
    f = f.reshape(len(f), -1)
    if y.is_floating_point():
        if y.numel() != f.numel():
            return f"Not computed: targets {tuple(y.shape)} for outputs {tuple(f.shape)}."
        return x, f, y.reshape(f.shape) - f
    if y.dim() != 1 or int(y.min()) < 0 or int(y.max()) >= f.shape[1]:
        return "Not computed: targets are neither numbers nor one class a sample."
    onehot = nn.functional.one_hot(y, f.shape[1]).to(f)
    return x, f, MARGIN * (onehot - 1 / f.shape[1]) - (f - f.mean(1, keepdim=True))


def nonlinearity(case: Case, x: Tensor, f: Tensor, wanted: Tensor) -> tuple[float, int]:
    """(ρ, samples used); NaN where J is zero."""
    size = sum(t.numel() for t in case.theta.values())
    outputs = f.shape[1]
    n = max(1, min(POINTS, len(x), int(ENTRIES / size / outputs), case.affordable(outputs)))
    model, x, f, wanted = still(case.model), x[:n], f[:n], wanted[:n]
    with quiet():
        blocks = jacobian(model, case.theta, x, torch.eye(outputs).to(f))
    J = torch.cat([t.reshape(n * outputs, -1) for t in blocks.values()], 1).double()
    gap = wanted.reshape(-1).double()
    values, vectors = torch.linalg.eigh(J @ J.T)
    kept = values > 1e-9 * values[-1].clamp_min(1e-300)
    if not bool(kept.any()):
        return math.nan, n
    along = vectors[:, kept]
    delta = J.T @ (along @ ((along.T @ gap) / values[kept]))
    straight = J @ delta
    with torch.no_grad(), quiet():
        moved = functional_call(model, _moved(case.theta, delta), (x,)).reshape(-1).double()
    rest = moved - f.reshape(-1).double() - straight
    return float(rest.norm() / straight.norm().clamp_min(1e-300)), n


def _moved(theta: Named, delta: Tensor) -> Named:
    parts = delta.split([t.numel() for t in theta.values()])
    return {n: t + d.reshape(t.shape).to(t) for (n, t), d in zip(theta.items(), parts, strict=True)}


def still(model: nn.Module) -> nn.Module:
    """A copy of the model in eval mode: no dropout."""
    return copy.deepcopy(model).eval()
