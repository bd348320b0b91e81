"""Loss against parameters N and data D: the five-number form, its robust fit, and its error.

    L(N, D) = E + A N^−α + B D^−β,            C = 6 N D  (operations of a training run)

At fixed C the best N grows as C^{β/(α+β)}, the best D as C^{α/(α+β)}.

Fit. With a = ln A, b = ln B, e = ln E the prediction of ln L is a log-sum-exp, and the fit is

    min Σ_i Huber_δ(ln L_i − LSE(a − α ln N_i, b − β ln D_i, e)),      δ = 10⁻³,

by L-BFGS from the best points of a grid. The sum is 10⁻³ in size: divided by δ² before it is
minimised, for a solver that stops at 10⁻⁵ stops there at once (which is how the intervals first
published with this form came out twenty times too narrow). `projection` is the other road: at
given exponents E, A, B follow linearly, which leaves a search over two numbers. The error comes
from resampling runs with replacement, each resample refitted from the fit itself.

Range. Tuned runs of one family, independent of each other, with L − E well above their noise. Of
points of one trajectory the bootstrap knows nothing; and without E an exponent of −.28 reads −.10.

Source: Hoffmann et al., arXiv 2203.15556 (form and objective); Besiroglu, Erdil, Barnett, You,
arXiv 2404.10102 (scaling of the objective, bootstrap); projection: Golub & Pereyra 1973.
"""

from __future__ import annotations

import itertools
import math
import sys
import warnings
from dataclasses import astuple, dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from ..estimators.uncertainty import interval as student

Array = NDArray[np.float64]
DELTA = 1e-3
SCATTER = 0.02
"""Deviation of ln L about the fit, above which the runs are said not to follow it."""

NAMES = ("E", "A", "B", "alpha", "beta")


class ScalingLawWarning(UserWarning):
    """The fit was made, and something about the data says not to trust it."""


