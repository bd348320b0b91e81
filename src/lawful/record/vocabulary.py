"""The closed vocabulary: every quantity a run may hold, its unit and its meaning.

A measurement carries one of these names or it is refused: two programs that write
`rga_b` mean the same number. Names with a suffix are derived mechanically from the six
relations, so the table stays short enough to read. Any scalar `q` may stand beside
`q_predicted`, the same number as a theory gave it before it was measured.

Notation, for a linear map h_b = W h_a inside a network with per-sample loss ℓ:
H_c = E[h_c h_cᵀ], G_c = E[g_c g_cᵀ] with g_c = ∂ℓ/∂h_c through this layer only,
Z_a = WᵀW, Z_b = W Wᵀ. Side a is the input side of W, side b its output side.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """One entry of the vocabulary.

    name:    as written in the record, e.g. `rga_b`.
    meaning: one sentence, with the formula where there is one.
    unit:    `1` for a pure number, otherwise the scaling with h, g, W and the loss ℓ.
    array:   True when the value is an array (kept beside the scalars).
    """

    name: str
    meaning: str
    unit: str = "1"
    array: bool = False


RELATIONS = ("rga_a", "rwa_a", "gwa_a", "rga_b", "rwa_b", "gwa_b")
"""The six alignment relations of the canonical representation hypothesis."""

_PAIR = {"rga": "H ∝ G", "rwa": "H ∝ Z", "gwa": "G ∝ Z"}

_VARIANT = {
    "": ("{0}: Pearson correlation over matrix entries, uncentred moments, debiased", "1"),
    "_centred": ("{0}: the same with the sample mean removed from h and g", "1"),
    "_plugin": ("{0}: the same as the bare name without removing the sampling bias", "1"),
    "_tracefree": ("{0}: cosine after removing (tr/d)·I from both matrices, debiased", "1"),
    "_residual": ("{0}: relative residual min_c ‖A − cB‖/‖A‖, debiased", "1"),
    "_haar": ("{0}: mean alignment under a random relative rotation, √(PR_A PR_B)/d", "1"),
    "_permutation": ("{0}: 99th percentile of the neuron-permutation null", "1"),
}

_PLAIN = [
    # second moments and weights -----------------------------------------------------------
    Quantity("H_a", "input second moment E[h_a h_aᵀ]", "h²", True),
    Quantity("H_b", "output second moment E[h_b h_bᵀ] = W H_a Wᵀ", "h²", True),
    Quantity("G_a", "input gradient second moment E[g_a g_aᵀ] = Wᵀ G_b W", "ℓ²/h²", True),
    Quantity("G_b", "output gradient second moment E[g_b g_bᵀ]", "ℓ²/h²", True),
    Quantity("Z_a", "input side of the weights WᵀW", "W²", True),
    Quantity("Z_b", "output side of the weights W Wᵀ", "W²", True),
    Quantity("W", "weight matrix, d_b × d_a", "W", True),
    Quantity("mean_h_a", "mean input E[h_a]", "h", True),
    Quantity("mean_g_b", "mean output gradient E[g_b]", "ℓ/h", True),
    Quantity(
        "view",
        "6 × k × k: correlation-scaled H_a G_a Z_a H_b G_b Z_b of k neurons a side",
        "1",
        True,
    ),
    # samples --------------------------------------------------------------------------------
    Quantity("samples", "rows (samples × positions) in the window"),
    Quantity("clusters", "independent samples in the window (a sequence or an image is one)"),
    Quantity("effective_samples", "rows discounted for correlation inside a sample"),
    Quantity("required_samples", "rows asked for, a multiple of the layer's larger dimension"),
    Quantity("drift", "‖W_end − W_start‖/‖W_end‖ over the window"),
    # shape of the moments -------------------------------------------------------------------
    Quantity("participation_H_a", "participation ratio (tr H_a)²/‖H_a‖², debiased"),
    Quantity("participation_H_b", "participation ratio of H_b, debiased"),
    Quantity("participation_G_a", "participation ratio of G_a, debiased"),
    Quantity("participation_G_b", "participation ratio of G_b, debiased"),
    Quantity("participation_Z", "participation ratio of Z (the same on both sides)"),
    Quantity("entropy_rank_H_b", "exp of the entropy of the normalised spectrum of H_b"),
    Quantity("entropy_rank_Z", "exp of the entropy of the normalised spectrum of Z"),
    Quantity("rank_W", "singular values of W above 1 % of the largest"),
    Quantity("rank_H_b", "eigenvalues of H_b above 1e-4 of the largest"),
    Quantity("width_a", "input dimension d_a"),
    Quantity("width_b", "output dimension d_b"),
    Quantity("trace_H_a", "tr H_a = E‖h_a‖²", "h²"),
    Quantity("trace_G_b", "tr G_b = E‖g_b‖²", "ℓ²/h²"),
    Quantity("spectrum_H_b", "eigenvalues of H_b, falling", "h²", True),
    Quantity("spectrum_G_b", "eigenvalues of G_b, falling", "ℓ²/h²", True),
    Quantity("spectrum_H_a", "eigenvalues of H_a, falling", "h²", True),
    Quantity("spectrum_G_a", "eigenvalues of G_a, falling", "ℓ²/h²", True),
    # polynomial alignment ---------------------------------------------------------------------
    Quantity("singular_values", "singular values s_i of W, falling", "W", True),
    Quantity("power_H_a", "v_iᵀ H_a v_i along the right singular vectors of W", "h²", True),
    Quantity("power_G_b", "u_iᵀ G_b u_i along the left singular vectors of W", "ℓ²/h²", True),
    Quantity("exponent_p", "slope of log v_iᵀH_a v_i against log s_i"),
    Quantity("exponent_q", "slope of log u_iᵀG_b u_i against log s_i"),
    Quantity("directions", "singular directions kept in the exponent fits"),
    Quantity("decades", "decades of s² spanned by the kept directions"),
    # stationarity and the cross term ------------------------------------------------------------
    Quantity("cross_b", "‖E[g_b h_bᵀ] + γ Z_b‖/‖γ Z_b‖, gradient noise removed"),
    Quantity("cross_a", "‖E[g_a h_aᵀ] + γ Z_a‖/‖γ Z_a‖, gradient noise removed"),
    Quantity("cross_b_alignment", "Pearson correlation of −E[g_b h_bᵀ] with Z_b"),
    Quantity("cross_a_alignment", "Pearson correlation of −E[g_a h_aᵀ] with Z_a"),
    Quantity(
        "norm_balance",
        "(2⟨∇L,W⟩ + 2γ‖W‖² − η‖∇L+γW‖²)/(2γ‖W‖²): 0 when the weight norm is stationary",
    ),
    Quantity("weight_norm2", "‖W‖_F²", "W²"),
    Quantity("gradient_dot_weight", "⟨W, ∂L/∂W⟩ of the mini-batch loss", "ℓ"),
    Quantity("gradient_norm2", "‖∂L/∂W‖_F² of the mini-batch loss", "ℓ²/W²"),
    Quantity("fdt_b_residual", "min_{c≥0} ‖H_b − c Z_b − c′ G_b‖/‖H_b‖"),
    Quantity("fdt_b_weight", "fitted coefficient of Z_b in H_b = c Z_b + c′ G_b", "h²/W²"),
    Quantity("fdt_b_noise", "fitted coefficient of G_b in H_b = c Z_b + c′ G_b", "h⁴/ℓ²"),
    Quantity("fdt_a_residual", "min_{c≥0} ‖G_a − c Z_a − c′ H_a‖/‖G_a‖"),
    Quantity("fdt_a_weight", "fitted coefficient of Z_a in G_a = c Z_a + c′ H_a", "ℓ²/(h²W²)"),
    Quantity("fdt_a_noise", "fitted coefficient of H_a in G_a = c Z_a + c′ H_a", "ℓ²/h⁴"),
    # neural collapse (per layer: features are the layer's inputs h_a) ---------------------------
    Quantity("nc1", "within/between class variability tr(Σ_W Σ_B⁺)/K"),
    Quantity("nc2_norm", "coefficient of variation of the centred class-mean norms"),
    Quantity("nc2_angle", "mean |cos + 1/(K−1)| over pairs of centred class means"),
    Quantity("nc3", "‖W/‖W‖ − M/‖M‖‖: distance of classifier rows from centred class means"),
    Quantity("nc4", "share of samples where the classifier disagrees with the nearest class mean"),
    Quantity("classes", "classes seen by the collapse instrument"),
    Quantity("train_error", "share of probe samples the model gets wrong"),
    # neural feature ansatz ------------------------------------------------------------------------
    Quantity(
        "agop", "average gradient outer product E[Σ_o ∇f_o ∇f_oᵀ] at the layer input", "f²/h²", True
    ),
    Quantity("nfa", "Pearson correlation of WᵀW with the AGOP"),
    Quantity("nfa_sqrt", "Pearson correlation of WᵀW with the square root of the AGOP"),
    Quantity("nfa_haar", "mean alignment of WᵀW and the AGOP under a random relative rotation"),
    # the run as a whole (layer is the empty string) ----------------------------------------------
    Quantity("loss", "loss as logged by the caller or seen by the probe", "ℓ"),
    Quantity("accuracy", "accuracy as logged by the caller or seen by the probe"),
    Quantity("learning_rate", "learning rate η of the first parameter group"),
    Quantity("weight_decay", "weight decay γ of the first parameter group"),
    Quantity("overhead", "share of wall time spent measuring since the start"),
]


def _build() -> dict[str, Quantity]:
    table = {q.name: q for q in _PLAIN}
    for relation in RELATIONS:
        kind, side = relation.split("_")
        pair = " ∝ ".join(f"{m}_{side}" for m in _PAIR[kind].split(" ∝ "))
        for suffix, (meaning, unit) in _VARIANT.items():
            table[relation + suffix] = Quantity(relation + suffix, meaning.format(pair), unit)
    return table


VOCABULARY: dict[str, Quantity] = _build()


PREDICTED = "_predicted"
"""The suffix of a number that theory gave before it was measured."""


def quantity(name: str) -> Quantity:
    """Look a name up in the vocabulary.

    Raises `KeyError` naming the closest known quantities when there is none.

    >>> quantity("exponent_p").meaning
    'slope of log v_iᵀH_a v_i against log s_i'
    >>> quantity("loss_predicted").meaning
    'predicted: loss as logged by the caller or seen by the probe'
    """
    if name in VOCABULARY:
        return VOCABULARY[name]
    base = VOCABULARY.get(name.removesuffix(PREDICTED))
    if base is not None and not base.array:
        return Quantity(name, f"predicted: {base.meaning}", base.unit)
    near = difflib.get_close_matches(name, VOCABULARY, n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise KeyError(f"unknown quantity {name!r}{hint} (see lawful.VOCABULARY)")
