"""Kernel generalisation: test and train error of kernel regression from the spectrum alone.

    test = E_0 [Σ (1 − L_i)²v_i² + σ²],        train = (δ/nκ)² test

Two claims, told apart by where the spectrum came from.

    kernel_generalization        known spectrum: within 2 %; so is the train error
    kernel_generalization_pool   spectrum of a finite pool, error on the rest of it (held-out
                                 factor): within 10 %

Regime: a pool of which at most a quarter is used for training (n/P ≤ 0.25: beyond, the tail of the
spectrum is missing and theory is too optimistic); features that behave like Gaussians. On heavy
tails or in one dimension it fails, and is seen to.

Source: J. Simon et al., arXiv 2110.03922; A. Canatar et al., arXiv 2006.13198.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import bibliography
from .agreement import BY_RATIO, agreement, at_least, at_most
from .law import Condition
from .registry import register

if TYPE_CHECKING:
    from ..record import Run

POOL = 0.25
SOURCE = "Simon et al., arXiv 2110.03922; Canatar et al., arXiv 2006.13198"


def _known(run: Run, layer: str) -> tuple[Condition, ...]:
    text = "the spectrum is that of a pool, of which {value} is trained on: see the other law"
    return (at_most(run, "pool_share", layer, 0.0, text),)


def _estimated(run: Run, layer: str) -> tuple[Condition, ...]:
    few = f"{{value}} of the pool is trained on, {POOL} allowed: the spectrum lacks its tail"
    none = "the spectrum is known: see the other law"
    return (
        at_most(run, "pool_share", layer, POOL, few),
        at_least(run, "pool_share", layer, 1e-12, none),
    )


for _name, _quantity, _tolerance, _regime, _statement in (
    (
        "kernel_generalization",
        "kernel_test_error",
        0.02,
        _known,
        "The kernel's spectrum and the target's coefficients fix the test error.",
    ),
    (
        "kernel_train",
        "kernel_train_error",
        0.02,
        _known,
        "They fix the error on the training set as well.",
    ),
    (
        "kernel_generalization_pool",
        "kernel_test_error",
        0.10,
        _estimated,
        "A pool of samples fixes the error on the part of it that was not trained on.",
    ),
):
    register(
        agreement(
            _name, _quantity, BY_RATIO, _tolerance, _regime, statement=_statement,
            equation="test = n/(n − ΣL²)·[Σ(1 − L_i)²v_i² + σ²]",
            source=SOURCE, bibtex=bibliography.KERNEL_GENERALISATION,
        )
    )  # fmt: skip
