"""Forecast: rank, thresholds, equilibrium and sharpness of a deep linear network, from data alone.

For y ≈ W_D … W_1 x under a squared loss c·E‖f − y‖² and coupled weight decay λ (γ = λ/2c) the
moments Σ_x, E[yxᵀ] of the data fix, before training,

    rank       D = 2: that of the minimiser V of E‖Vx − y‖² + 2γ‖V‖_* (nuclear norm; exact for every
               Σ_x; white inputs: s_i → (s_i − γ)₊);   D ≥ 3: modes in closed form for Σ_x = s²I
    λ_c        above it the best network is zero;  D = 2: 2c‖E[yxᵀ]‖
    equilibrium of SGD noise without decay: spectrum of cov(h_1), ρ of inner layers, Tr H there and
               at the flattest minimum, from V* = E[yxᵀ]Σ_x⁻¹ and the residual's covariance Σ_ε

Rests on: a model that is such a product (checked: f against ∏W), a squared loss (checked: c), a
minimum reached; moments of the sample as those of the data, centred where there are biases.

Source: see `theory.deep_linear_minima`, `theory.linear_equilibrium`, `theory.sharpness`; the
nuclear norm as the least ½(‖U‖² + ‖W‖²) over V = UW, N. Srebro et al. 2004.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call

from ..theory import deep_linear_minima, linear_equilibrium, sharpness
from ..theory.noise_equilibrium import relaxation_steps, two_signs
from .case import Case
from .forecast import Forecast, silent
from .wording import count, figure

Array = NDArray[np.float64]
THEORY = "linear network"


@dataclass(frozen=True)
class LinearNetwork:
    """weights W_1 … W_D; whether there are biases; c of the loss; moments of the data."""

    weights: list[Array]
    bias: bool
    scale: float
    Sigma_x: Array
    cross: Array
    residual: Array

    @property
    def depth(self) -> int:
        return len(self.weights)

    @property
    def solution(self) -> Array:
        """V* = E[yxᵀ]Σ_x⁻¹."""
        return np.asarray(np.linalg.solve(self.Sigma_x, self.cross.T).T)

    @property
    def width(self) -> int:
        """The narrowest hidden layer."""
        return min(len(W) for W in self.weights[:-1])

    @property
    def anisotropy(self) -> float:
        """λ_max/λ_min of Σ_x."""
        values = np.linalg.eigvalsh(self.Sigma_x)
        return float(values[-1] / max(values[0], 1e-300))


def forecasts(case: Case) -> list[Forecast]:
    """Nothing where the model is no product of linear maps or the loss is not squared."""
    net = linear_network(case)
    if net is None:
        return []
    if net.anisotropy > 1e9:
        said = "Σ_x is singular: some inputs never vary (drop them) or there are too few samples."
        return [silent(THEORY, "", said, "Input directions that vary.")]
    found = list(_minimum(case, net)) if case.training.coupled_decay else []
    return found + list(_rest(case, net))


def linear_network(case: Case) -> LinearNetwork | None:
    """The network and its data, if that is what the case is: two maps or more, a squared loss."""
    owners = [m for m in case.model.modules() if list(m.parameters(recurse=False))]
    layers = [m for m in owners if isinstance(m, nn.Linear)]
    if len(layers) < 2 or len(layers) < len(owners):
        return None
    x, (y, *_) = case.x, case.targets or (None,)
    if not (isinstance(x, Tensor) and isinstance(y, Tensor) and y.is_floating_point()):
        return None
    weights = [m.weight.detach().double().numpy() for m in layers]
    if any(b.shape[1] != len(a) for a, b in pairwise(weights)):
        return None
    flat, target = x.flatten(1).double().numpy(), y.flatten(1).double().numpy()
    f = _output(case)
    if f.shape != target.shape or flat.shape[1] != weights[0].shape[1]:
        return None
    product = np.linalg.multi_dot([*weights[::-1], flat.T]).T
    affine = (f - f.mean(0)) - (product - product.mean(0))
    scale = _squared(case, f, target)
    if np.abs(affine).max() > 1e-4 * max(np.abs(f - f.mean(0)).max(), 1e-12) or math.isnan(scale):
        return None
    bias = any(m.bias is not None for m in layers)
    if bias:
        flat, target = flat - flat.mean(0), target - target.mean(0)
    n, d = flat.shape
    Sigma_x, cross = flat.T @ flat / n, target.T @ flat / n
    rest = target - flat @ np.linalg.lstsq(flat, target, rcond=None)[0]
    residual = rest.T @ rest / max(n - d - bias, 1)
    return LinearNetwork(weights, bias, scale, Sigma_x, cross, residual)


def _output(case: Case) -> Array:
    with torch.no_grad():
        return functional_call(case.model, case.theta, (case.x,)).flatten(1).double().numpy()


def _squared(case: Case, f: Array, target: Array) -> float:
    """c with loss = c·E‖f − y‖², or NaN: the same c for two parts of the sample."""
    found = []
    for part in (slice(0, case.size // 2), slice(case.size // 2, case.size)):
        square = float(((f - target)[part] ** 2).sum(1).mean())
        found.append(float(case.value(case.theta, part)) / max(square, 1e-300))
    same = math.isclose(*found, rel_tol=1e-3) and case.independent
    return float(np.mean(found)) if same else math.nan


def nuclear_minimum(cross: Array, Sigma_x: Array, gamma: float) -> Array:
    """V (d_y, d_x) that minimises Tr VΣ_xVᵀ − 2 Tr VᵀE[yxᵀ] + 2γ‖V‖_*, by accelerated steps.

    >>> nuclear_minimum(np.diag([3.0, 1.0, 0.2]), np.eye(3), 0.5).diagonal().round(9).tolist()
    [2.5, 0.5, 0.0]
    """
    top = float(np.linalg.eigvalsh(Sigma_x)[-1])
    V = Z = np.zeros_like(cross)
    momentum = 1.0
    for _ in range(5000):
        U, s, Rt = np.linalg.svd(Z - (Z @ Sigma_x - cross) / top, full_matrices=False)
        s = np.clip(s - gamma / top, 0, None)
        new = (U * s) @ Rt
        after = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        Z, moved = new + (momentum - 1) / after * (new - V), float(np.abs(new - V).max())
        V, momentum = new, after
        if moved < 1e-12 * max(float(np.abs(V).max()), 1e-12):
            break
    return np.asarray(V)


def _minimum(case: Case, net: LinearNetwork) -> Iterator[Forecast]:
    """Rank at the given decay and the decay at which nothing is left."""
    gamma = case.training.weight_decay / (2 * net.scale)
    values: Array = np.linalg.svd(net.cross, compute_uv=False).astype(np.float64)
    white = net.anisotropy < 1.5
    s2 = float(np.trace(net.Sigma_x)) / len(net.Sigma_x)
    if net.depth == 2:
        V = nuclear_minimum(net.cross, net.Sigma_x, gamma)
        kept, critical = np.linalg.svd(V, compute_uv=False), float(values[0])
    else:
        kept = deep_linear_minima.modes(values, gamma, net.depth, second_moment=s2)
        critical = deep_linear_minima.thresholds(float(values[0]), s2, net.depth).gamma_c
    free = int(np.sum(kept > 1e-6 * max(values[0], 1e-300)))
    rank = min(free, net.width)
    exact = white or (net.depth == 2 and free == rank)
    rests = (
        f"Coupled decay on all {net.depth} maps, the global minimum, loss {figure(net.scale)}·"
        f"E‖f − y‖², moments of {case.size} samples"
        f"{f', Σ_x isotropic (λ_max/λ_min = {figure(net.anisotropy)})' if net.depth > 2 else ''}"
        f"{'; biases centre the data and should not decay' if net.bias else ''}."
    )
    applies = "yes" if exact and not net.bias else "partly"
    decay = case.training.weight_decay
    shown = ", ".join(figure(float(v)) for v in kept[:rank][:6]) or "none"
    yield Forecast(
        THEORY, "rank", "", float(rank), "1",
        f"Rank {rank} of {min(*net.cross.shape, net.width)} at weight_decay {decay:g}: singular "
        f"values of the product {shown}{', …' if rank > 6 else ''}.",
        rests, applies,
    )  # fmt: skip
    yield Forecast(
        THEORY, "critical_weight_decay", "", 2 * net.scale * critical, "1",
        f"From weight_decay {figure(2 * net.scale * critical)} on the best network is the zero "
        f"network ({'continuously' if net.depth == 2 else 'at a jump'}){_each(net, values)}.",
        rests, applies,
    )  # fmt: skip


def _each(net: LinearNetwork, values: Array) -> str:
    """Where each mode goes out, if inputs are white."""
    if net.anisotropy > 1.5 or net.depth > 2 or len(values) < 2:
        return ""
    return "; modes go out at " + ", ".join(figure(2 * net.scale * float(v)) for v in values[:6])


def _rest(case: Case, net: LinearNetwork) -> Iterator[Forecast]:
    """Where SGD noise leaves the factors of V*: spectrum, sharpness, time."""
    t = case.training
    if not t.sgd:
        said = f"{t.optimizer} conserves no charge: no noise equilibrium of the factors."
        yield silent(THEORY, "", said, f"SGD; the optimiser is {t.optimizer}.")
        return
    values = np.linalg.eigvalsh(net.residual)
    if not values[0] > 1e-9 * max(values[-1], float(np.trace(net.cross @ net.cross.T)) ** 0.5):
        said = "The data fit a linear map exactly: no noise is left at the minimum, nothing drifts."
        yield silent(THEORY, "", said, "Label noise of full rank.")
        return
    V, depth = net.solution, net.depth
    there = linear_equilibrium.equilibrium(V, net.Sigma_x, net.residual, depth=depth)
    A, B = linear_equilibrium.signals(there.weights, net.Sigma_x, net.residual)
    spectrum = np.sort(np.linalg.eigvalsh(A[1]))[::-1]
    steps = _relaxation(case, net, there.weights, A, B)
    rank, wide = len(there.spectrum), net.width > len(there.spectrum)
    rests = (
        f"SGD, label noise independent of x, η → 0, no decay (yours: {t.weight_decay:g})"
        f"{f'; width {net.width} > rank {rank}: the rest keep their start' if wide else ''}"
        f"{'; biases take part in the balance and are left out' if net.bias else ''}"
        f"{'; momentum as SGD at η/(1−μ)' if t.momentum else ''}."
    )
    met = not (t.weight_decay or t.momentum or net.bias or wide)

    def forecast(name: str, value: float, unit: str, sentence: str) -> Forecast:
        return Forecast(THEORY, name, "", value, unit, sentence, rests, "yes" if met else "partly")

    shown = ", ".join(figure(float(v)) for v in spectrum[:6])
    yield forecast(
        "hidden_variance", float(spectrum[0]), "activation²",
        f"Eigenvalues of cov(h₁) at the noise equilibrium: {shown}{', …' if rank > 6 else ''}; "
        f"inner maps {figure(there.rho)} times an isometry.",
    )  # fmt: skip
    trace = net.scale * sharpness.at_equilibrium(V, net.Sigma_x, net.residual, depth=depth)
    flat = net.scale * sharpness.flattest(V, net.Sigma_x, depth=depth)
    now = net.scale * sharpness.stability_metric(net.weights, net.Sigma_x)
    yield forecast(
        "trace_equilibrium", trace, "1/lr",
        f"Tr H goes from {figure(now)} now to {figure(trace)}, {figure(trace / flat)} times the "
        f"flattest minimum ({figure(flat)}).",
    )  # fmt: skip
    yield forecast(
        "relaxation_steps", steps, "steps",
        f"Relaxation: {count(steps)} steps, η²·steps = {figure(t.rate**2 * steps)}"
        + (f"; the run has {count(t.steps)}." if t.steps is not None else "."),
    )  # fmt: skip


def _relaxation(
    case: Case, net: LinearNetwork, weights: tuple[Array, ...], A: list[Array], B: list[Array]
) -> float:
    """1/rate of the common rescaling of two neighbours, the slowest pair; noise 4c² TrA TrB."""
    found = []
    for i in range(net.depth - 1):
        noise = [4 * net.scale**2 * float(np.trace(A[j]) * np.trace(B[j + 1])) for j in (i, i + 1)]
        sizes = [float(np.sum(weights[j] ** 2)) for j in (i, i + 1)]
        point = two_signs(*sizes, *noise)
        found.append(
            relaxation_steps(point, eta=case.training.rate, batch=case.training.batch_size)
        )
    return max(found)
