"""The weight decay at which a symmetric state becomes stable, from the Hessian across its mirror.

With torch's coupled decay the loss is L_λ = ℓ + (λ/2)‖θ‖². Across the plane Oᵀθ = 0 its curvature
is OᵀHO + λI, so the symmetric state θ_s is stable iff λ exceeds

    λ_c = −λ_min(OᵀH(θ_s)O)        (= 2γ_c for L + γ‖θ‖²).

The mirror is the one nearest to θ among those of the layer's whole group (swap, flip, swap and
flip, rotation), and θ_s = (I − OOᵀ)θ, the nearest symmetric state. `plane_gradient` says how far
from a minimiser of L_λ within the plane it is: ‖g + λθ_s‖/(‖g‖ + ‖λθ_s‖), 0 at one, 1 far away
or without decay. The threshold is that of the theory only where it is small.

Cost. OᵀHO is p × p for p weights a neuron: p Hessian-vector products up to 64, Lanczos beyond, on
every batch of the probe. Its batches stay in memory together.

Regime. Decay in the gradient (coupled), the same for all tensors of the layer. For Adam a plane
is invariant only if its reflection permutes or flips coordinates, not if it rotates them. A ReLU
neuron that is off sits on its kink, where there is no Hessian: rescaling offers no mirror here.

Source: Ziyin, arXiv 2309.16932; threshold derived in `lawful.theory.mirror_collapse`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..record import Measurement
from ..symmetry import Symmetry, nearest_mirror
from ..theory.mirror_collapse import least_curvature
from .instrument import Rates, Reading
from .mirrors import Group, groups, vectors
from .point import Named, Point, add, norm, plain
from .probe import Probe, undisturbed

Across = Callable[[Named], Tensor]


class CriticalDecay:
    """λ_c of the mirror nearest to each layer; a probe instrument.

    symmetries: as found by `lawful.symmetries` for this model and the probe's loss.
    The threshold is theory's number, so it is recorded as `critical_decay_predicted`.
    """

    quantities = frozenset({"critical_decay_predicted", "plane_gradient"})

    def __init__(self, symmetries: Sequence[Symmetry]) -> None:
        self.groups = groups(symmetries)

    def measure(
        self, step: int, model: nn.Module, probe: Probe, rates: Mapping[nn.Parameter, Rates]
    ) -> Reading:
        """One threshold a layer; stderr 0 when the probe is all the training data."""
        theta = plain(dict(model.named_parameters()))
        decays = {
            name: rates[p].weight_decay if p in rates else 0.0
            for name, p in model.named_parameters()
        }
        reading, stderr = Reading(), 0.0 if probe.whole else math.nan
        with undisturbed(model, probe.mode, probe.batches):
            for group in self.groups:
                across = oblique(group, theta)
                symmetric = add(theta, lifted(across, theta, across(theta)), -1.0)
                try:
                    points = [Point(model, probe, b, symmetric) for b in probe.batches]
                    if not points:
                        return Reading(problems=[("", "the probe gave no batch")])
                    still = plane_gradient(symmetric, points, decays)
                    if not math.isfinite(still):
                        reading.problems.append((group.layer, "the gradient is not finite"))
                        continue
                    value = threshold(across, symmetric, points)
                except RuntimeError as error:
                    reading.problems.append((group.layer, f"no second derivative: {error}"))
                    continue
                for quantity, x in (("critical_decay_predicted", value), ("plane_gradient", still)):
                    row = Measurement(step, group.layer, quantity, x, stderr, len(points))
                    reading.rows.append(row)
        return reading


def oblique(group: Group, theta: Named) -> Across:
    """θ ↦ Oᵀθ (p,) for the mirror of the group that is nearest to θ."""
    kinds = {"permutation": group.permutation, "sign": group.sign, "rotation": group.mixing}
    if group.permutation is not None and group.permutation.size < 2:
        kinds["permutation"] = None
    mirror = nearest_mirror(theta, **{k: a for k, a in kinds.items() if a is not None})  # type: ignore[arg-type]
    one = group.permutation or group.sign
    if one is None:
        assert group.mixing is not None
        assert mirror.normal is not None
        mixing, normal = group.mixing, mirror.normal
        return lambda t: torch.cat([vectors(t, mixing, dual=d) for d in (False, True)]) @ normal
    if mirror.kind == "flip":
        (i,) = mirror.neurons
        return lambda t: one.neurons(t)[i]
    i, j = mirror.neurons
    s = -1.0 if mirror.kind == "swap" else 1.0
    return lambda t: (one.neurons(t)[i] + s * one.neurons(t)[j]) / math.sqrt(2)


def lifted(across: Across, theta: Named, z: Tensor) -> dict[str, Tensor]:
    """Oz: the transpose of a linear map, by differentiating it."""
    leaves = {name: torch.zeros_like(t).requires_grad_() for name, t in theta.items()}
    with torch.enable_grad():
        out = across(leaves)
    found = torch.autograd.grad(
        out, list(leaves.values()), z, allow_unused=True, materialize_grads=True
    )
    return dict(zip(leaves, found, strict=True))


def threshold(across: Across, theta: Named, points: list[Point]) -> float:
    """λ_c = −λ_min(OᵀHO), H the mean over the samples of all batches."""
    size, samples = len(across(theta)), sum(p.size for p in points)

    def times(z: np.ndarray) -> np.ndarray:
        v = lifted(across, theta, torch.from_numpy(np.ascontiguousarray(z, dtype=np.float64)))
        return sum(across(p.times(v)) * (p.size / samples) for p in points).numpy()  # type: ignore[union-attr]

    return -least_curvature(times, np.eye(size))


def plane_gradient(theta: Named, points: list[Point], decays: Mapping[str, float]) -> float:
    """‖g + λθ‖/(‖g‖ + ‖λθ‖) at a symmetric point, where g lies in the plane by itself."""
    g: Named = {name: torch.zeros_like(t) for name, t in theta.items()}
    samples = sum(p.size for p in points)
    for p in points:
        g = add(g, p.gradient, p.size / samples)
    pull = {name: decays[name] * t for name, t in theta.items()}
    size = norm(g) + norm(pull)
    return norm(add(g, pull)) / size if size != 0 else 0.0
