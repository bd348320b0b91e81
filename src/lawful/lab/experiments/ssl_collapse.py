"""ssl-collapse: how many directions a contrastive encoder keeps, before and beyond theory's range.

World. InfoNCE with similarity −½‖f − f′‖² and γ‖θ‖² (torch's weight_decay is 2γ), SGD on fresh
batches of 128 pairs; two views of x are x + c and x + c′ with Gaussian c of covariance C.

    gaussian   f = Wx, x ~ N(0, A₀) with eigenvalues 1, .5, .2, .05; two augmentations C
    pictures   real pictures (digits by default, scaled to a largest eigenvalue 1 of A₀), C = .3·I:
               a linear encoder, and two layers with ReLU, both with 16 outputs

Hypothesis (Ziyin, Lubana, Ueda, Tanaka, arXiv:2210.00638; constants `theory/linear_ssl.py`).
Direction i is active iff eig_i(A₀) > γ, and the eigenvalues p_i of Σ^{½}WᵀWΣ^{½}, Σ = A₀ + C, have
a closed form: augmentation sets the size, never the number. Gaussian data are its range. On
pictures the linear count still is what the Hessian at zero says, direction by direction, but
quartic terms are no longer Gaussian; for the ReLU net the linear count is only a reference: with
two decayed layers zero is always a local minimum, so collapse comes earlier.

Control. γ = 0 keeps every direction; the two C must agree on the count.

Found on digits at γ = 0, .02, .05, .1, .2, .4: linear 16, 16, 16, 13, 9, 5 (predicted 16, 16, 16,
14, 10, 5), ReLU 16, 9, 4, 1, 0, 0.

Strengths are means over the second half of a run of 128 negatives. In the weakest mode .0993 ±
.0036 beside .0938 decides nothing at the 5 % that the law of strengths allows.

Bands. Counts of the Gaussian world equal the prediction except for eigenvalues within .03 of γ:
published with the theory's derivation. Strengths within 5 % of the strongest and everything about
pictures guard against change. Active: p_i > .01. About 20 seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...estimators.uncertainty import as_normal, series_mean
from ...record import Measurement, Run, RunWriter, open_run
from ...theory.linear_ssl import active_directions, optimum
from ..beside import beside
from ..datasets import flatten, load
from ..experiment import Band, Experiment, Settings, last, setting
from ..job import Job
from ..world import measured_steps, paced

Array = NDArray[np.float64]

SPECTRUM = (1.0, 0.5, 0.2, 0.05)
DECAYS = (0.0, 0.03, 0.1, 0.35, 0.7, 1.2)
REAL_DECAYS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 1.2)
ACTIVE = 0.01
NEAR = 0.03
"""An eigenvalue of A₀ so close to γ is not sure of its fate; on pictures, within 15 % of γ."""
BLOCKS = 10
AUGMENTATION = 0.3
"""Variance of c on pictures."""


@dataclass(frozen=True)
class SslCollapse(Settings):
    device: str = setting("cpu", "A world this small is fastest on a CPU.", ("cpu",))
    data: str = setting("digits", "digits, fashion-mnist, mnist-1d, a .npz file or a folder.")
    learning_rate: float = setting(0.1, "η.")
    steps: int = setting(1_000, "Steps of SGD; twice as many on pictures.")
    batch: int = setting(128, "Pairs in a batch; every pair is a negative of every other.")
    width: int = setting(16, "Outputs of the encoders of pictures.")


@dataclass(frozen=True)
class Case:
    """One encoder: its name in the record, its data, its decay and its outputs.

    doubt: how far from γ an eigenvalue of A₀ must be for its fate to be sure.
    """

    name: str
    A0: Array
    C: Array
    gamma: float
    width: int
    doubt: float = NEAR

    @property
    def active(self) -> int:
        return min(self.width, active_directions(self.A0, self.gamma))

    @property
    def near(self) -> int:
        """Eigenvalues too close to γ to be sure of."""
        return int((np.abs(np.linalg.eigvalsh(self.A0) - self.gamma) < self.doubt).sum())

    @property
    def strengths(self) -> Array:
        """Predicted p_i, falling."""
        return strengths(optimum(self.A0, self.C, self.gamma, width=self.width), self.A0 + self.C)


def train(settings: SslCollapse, job: Job) -> Run:
    data = flatten(load(settings.data))
    with job.world(laws=("dimensional_collapse", "mode_strength"), data=data.describe()) as writer:
        gaussian(settings, job, writer)
        pictures(settings, data.x_train.double(), job, writer)
    return open_run(job.out)


# -- Gaussian data, linear encoder ---------------------------------------------------------------


def gaussian(s: SslCollapse, job: Job, writer: RunWriter) -> None:
    """Counts and strengths at every γ, under an isotropic and an anisotropic augmentation."""
    draw = torch.Generator().manual_seed(job.seed)
    d, A0 = len(SPECTRUM), np.diag(SPECTRUM)
    augmentations = {"isotropic": np.diag([0.3] * d), "anisotropic": np.diag([0.1, 0.3, 0.6, 1.2])}
    cases = [
        Case(f"γ={gamma:g}, {kind} C", A0, C, gamma, d)
        for kind, C in augmentations.items()
        for gamma in DECAYS
    ]
    root = torch.tensor(np.linalg.cholesky(np.stack([c.C for c in cases])))
    scale = torch.tensor(A0).sqrt()

    def views() -> tuple[Tensor, Tensor]:
        x = _normal(draw, s.batch, d) @ scale
        return x + _normal(draw, s.batch, d) @ root.mT, x + _normal(draw, s.batch, d) @ root.mT

    wanted = measured_steps(s.measurements, s.steps)
    path = contrast([0.3 * _normal(draw, len(cases), d, d)], cases, views, s.learning_rate)
    products: list[Array] = []
    for step in paced(s.steps + 1, "gaussian", job.progress):
        (W,) = next(path)
        products.append((W.mT @ W).numpy())
        if step in wanted:
            rows: list[Measurement] = []
            for i, case in enumerate(cases):
                late = np.stack([WW[i] for WW in products[(step + 1) // 2 :]])
                found, errors = averaged_strengths(late, case.A0 + case.C)
                rows += counted(step, case, found)
                if case.gamma == DECAYS[2]:
                    for k, theory in enumerate(case.strengths):
                        where, p, error = f"{case.name}, mode {k + 1}", found[k], errors[k]
                        rows += beside(step, where, "mode_strength", p, theory, stderr=error)
            writer.write(step, rows)


# -- real pictures -------------------------------------------------------------------------------


def pictures(s: SslCollapse, x: Tensor, job: Job, writer: RunWriter) -> None:
    """Active directions of a linear encoder and of a ReLU net beside the linear count."""
    draw = torch.Generator().manual_seed(job.seed)
    x = x - x.mean(0)
    covariance = x.T @ x / len(x)
    top = torch.linalg.eigvalsh(covariance)[-1]
    x, A0, d = x / top.sqrt(), (covariance / top).numpy(), x.shape[1]
    C = AUGMENTATION * np.eye(d)

    def views() -> tuple[Tensor, Tensor]:
        chosen = x[torch.randint(len(x), (s.batch,), generator=draw)]
        first, second = chosen + AUGMENTATION**0.5 * _normal(draw, 2, s.batch, d)
        return first, second

    R, steps = len(REAL_DECAYS), 2 * s.steps
    # Two layers are steeper than one: half the learning rate keeps them stable.
    nets = {
        "linear": ([(R, s.width, d)], s.learning_rate),
        "ReLU": ([(R, 64, d), (R, s.width, 64)], s.learning_rate / 2),
    }
    for kind, (shapes, eta) in nets.items():
        cases = [
            Case(f"{s.data}, {kind}, γ={g:g}", A0, C, g, s.width, 0.15 * g) for g in REAL_DECAYS
        ]
        start = [_normal(draw, *shape) * (0.5 / shape[-1]) ** 0.5 for shape in shapes]
        path = contrast(start, cases, views, eta)
        wanted = measured_steps(s.measurements, steps)
        for step in paced(steps + 1, f"pictures, {kind}", job.progress):
            weights = next(path)
            if step in wanted:
                f = encode(weights, x + AUGMENTATION**0.5 * _normal(draw, *x.shape))
                f = f - f.mean(1, keepdim=True)
                spectra = torch.linalg.eigvalsh(f.mT @ f / f.shape[1]).flip(-1).numpy()
                for case, spectrum in zip(cases, spectra, strict=True):
                    threshold = kind == "linear"
                    writer.write(step, counted(step, case, spectrum, threshold=threshold))


def counted(step: int, case: Case, found: Array, *, threshold: bool = True) -> list[Measurement]:
    """Active modes beside their prediction, whose error is the number of modes near γ.

    threshold: record γ too, which says that theory speaks of this case.
    """
    active, predicted = beside(
        step, case.name, "active_modes", int((found > ACTIVE).sum()), case.active
    )
    rows = [active, replace(predicted, stderr=float(case.near))]
    return [*rows, Measurement(step, case.name, "ssl_threshold", case.gamma)] if threshold else rows


# -- learning ------------------------------------------------------------------------------------


def contrast(
    weights: list[Tensor],
    cases: list[Case],
    views: Callable[[], tuple[Tensor, Tensor]],
    eta: float,
) -> Iterator[list[Tensor]]:
    """SGD on InfoNCE + γ‖θ‖² of R encoders at once; yields the weights before and after each step.

    weights: [(R, k, d)] or [(R, h, d), (R, k, h)].
    """
    decay = torch.tensor([case.gamma for case in cases], dtype=torch.float64)[:, None, None]
    while True:
        yield weights
        a, b = views()
        live = [W.requires_grad_() for W in weights]
        f, g = encode(live, a), encode(live, b)
        slopes = torch.autograd.grad([f, g], live, infonce_gradient(f.detach(), g.detach()))
        weights = [
            (W - eta * (dW + 2 * decay * W)).detach() for W, dW in zip(live, slopes, strict=True)
        ]


def encode(weights: list[Tensor], x: Tensor) -> Tensor:
    """f(x) of every encoder, (R, n, k): linear maps with ReLU between them."""
    h = x @ weights[0].mT
    return h if len(weights) == 1 else torch.relu(h) @ weights[1].mT


def infonce_gradient(f: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients in f and g (R, n, k) of mean_i [½‖f_i − g_i‖² + ln mean_{j≠i} exp(−½‖f_i − g_j‖²)].

    With D = P/n − I/n, P_ij the softmax weights of the negatives, both gradients are sums over
    pairs: ∂f_i = Σ_j D_ij (g_j − f_i).
    """
    n = f.shape[1]
    logits = f @ g.mT - f.square().sum(-1, keepdim=True) / 2 - g.square().sum(-1)[:, None] / 2
    logits.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    D = (torch.softmax(logits, -1) - torch.eye(n, dtype=f.dtype)) / n
    return D @ g - D.sum(2)[..., None] * f, D.mT @ f - D.sum(1)[..., None] * g


