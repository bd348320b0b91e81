"""Alignment of second moments, without the bias of few samples and with its error.

For two symmetric d×d matrices the field's metric is the Pearson correlation over entries,

    α(A, B) = ⟨A−Ā, B−B̄⟩ / (‖A−Ā‖ ‖B−B̄‖),    Ā = (Σ_ij A_ij/d²) 𝟏𝟏ᵀ,

so α = 1 iff A = c₀B + c₁𝟏𝟏ᵀ with c₀ > 0. Beside it: the *trace-free* cosine (subtract
(tr A/d) I instead, which takes away what every pair of positive matrices shares) and the
plain cosine, from which min_c ‖A−cB‖/‖A‖ = √(1−cos²).

**Bias.** With A = (1/C)Σ A_k over clusters k, every inner product of two sampled matrices is a
double sum over clusters whose diagonal k = l is not an estimate of anything wanted:

    ⟨A,B⟩ = (1/C²) Σ_kl ⟨A_k,B_l⟩,     debiased = (1/(C(C−1))) Σ_{k≠l} ⟨A_k,B_l⟩,

which is unbiased for ⟨E A, E B⟩, also when A_k and B_k come from the same sample (H against
G). The ratio α of three unbiased numbers keeps a bias of order 1/C. Centred moments use the
sample mean in place of the mean: another relative bias of order 1/C, not of order PR/C.

**Error.** The influence of a row x of H on ⟨H,G⟩ is xᵀGx, of a row y of G it is yᵀHy; those of
α follow by the chain rule (see `uncertainty.infinitesimal_jackknife`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .stream import ROWS_AT_ONCE
from .uncertainty import Spread, infinitesimal_jackknife

Array = NDArray[np.float64]

H, G, Z = 0, 1, 2
PAIRS = {"rga": (H, G), "rwa": (H, Z), "gwa": (G, Z)}
METRICS = ("pearson", "tracefree", "cosine")


@dataclass(frozen=True)
class Estimate:
    """A number with its error: debiased value, plug-in value, standard error, n_eff."""

    value: float
    plugin: float
    stderr: float
    effective: float


@dataclass(frozen=True)
class Side:
    """One side of a linear map: the means H, G (from samples) and Z (from weights), and rows.

    M:     (3, d, d) the matrices H, G, Z, in this order
    means: (3, d)    sample means of h and g, and a zero row for Z
    x, y:  (k, m, d) kept rows of h and g
    """

    M: Tensor
    means: Tensor
    x: Tensor
    y: Tensor
    clusters: int
    positions: float

    @cached_property
    def forms(self) -> tuple[Forms, Forms]:
        """`forms(self)`, which several numbers are made of."""
        return forms(self)


@dataclass(frozen=True)
class Forms:
    """Every number that the alignments of one side need, on the host, in float64.

    resolution: relative rounding of the numbers, by the dtype they were summed in
    inner:      (3, 3)       ⟨M_i, M_j⟩
    total:      (3,)         sum of all entries 𝟏ᵀM_i𝟏
    trace:      (3,)         tr M_i
    quadratic:  (2, 3, k, m) zᵀM_j z for the kept rows z ∈ {x, y}
    row_total:  (2, k, m)    (𝟏·z)²
    row_trace:  (2, k, m)    ‖z‖²
    diagonal:   (3, 2, k)    (z·z′)² for (x,x), (x,y), (y,y), averaged over the kept rows of
                             one cluster: [equal rows, different rows]
    """

    d: int
    clusters: int
    positions: float
    resolution: float
    inner: Array
    total: Array
    trace: Array
    quadratic: Array
    row_total: Array
    row_trace: Array
    diagonal: Array

    @cached_property
    def pearson(self) -> Products:
        """`products(self, "pearson")`, which several numbers are made of."""
        return products(self, "pearson")

    @cached_property
    def cosine(self) -> Products:
        """`products(self, "cosine")`."""
        return products(self, "cosine")


def forms(side: Side) -> tuple[Forms, Forms]:
    """The raw and the centred numbers of a side.

    Costs two products of the kept rows with M, and never holds a second copy of M. Nothing leaves
    the device but the results, in one transfer.
    """
    means, nothing = side.means, torch.zeros_like(side.means)
    raw, centred = _matrix_numbers(side.M, nothing), _matrix_numbers(side.M, means)
    quadratic = [_quadratic(side.M, means, z, which) for which, z in ((H, side.x), (G, side.y))]
    raw += [torch.stack([q[0] for q in quadratic]), *_row_numbers(side.x, side.y)]
    x, y = side.x - means[0], side.y - means[1]
    centred += [torch.stack([q[1] for q in quadratic]), *_row_numbers(x, y)]
    return _to_host(side, raw), _to_host(side, centred)


def _matrix_numbers(M: Tensor, means: Tensor) -> list[Tensor]:
    """Inner products, sums and traces of the matrices M − m mᵀ, a block of rows at a time.

    The difference is formed before it is squared: expanding the square would cancel digits
    where the mean dominates.
    """
    inner = M.new_zeros((3, 3), dtype=torch.float64)
    total = M.new_zeros(3, dtype=torch.float64)
    for i in range(0, M.shape[1], ROWS_AT_ONCE):
        cut = slice(i, i + ROWS_AT_ONCE)
        block = torch.baddbmm(M[:, cut], means[:, cut, None], means[:, None, :], alpha=-1)
        flat = block.flatten(1)
        inner += flat @ flat.T
        total += flat.sum(1)
    return [inner, total, M.diagonal(dim1=1, dim2=2).sum(1) - means.square().sum(1)]


def _quadratic(M: Tensor, means: Tensor, z: Tensor, which: int) -> tuple[Tensor, Tensor]:
    """zᵀMz and (z−μ)ᵀ(M−mmᵀ)(z−μ), μ = means[which], of kept rows z (k, m, d): each (3, km).

    M is symmetric: what lies below its blocks on the diagonal is taken twice, above it never.
    """
    mean = means[which]
    rows = torch.cat([z.flatten(0, 1), mean[None]])  # the last product is μM
    twice, deviation = 2 * rows, rows - mean
    raw = M.new_zeros(3, len(rows))
    centred = -(deviation @ means.T).T.square()
    for i in range(0, M.shape[1], ROWS_AT_ONCE):
        cut, below = slice(i, i + ROWS_AT_ONCE), slice(i + ROWS_AT_ONCE, None)
        zM = rows[:, cut] @ M[:, cut, cut] + twice[:, below] @ M[:, below, cut]
        raw += (zM * rows[:, cut]).sum(2)
        # (z−μ)M = zM − μM: no second product with the rows, and no digits cancel in a square.
        zM -= zM[:, -1:].clone()
        centred += (zM * deviation[:, cut]).sum(2)
    return raw[:, :-1], centred[:, :-1]


def _row_numbers(x: Tensor, y: Tensor) -> list[Tensor]:
    both = torch.stack([x, y])
    return [
        both.sum(3).square(),
        both.square().sum(3),
        torch.stack([_gram_squares(a, b) for a, b in ((x, x), (x, y), (y, y))]),
    ]


def _gram_squares(x: Tensor, y: Tensor) -> Tensor:
    """(2, k): mean (x_t·y_t)² and mean (x_t·y_t′)² over t ≠ t′ inside each kept cluster."""
    m = x.shape[1]
    if m == 1:
        same = (x * y).sum(2).square().squeeze(1)
        return torch.stack([same, same])
    squares = (x @ y.transpose(1, 2)).square()
    same = squares.diagonal(dim1=1, dim2=2).sum(1)
    return torch.stack([same / m, (squares.sum((1, 2)) - same) / (m * (m - 1))])


def _to_host(side: Side, numbers: list[Tensor]) -> Forms:
    packed = torch.cat([t.flatten().double() for t in numbers]).cpu().numpy()
    (_, k, m), d = side.x.shape[:1] + side.x.shape[:2], side.x.shape[2]
    shapes = [(3, 3), (3,), (3,), (2, 3, k, m), (2, k, m), (2, k, m), (3, 2, k)]
    ends = np.cumsum([math.prod(s) for s in shapes])
    pieces = [a.reshape(s) for a, s in zip(np.split(packed, ends[:-1]), shapes, strict=True)]
    rounding = 4 * torch.finfo(side.M.dtype).eps
    return Forms(d, side.clusters, side.positions, rounding, *pieces)


def norm_shares(side: Side) -> Array:
    """(3,) ‖M_i − M̄_i‖² debiased over plug-in: the share of a norm that is not sampling noise.

    A null that is sampled from the matrices themselves has their norms below the line; divided by
    the roots of two shares it is on the scale of a debiased α. NaN where nothing is left.
    """
    p = side.forms[0].pearson
    value, plugin = p.value.diagonal(), p.plugin.diagonal()
    known = (value > 0) & (plugin > 0)
    return np.where(known, value / np.where(known, plugin, 1.0), math.nan)


@dataclass(frozen=True)
class Products:
    """Inner products of one side under one metric, with the influence of every kept row.

    plugin, value: (3, 3) plug-in and debiased;  psi: (3, 3, k, m) influences.
    """

    plugin: Array
    value: Array
    psi: Array
    clusters: int
    positions: float

    def spread(self, psi: Array) -> Spread:
        return infinitesimal_jackknife(psi, clusters=self.clusters, positions=self.positions)


def products(forms: Forms, metric: str) -> Products:
    """Project, debias, and differentiate: the inner products that a metric is made of.

    metric: `pearson` removes the mean entry, `tracefree` the trace, `cosine` nothing.

    A matrix of which the projection leaves nothing but rounding (a constant one, any one at
    d = 1) gets norm 0. With one cluster everything debiased is NaN.

    Raises `ValueError` for another metric.
    """
    f = forms
    if metric == "pearson":
        weight, total, row = 1 / f.d**2, f.total, f.row_total
    elif metric == "tracefree":
        weight, total, row = 1 / f.d, f.trace, f.row_trace
    elif metric == "cosine":
        weight, total, row = 0.0, f.trace, f.row_trace
    else:
        raise ValueError(f"unknown metric {metric!r}: choose one of {', '.join(METRICS)}")
    plugin = f.inner - weight * np.outer(total, total)
    pull = f.quadratic - weight * total[None, :, None, None] * row[:, None]  # (2, 3, k, m)
    own = _own_cluster(f, weight, row)  # (3, k): ⟨P A_k, B_k⟩ for HH, HG, GG

    C = f.clusters
    value, psi = plugin.copy(), np.zeros((3, 3, *f.row_total.shape[1:]))
    scale = C / (C - 1) if C > 1 else math.nan
    for (i, j), self_term in zip(((H, H), (H, G), (G, G)), own, strict=True):
        value[i, j] = value[j, i] = scale * (plugin[i, j] - self_term.mean() / C)
        both = pull[i, j] + pull[j, i] - 2 * self_term[:, None] / C
        psi[i, j] = psi[j, i] = scale * both - 2 * value[i, j]
    for i in (H, G):
        psi[i, Z] = psi[Z, i] = pull[i, Z] - plugin[i, Z]
    nothing = plugin.diagonal() <= f.resolution * f.inner.diagonal()
    plugin[nothing, nothing] = value[nothing, nothing] = 0.0
    return Products(plugin, value, psi, C, f.positions)


def _own_cluster(f: Forms, weight: float, row: Array) -> Array:
    """⟨P A_k, B_k⟩ with A_k = (1/T)Σ_t x_t x_tᵀ, from the kept rows: (1/T) same + (1−1/T) cross."""
    m, T = row.shape[2], f.positions
    own = []
    for pair, (a, b) in enumerate(((0, 0), (0, 1), (1, 1))):
        same = (row[a] * row[b]).mean(1)
        unlike = row[a].sum(1) * row[b].sum(1) - m * same
        cross = unlike / (m * (m - 1)) if m > 1 else same
        same, cross = f.diagonal[pair, 0] - weight * same, f.diagonal[pair, 1] - weight * cross
        own.append(same / T + (1 - 1 / T) * cross)
    return np.stack(own)


def correlation(p: Products, pair: tuple[int, int]) -> Estimate:
    """α = ⟨A,B⟩/√(⟨A,A⟩⟨B,B⟩), debiased and plug-in, with its standard error.

    NaN when a debiased norm is not positive: too few samples to know that A is not zero.
    """
    i, j = pair
    AA, BB, AB = p.value[i, i], p.value[j, j], p.value[i, j]
    plugin = _ratio(p.plugin[i, j], p.plugin[i, i], p.plugin[j, j])
    value = _ratio(AB, AA, BB)
    if not math.isfinite(value):
        return Estimate(math.nan, plugin, math.nan, math.nan)
    psi = p.psi[i, j] / math.sqrt(AA * BB) - 0.5 * value * (p.psi[i, i] / AA + p.psi[j, j] / BB)
    spread = p.spread(psi)
    return Estimate(value, plugin, spread.stderr, spread.effective)


def residual(p: Products, pair: tuple[int, int]) -> Estimate:
    """min_c ‖A−cB‖/‖A‖ = √(1−cos²), from the products of the `cosine` metric.

    A cosine that debiasing carries above 1 gives 0: no misfit can be seen. Near 0 it is too high,
    by about its error, as a root of something noisy is.
    """
    cos = correlation(p, pair)
    value = math.sqrt(max(1 - cos.value**2, 0.0)) if math.isfinite(cos.value) else math.nan
    stderr = abs(cos.value) * cos.stderr / value if value > 0 else math.nan
    return Estimate(value, math.sqrt(max(1 - cos.plugin**2, 0.0)), stderr, cos.effective)


def participation(f: Forms, which: int) -> Estimate:
    """Participation ratio PR = (tr A)²/‖A‖² of H, G (norm debiased, a bias of 1/C left) or Z."""
    p = f.cosine
    trace, norm2 = f.trace[which], p.value[which, which]
    plugin = _over(trace**2, p.plugin[which, which])
    if which == Z:
        return Estimate(plugin, plugin, 0.0, math.inf)
    value = _over(trace**2, norm2)
    if not math.isfinite(value):
        return Estimate(math.nan, plugin, math.nan, math.nan)
    psi = value * (2 * (f.row_trace[which] - trace) / trace - p.psi[which, which] / norm2)
    spread = p.spread(psi)
    return Estimate(value, plugin, spread.stderr, spread.effective)


def _ratio(AB: float, AA: float, BB: float) -> float:
    return float(AB) / math.sqrt(AA * BB) if AA > 0 and BB > 0 else math.nan


def _over(a: float, b: float) -> float:
    return float(a) / float(b) if b > 0 else math.nan


def pearson(A: Tensor, B: Tensor) -> float:
    """α(A, B) of two given matrices, no samples involved; NaN when one has equal entries only.

    >>> pearson(torch.eye(3), 2 * torch.eye(3) + 1)
    1.0
    """
    a, b = (M.double() - M.double().mean() for M in (A, B))
    if any(m.norm() <= 1e-14 * M.double().norm() for m, M in ((a, A), (b, B))):
        return math.nan
    return round(_ratio(float((a * b).sum()), float((a * a).sum()), float((b * b).sum())), 15)
