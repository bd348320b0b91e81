"""Neural collapse: how far last-layer features are from a simplex of class means (NC1–NC4).

With class means μ_c, their mean μ_G, centred means m_c = μ_c − μ_G (rows of M), K classes,

    NC1  tr(Σ_W Σ_B⁺)/K       Σ_W = within-class covariance, Σ_B = (1/K) Σ_c m_c m_cᵀ
    NC2  std‖m_c‖/mean‖m_c‖   and mean over pairs of |cos(m_c, m_c′) + 1/(K−1)|
    NC3  ‖W/‖W‖ − M/‖M‖‖
    NC4  share of samples where argmax of the classifier ≠ the nearest class mean

All are 0 at collapse. NC1–NC3 need only sums over samples (`ClassSums`), so a probe
accumulates them batch by batch and keeps blocks for the jackknife.

Bias. Class means from n samples carry noise Σ_W/n, isotropic w in d dimensions say.
 NC1: Σ_B gains wd/(nK) in each of its K−1 directions, so the plug-in reads about
      NC1/(1 + NC1·d/((K−1)n)): too low, and settling as n grows. Within 5 % of the truth
      for n ≥ 20·NC1·d/(K−1) samples a class.
 NC2: pure noise in d ≫ K is itself nearly a simplex, so plug-in means look *collapsed*. Their
      Gram matrix is debiased: tr Σ_W,c/n_c is taken off its diagonal before centring. What
      is left is the noise of its entries, which a spread and a |·| read as distance: a bias
      away from collapse, small beside the other one when d is large.
 NC3: noise in M lowers the cosine with W: too high. NC4: each sample helped to place its own
      class mean, so it is too low by O(1/n).

Shortfalls are NaN, not errors: fewer than two classes seen (all), no class with two samples
(NC1, NC2), a class missing (NC3; NC1 and NC2 are those of the classes seen).

Source: Papyan, Han, Donoho, "Prevalence of neural collapse during the terminal phase of deep
learning training", PNAS 117 (2020); the NC2 debiasing and the bias estimates are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .uncertainty import delete_block_jackknife


@dataclass(frozen=True)
class ClassSums:
    """Sums over samples that hold all NC1–NC3 need; float64.

    count: (K,)    samples of each class         total:   (K, d) sum of features by class
    square: (K,)   sum of ‖h‖² by class          scatter: (d, d) sum of h hᵀ over all samples
    """

    count: Tensor
    total: Tensor
    square: Tensor
    scatter: Tensor

    @property
    def means(self) -> Tensor:
        """(K, d) class means; NaN rows for classes not seen."""
        return self.total / self.count.unsqueeze(1)


def class_sums(features: Tensor, labels: Tensor, classes: int) -> ClassSums:
    """Sums of one batch.

    features: (n, d);  labels: (n,) integers in 0 … classes−1.
    """
    if features.dim() != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"features must be (n, d) and labels (n,): got {tuple(features.shape)} and "
            f"{tuple(labels.shape)}"
        )
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(
            f"labels run from {int(labels.min())} to {int(labels.max())}: classes={classes} "
            f"allows 0 to {classes - 1}"
        )
    h, labels = features.double(), labels.long()
    count = torch.bincount(labels, minlength=classes).to(h.dtype)
    total = h.new_zeros(classes, h.shape[1]).index_add_(0, labels, h)
    square = h.new_zeros(classes).index_add_(0, labels, (h * h).sum(1))
    return ClassSums(count, total, square, h.mT @ h)


def merge(parts: Iterable[ClassSums]) -> ClassSums:
    """The sums of all parts together; exact to rounding and in any order."""
    first, *rest = parts
    for part in rest:
        first = ClassSums(
            first.count + part.count,
            first.total + part.total,
            first.square + part.square,
            first.scatter + part.scatter,
        )
    return first


def jackknife(
    metric: Callable[[ClassSums], float], blocks: Sequence[ClassSums]
) -> tuple[float, float]:
    """A metric of all blocks together and its delete-block jackknife standard error.

    blocks: at least two, independent of each other, each with all classes if possible.
    """
    value = metric(merge(blocks))
    stderr, _ = delete_block_jackknife(lambda some: metric(merge(some)), blocks)
    return value, stderr


def within_covariance(sums: ClassSums) -> Tensor:
    """Σ_W = Σ_i (h_i − μ)(h_i − μ)ᵀ/(N − K), (d, d): unbiased, K the classes seen.

    The difference of sums loses digits when features sit far from 0: Σ_W is good to about
    1e-15 of E‖h‖². NaN when no class has two samples.
    """
    seen = sums.count > 0
    total, count = sums.total[seen], sums.count[seen]
    freedom = float(count.sum()) - count.shape[0]
    if freedom <= 0:
        return torch.full_like(sums.scatter, math.nan)
    return (sums.scatter - (total / count.unsqueeze(1)).mT @ total) / freedom


def nc1(sums: ClassSums) -> float:
    """Within- against between-class variability, tr(Σ_W Σ_B⁺)/K.

    Σ_B⁺ = K M⁺M⁺ᵀ has rank K−1 at most, so it is taken from the singular vectors of M: no
    d × d inverse. 0 at collapse, inf when there is spread but all class means are equal.
    """
    means = sums.means[sums.count > 0]
    K = means.shape[0]
    Sigma_W = within_covariance(sums)
    if K < 2 or bool(Sigma_W.isnan().any()):
        return math.nan
    M = means - means.mean(0)
    _, s, basis = torch.linalg.svd(M, full_matrices=False)
    keep = s > max(M.shape) * torch.finfo(M.dtype).eps * torch.linalg.matrix_norm(means)
    if not bool(keep.any()):
        return math.inf if float(Sigma_W.trace()) > 0 else math.nan
    basis, s = basis[keep], s[keep]
    within = ((basis @ Sigma_W) * basis).sum(1)
    return float((within / s**2).sum())


def nc2(sums: ClassSums, *, debias: bool = True) -> tuple[float, float]:
    """Equal norms and equal angles of the centred class means: (variation, angle).

    variation: std/mean of ‖m_c‖ (population std);  angle: mean |cos + 1/(K−1)| over pairs.
    debias:    take the sampling noise off the means' Gram matrix; False gives Papyan's plug-in.
    NaN when noise leaves no positive squared norm to some class.
    """
    seen = sums.count > 0
    means, count = sums.means[seen], sums.count[seen]
    K = means.shape[0]
    if K < 2:
        return math.nan, math.nan
    gram = means @ means.mT
    if debias:
        # tr Σ_W,c/n_c = (Σ‖h‖² − n‖μ‖²)/(n(n−1)); NaN for a class of one sample.
        spread = sums.square[seen] / count - gram.diagonal()
        gram = gram - torch.diag(spread / torch.where(count > 1, count - 1, math.nan))
    gram = gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()
    norms = gram.diagonal()
    if not bool((norms > 0).all()):
        return math.nan, math.nan
    norms = norms.sqrt()
    cosine = gram / torch.outer(norms, norms)
    pairs = cosine[~torch.eye(K, dtype=torch.bool, device=gram.device)]
    variation = norms.std(correction=0) / norms.mean()
    return float(variation), float((pairs + 1 / (K - 1)).abs().mean())


def nc3(sums: ClassSums, W: Tensor) -> float:
    """Self-duality: ‖W/‖W‖ − M/‖M‖‖ in the Frobenius norm, between 0 and 2.

    W: (K, d) rows of the classifier. A shift common to all its rows, which softmax does not
    see, counts as a distance, as in the source.
    """
    if W.shape != sums.total.shape:
        raise ValueError(
            f"W must be (K, d) = {tuple(sums.total.shape)} like the class means: "
            f"got {tuple(W.shape)}"
        )
    M = sums.means - sums.means.mean(0)
    unit_W, unit_M = (A.double() / torch.linalg.matrix_norm(A.double()) for A in (W, M))
    return float(torch.linalg.matrix_norm(unit_W - unit_M))


def nc4(features: Tensor, predictions: Tensor, means: Tensor) -> float:
    """Share of samples where the classifier's class is not that of the nearest class mean.

    features: (n, d);  predictions: (n,) argmax of the logits;  means: (K, d), NaN rows (classes
    not seen) are never nearest. Its standard error is `uncertainty.share_error`. NaN without
    samples or means.
    """
    seen = ~means.isnan().any(1)
    if not features.shape[0] or not bool(seen.any()):
        return math.nan
    distance = torch.cdist(features.to(means.dtype), means.nan_to_num(0.0))
    nearest = distance.masked_fill(~seen, math.inf).argmin(1)
    return float((nearest != predictions).double().mean())
