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
    # symmetric states, transitions and collapse (cases of a simulation; modes of a model) ---------
    Quantity("order_parameter", "‖Oᵀθ‖ to the nearest symmetric state; ‖W_K…W_1‖ of a deep net"),
    Quantity("critical_decay", "weight_decay λ = 2γ from which the symmetric state is the minimum"),
    Quantity("spinodal_decay", "weight_decay λ = 2γ up to which another local minimum survives"),
    Quantity("rank", "singular values above 1e-3 of the data's largest"),
    Quantity("spectrum_error", "largest |s_i − predicted s_i| over the singular values"),
    Quantity("active_modes", "modes (latents, embedding directions) that have not collapsed"),
    Quantity("mode_strength", "strength of one mode: a singular or eigenvalue, 0 when collapsed"),
    Quantity("collapsed_fraction", "share of the replicas that fell into the symmetric state"),
    Quantity("log_distance", "mean of ln|s|, s the distance from the symmetric state"),
    Quantity("block_homogeneity", "variance of neuron correlations explained by blocks of neurons"),
    Quantity("block_homogeneity_null", "the same after a random rotation of the neurons (mean)"),
    Quantity("block_homogeneity_excess", "block_homogeneity less its null"),
    Quantity("distinct_neurons", "clusters of live neurons, |correlation| ≥ 0.95 in a cluster"),
    Quantity("live_neurons", "neurons whose activation varies over the samples"),
    Quantity("feature_similarity", "Pearson correlation of the entries of W Σ_x Wᵀ and UᵀΣ_ε U"),
    Quantity("feature_similarity_null", "its mean under a random relative rotation"),
    Quantity("feature_distance", "‖A − B‖/‖B‖, A = WΣ_xWᵀ/tr Σ_x, B = UᵀΣ_εU/tr Σ_ε"),
    # simulated worlds: what an experiment measures beside its prediction -----------------------
    Quantity("charge", "θᵀAθ, kept by gradient flow; of several A_i the norm ‖C‖", "W²"),
    Quantity("charge_rate", "share of a charge lost in a step, −ln(C(k)/C(0))/k", "1/step"),
    Quantity("charge_error", "largest relative departure from the exact step law of a charge"),
    Quantity(
        "relaxation_steps",
        "steps until the distance from equilibrium has shrunk by e; of several ways the slowest",
    ),
    Quantity("balance_gap", "‖X − Y‖/max(‖X‖, ‖Y‖), X = ⟨A_i⟩/Tr A_{i−1}, Y = ⟨B_i⟩/Tr B_{i+1}"),
    Quantity("balance_gap_raw", "‖X − Y‖/max(‖X‖, ‖Y‖) of ⟨A_i⟩ and ⟨B_i⟩, traces left out"),
    Quantity("hidden_eigenvalue", "an eigenvalue of cov(h_1); the case says which", "h²"),
    Quantity("singular_value", "a singular value of a weight matrix; the case says which", "W"),
    Quantity("end_norm", "‖W_1√Σ_x‖²/Tr Σ_x at the input end, ‖√Σ_ε W_D‖²/Tr Σ_ε at the other"),
    Quantity("sharpness_trace", "trace of the Hessian of the mean loss", "ℓ/W²"),
    Quantity("warmup_steps", "steps at a small rate until Tr H is stable at the large one"),
    Quantity("diverged", "share of the runs that have diverged"),
    Quantity("norm_radius", "norm ‖θ‖ of the weights", "W"),
    Quantity("angular_step", "root mean square angle by which a step turns θ", "rad"),
    Quantity("objective", "loss with penalty: what the method minimises", "ℓ"),
    Quantity("active_coordinates", "coordinates that are not zero, to the experiment's threshold"),
    Quantity("coordinate_error", "largest |w − w*| over coordinates", "W"),
    Quantity("coefficient", "coefficient of θ along one direction; the case says which", "W"),
    Quantity("trapped_share", "share of weights whose sign can never change"),
    Quantity("test_loss", "mean loss over fresh or held-out samples", "ℓ"),
    Quantity("clone_spread", "largest difference between weights of neurons that began equal", "W"),
    Quantity("neuron_classes", "classes of neurons with equal incoming weights, to 1e-3"),
    Quantity("neuron_spread", "coefficient of variation of the norms of a layer's neurons"),
    # identities of a symmetry (layer is its name) -------------------------------------------------
    Quantity("identity_gradient", "relative residual of ⟨ξ, g⟩ = 0, ξ = Bθ any generator"),
    Quantity("identity_hessian", "relative residual of Hξ = −Bᵀg"),
    Quantity("identity_curvature", "relative residual of ξᵀHξ = −⟨Bξ, g⟩"),
    Quantity("identity_descent", "relative residual of gᵀHξ = −gᵀBᵀg"),
    Quantity("identity_orbit", "relative residual of g(Tθ) = T⁻ᵀg(θ), T of the group"),
    Quantity("identity_orbit_hessian", "relative residual of H(Tθ)T = T⁻ᵀH(θ) on a random vector"),
    Quantity("identity_chord", "relative residual of (I−P)g(θ) = ∫H(Pθ+tδ)δ dt, δ = (I−P)θ"),
    Quantity("identity_precision", "machine epsilon of the parameters' precision"),
    # symmetric states seen in the weights of a layer ----------------------------------------------
    Quantity("swap_distance", "‖v_i − v_j‖/√2 of the nearest two neurons", "W"),
    Quantity("flip_distance", "‖v_i‖ of the smallest neuron", "W"),
    Quantity("swap_flip_distance", "‖v_i + v_j‖/√2 of the two nearest to opposite", "W"),
    Quantity("rotation_distance", "least singular value of the stacked vectors of a GL(k)", "W"),
    Quantity("neuron_norm", "root mean square of ‖v_i‖ over the neurons of a layer", "W"),
    Quantity("neurons", "neurons of a layer that may change places"),
    Quantity("neurons_off", "neurons with ‖v_i‖ below 1 % of the layer's scale"),
    Quantity("neurons_identical", "neurons that repeat another one, to 1 %"),
    Quantity("neurons_mirrored", "neurons that repeat the opposite of another one, to 1 %"),
    Quantity(
        "symmetry_classes",
        "different neurons: on, and counted once if they repeat, to 1 %; of a GL(k) the rank",
    ),
    Quantity("symmetry_classes_exact", "the same to round-off (1e-6)"),
    Quantity("plane_gradient", "‖P∇L_λ‖/(‖P∇ℓ‖+λ‖Pθ‖) in the mirror plane: 0 at a minimiser"),
    Quantity("ssl_threshold", "γ of L + γ‖W‖², InfoNCE: data modes with less variance collapse"),
    Quantity("vae_threshold", "βη_d² (× σ²/η_e² if σ is fixed): modes with less ζ² collapse"),
    # entropic force, gradient balance, Hebbian signals (cases of a simulation) --------------------
    Quantity("entropic_drift", "mean of θ less gradient flow on L, along what F adds to it", "W"),
    Quantity("flow_error", "‖mean of θ − end of the flow‖; the case names the flow", "W"),
    Quantity("reshuffled", "1: every epoch visits each sample once; 0: independent batches"),
    Quantity("gradient_spread", "largest E‖g_i‖² of a layer over the smallest"),
    Quantity("gradient_balance", "η(E‖g_i‖² − E‖g_j‖²) of two layers with a rescaling", "ℓ"),
    Quantity(
        "balance_residual",
        "|ηE‖g_i‖² + 2λ‖W_j‖² − ηE‖g_j‖² − 2λ‖W_i‖²| over the sum of the four: 0 in balance",
    ),
    Quantity("relaxation_times", "steps in units of the time in which the slowest charge relaxes"),
    Quantity("neuron_imbalance", "mean |ln E‖g_in‖²/E‖g_out‖²| of the live neurons"),
    Quantity("charge_drift", "mean change of a charge in a step", "W²"),
    Quantity("platonic_alignment", "least uncentred CKA over pairs of hidden layers of two nets"),
    Quantity("within_alignment", "least uncentred CKA over pairs of hidden layers of one net"),
    Quantity("kernel_match", "least uncentred CKA of a hidden layer with the common kernel"),
    Quantity("decay_over_rate", "weight_decay/η, what competes with the entropic force", "ℓ/W²"),
    Quantity("label_noise", "trace of the covariance of the label noise", "ℓ"),
    Quantity("hebbian_product", "⟨signal, E[h_b h_aᵀ]⟩, the signal −∂L/∂W without decay", "ℓh²"),
    Quantity("hebbian_cosine", "cosine of the learning signal −∂L/∂W with E[h_b h_aᵀ]"),
    Quantity("virial", "E⟨W, −∂L/∂W⟩; predicted: λE‖W‖² − (η/2)E‖U‖²", "ℓ"),
    Quantity("critical_noise", "variance of weight noise at which the Hebbian sign flips", "W²"),
    Quantity("steps_to_target", "steps until the loss is down to the target"),
    Quantity("critical_batch", "batch size at which both steps and samples are twice the least"),
    Quantity("hyperbola_residual", "root mean square of ln(steps/fit), fit S_min(1 + B_c/B)"),
    Quantity("hyperbola_worst", "largest |ln(steps/fit)| of the same"),
    Quantity("scaling_error", "mean |ln L_k − ln L_1| at equal numbers of samples"),
    Quantity("scaling_error_floor", "the same of two halves of the runs at k = 1: chance alone"),
    Quantity("batch_ratio", "k: batch size over that of the run it is compared with"),
    Quantity("rate_ratio", "learning rate over that of the run it is compared with"),
    Quantity("rate_curvature", "ηλ_1 of the run with the larger batch, λ_1 of the Hessian"),
    Quantity("rate_curvature_batch", "ηλ_1 of the sharpest mini-batch"),
    Quantity("rate_curvature_adam", "the same under Adam, λ_1 of P^{−1/2} H P^{−1/2}"),
    # charges of continuous symmetries (layer is the symmetry, e.g. "rescaling of fc0, fc1") -----
    Quantity(
        "charges", "C_i = θᵀA_iθ, one a direction (a matrix row by row for a mixing)", "W²", True
    ),
    Quantity("charge_size", "norm of the ‖θ‖² whose signed parts a charge adds up", "W²"),
    Quantity("charge_change", "‖C − C_first‖/charge_size, C_first at the first measured step"),
    Quantity(
        "charge_residual", "largest |C′ − account|/‖θ‖² of one step; account: (1−ηλ)²C + η²gᵀAg"
    ),
    Quantity("charge_closure", "largest |Σ (C′ − account)|/‖θ‖² over all measured steps so far"),
    Quantity("charge_decay", "change of ‖C‖ in one step by weight decay", "W²"),
    Quantity("charge_push", "change of ‖C‖ in one step by η²gᵀAg", "W²"),
    Quantity(
        "charge_pushes", "gᵀA_ig of the mini-batch gradient, mean over the window", "ℓ²/W²", True
    ),
    Quantity("charge_noise", "the part of charge_push that is noise, η²Tr[Σ₁A]/S", "W²"),
    Quantity(
        "charge_noises", "Tr[Σ₁A_i], Σ₁ the covariance of per-sample gradients", "ℓ²/W²", True
    ),
    Quantity(
        "charge_gap", "‖C − C*‖/charge_size, C* the noise equilibrium on this orbit; its error adds"
    ),
    Quantity("equilibrium_shift", "root mean square of λ*, the way along the orbit to equilibrium"),
    Quantity(
        "equilibrium_shifts", "λ* of each direction (k logarithms for a k × k mixing)", "1", True
    ),
    Quantity("symmetry_violation", "share of ⟨Aθ, g⟩ that fails to cancel, of one sample"),
    Quantity("radial_gradient", "largest |⟨w, g⟩|/(‖w‖‖g‖) of scale-free weights"),
    Quantity(
        "unit_gradient2", "mean ‖g‖²‖w‖² of scale-free weights: ‖ĝ‖² on the unit sphere", "ℓ²"
    ),
    # gradient noise, balance, Hebbian signals -----------------------------------------------------
    Quantity("gradient_power", "E‖g_B‖² of the mini-batch gradient of W, or of all covered"),
    Quantity("neuron_gradient_power", "E‖row of g_B‖² of every neuron", "ℓ²/W²", True),
    Quantity("signal_norm2", "‖∇L‖², batch and per-sample norms compared, unbiased", "ℓ²/W²"),
    Quantity("noise_trace", "trΣ, Σ the covariance of one sample's gradient, unbiased", "ℓ²/W²"),
    Quantity("noise_scale", "trΣ/‖∇L‖², a ratio of sums over batches", "samples"),
    Quantity("signal_to_noise", "‖∇L‖²/(trΣ/B): batch size over noise scale"),
    Quantity("signal_norm2_micro", "‖∇L‖² from micro-batches and their mean", "ℓ²/W²"),
    Quantity("noise_trace_micro", "trΣ from micro-batches and their mean", "ℓ²/W²"),
    Quantity("noise_scale_micro", "trΣ/‖∇L‖² from micro-batches, covered parameters", "samples"),
    Quantity("noise_scale_all", "trΣ/‖∇L‖² from micro-batches, all parameters", "samples"),
    Quantity("noise_coverage", "share of the trained parameters that per-sample gradients cover"),
    Quantity("batch_size", "samples in an optimiser step (harmonic where micro-batches differ)"),
    Quantity("hebbian_ceiling", "cos(W, E[h_b h_aᵀ]): the cosine at stationarity, infinite batch"),
    Quantity("virial_decay", "λE‖W‖²", "ℓ"),
    Quantity("virial_step", "(η/2)E‖U‖², U the whole increment of W over η", "ℓ"),
    Quantity("balance_charge", "‖W_i‖² − ‖W_j‖², the bias of layer i with its weights", "W²"),
    Quantity("balance_pull", "½η(E‖g_i‖² + E‖g_j‖²) + λ(‖W_i‖² + ‖W_j‖²)", "W²"),
    Quantity("balance_rate", "η²(E‖g_i‖²+E‖g_j‖²)/(‖W_i‖²+‖W_j‖²) + 2ηλ: 1/relaxation", "1/step"),
    Quantity("balance_neurons", "‖g‖² in, out, ‖W‖² in, out of every hidden neuron", "1", True),
    # curvature of the probe's loss -------------------------------------------------------------
    Quantity("sharpness", "largest eigenvalue λ_1 of the Hessian of the loss", "ℓ/θ²"),
    Quantity("sharpness_second", "second eigenvalue λ_2 of the Hessian", "ℓ/θ²"),
    Quantity("sharpness_bound", "‖Hu − λ_1u‖: an eigenvalue of H is no farther than this", "ℓ/θ²"),
    Quantity(
        "sharpness_preconditioned",
        "λ_1 of P^{−1/2} (H + λ) P^{−1/2}, P the optimiser's preconditioner, λ its coupled decay",
        "1/η",
    ),
    Quantity("sharpness_preconditioned_bound", "residual norm of that eigenvalue", "1/η"),
    Quantity("edge_ratio", "preconditioned sharpness over the optimiser's stability threshold"),
    Quantity("sharpness_gauss_newton", "largest eigenvalue of the Gauss–Newton matrix", "ℓ/θ²"),
    Quantity("spectrum_hessian", "largest eigenvalues of the Hessian, falling", "ℓ/θ²", True),
    Quantity("hessian_trace", "trace of the Hessian of the loss", "ℓ/θ²"),
    Quantity("hessian_density", "2 × m: Ritz values of the Hessian, and their weights", "1", True),
    Quantity("gradient_curvature", "gᵀHg/‖g‖² along the gradient of the loss", "ℓ/θ²"),
    Quantity(
        "batch_sharpness", "mean of g_BᵀH_B g_B/‖g_B‖² over the probe's mini-batches B", "ℓ/θ²"
    ),
    Quantity(
        "sharpening_rate",
        "⟨−∇L, ∇λ_1⟩ on the floor of the valley: rise of the sharpness in a time of 1/η steps",
        "ℓ²/θ⁴",
    ),
    Quantity("sharpness_slope", "‖∇λ_1‖", "ℓ/θ³"),
    Quantity("oscillation2", "(uᵀ∇L/λ_1)²: squared distance from the floor along u", "θ²"),
    Quantity("oscillation_variance", "squared distance of the iterates from their midpoints", "θ²"),
    Quantity("oscillation_cycle", "2π/(η√(2α)): steps of a cycle at the edge of stability"),
    Quantity("flow_distance", "‖w − w̄‖ of a flow from the midpoints of the iterates", "θ"),
    Quantity("curvature_products", "Hessian products spent on a curvature measurement"),
    # neural tangent kernel and features, against the first measurement --------------------------
    Quantity(
        "ntk", "Θ(x, x′) = mean over outputs of ∇f_c(x)·∇f_c(x′), on a few samples", "f²/θ²", True
    ),
    Quantity("ntk_trace", "mean of Θ(x, x)", "f²/θ²"),
    Quantity("ntk_change", "‖Θ_t − Θ_0‖/‖Θ_0‖"),
    Quantity("ntk_turn", "1 − cos(Θ_t, Θ_0): change of the kernel that is no change of scale"),
    Quantity("ntk_alignment", "cosine of the centred Θ with the Gram matrix of centred targets"),
    Quantity("ntk_sketched", "1 where Θ was estimated from mixed outputs or hashed gradients"),
    Quantity("ntk_deviation", "‖Θ_0 − mean over seeds‖/‖mean‖, over seeds of one width"),
    Quantity("linearisation_distance", "‖f_t − f_0 − J_0Δw‖/‖f_t − f_0‖"),
    Quantity("weight_change", "‖w_t − w_0‖/‖w_0‖ over all trained parameters"),
    Quantity("feature_change", "‖h_t − h_0‖/‖h_0‖ of a layer's output"),
    # solvable theory (cases of a simulation) ----------------------------------------------------
    Quantity("mode_projection", "(UᵀWV)_kk, what the network's product has of one data mode", "W"),
    Quantity("mode_error", "largest |u − u_theory|/s of a mode in training"),
    Quantity(
        "mode_error_bound",
        "the mode_error that finite steps make, of the strongest mode, to first order",
    ),
    Quantity("mode_reached", "largest u/s or u_theory/s of a mode in training"),
    Quantity("mode_error_order", "ηs_maxL/2, L layers: the order of mode_error"),
    Quantity("half_time", "η·steps until a mode has half of its strength", "1/s"),
    Quantity("mode_leakage", "off-diagonal over diagonal of UᵀWV, at most in training"),
    Quantity("separate_stages", "pairs of neighbouring modes learned one after the other"),
    Quantity("input_condition", "largest over smallest eigenvalue of the input's second moment"),
    Quantity("start_scale", "standard deviation of the weights at the start", "W"),
    Quantity("kernel_test_error", "mean squared error of kernel regression on samples not seen"),
    Quantity("kernel_train_error", "mean squared error of kernel regression on its own samples"),
    Quantity("kernel_kappa", "1/Tr(K+δ)⁻¹; predicted: κ of Σλ/(λ+κ) + δ/κ = n"),
    Quantity("kernel_gcv", "generalised cross-validation: the test error from the training set"),
    Quantity("pool_share", "training samples over the samples that the spectrum came from"),
    Quantity("curve_exponent", "−d ln error/d ln n of a learning curve"),
    Quantity("effective_dimension", "(Σγ)²/Σγ² of the covariance's eigenvalues γ"),
    Quantity("smooth", "1: the activation has a derivative everywhere; 0: it has kinks"),
    Quantity("alpha_slope_weight_change", "d ln(weight_change)/d ln α, α the scale of the output"),
    Quantity("alpha_slope_ntk_change", "d ln(ntk_change)/d ln α"),
    Quantity("alpha_slope_ntk_turn", "d ln(ntk_turn)/d ln α"),
    Quantity("width_slope_ntk_deviation", "d ln(ntk_deviation)/d ln width"),
    Quantity("width_slope_ntk_change", "d ln(ntk_change)/d ln width"),
    Quantity("width_slope_feature_change", "d ln(feature_change)/d ln width"),
    Quantity("width_slope_kernel_distance", "d ln(kernel_distance)/d ln width"),
    Quantity("kernel_distance", "‖f − kernel regression‖/‖kernel regression − f_0‖ on test inputs"),
    Quantity("sweep_span", "largest over smallest value of what was swept"),
    Quantity("excess_risk", "E(f − f*)² of least squares of minimum norm"),
    Quantity("parameter_ratio", "parameters over samples, p/n"),
    # empirical laws of scale, transfer and formation (layer is the case) ------------------------
    Quantity(
        "scaling_loss", "loss of one run of a sweep of sizes; predicted from smaller ones", "ℓ"
    ),
    Quantity("scaling_exponent", "exponent of a scaling law; the case says of what"),
    Quantity("scaling_floor", "E of L = E + A N^−α + B D^−β", "ℓ"),
    Quantity("fit_residual", "root mean square of ln(loss/fit) of a scaling law"),
    Quantity("interval_coverage", "share of 95 % intervals that cover the true number"),
    Quantity("coordinate_slope", "d log(rms change of a layer's output)/d log(width), few steps"),
    Quantity("best_rate", "log₂ of the learning rate of least loss", "octaves"),
    Quantity("rate_drift", "log₂(best rate at the largest size/at the smallest)", "octaves"),
    Quantity("inverse_participation", "mean Σp_k², p_k Fourier power of an input weight row"),
    Quantity("participation_null", "inverse participation of Gaussian weights"),
    Quantity("train_accuracy", "accuracy on the training set"),
    Quantity("test_accuracy", "accuracy on samples not trained on"),
    Quantity("barrier", "highest rise of the loss between two solutions", "ℓ"),
    Quantity("barrier_matched", "the same after the neurons of one are put in order", "ℓ"),
    Quantity("barrier_left", "barrier_matched over barrier"),
    Quantity("power_exponent", "exponent of a power law in data, over a stated window"),
    Quantity("power_bend", "change of slope between the halves of the window, over the slope"),
    Quantity("window_decades", "log₁₀ of the width of the window of a power law"),
    Quantity("stage_ratio", "time of 10 % of a mode over time of 90 % of the mode before it"),
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
