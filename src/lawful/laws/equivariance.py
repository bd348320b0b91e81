"""The equivariance toolbox as laws: does each symmetry constrain gradient and Hessian as it must?

Statement. If ℓ(Tθ, x) = ℓ(θ, x) for every sample, then at every θ, trained or not, with any
optimiser and any data, ξ = Bθ a generator:

    ⟨ξ, g⟩ = 0      Hξ = −Bᵀg      ξᵀHξ = −⟨Bξ, g⟩      gᵀHξ = −gᵀBᵀg
    g(Tθ) = T⁻ᵀ g(θ)      H(Tθ) T = T⁻ᵀ H(θ)      (I−P) g(θ) = ∫₀¹ H(Pθ+tδ) δ dt, δ = (I−P)θ

So every continuous symmetry is an exact zero mode of H at a stationary point, and off it its
curvature is fixed by the gradient. A mirror Pθ = θ has (I−P)g = 0: no force leads off it.

Test. These are identities, not tendencies: the relative residual must be round-off. Holds up to
√ε, ε the precision of the parameters (half the digits; 1.5e-8 in double, 3.5e-4 in single);
violated above 10√ε; in between undetermined. The chord's residual counts above its quadrature
error only, so a kink on the way (ReLU) leaves it undetermined. What a violation means: the
symmetry is not one of this loss (GELU does not rescale, rotary positions do not admit every
matrix), or only nearly so (the ε of a norm).

Regime. At least single precision: with 8 bits, √ε = 0.09 and nothing is told apart.

Source: Yang, Ziyin, "An Equivariance Toolbox for Learning Dynamics", arXiv 2512.21447; first
orders and their use: Kunin et al., arXiv 2012.04728. Formulas derived in
`lawful.instruments.identities`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from . import bibliography
from .evidence import at_initialisation, last, number, show
from .formation import Finding
from .law import Condition, Law, Prediction, barred, status_of
from .registry import register
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

COARSEST = 1e-5
CLEAR = 10.0

# law: what follows "identity_" in the quantity -> (statement, equation)
_PARTS = {
    "gradient": ("No gradient along a symmetry.", "⟨Bθ, g⟩ = 0;  θ·g = k⟨f, ℓ′⟩ if homogeneous"),
    "hessian": ("The Hessian turns a symmetry into a gradient.", "HBθ = −Bᵀg"),
    "curvature": (
        "Curvature along an orbit is fixed by the gradient.",
        "θᵀBᵀHBθ = −⟨B²θ, g⟩;  θᵀHθ = 0 under scale invariance",
    ),
    "descent": (
        "Curvature between orbit and gradient is fixed by the gradient.",
        "gᵀHBθ = −gᵀBᵀg;  θᵀHg = −‖g‖² under scale invariance",
    ),
    "orbit": ("The gradient moves with the parameters.", "g(Tθ) = T⁻ᵀ g(θ)"),
    "orbit_hessian": ("The Hessian moves with the parameters.", "H(Tθ) T = T⁻ᵀ H(θ)"),
    "chord": (
        "Near a mirror the force off it is the mean Hessian times the distance.",
        "(I − P) g(θ) = ∫₀¹ H(Pθ + tδ) δ dt,  δ = (I − P)θ",
    ),
}


def tolerance(run: Run, layer: str) -> float:
    """√ε of the precision in which the identities were measured; NaN when not known."""
    eps = number(run, "identity_precision", layer)
    return math.sqrt(eps) if eps >= 0 else math.nan


def _precise(run: Run, layer: str) -> tuple[Condition, ...]:
    eps = number(run, "identity_precision", layer)
    met = None if math.isnan(eps) else eps <= COARSEST
    text = (
        "the precision of the parameters was not recorded"
        if met is None
        else f"parameters in a precision of {show(eps)}: no identity can be told from round-off"
    )
    return (Condition("precision", met, eps, text, "out of regime"),)


def equivariance_law(part: str) -> Law:
    """One identity of the toolbox."""
    name, quantity = f"equivariance_{part}", f"identity_{part}"
    statement, equation = _PARTS[part]

    def test(run: Run, layer: str) -> Verdict:
        end, start = last(run, quantity, layer), at_initialisation(run, quantity, layer)
        slack = end.stderr if end.stderr > 0 else 0.0  # of the quadrature
        status, why = _judge(end.value, slack, tolerance(run, layer))
        unmet = barred(_precise(run, layer))
        if end.step < 0:
            status, why = "undetermined", "never recorded here"
        elif unmet is not None:
            status, why = status_of(unmet), unmet.sentence
        bounds = (max(0.0, end.value - slack), end.value + slack)
        step = end.step if end.step >= 0 else int(run.manifest.get("steps") or 0)
        found = Finding(status, why, step, end.value, bounds, math.nan, start.value)
        return found.verdict(name, layer, f"{equation}: {why}; residual {show(end.value)}.")

    return Law(
        name=name,
        family="equivariance",
        statement=statement,
        equation=equation,
        source="Yang, Ziyin, arXiv 2512.21447; Kunin et al., arXiv 2012.04728",
        bibtex=bibliography.EQUIVARIANCE + bibliography.NEURAL_MECHANICS,
        needs=(quantity, "identity_precision"),
        regime=_precise,
        predict=lambda run, layer: Prediction(0.0, "the residual is round-off"),
        test=test,
        everywhere=False,
    )


def _judge(value: float, slack: float, limit: float) -> tuple[str, str]:
    """Status and clause for a residual, its quadrature error and √ε."""
    if math.isnan(value) or math.isnan(limit):
        return "undetermined", "no gradient reaches what the symmetry moves"
    if value <= limit:
        return "holds", f"round-off (up to {show(limit)})"
    if value - slack > CLEAR * limit:
        return "violated", f"not a symmetry of this loss (round-off is {show(limit)})"
    if slack > limit:
        return "undetermined", f"a kink lies on the way (quadrature error {show(slack)})"
    return "undetermined", f"between round-off {show(limit)} and ten times that"


for _part in _PARTS:
    register(equivariance_law(_part))
