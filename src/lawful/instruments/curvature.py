"""Curvature at fixed weights: sharpness, what the optimiser feels of it, and how it changes.

    sharpness        S = λ_1(H), u its eigenvector     Gauss–Newton    λ_1(G)
    preconditioned   λ_1(P^{−1/2} (H+λ) P^{−1/2})      edge ratio      preconditioned/threshold
    batch sharpness  mean of g_BᵀH_B g_B/‖g_B‖²        trace, spectrum, density of H

Sharpening. With x = uᵀ∇L/S the distance from the floor of the valley along u, the slope of S down
the gradient of the *valley's* floor, and the squared oscillation that would hold S still, are

    α = ⟨−∇L, ∇S⟩ + (uᵀ∇L)(u·∇S) + ½ x² ‖∇S‖²,        σ² = 2α/‖∇S‖²

(∇L on the floor is ∇L − x S u − ½ x² ∇S; A. Damian et al., arXiv 2209.15594). ∇S = ∇(uᵀHu) is exact
and costs about two products.

Every eigenvalue comes with a rigorous bound and starts from what the last solve left behind; one
that did not converge is recorded and told. H is that of the probe's loss on the probe's samples, in
the probe's mode: exact for them, so its error is no sampling error. What S would be on other
samples, it does not say.

Source of S against η: J. Cohen et al., arXiv 2103.00065; method: `estimators.eigen`, `.trace`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from ..estimators.eigen import Eigenpairs, Memory, top_eigenpairs, warm_start
from ..estimators.trace import hutch_plus_plus, spectral_density
from ..record import Measurement
from .hessian import MEMORY, LossSurface, NoCurvature, loss_surface
from .instrument import Rates, Reading
from .preconditioner import NotCovered, Preconditioner, preconditioner, threshold
from .probe import Probe

PLAIN = ("sharpness", "sharpness_bound", "sharpness_second", "spectrum_hessian")
EDGE = ("edge_ratio", "sharpness_preconditioned", "sharpness_preconditioned_bound")
SHARPENING = ("sharpening_rate", "sharpness_slope", "oscillation2")


class Curvature:
    """A `ProbeInstrument`.

    optimizer: needed for the preconditioned sharpness of adaptive optimisers.
    wants:     names to measure; several come from one solve, the dear ones only when named.
    k:         eigenvalues of H asked for.
    probes:    products spent on the trace, and a third of them starts of the density.
    tolerance: relative error of an eigenvalue at which a solve may stop.
    memory:    bytes of graphs kept between products (`hessian.LossSurface`).
    """

    quantities = frozenset(
        {
            *PLAIN, *EDGE, *SHARPENING, "sharpness_gauss_newton", "hessian_trace",
            "hessian_density", "gradient_curvature", "batch_sharpness", "curvature_products",
        }
    )  # fmt: skip

    def __init__(
        self,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        wants: Collection[str] = ("sharpness", "edge_ratio"),
        seed: int = 0,
        k: int = 1,
        probes: int = 21,
        tolerance: float = 2e-3,
        memory: int = MEMORY,
    ) -> None:
        unknown = set(wants) - self.quantities
        if unknown:
            raise ValueError(f"wants={sorted(unknown)}: choose from {sorted(self.quantities)}")
        self.optimizer, self.wants, self.seed = optimizer, frozenset(wants), seed
        self.k, self.probes, self.tolerance, self.memory = k, probes, tolerance, memory
        self.last: dict[str, Memory] = {}  # what the last solve of each operator left behind

    def measure(
        self, step: int, model: nn.Module, probe: Probe, rates: Mapping[nn.Parameter, Rates]
    ) -> Reading:
        """What is wanted, at the weights as they are; problems say what could not be had."""
        out = Reading()
        try:
            with loss_surface(model, probe, memory=self.memory, seed=self.seed) as surface:
                _Look(self, step, surface, rates, out).all()
        except (NoCurvature, ArithmeticError) as problem:
            self.last.clear()
            out.problems.append(("", f"no curvature: {problem}"))
        return out


class _Look:
    """One measurement: the surface, and what has been found on it."""

    def __init__(
        self, of: Curvature, step: int, surface: LossSurface,
        rates: Mapping[nn.Parameter, Rates], out: Reading,
    ) -> None:  # fmt: skip
        self.of, self.step, self.surface, self.rates, self.out = of, step, surface, rates, out

    def all(self) -> None:
        wants = self.of.wants
        plain = None
        if wants & {*PLAIN, *SHARPENING}:
            plain = self.plain()
        if wants & {*EDGE}:
            self.edge(plain)
        if wants & {*SHARPENING} and plain is not None:
            self.sharpening(plain)
        if "sharpness_gauss_newton" in wants:
            self.row("sharpness_gauss_newton", self.solve("G", self.surface.gauss_newton, 1))
        if "gradient_curvature" in wants:
            self.along_gradient()
        if "batch_sharpness" in wants:
            self.batches()
        if "hessian_trace" in wants:
            trace = hutch_plus_plus(
                self.surface.hessian, self.surface.gradient,
                probes=self.of.probes, seed=self.of.seed + self.step,
            )  # fmt: skip
            self.write("hessian_trace", *trace)
        if "hessian_density" in wants:
            self.out.arrays["", "hessian_density"] = spectral_density(
                self.surface.hessian, self.surface.gradient,
                starts=max(1, self.of.probes // 3), seed=self.of.seed,
            )  # fmt: skip
        self.write("curvature_products", self.surface.products, 0.0)

    def plain(self) -> Eigenpairs:
        second = "sharpness_second" in self.of.wants
        found = self.solve("H", self.surface.hessian, max(self.of.k, 1 + second))
        self.row("sharpness", found)
        self.write("sharpness_bound", float(found.bounds[0]), 0.0)
        if second and len(found.values) > 1:
            self.write("sharpness_second", float(found.values[1]), float(found.errors[1]))
        if "spectrum_hessian" in self.of.wants:
            self.out.arrays["", "spectrum_hessian"] = found.values.numpy()
        return found

    def edge(self, plain: Eigenpairs | None) -> None:
        try:
            P = preconditioner(self.of.optimizer, self.surface.parameters, self.rates)
        except NotCovered as problem:
            self.out.problems.append(("", f"edge of stability: {problem}"))
            return
        found = self.felt(P, plain)
        bound = float(found.bounds[0])
        self.row("sharpness_preconditioned", found)
        self.write("sharpness_preconditioned_bound", bound, 0.0)
        self.write("sharpness_preconditioned_predicted", P.threshold, 0.0)
        self.write("edge_ratio", float(found.values[0]) / P.threshold, bound / P.threshold)
        if P.plain:
            self.write("sharpness_predicted", P.threshold - float(P.decay[0]), 0.0)

    def felt(self, P: Preconditioner, plain: Eigenpairs | None) -> Eigenpairs:
        """The solve with P; without one, H shifted by a common λ is the solve of H."""
        if plain is None or not P.plain or float(P.decay.max() - P.decay.min()) > 0:
            return self.solve("P", P.around(self.surface.hessian), 1)
        return replace(plain, values=plain.values + float(P.decay[0]))

    def sharpening(self, plain: Eigenpairs) -> None:
        u, S = plain.vectors[0], float(plain.values[0])
        g = self.surface.gradient.double()
        try:
            slope = self.surface.third(u, u).double()
        except NoCurvature as problem:
            self.out.problems.append(("", f"no rate of sharpening: {problem}"))
            return
        along, turn = float(g @ u.double()), float(slope @ u.double())
        norm2 = float(slope @ slope)
        x2 = (along / S) ** 2
        rate = -float(g @ slope) + along * turn + x2 * norm2 / 2
        self.write("sharpening_rate", rate, 0.0)
        self.write("sharpness_slope", math.sqrt(norm2), 0.0)
        self.write("oscillation2", x2, 0.0)
        if norm2 > 0:
            self.write("oscillation2_predicted", max(0.0, 2 * rate / norm2), 0.0)

    def along_gradient(self) -> None:
        g = self.surface.gradient
        norm2 = float(g.double() @ g.double())
        if norm2 > 0:
            bend = float(g.double() @ self.surface.hessian(g).double())
            self.write("gradient_curvature", bend / norm2, 0.0)

    def batches(self) -> None:
        values = np.array(self.surface.batch_curvatures())
        n = len(values)
        spread = float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
        self.write("batch_sharpness", float(values.mean()), spread, n)
        found = (self.rates.get(p) for p in self.surface.parameters)
        first, *others = {r and replace(r, weight_decay=0.0) for r in found}
        # Between the two limits of momentum no theory says which: only the whole set is sure.
        if first is None or others or (n > 1 and first.momentum):
            return
        if first.optimizer == "SGD" and first.lr > 0:
            self.write("batch_sharpness_predicted", threshold(first), 0.0, n)

    def solve(self, name: str, matvec: Callable[[Tensor], Tensor], k: int) -> Eigenpairs:
        """The largest eigenvalues of one operator, from where the last measurement left them."""
        gradient, last = self.surface.gradient, self.of.last.get(name)
        generator = torch.Generator().manual_seed(self.of.seed + self.step)
        noise = torch.randn(len(gradient), generator=generator).to(gradient)
        if last is not None and last.vectors.shape[1] != len(gradient):
            last = None  # the trained parameters have changed
        found = top_eigenpairs(
            matvec, warm_start(last, gradient, noise), memory=last,
            k=k, tolerance=self.of.tolerance, residual=25 * self.of.tolerance,
        )  # fmt: skip
        self.of.last[name] = found.memory
        if not found.converged:
            value, bound = float(found.values[0]), float(found.bounds[0])
            self.out.problems.append(
                ("", f"an eigenvalue did not converge: {value:.3g} ± {bound:.1g}")
            )
        return found

    def row(self, quantity: str, found: Eigenpairs) -> None:
        self.write(quantity, float(found.values[0]), float(found.errors[0]))

    def write(self, quantity: str, value: float, stderr: float, n: int | None = None) -> None:
        n = self.surface.samples if n is None else n
        self.out.rows.append(Measurement(self.step, "", quantity, value, stderr, n))