@dataclass(frozen=True)
class ScalingLaw:
    """L(N, D) = E + A N^−α + B D^−β; E in units of the loss, α and β pure numbers."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, N: ArrayLike, D: ArrayLike) -> Array:
        """L at N parameters and D samples, elementwise.

        >>> ScalingLaw(1.0, 10.0, 100.0, 0.5, 0.5).loss(100.0, 1e4).item()
        3.0
        """
        N, D = np.asarray(N, np.float64), np.asarray(D, np.float64)
        return np.asarray(self.E + self.A * N**-self.alpha + self.B * D**-self.beta)

    @property
    def allocation(self) -> float:
        """β/(α + β): the power of C with which the best N grows.

        >>> ScalingLaw(1.7, 406.4, 410.7, 0.34, 0.34).allocation
        0.5
        """
        return self.beta / (self.alpha + self.beta)

    def optimum(self, C: float) -> tuple[float, float]:
        """(N, D) of least loss at C = 6ND operations."""
        ratio = self.alpha * self.A / (self.beta * self.B)
        N = (ratio * (C / 6) ** self.beta) ** (1 / (self.alpha + self.beta))
        return N, C / 6 / N


def fit(N: ArrayLike, D: ArrayLike, L: ArrayLike, *, starts: int = 32) -> ScalingLaw:
    """The robust fit; N, D, L of shape (runs,).

    starts: grid points that are descended from, the best of the 4,500.

    Raises ValueError for fewer than six runs or for numbers that are not positive and finite; a
    `ScalingLawWarning` tells when an exponent is not determined (its term is under 1 % of every
    loss, or the data span less than a factor of 8), when the floor is not (E under 1 % of every
    loss), when the loss rises with size, and when the runs scatter about the fit by more than 2 %.
    """
    x, y = _checked(N, D, L)
    grid = np.array(
        list(
            itertools.product(
                np.arange(0, 26, 5.0), np.arange(0, 26, 5.0), np.arange(-1, 1.1, 0.5),
                np.arange(0, 2.1, 0.5), np.arange(0, 2.1, 0.5),
            )
        )
    )  # fmt: skip
    order = np.argsort([objective(p, x, y) for p in grid], kind="stable")
    found = [_descend(grid[i], x, y, np.ones(len(y))) for i in order[:starts]]
    law = _law(min(found, key=lambda p: objective(p, x, y)))
    _warn(law, x, y)
    return law


def bootstrap(
    law: ScalingLaw, N: ArrayLike, D: ArrayLike, L: ArrayLike, *, resamples: int, seed: int = 0
) -> Array:
    """(resamples, 5) refits (columns `NAMES`) of the runs drawn with replacement."""
    x, y = _checked(N, D, L)
    start, rng = _point(law), np.random.default_rng(seed)
    counts = rng.multinomial(len(y), np.full(len(y), 1 / len(y)), size=resamples)
    return np.array([astuple(_law(_descend(start, x, y, c.astype(float)))) for c in counts])


def interval(value: float, refits: Array, runs: int, *, level: float = 0.95) -> tuple[float, float]:
    """value ± t·s, s the deviation of the refits × √(runs/(runs − 5)), t Student's of `refits`.

    A percentile interval of 40 refits rests on one of them at either end; this one uses all. The
    factor is for the five numbers that were fitted: residuals are that much shorter than errors.
    """
    error = float(refits.std(ddof=1)) * math.sqrt(runs / (runs - 5))
    return student(value, error, len(refits) - 1, level)


def projection(
    N: ArrayLike, D: ArrayLike, L: ArrayLike, *, exponents: ArrayLike | None = None
) -> ScalingLaw:
    """Least squares in relative loss, by variable projection: E, A, B ≥ 0 solved at each (α, β).

    Warns as `fit` does.

    exponents: those tried for either; by default 0.02 to 1.5 in steps of 0.02, then refined.
    """
    x, y = _checked(N, D, L)
    loss = np.exp(y)

    def solve(alpha: float, beta: float) -> tuple[float, Array]:
        columns = np.stack([np.ones_like(y), np.exp(-alpha * x[0]), np.exp(-beta * x[1])], 1)
        scale = columns.max(0)
        coefficients, residual = scipy.optimize.nnls(
            columns / scale / loss[:, None], np.ones_like(y)
        )
        return residual, coefficients / scale

    tried = np.arange(0.02, 1.5, 0.02) if exponents is None else np.asarray(exponents, float)
    best = min(itertools.product(tried, tried), key=lambda pair: solve(*pair)[0])
    polished = scipy.optimize.minimize(
        lambda p: solve(*p)[0], best, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12}
    )
    E, A, B = solve(*polished.x)[1]
    law = ScalingLaw(float(E), float(A), float(B), *map(float, polished.x))
    _warn(law, x, y)
    return law


def objective(point: Array, x: Array, y: Array, weights: Array | float = 1.0) -> float:
    """Σ weights · Huber_δ of ln L, at (a, b, e, α, β); x: ln N, ln D (2, runs), y: ln L (runs,)."""
    r = np.abs(y - _predict(point, x)[0])
    return float((weights * np.where(r < DELTA, 0.5 * r**2, DELTA * (r - 0.5 * DELTA))).sum())


def _descend(start: Array, x: Array, y: Array, weights: Array) -> Array:
    """L-BFGS on the objective over δ², with its gradient."""

    def value(point: Array) -> tuple[float, Array]:
        said, share = _predict(point, x)
        r = y - said
        pull = -weights * np.clip(r, -DELTA, DELTA) / DELTA**2
        by_point = np.stack([share[0], share[1], share[2], -share[0] * x[0], -share[1] * x[1]])
        return objective(point, x, y, weights) / DELTA**2, by_point @ pull

    options = {"maxiter": 5000, "maxfun": 10_000, "ftol": 1e-14, "gtol": 1e-8}
    # A term that the data do not show may run off: far enough to be seen, not to overflow.
    bounds = [(-600, 600)] * 3 + [(-5, 20)] * 2
    start = np.clip(start, *np.array(bounds, float).T)
    found = scipy.optimize.minimize(
        value, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options
    )
    return np.asarray(found.x)


def _predict(point: Array, x: Array) -> tuple[Array, Array]:
    """ln L (runs,) at (a, b, e, α, β), and the share (3, runs) of each term in L."""
    a, b, e, alpha, beta = point
    terms = np.stack([a - alpha * x[0], b - beta * x[1], np.full(x.shape[1], e)])
    top = terms.max(0)
    parts = np.exp(terms - top)
    total = parts.sum(0)
    return top + np.log(total), parts / total


def _law(point: Array) -> ScalingLaw:
    a, b, e, alpha, beta = map(float, point)
    return ScalingLaw(math.exp(e), math.exp(a), math.exp(b), alpha, beta)


def _point(law: ScalingLaw) -> Array:
    least = sys.float_info.min  # a term that a fit has driven to zero
    logs = [math.log(max(value, least)) for value in (law.A, law.B, law.E)]
    return np.array([*logs, law.alpha, law.beta])


def _checked(N: ArrayLike, D: ArrayLike, L: ArrayLike) -> tuple[Array, Array]:
    """ln N, ln D as (2, runs) and ln L (runs,)."""
    columns = [np.asarray(v, np.float64).ravel() for v in (N, D, L)]
    if len({len(v) for v in columns}) > 1 or len(columns[0]) < 6:
        counts = ", ".join(str(len(v)) for v in columns)
        raise ValueError(f"N, D, L have {counts} runs: five numbers need six or more, of each")
    for name, v in zip("NDL", columns, strict=True):
        bad = int((~(np.isfinite(v) & (v > 0))).sum())
        if bad:
            raise ValueError(f"{name} has {bad} values that are not positive numbers: drop them")
    n, d, y = (np.log(v) for v in columns)
    return np.stack([n, d]), y


def _warn(law: ScalingLaw, x: Array, y: Array) -> None:
    """Say what about the data forbids trusting the fit, each with its number."""
    said = law.loss(*np.exp(x))
    told = []
    # From the median: a few outliers are what the fit is made for.
    scatter = 1.4826 * float(np.median(np.abs(y - np.log(said))))
    floor = law.E / float(said.min())
    if scatter > SCATTER:
        told.append(
            f"the runs scatter about the fit by {scatter:.2g} ({SCATTER:g} is allowed): they were "
            "not tuned, or follow no such law"
        )
    if floor < 0.01:
        told.append(
            f"the floor is not determined: E = {law.E:.2g} is {floor:.2g} of the least loss; "
            "larger runs would tell it"
        )
    for name, values, scale, power in (
        ("N", x[0], law.A, law.alpha), ("D", x[1], law.B, law.beta)
    ):  # fmt: skip
        span = math.exp(float(np.ptp(values)))
        share = float((scale * np.exp(-power * values) / said).max())
        if power <= 0:
            told.append(f"the loss does not fall with {name}: its exponent is {power:.2g}")
        elif span < 8 or share < 0.01:
            told.append(
                f"the exponent of {name} is hardly determined: {name} spans a factor of {span:.3g} "
                f"(8 are needed) and its term is at most {share:.2g} of a loss"
            )
    if told:
        warnings.warn("; ".join(told), ScalingLawWarning, stacklevel=3)