def strengths(WW: Array, Sigma: Array) -> Array:
    """Eigenvalues p_i of Σ^{½}WᵀWΣ^{½}, falling; WW = WᵀW (d, d)."""
    root = np.linalg.cholesky(Sigma)
    return np.asarray(np.linalg.eigvalsh(root.T @ WW @ root)[::-1])


def averaged_strengths(products: Array, Sigma: Array) -> tuple[Array, Array]:
    """The p_i of the mean of WᵀW over steps (n, d, d), falling, and their standard errors.

    p_i is the mean of the series v_iᵀΣ^{½}WᵀWΣ^{½}v_i, v_i the eigenvectors of the mean: to first
    order its error is that of this series, taken over ten blocks because SGD forgets slowly.
    """
    root = np.linalg.cholesky(Sigma)
    M = root.T @ products @ root
    p, V = np.linalg.eigh(M.mean(0))
    series = np.einsum("ik,nij,jk->nk", V, M, V)[:, ::-1]
    blocks = np.array([b.mean(0) for b in np.array_split(series, min(BLOCKS, len(series)))])
    errors = [as_normal(series_mean(b)[1], len(b) - 1) for b in blocks.T]
    return p[::-1], np.array(errors)


def _normal(draw: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


# -- what is expected ----------------------------------------------------------------------------


def misses(run: Run) -> float:
    """Gaussian cases whose count is wrong by more than the eigenvalues near γ."""
    names = [n for n in run.layers if n.endswith(" C")]
    wrong = 0
    for name in names:
        theory = run.at("active_modes_predicted", name)
        assert theory is not None, f"{name} has counts but no prediction"
        wrong += abs(last("active_modes", name, run) - theory.value) > theory.stderr
    return float(wrong)


def strength_error(run: Run) -> float:
    """Largest |p_i − predicted|/p_1 over modes."""
    names = [n for n in run.layers if ", mode " in n]
    pairs = [
        (last("mode_strength", n, run), last("mode_strength_predicted", n, run)) for n in names
    ]
    largest = max(theory for _, theory in pairs)
    return max(abs(p - theory) for p, theory in pairs) / largest


def count(kind: str, gamma: float, run: Run) -> float:
    """Active modes of an encoder of the default pictures."""
    return last("active_modes", f"digits, {kind}, γ={gamma:g}", run)


def gap(run: Run) -> float:
    """Largest |count − linear prediction| of the linear encoder on pictures."""
    names = [f"digits, linear, γ={g:g}" for g in REAL_DECAYS]
    return max(
        abs(last("active_modes", n, run) - last("active_modes_predicted", n, run)) for n in names
    )


ON = {"data": "digits"}

experiment = Experiment(
    name="ssl-collapse",
    statement="A contrastive encoder keeps the directions whose variance exceeds the decay.",
    settings=SslCollapse,
    train=train,
    bands=(
        Band("Gaussian cases with a wrong count", 0, 0, misses),
        Band("active at γ = 0", 4, 4, partial(last, "active_modes", "γ=0, isotropic C")),
        Band("largest error of a strength, of the strongest", 0, 0.05, strength_error),
        Band("pictures, linear: largest error of a count", 0, 2, gap, ON),
        Band("pictures, ReLU: active at γ = 0", 16, 16, partial(count, "ReLU", 0.0), ON),
        Band("the same at γ = .05", 2, 8, partial(count, "ReLU", 0.05), ON),
        Band("the same at γ = .2", 0, 0, partial(count, "ReLU", 0.2), ON),
    ),
)
