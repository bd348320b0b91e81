"""Forecast: the learning curve of this model's tangent kernel on these data.

    Θ of the model as it is, on P samples   →   λ_i, v_i²   →   test error at n samples

Errors are shares of the targets' variance (1: nothing learned), on samples not trained on. Classes
are one-hot with the mean removed. Printed with it: the exponent min(b − 1, 2a) from the inner ranks
of the spectrum, by which the curve is continued beyond the sample.

Rests on: lazy training to the end (see `lazy or rich`), a squared loss, no label noise beyond what
the sample shows; n at most a quarter of the P samples (the tail of the spectrum is missing beyond);
samples that behave like Gaussian features.

Source: see `theory.kernel_eigenframework`.
"""

from __future__ import annotations

import math
import warnings

import numpy as np
from torch import Tensor

from ..estimators.power_law import PowerLawWarning, power_law
from ..instruments.neural_tangent import tangent_kernel, targets
from ..theory.kernel_eigenframework import Eigenframework, exponent, from_pool
from .case import Case, quiet
from .forecast import Forecast, silent
from .lazy_rich import still
from .wording import figure

THEORY = "kernel learning curve"
SHARES = (1 / 16, 1 / 8, 1 / 4)
MEMORY = 2**27
RIDGE = 1e-6  # of the mean eigenvalue, for round-off


def forecasts(case: Case) -> list[Forecast]:
    """Held-out error at three sizes, and the exponent of the curve."""
    rests = "Lazy training to the end under a squared loss."
    if not case.training.sgd:
        said = f"{case.training.optimizer} rescales gradients: the tangent kernel is not its own."
        return [silent(THEORY, "", said, f"SGD; the optimiser is {case.training.optimizer}.")]
    found = spectrum(case)
    if isinstance(found, str):
        return [silent(THEORY, "", found, rests)]
    theory, sketched, told = found
    power = float(theory.coefficients.sum()) + theory.unseen
    ridge = RIDGE * float(theory.eigenvalues.sum())
    rests = (
        f"Lazy training to the end under a squared loss; spectrum of the tangent kernel on "
        f"{theory.pool} samples{', sketched' if sketched else ''}{told}."
    )
    out = []
    for share in SHARES:
        n = int(share * theory.pool)
        error = theory.at(n, ridge).held_out / power
        said = f"Kernel regression on {n} samples: {error:.0%} of the targets' variance is missed."
        out.append(Forecast(THEORY, "kernel_error", f"n = {n}", error, "1", said, rests, "partly"))
    return [*out, _exponent(theory, rests)]


def spectrum(case: Case) -> tuple[Eigenframework, bool, str] | str:
    """(framework, sketched, what was wrong with the kernel); or why there is none."""
    x = case.x
    y = targets(case.targets[0], case.size) if case.targets else None
    if not isinstance(x, Tensor) or y is None or not case.independent:
        return "Not computed: it takes one tensor of inputs, targets, and independent samples."
    n = min(case.size, case.affordable(4))
    if n < 32:
        return f"Not computed: {n} samples can be afforded, 32 are needed for a spectrum."
    y = y[:n].double()
    y = (y - y.mean(0)).cpu()
    if not bool((y.abs() > 0).any()):
        return "The targets do not vary: there is nothing to learn."
    with quiet():
        model = still(case.model)
        f = model(x[:1])
        if not isinstance(f, Tensor):
            return "Not computed: the model does not give a tensor."
        kernel, sketched = tangent_kernel(
            model, case.theta, x[:n], outputs=f[0].numel(), memory=MEMORY, seed=case.seed
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        theory = from_pool(kernel.numpy(), y.numpy())
    told = "".join(f"; {w.message}" for w in caught)
    if len(theory.eigenvalues) < 16:
        return f"The tangent kernel has rank {len(theory.eigenvalues)} only: no curve to speak of."
    return theory, sketched, told


def _exponent(theory: Eigenframework, rests: str) -> Forecast:
    """min(b − 1, 2a) from ranks 5 … P/5; how far these are from power laws is told with it."""
    top = min(len(theory.eigenvalues), theory.pool) // 5
    ranks = np.arange(5, top + 1)
    tail = np.cumsum(theory.coefficients[::-1])[::-1]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PowerLawWarning)
        try:
            a = power_law(ranks, theory.eigenvalues[ranks - 1], (5, top)).exponent
            b = 1 + power_law(ranks, tail[ranks - 1], (5, top)).exponent
        except ValueError:  # too few ranks
            a = b = math.nan
    value = exponent(a, b) if math.isfinite(a + b) else math.nan
    said = (
        f"The curve falls about as n^−{figure(value)} (a = {figure(a)}, b = {figure(b)})."
        if math.isfinite(value)
        else "The spectrum is too short for an exponent."
    )
    rests += f" Power laws, read off ranks 5 … {top}{''.join(f'; {w.message}' for w in caught)}."
    applies = "partly" if math.isfinite(value) else "no"
    return Forecast(THEORY, "curve_exponent", "", value, "1", said, rests, applies)
