"""Forecast: the weight decay at which two neurons merge, or one goes out.

For every layer with a permutation or sign symmetry, the nearest mirror of the whole group (swap,
flip, swap and flip) is taken, θ is projected onto it, and the curvature across it gives

    γ_c = −½ λ_min(OᵀH₀O),         weight_decay_c = 2γ_c:

above it the symmetric state (equal neurons; a neuron that is off) is a stable place for gradient
descent, below it a saddle. Negative: stable without any decay.

Rests on: the projected θ being a minimiser within the mirror plane. Before training it is not, and
the number is that of the weights as they are; at a trained model it is the threshold itself. It
is a statement about the minima of L + (λ/2)‖θ‖², so it asks for coupled decay, not for SGD.

Source: see `theory.mirror_collapse`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..symmetry import Discrete, Mirror, nearest_mirror
from ..symmetry.symmetry import layer_of
from .case import Case, Named
from .curvature import Array, Curvature, TooCostly, curvature, extreme, products
from .forecast import Forecast, silent
from .wording import figure

THEORY = "mirror collapse"
ITERATIONS = 24
MIRRORS = 8


def forecasts(case: Case) -> list[Forecast]:
    """The critical weight decay of the nearest mirrors, nearest first: as many as affordable."""
    if not case.training.coupled_decay:
        said = "Decoupled decay does not descend L + (λ/2)‖θ‖²; its thresholds are others."
        return [silent(THEORY, "", said, "Coupled weight decay; the optimiser is adamw.")]
    groups = _groups(case)
    if not groups:
        return []
    number = max(1, min(len(groups), MIRRORS, products(case) // ITERATIONS))
    try:
        sample = curvature(case, number * ITERATIONS)
    except TooCostly as error:
        return [silent(THEORY, "", f"Not computed: {error}.", "A Hessian on a sample of data.")]
    near = sorted(((_mirror(case, g), g) for g in groups), key=lambda pair: pair[0].distance)
    return [_forecast(case, sample, mirror, group) for mirror, group in near[:number]]


def _groups(case: Case) -> list[dict[str, Discrete]]:
    """Permutation and sign of the same tensors together; tensors that know a neuron once."""
    found: dict[tuple[str, ...], dict[str, Discrete]] = {}
    for s in case.symmetries:
        act = s.generator
        if not (isinstance(act, Discrete) and s.certified) or act.size < 2:
            continue
        once = len(act.parameters) == len(act.moves)
        if once and set(act.parameters) <= set(case.theta):
            found.setdefault(tuple(sorted(act.parameters)), {})[act.kind] = act
    return list(found.values())


def _mirror(case: Case, group: dict[str, Discrete]) -> Mirror:
    return nearest_mirror(case.theta, permutation=group.get("permutation"), sign=group.get("sign"))


def _forecast(
    case: Case, sample: Curvature, mirror: Mirror, group: dict[str, Discrete]
) -> Forecast:
    act = next(iter(group.values()))
    across = Across(act, mirror)
    theta = across.projected(case.theta)
    times = sample.at(theta)

    def project(v: Array) -> Array:
        return across.coordinates(times(across.lifted(torch.from_numpy(v), theta)))

    k = across.size(theta)
    gamma_c = -extreme(project, k, "SA", ITERATIONS) / 2
    decay = 2 * gamma_c
    i = " and ".join(str(n) for n in mirror.neurons)
    layers = dict.fromkeys(map(layer_of, act.parameters))
    state = {"swap": "merge", "flip": "goes out", "swap and flip": "merge up to sign"}[mirror.kind]
    given = case.training.weight_decay
    side = (
        "is stable without any decay" if decay <= 0
        else f"is {'stable' if given > decay else 'a saddle'} at yours, {given:g}"
    )  # fmt: skip
    still = _still(case, sample, theta)
    return Forecast(
        THEORY,
        "critical_weight_decay",
        f"{mirror.kind} of neurons {i} of {', '.join(list(layers)[:3])}",
        decay,
        "1",
        f"The nearest pair{'' if len(mirror.neurons) > 1 else ' (one neuron)'} is "
        f"{figure(mirror.distance)} from its mirror; above weight_decay {figure(decay)} "
        f"{'they' if len(mirror.neurons) > 1 else 'it'} can {state.replace('goes', 'go')}: the "
        f"symmetric state {side}.",
        f"Coupled decay; a minimum within the mirror plane (‖∇L‖‖θ‖/L = {figure(still)} there, "
        f"0 at a minimum), curvature on {sample.samples} samples.",
        "yes" if still < 0.01 else "partly",
    )


def _still(case: Case, sample: Curvature, theta: Named) -> float:
    """‖∇(L + (λ/2)‖θ‖²)‖‖θ‖/L at the projected point, where all of the gradient is in the plane."""
    g = sample.gradient(theta)
    decayed = [g[n] + case.training.weight_decay * theta[n] for n in theta]
    norm = sum(float(t.square().sum()) for t in decayed) ** 0.5
    size = sum(float(t.square().sum()) for t in theta.values()) ** 0.5
    value = float(case.value(theta, slice(0, sample.samples)))
    return norm * size / max(abs(value), 1e-12)


class Across:
    """The directions across one mirror, im O: as many as a neuron has numbers; matrix-free."""

    def __init__(self, act: Discrete, mirror: Mirror) -> None:
        self.act, self.neurons = act, mirror.neurons
        self.sign = {"swap": -1.0, "swap and flip": 1.0, "flip": 0.0}[mirror.kind]

    def size(self, theta: Named) -> int:
        """k, the numbers of one neuron."""
        return sum(p.numel() for p in self._picked(theta, self.neurons[0]))

    def coordinates(self, v: Named) -> Array:
        """Oᵀv: (k,)."""
        first = torch.cat([t.reshape(-1) for t in self._picked(v, self.neurons[0])]).double()
        if len(self.neurons) == 1:
            return first.numpy()
        second = torch.cat([t.reshape(-1) for t in self._picked(v, self.neurons[1])]).double()
        return ((first + self.sign * second) / 2**0.5).numpy()

    def lifted(self, coordinates: Tensor, like: Named) -> Named:
        """O·coordinates, as named tensors of the shapes of `like`; only those that move."""
        found = {n: torch.zeros_like(like[n]) for n in self.act.parameters}
        scale = 1.0 if len(self.neurons) == 1 else 2**-0.5
        for place, sign in zip(self.neurons, (1.0, self.sign), strict=False):
            start = 0
            for m in self.act.moves:
                row = found[m.parameter].movedim(m.axis, -1)[..., m.at[:, place]]
                piece = coordinates[start : start + row.numel()].view(row.shape)
                found[m.parameter].movedim(m.axis, -1)[..., m.at[:, place]] = (
                    sign * scale * piece
                ).to(row.dtype)
                start += row.numel()
        return found

    def projected(self, theta: Named) -> Named:
        """(I − OOᵀ)θ."""
        off = self.lifted(torch.from_numpy(self.coordinates(theta)), theta)
        return {n: t - off[n] if n in off else t for n, t in theta.items()}

    def _picked(self, v: Named, neuron: int) -> Iterator[Tensor]:
        for m in self.act.moves:
            yield v[m.parameter].movedim(m.axis, -1)[..., m.at[:, neuron]]
