"""Transfer across width: training moves a wide network as far as a narrow one, at the same rate.

Coordinates. d log(rms change of a layer's output)/d log(width) after a few steps is within ±0.2.
Standard parametrisation at a constant rate has hidden slopes towards 1 (Adam) or 2 (SGD), the NTK
parametrisation −½: either violates it.

Rate. The learning rate of least loss moves by less than an octave over the widths swept.

Regime: widths over a factor of 8 at equal depth, three seeds (an optimum is noisy; without seeds it
has no error and stays undetermined).

Source: Yang & Hu, arXiv 2011.14522; Yang et al., arXiv 2203.03466; bands as measured with them.
"""

from __future__ import annotations

from . import bibliography
from .bounds import bounded, predicts
from .registry import declare
from .scaling_law import spanned

FLAT, OCTAVE = 0.2, 1.0
SOURCE = "Yang & Hu, arXiv 2011.14522; Yang et al., arXiv 2203.03466"

coordinate_stability = declare(
    name="coordinate_stability",
    family="empirical",
    statement="A step changes every layer's output as much in a wide network as in a narrow one.",
    equation="d log rms Δh_l / d log n = 0",
    source=SOURCE,
    bibtex=bibliography.MAXIMAL_UPDATE,
    needs=("coordinate_slope", "sweep_span"),
    regime=lambda run, layer: (spanned(run, layer),),
    predict=predicts(0.0, "the change does not depend on width"),
    everywhere=False,
)(
    bounded(
        "coordinate_stability", "coordinate_slope", -FLAT, FLAT,
        lambda run, layer: (spanned(run, layer),),
    )
)  # fmt: skip

rate_transfer = declare(
    name="rate_transfer",
    family="empirical",
    statement="The best learning rate of a narrow network is the best one of a wide network.",
    equation="|log₂ η*(n_max)/η*(n_min)| < 1",
    source=SOURCE,
    bibtex=bibliography.MAXIMAL_UPDATE,
    needs=("rate_drift", "sweep_span"),
    regime=lambda run, layer: (spanned(run, layer),),
    predict=predicts(0.0, "the best rate does not move"),
    everywhere=False,
)(
    bounded(
        "rate_transfer", "rate_drift", -OCTAVE, OCTAVE,
        lambda run, layer: (spanned(run, layer),),
    )
)  # fmt: skip
