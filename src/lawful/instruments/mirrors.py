"""Symmetric states in the weights: identical, opposite and dead neurons, lost rank.

Neuron i of a layer is v_i, all the weights that move with it. With a symmetry group come mirrors,
and with each mirror a distance ‖Oᵀθ‖ that a symmetric state makes zero:

    permutation        swap_distance        min ‖v_i − v_j‖/√2     two neurons are one
    sign               flip_distance        min ‖v_i‖              a neuron is off
    both               swap_flip_distance   min ‖v_i + v_j‖/√2     two neurons are opposite
    GL(k), rotations   rotation_distance    σ_min of V (k, p)      a rank is lost

`order_parameter` is the smallest of them: a layer may lie on one mirror and far from all others.

Rescaling moves along orbits without changing anything, so it is divided out first: each neuron is
brought to ‖w_i‖ = ‖u_i‖, where its norm is least; a neuron with w_i = 0 or u_i = 0 is off. In the
same way σ_min is that of the balanced pair, V_W V_Wᵀ = V_U V_Uᵀ: σ_i(V) = √(2σ_i(V_UᵀV_W)).

Classes. Neurons below 1 % of the layer's scale are off; two are identical (or opposite) when they
differ by 1 % of their length. The scale is the root mean square of ‖v_i‖, now or at the first
look, whichever is larger: a layer that decays as a whole goes off, one that starts small is on.
The classes of a GL(k) are its rank, and the scale is that of σ_i(V); exact is 1e-6 in V_UᵀV_W.

Cost. Reads weights only, n²p operations for n neurons of p weights; no sample is run.

Source: Ziyin, "Symmetry Induces Structure and Constraint of Learning", arXiv 2309.16932; classes
and jumps between them: Ziyin et al., arXiv 2502.05300.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import scipy
import torch
from torch import Tensor, nn

from ..record import Measurement
from ..symmetry import Discrete, Family, Mixing, Move, Scaling, Symmetry
from .instrument import Rates, Reading
from .point import Named, plain
from .probe import Probe

VISIBLE = 1e-2
ROUND_OFF = 1e-6
LOST = "order_parameter", "symmetry_classes", "symmetry_classes_exact"  # of a run that diverged


@dataclass(frozen=True)
class Group:
    """What may be done to the neurons of a layer: swapped, flipped, rescaled; or mixed by GL(k)."""

    layer: str
    permutation: Discrete | None = None
    sign: Discrete | None = None
    rescaling: Family | None = None
    mixing: Family | None = None

    @property
    def parameters(self) -> tuple[str, ...]:
        """The tensors that know the neurons."""
        return next(a.parameters for a in (self.permutation, self.sign, self.mixing) if a)


class Mirrors:
    """Distance to the nearest mirror and symmetry class of every layer; weights only.

    symmetries: as found by `lawful.symmetries`. A group counts when a part of it is certified; the
                neurons that were dead when it was certified belong to it.
    Rows: layer = the module that makes the neurons, or the symmetry's name for a GL(k).
    """

    quantities = frozenset({
        "order_parameter", "swap_distance", "flip_distance", "swap_flip_distance",
        "rotation_distance", "neuron_norm", "neurons", "neurons_off", "neurons_identical",
        "neurons_mirrored", "symmetry_classes", "symmetry_classes_exact",
    })  # fmt: skip

    def __init__(self, symmetries: Sequence[Symmetry]) -> None:
        self.groups = groups(symmetries)
        self._scale: dict[str, float] = {}

    @torch.no_grad()
    def measure(
        self, step: int, model: nn.Module, probe: Probe | None, rates: Mapping[nn.Parameter, Rates]
    ) -> Reading:
        """Nothing is run: probe and rates are not looked at. NaN where weights are not finite."""
        theta = plain(dict(model.named_parameters()))
        reading = Reading()
        for group in self.groups:
            if not all(bool(theta[n].isfinite().all()) for n in group.parameters):
                reading.rows += [Measurement(step, group.layer, q, math.nan, 0.0) for q in LOST]
                continue
            found = dict(self._mixed(group, theta) if group.mixing else self._neurons(group, theta))
            distances = [found[q] for q in found if q.endswith("_distance")]
            found["order_parameter"] = min(distances, default=math.nan)
            reading.rows += [Measurement(step, group.layer, q, x, 0.0) for q, x in found.items()]
        return reading

    def _neurons(self, group: Group, theta: Named) -> Iterator[tuple[str, float]]:
        one = group.permutation or group.sign
        assert one is not None
        v = one.neurons(balanced(theta, group.rescaling) if group.rescaling else theta)
        norms = v.norm(dim=1)
        scale = self._steady(group.layer, norms)
        same, opposite = gaps(v, 1.0), gaps(v, -1.0) if group.sign else None
        if group.permutation and len(v) > 1:
            yield "swap_distance", closest(v, 1.0, same)
        if group.sign or group.rescaling:
            yield "flip_distance", float(norms.min())
        if group.permutation and opposite is not None and len(v) > 1:
            yield "swap_flip_distance", closest(v, -1.0, opposite)
        yield "neuron_norm", float(norms.square().mean().sqrt())
        seen = classes(norms, same, opposite, scale, VISIBLE)
        yield from {
            "neurons": len(v), "neurons_off": seen.off, "neurons_identical": seen.identical,
            "neurons_mirrored": seen.mirrored, "symmetry_classes": seen.different,
        }.items()  # fmt: skip
        exact = classes(norms, same, opposite, scale, ROUND_OFF)
        yield "symmetry_classes_exact", exact.different

    def _mixed(self, group: Group, theta: Named) -> Iterator[tuple[str, float]]:
        assert group.mixing is not None
        s = spectrum(theta, group.mixing)
        scale = self._steady(group.layer, s)
        yield "rotation_distance", float(s.min())
        yield "neurons", len(s)
        yield "symmetry_classes", int((s > VISIBLE * scale).sum())
        yield "symmetry_classes_exact", int((s.square() > ROUND_OFF * scale**2).sum())

    def _steady(self, layer: str, norms: Tensor) -> float:
        now = float(norms.square().mean().sqrt())
        return max(now, self._scale.setdefault(layer, now))


# Groups ------------------------------------------------------------------------------------------


def groups(symmetries: Sequence[Symmetry]) -> list[Group]:
    """One group a layer from symmetries of many kinds; parts live and dead are joined."""
    parts: dict[tuple, list[Symmetry]] = {}
    for s in symmetries:
        if s.certified or math.isnan(s.violation):
            parts.setdefault((s.kind, s.name), []).append(s)
    whole = [found for found in parts.values() if any(s.certified for s in found)]
    neurons: dict[frozenset, dict] = {}
    mixed: list[Group] = []
    for found in whole:
        act = found[0].generator
        if isinstance(act, Discrete):
            entry = neurons.setdefault(frozenset(act.parameters), {"layer": found[0].layers[0]})
            entry[act.kind] = joined([s.generator for s in found])
        elif found[0].kind in ("GL", "QK") and _full(act):
            mixed.append(Group(found[0].name, mixing=act))
    for found in whole:
        act = found[0].generator
        if found[0].kind == "rescaling" and isinstance(act, Family) and _plain(act):
            entry = neurons.get(frozenset(act.parameters), {})
            if entry:
                entry["rescaling"] = replace(act, embed=None)
    return [Group(**entry) for entry in neurons.values()] + mixed


def joined(parts: Sequence[Discrete | Family]) -> Discrete:
    """One group acting on the neurons of all parts."""
    acts = [a for a in parts if isinstance(a, Discrete)]
    moves = [
        Move(m[0].parameter, m[0].axis, torch.cat([one.at for one in m], 1))
        for m in zip(*(a.moves for a in acts), strict=True)
    ]
    return Discrete(acts[0].kind, tuple(moves), sum(a.size for a in acts))


def _plain(act: Family) -> bool:
    """Rescaling neuron by neuron: each scaled up on one side and down on the other."""
    alone = act.embed is None or act.embed.dim() == 1
    return alone and all(isinstance(a, Scaling) and abs(a.degree) == 1 for a in act.actions)


def _full(act: Family) -> bool:
    return all(isinstance(a, Mixing) and a.basis is None and a.start == 0 for a in act.actions)


# Weights -----------------------------------------------------------------------------------------


def balanced(theta: Named, rescaling: Family) -> dict[str, Tensor]:
    """The point of the orbit with ‖rows‖ = ‖columns‖ for every neuron, where ‖θ‖ is least."""
    charge, total = rescaling.pairing(theta, theta), rescaling.gross(theta, theta)
    up, down = ((total + s * charge).clamp_min(0) / 2 + 1e-60 for s in (1, -1))
    return rescaling.generator((down / up).log() / 4).transform(theta)


def spectrum(theta: Named, mixing: Family) -> Tensor:
    """√(2σ_i(V_UᵀV_W)), falling, (k,): the singular values of the balanced pair."""
    W, U = (torch.linalg.qr(vectors(theta, mixing, dual=d)).R for d in (False, True))
    s = torch.linalg.svdvals(W @ U.T)
    return torch.cat([(2 * s).sqrt(), s.new_zeros(W.shape[1] - len(s))])


def vectors(theta: Named, mixing: Family, *, dual: bool) -> Tensor:
    """All the vectors of one side of a GL(k), (p, k): those that e^X moves, or e^{−Xᵀ}."""
    rows = []
    for a in mixing.actions:
        assert isinstance(a, Mixing)
        if a.dual == dual:
            k = a.at.shape[1]
            rows.append(theta[a.parameter].movedim(a.axis, -1)[..., a.at].reshape(-1, k))
    return torch.cat(rows)


def gaps(v: Tensor, sign: float) -> Tensor:
    """‖v_i − sign·v_j‖² by the Gram matrix, (n, n): to 1e-16 of ‖v_i‖² + ‖v_j‖²."""
    n2 = v.square().sum(1)
    return torch.addmm(n2[:, None] + n2, v, v.T, alpha=-2 * sign)


def closest(v: Tensor, sign: float, gap2: Tensor) -> float:
    """min over i < j of ‖v_i − sign·v_j‖/√2: the pair from `gaps`, its distance exactly."""
    apart = gap2 + torch.diag(gap2.new_full((len(v),), math.inf))
    i, j = divmod(int(apart.argmin()), len(v))
    return float((v[i] - sign * v[j]).norm()) / math.sqrt(2)


@dataclass(frozen=True)
class Classes:
    """off + different + identical + mirrored = neurons."""

    off: int
    different: int
    identical: int
    mirrored: int


def classes(
    norms: Tensor, same: Tensor, opposite: Tensor | None, scale: float, tolerance: float
) -> Classes:
    """Count neurons up to repetition and, where `opposite` is given, up to sign.

    norms (n,); same, opposite (n, n): `gaps` of either sign.
    """
    on = norms > tolerance * scale
    longest2 = torch.maximum(norms[:, None], norms).square()[on][:, on]

    def components(near: Tensor) -> int:
        return int(scipy.sparse.csgraph.connected_components(near.numpy(), directed=False)[0])

    alike = same[on][:, on] <= tolerance**2 * longest2
    repeated = different = components(alike)
    if opposite is not None:
        different = components(alike | (opposite[on][:, on] <= tolerance**2 * longest2))
    live = int(on.sum())
    return Classes(len(norms) - live, different, live - repeated, repeated - different)
