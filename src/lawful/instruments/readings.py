"""From the moments of one layer to its measurements: pure functions, no hooks.

`alignment_readings` needs matrix products only and is taken at every measurement; how much
deeper one goes, up to decompositions of W, H and G, depends on what is affordable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from ..estimators import alignment, nulls, spectra
from ..estimators.alignment import PAIRS, Estimate, Forms, Side
from ..estimators.linear_map import Canonical
from ..estimators.moments import Moments
from ..estimators.uncertainty import infinitesimal_jackknife
from ..record import Measurement
from ..theory.fluctuation_dissipation import fit_from_products

VIEW = 32
PERMUTATIONS = 500  # of which five lie above the 99th percentile


class Depth(IntEnum):
    """How deep a reading goes; what is deeper holds everything before it."""

    ALIGNMENT = 0  # matrix products
    EXPONENTS = 1  # a decomposition of W
    EVIDENCE = 2  # the permutation null: no verdict holds without
    SPECTRA = 3  # decompositions of H and G on both sides


@dataclass(frozen=True)
class Label:
    """Step, layer and sample count that every measurement of one reading shares."""

    step: int
    layer: str
    n: int

    def value(self, quantity: str, value: float, stderr: float = 0.0) -> Measurement:
        return Measurement(self.step, self.layer, quantity, float(value), float(stderr), self.n)

    def estimate(self, quantity: str, e: Estimate) -> Measurement:
        return self.value(quantity, e.value, e.stderr)


def alignment_readings(label: Label, sides: Iterable[tuple[str, Side]]) -> list[Measurement]:
    """The relations of each side in every variant, participation ratios, fitted FDT.

    sides: (`a`, side) and (`b`, side), or the latter alone for an output-only map; each is
           dropped before the next is asked for.
    """
    out: list[Measurement] = []
    raw: dict[str, Forms] = {}
    effective = math.inf
    for c, side in sides:
        f, centred = side.forms
        raw[c] = f
        out += _relations(label, c, f, centred)
        for name, which in (("H", alignment.H), ("G", alignment.G)):
            pr = alignment.participation(f, which)
            out.append(label.estimate(f"participation_{name}_{c}", pr))
        rga = alignment.correlation(f.pearson, PAIRS["rga"])
        effective = min(effective, rga.effective)
        out += _dissipation(label, c, f)
    last = raw["b"]
    out.append(label.estimate("participation_Z", alignment.participation(last, alignment.Z)))
    out.append(label.value("trace_G_b", last.trace[alignment.G], _trace_error(last, alignment.G)))
    if "a" in raw:
        first = raw["a"]
        out.append(
            label.value("trace_H_a", first.trace[alignment.H], _trace_error(first, alignment.H))
        )
    if math.isfinite(effective):
        out.append(label.value("effective_samples", effective, math.nan))
    return out


def _relations(label: Label, c: str, f: Forms, centred: Forms) -> Iterator[Measurement]:
    pearson, cosine, of_centred = f.pearson, f.cosine, centred.pearson
    tracefree = alignment.products(f, "tracefree")
    for name, pair in PAIRS.items():
        relation = f"{name}_{c}"
        value = alignment.correlation(pearson, pair)
        yield label.estimate(relation, value)
        yield label.value(f"{relation}_plugin", value.plugin, math.nan)
        yield label.estimate(f"{relation}_centred", alignment.correlation(of_centred, pair))
        yield label.estimate(f"{relation}_tracefree", alignment.correlation(tracefree, pair))
        yield label.estimate(f"{relation}_residual", alignment.residual(cosine, pair))
        traces = math.prod(f.trace[i] for i in pair)
        norms2 = [cosine.value[i, i] for i in pair]
        haar = traces / math.sqrt(math.prod(norms2)) / f.d if min(norms2) > 0 else math.nan
        yield label.value(f"{relation}_haar", haar, math.nan)


def _dissipation(label: Label, c: str, f: Forms) -> Iterator[Measurement]:
    """H_b ≈ c Z_b + c′ G_b on side b, G_a ≈ c Z_a + c′ H_a on side a, c, c′ ≥ 0."""
    p = f.cosine
    target, other = (alignment.H, alignment.G) if c == "b" else (alignment.G, alignment.H)
    v = p.value
    TT, TZ, TO = v[target, target], v[target, alignment.Z], v[target, other]
    ZZ, ZO, OO = v[alignment.Z, alignment.Z], v[alignment.Z, other], v[other, other]
    if not (TT > 0 and ZZ > 0 and OO > 0):
        return
    fit = fit_from_products(TT, TZ, TO, ZZ, ZO, OO)
    cz, co, r = fit.weight, fit.noise, fit.residual
    # Envelope theorem: at the minimum the fitted constants may be held fixed.
    psi_TT, psi_TZ, psi_TO = (p.psi[target, i] for i in (target, alignment.Z, other))
    psi_Q = psi_TT - 2 * cz * psi_TZ - 2 * co * psi_TO
    psi_Q = psi_Q + 2 * cz * co * p.psi[alignment.Z, other] + co**2 * p.psi[other, other]
    stderr = p.spread((psi_Q - r**2 * psi_TT) / (2 * r * TT)).stderr if r > 0 else math.nan
    yield label.value(f"fdt_{c}_residual", r, stderr)
    yield label.value(f"fdt_{c}_weight", cz, math.nan)
    yield label.value(f"fdt_{c}_noise", co, math.nan)


def _trace_error(f: Forms, which: int) -> float:
    psi = f.row_trace[which] - f.trace[which]
    return infinitesimal_jackknife(psi, clusters=f.clusters, positions=f.positions).stderr


def exponent_readings(
    label: Label, m: Moments, W: Tensor, *, seed: int
) -> tuple[list[Measurement], dict[str, Tensor]]:
    """Exponents (p, q) and the ranks of W: one decomposition of W."""
    U, s, V = spectra.singular_basis(W)
    power_h = spectra.directional_power(m.H, V) / m.rows
    power_g = spectra.directional_power(m.G, U) / m.rows
    fit = spectra.fit_exponents(
        s, power_h, power_g, samples=m.clusters,
        squares_h=(m.kept_h @ V.to(m.H.dtype)).square().mean(1),
        squares_g=(m.kept_g @ U.to(m.G.dtype)).square().mean(1),
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    out = [
        label.value("exponent_p", fit.p, fit.p_stderr),
        label.value("exponent_q", fit.q, fit.q_stderr),
        label.value("directions", fit.directions),
        label.value("decades", fit.decades),
        label.value("rank_W", int(spectra.numerical_rank(s, 0.01))),
        label.value("entropy_rank_Z", float(spectra.entropy_rank(s.square()))),
    ]
    return out, {"singular_values": s, "power_H_a": power_h, "power_G_b": power_g}


def evidence_readings(
    label: Label, m: Moments, c: Canonical, *, seed: int
) -> tuple[list[Measurement], dict[str, Tensor]]:
    """What verdicts need beyond the alignments: exponents and the permutation null."""
    out, arrays = exponent_readings(label, m, c.W, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, side in c.sides():
        out += permutation_readings(label, name, side, generator)
    return out, arrays


def spectral_readings(
    label: Label, m: Moments, c: Canonical, *, seed: int
) -> tuple[list[Measurement], dict[str, Tensor]]:
    """The evidence, the ranks and spectra of H and G, and a view of the six matrices."""
    out, arrays = evidence_readings(label, m, c, seed=seed)
    for name, side in c.sides():
        for matrix, M in (("H", side.M[alignment.H]), ("G", side.M[alignment.G])):
            arrays[f"spectrum_{matrix}_{name}"] = _eigenvalues(M)
    H_b = arrays["spectrum_H_b"]
    out.append(label.value("rank_H_b", int(spectra.numerical_rank(H_b, 1e-4)), math.nan))
    out.append(label.value("entropy_rank_H_b", float(spectra.entropy_rank(H_b)), math.nan))
    arrays["view"] = torch.cat([view(side.M) for _, side in c.sides()])
    return out, arrays


def deeper_readings(
    label: Label, m: Moments, c: Canonical, depth: Depth, *, seed: int
) -> tuple[list[Measurement], dict[str, np.ndarray]]:
    """What this depth adds to the alignments: measurements, and arrays on the host."""
    if depth is Depth.ALIGNMENT:
        return [], {}
    if depth is Depth.EXPONENTS:
        return exponent_readings(label, m, c.W, seed=seed)[0], {}
    take = evidence_readings if depth is Depth.EVIDENCE else spectral_readings
    out, arrays = take(label, m, c, seed=seed)
    return out, {name: value.float().cpu().numpy() for name, value in arrays.items()}


def _eigenvalues(M: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(M).flip(0)


def permutation_readings(
    label: Label, c: str, side: Side, generator: torch.Generator
) -> Iterator[Measurement]:
    """99th percentile of α when the neurons of one matrix are relabelled at random.

    Always sampled: where neurons differ in scale the null has a tail far above the normal one
    of its mean and deviation. Debiased as the α that it is compared with.
    """
    if side.M.shape[-1] < 2:
        return
    shares = alignment.norm_shares(side)
    sample = nulls.permutation_null(side.M, list(PAIRS.values()), PERMUTATIONS, generator)
    bars = nulls.percentile(sample, 99).tolist()
    for (name, (i, j)), bar in zip(PAIRS.items(), bars, strict=True):
        debiased = bar / math.sqrt(shares[i] * shares[j])
        yield label.value(f"{name}_{c}_permutation", debiased, math.nan)


def view(M: Tensor) -> Tensor:
    """(3, k, k) H G Z of one side for k evenly spaced neurons, each matrix over its largest
    diagonal entry: what a person looks at. NaN beyond a layer of fewer than k neurons.
    """
    d = M.shape[-1]
    pick = torch.linspace(0, d - 1, min(d, VIEW), device=M.device).round().long()
    top = M.diagonal(dim1=1, dim2=2).amax(1).clamp_min(torch.finfo(M.dtype).tiny)
    block = M[:, pick][:, :, pick] / top[:, None, None]
    padded = block.new_full((3, VIEW, VIEW), math.nan)
    padded[:, : len(pick), : len(pick)] = block.clamp(-1, 1)
    return padded
