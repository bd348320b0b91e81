"""The equivariance toolbox: what every symmetry demands of gradient and Hessian, term by term.

Statement. Let ℓ(e^{tB}θ, x) = ℓ(θ, x) for every sample; ξ = Bθ (for a shift ξ is constant, B = 0).
Differentiating once and twice, at every θ, trained or not:

    identity_gradient      ⟨ξ, g⟩ = 0                          for every generator of the family
    identity_hessian       Hξ = −Bᵀg
    identity_curvature     ξᵀHξ = −⟨Bξ, g⟩                     its component along the orbit
    identity_descent       gᵀHξ = −gᵀBᵀg                       its component along the gradient
    identity_orbit         g(Tθ) = T⁻ᵀ g(θ)                    T = e^B, or a permutation or sign P
    identity_orbit_hessian H(Tθ) Tv = T⁻ᵀ H(θ) v
    identity_chord         (I − P) g(θ) = ∫₀¹ H(Pθ + tδ) δ dt,   δ = (I − P)θ

Special cases. Scale, B = I: Hθ = −g, θᵀHθ = 0, θᵀHg = −‖g‖². Rescaling, A = diag(+1, −1, 0):
θᵀAHAθ = −θᵀA²g. Rotation, Ωᵀ = −Ω: H[ΩW] = ΩG. Shift: Hξ = 0. Hence at a stationary point every
ξ is a zero mode of H. The chord says what is left of a mirror near it: at Pθ = θ, (I − P)g = 0.

Homogeneity, f(e^t θ_p) = e^{kt} f(θ) in some of the parameters:  θ_p·g = k⟨f, ℓ′⟩  and
Hθ_p = kg − g_p + k Jᵀℓ″f, where J = ∂f/∂θ.

Residuals. Each is ‖left − right‖ divided by ‖left‖ + ‖right‖, root mean square over batches (it
must vanish on each of them). Where both sides may be zero the divisor says what they would be if
nothing cancelled: Σ|terms| of ⟨ξ, g⟩, the worst generator counting; for H, ‖Hr‖ with r a random
direction as long as ξ in the same tensors is added; for components ‖ξ‖, ‖g‖ times that. The chord
carries as stderr its quadrature error, ‖g(θ) − g(Pθ) − ∫Hδ‖, which is large when a ReLU's kink lies
on the way; its divisor has a floor of ε^¼‖g‖, below which (I − P)g is round-off.

Regime. Symmetries must be those of the loss of the probe, in the probe's mode (a BatchNorm that
uses its running statistics does not absorb scale). Twice differentiable operations.

Source: Yang, Ziyin, "An Equivariance Toolbox for Learning Dynamics", arXiv 2512.21447; first
orders: Kunin et al., arXiv 2012.04728. The formulas above are derived from the definition.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn

from ..record import Measurement
from ..symmetry import (
    Discrete,
    Family,
    Generator,
    Mixing,
    Scaling,
    Shifting,
    Symmetry,
    nearest_mirror,
)
from .instrument import Rates, Reading
from .point import Named, Point, add, inner, norm, plain
from .probe import Probe, undisturbed

BATCHES = 2
NODES = 12  # of the Gauss–Legendre rule along the chord
AMOUNT = 0.5  # length of the coefficients c of a finite transform e^{B_c}
NEGLIGIBLE = 1e-13  # of the largest divisor: a dead neuron, where nothing is tested

CONTINUOUS = ("identity_gradient", "identity_hessian", "identity_curvature", "identity_descent")
FINITE = ("identity_orbit", "identity_orbit_hessian")
CHORD = "identity_chord"


@dataclass(frozen=True)
class Homogeneous:
    """A declaration: f is homogeneous of `degree` in `parameters` (empty: in all of them).

    of: "output", f is what the model returns and the loss a function of it; or "loss", f = L.
    A bias-free ReLU network of D layers has degree D; its last layer alone has degree 1.
    """

    name: str
    degree: float
    parameters: tuple[str, ...] = ()
    of: str = "output"

    def __post_init__(self) -> None:
        if self.of not in ("output", "loss"):
            raise ValueError(f"of={self.of!r}: choose 'output' or 'loss'")


class Identities:
    """Residuals of all identities of the symmetries given; a probe instrument.

    symmetries:  as found by `lawful.symmetries` for this model and the probe's loss. Those on
                 which nothing could be tested (violation NaN) are passed over.
    homogeneous: declared homogeneities.
    seed:        of the random generators of each family, group elements and directions.
    Rows: layer = the symmetry's name; n = batches.
    """

    quantities = frozenset({*CONTINUOUS, *FINITE, CHORD, "identity_precision"})

    def __init__(
        self,
        symmetries: Sequence[Symmetry],
        *,
        seed: int,
        homogeneous: Sequence[Homogeneous] = (),
    ) -> None:
        self.symmetries = [s for s in symmetries if not math.isnan(s.violation)]
        self.homogeneous = tuple(homogeneous)
        self.seed = seed

    def measure(
        self, step: int, model: nn.Module, probe: Probe, rates: Mapping[nn.Parameter, Rates]
    ) -> Reading:
        """One row a symmetry and identity."""
        known = {name for name, _ in model.named_parameters()}
        usable = [s for s in self.symmetries if set(s.generator.parameters) <= known]
        declared = [h for h in self.homogeneous if set(h.parameters) <= known]
        reading = Reading(
            problems=[
                (s.name, "the model has no parameters of these names: find its symmetries anew")
                for s in self.symmetries
                if s not in usable
            ]
            + [
                (h.name, f"the model has no parameters of these names: {', '.join(h.parameters)}")
                for h in self.homogeneous
                if h not in declared
            ]
        )
        ledger: dict[tuple[str, str], _Ratio] = defaultdict(_Ratio)
        theta = plain(dict(model.named_parameters()))
        count = 0
        with undisturbed(model, probe.mode, probe.batches):
            for batch in islice(probe.batches, BATCHES):
                count += 1
                at = partial(Point, model, probe, batch)
                try:
                    self._batch(usable, declared, at, theta, ledger)
                except RuntimeError as error:
                    return Reading(problems=[("", f"no second derivative: {error}")])
        if not count:
            reading.problems.append(("", "the probe gave no batch"))
        eps = max(torch.finfo(p.dtype).eps for p in model.parameters())
        for (layer, quantity), ratio in ledger.items():
            row = Measurement(step, layer, quantity, ratio.value, ratio.stderr, count)
            reading.rows.append(row)
        reading.rows += [
            Measurement(step, layer, "identity_precision", eps, 0.0, count)
            for layer in dict.fromkeys(layer for layer, _ in ledger)
        ]
        return reading

    def _batch(
        self, usable: list[Symmetry], declared: list[Homogeneous], at: partial, theta: Named,
        ledger: dict,
    ) -> None:  # fmt: skip
        here: Point = at(theta)
        generator = torch.Generator().manual_seed(self.seed)  # the same moves on every batch
        for s in usable:
            act, found = s.generator, {}
            if isinstance(act, Family):
                c = torch.randn(act.dimension, generator=generator, dtype=torch.float64)
                found = continuous(act, c, theta, here, generator)
                found |= finite(
                    Element.flow(act, AMOUNT * c / c.norm()), theta, here, at, generator
                )
            elif act.kind == "sign" or act.size > 1:
                element = Element.of(act, act.random(generator))
                found = finite(element, theta, here, at, generator) | chord(act, theta, here, at)
            for quantity, terms in found.items():
                ledger[s.name, quantity].add(*terms)
        for h in declared:
            for quantity, terms in homogeneity(h, theta, here).items():
                ledger[h.name, quantity].add(*terms)


@dataclass
class _Ratio:
    """√(Σ residual² / Σ divisor²) over batches; of several directions the worst one."""

    residual2: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))
    divisor2: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.float64))
    error2: float = 0.0

    def add(self, residual: Tensor | float, divisor: Tensor | float, error: float = 0.0) -> None:
        self.residual2 = self.residual2 + torch.as_tensor(residual).double() ** 2
        self.divisor2 = self.divisor2 + torch.as_tensor(divisor).double() ** 2
        self.error2 += error**2

    @property
    def value(self) -> float:
        live = self.divisor2 > NEGLIGIBLE**2 * self.divisor2.max()
        if not live.any():
            return math.nan
        return float((self.residual2[live] / self.divisor2[live]).max() ** 0.5)

    @property
    def stderr(self) -> float:
        return float((self.error2 / self.divisor2.max()) ** 0.5) if self.error2 else 0.0


# One symmetry on one batch: identity -> (residual, divisor, …) ------------------------------------


def continuous(
    family: Family, c: Tensor, theta: Named, here: Point, generator: torch.Generator
) -> dict[str, tuple]:
    """The identities of B_c (all B_i for the first)."""
    g, B = here.gradient, family.generator(c)
    xi, pushed = B.velocity(theta), B.adjoint(here.gradient)
    turned = here.times(xi)
    gap = add(turned, pushed)
    r = _direction(xi, theta, _near(family), generator)
    size = norm(turned) + norm(pushed) + norm(here.times(r))
    return {
        "identity_gradient": (family.pairing(theta, g), family.gross(theta, g)),
        "identity_hessian": (norm(gap), size),
        "identity_curvature": (inner(xi, gap), norm(xi) * size),
        "identity_descent": (inner(g, gap), norm(g) * size),
    }


@dataclass(frozen=True)
class Element:
    """A finite T: how parameters (T) and gradients (T⁻ᵀ) move, and in which tensors."""

    move: partial
    comove: partial
    parameters: tuple[str, ...]

    @classmethod
    def flow(cls, family: Family, c: Tensor) -> Element:
        B = family.generator(c)
        return cls(partial(B.transform), partial(cotransform, B), _near(family))

    @classmethod
    def of(cls, group: Discrete, element: Tensor) -> Element:
        P = partial(group.act, element=element)
        return cls(P, P, group.parameters)


def cotransform(B: Generator, g: Named) -> dict[str, Tensor]:
    """e^{−Bᵀ} g: how the gradient moves when θ becomes e^B θ."""
    moved = dict(g)
    for a in B.actions:
        if isinstance(a, Scaling):
            moved[a.parameter] = a.flow(-B.c, moved[a.parameter])
        elif isinstance(a, Mixing):
            moved[a.parameter] = replace(a, dual=not a.dual).flow(B.c, moved[a.parameter])
    return moved


def finite(
    T: Element, theta: Named, here: Point, at: partial, generator: torch.Generator
) -> dict[str, tuple]:
    """Gradient and Hessian at the transformed point, compared in the tensors that move."""
    there: Point = at(T.move(theta))
    v = {name: torch.randn(t.shape, generator=generator).double() for name, t in theta.items()}
    pairs = (
        ("identity_orbit", there.gradient, T.comove(here.gradient)),
        ("identity_orbit_hessian", there.times(_tangent(T, theta, v)), T.comove(here.times(v))),
    )
    found = {}
    for quantity, a, b in pairs:
        a, b = ({n: t[n] for n in T.parameters} for t in (a, b))
        found[quantity] = norm(add(a, b, -1.0)), norm(a) + norm(b)
    return found


def _tangent(T: Element, theta: Named, v: Named) -> dict[str, Tensor]:
    """J_T v: T is linear or a shift, so a difference of T is exact."""
    return add(T.move(add(theta, v)), T.move(theta), -1.0)


def chord(group: Discrete, theta: Named, here: Point, at: partial) -> dict[str, tuple]:
    """The near-symmetric identity for the reflection whose mirror is nearest."""
    P = partial(group.act, element=reflection(group, theta))
    across = add(theta, P(theta), -1.0)
    delta = {name: across[name] for name in group.parameters}
    mean: dict[str, Tensor] = {}
    nodes, weights = np.polynomial.legendre.leggauss(NODES)
    for t, w in zip((nodes + 1) / 2, weights / 2, strict=True):
        mean = add(mean, at(add(P(theta), delta, float(t))).times(delta), float(w))
    g = here.gradient
    left = add(g, P(g), -1.0)
    slip = add(add(g, at(P(theta)).gradient, -1.0), mean, -1.0)
    eps = torch.finfo(next(iter(here.leaves.values())).dtype).eps
    floor = eps**0.25 * norm({name: g[name] for name in group.parameters})
    return {CHORD: (norm(add(left, mean, -1.0)), norm(left) + norm(mean) + floor, norm(slip))}


def reflection(group: Discrete, theta: Named) -> Tensor:
    """The element that swaps the two nearest neurons, or flips the smallest."""
    signed = group.kind == "sign"
    nearest = (
        nearest_mirror(theta, sign=group) if signed else nearest_mirror(theta, permutation=group)
    )
    if signed:
        element = torch.ones(group.size, dtype=torch.int64)
        element[nearest.neurons[0]] = -1
        return element
    i, j = nearest.neurons
    element = torch.arange(group.size)
    element[i], element[j] = j, i
    return element


def homogeneity(h: Homogeneous, theta: Named, here: Point) -> dict[str, tuple]:
    """θ_p·g = k⟨f, ℓ′⟩ and Hθ_p = kg − g_p + k Jᵀℓ″f, with its component along θ_p."""
    names = h.parameters or tuple(theta)
    f = here.output if h.of == "output" else here.loss
    (slope,) = torch.autograd.grad(here.loss, f, create_graph=True)
    bent = here.slope((f.detach() * slope).sum())
    part = {name: theta[name] for name in names}
    g = here.gradient
    own = {name: g[name] for name in names}
    reach, turned = h.degree * float((f * slope).detach().double().sum()), here.times(part)
    right = add(add({n: h.degree * t for n, t in g.items()}, own, -1.0), bent, h.degree)
    gap, size = add(turned, right, -1.0), norm(turned) + norm(right) + norm(g)
    gross = sum(float((t * own[name]).abs().sum()) for name, t in part.items())
    return {
        "identity_gradient": (inner(part, g) - reach, gross + abs(reach)),
        "identity_hessian": (norm(gap), size),
        "identity_curvature": (inner(part, gap), norm(part) * size),
    }


def _near(family: Family) -> tuple[str, ...]:
    """The tensors that move and, for a bias, the weight it is made with."""
    companions = [a.companion[0] for a in family.actions if isinstance(a, Shifting) and a.companion]
    return tuple(dict.fromkeys((*family.parameters, *companions)))


def _direction(
    xi: Named, theta: Named, names: tuple[str, ...], generator: torch.Generator
) -> dict[str, Tensor]:
    """A random direction in these tensors, as long as ξ."""
    r = {n: torch.randn(theta[n].shape, generator=generator, dtype=torch.float64) for n in names}
    length = norm(xi) / norm(r)
    return {name: length * t for name, t in r.items()}
