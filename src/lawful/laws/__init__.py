"""Laws of learning: each a claim with a source, a regime, a prediction and a test.

    laws()              every law by name
    select("canonical") laws by name, family, glob pattern or list
    test(run)           one verdict per law and layer
    needs("rga_*")      quantities to record for them
    cite(run)           BibTeX behind a run's verdicts

Families: `canonical` (representation alignment), `collapse` (neural collapse),
`feature_ansatz` (neural feature ansatz), `equivariance` (identities of a symmetry), `mirror`
(symmetric states), `symmetry` (charges and noise equilibria), `representation_collapse`
(contrastive and variational), `curvature` (edge of stability), `noise` (gradient noise, balance,
entropic force, Hebbian signals), `solvable` (linear modes, kernels, lazy and wide limits, double
descent), `empirical` (scaling, transfer across width, grokking, mode connectivity, power laws,
greedy rank) and those of plug-ins (`lawful.laws.registry`).
"""

from . import (  # noqa: F401 (importing a family registers its laws)
    canonical,
    charges,
    collapse,
    compactness,
    deep_linear_balance,
    deep_linear_modes,
    dissipation,
    double_descent,
    edge_of_stability,
    entropic,
    equivariance,
    feature_ansatz,
    gradient_balance,
    greedy_rank,
    grokking,
    hebbian,
    kernel_generalization,
    lazy_rich,
    mirror,
    mode_connectivity,
    mup,
    noise_equilibrium,
    noise_scale,
    phases,
    platonic,
    power_laws,
    representation_collapse,
    scale_drift,
    scaling_law,
    scaling_rules,
    stationarity,
    symmetry_breaking,
    virial,
    wide_limit,
)
from .law import Condition, Law, Prediction
from .registry import cite, declare, families, laws, needs, register, select, test
from .verdict import STATUSES, Verdict

__all__ = [
    "STATUSES",
    "Condition",
    "Law",
    "Prediction",
    "Verdict",
    "cite",
    "declare",
    "families",
    "laws",
    "needs",
    "register",
    "select",
    "test",
]
