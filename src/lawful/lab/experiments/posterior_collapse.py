"""posterior-collapse: how many latents a β-VAE uses, in theory's range and beyond it.

World. Decoder variance η_d² = 1, prior N(0, 1), loss ‖y − ŷ‖²/2 + β·KL.

    modes      linear β-VAE with five modes ζ = 2, 1.5, 1.2, .8, .6 and five latents; expectations
               over data and latents are exact, descent in float64; encoder variance learned, and
               fixed at ½
    pictures   real pictures (digits by default, scaled to a largest eigenvalue 1 of Σ_x), sixteen
               latents, Adam on samples: a linear β-VAE, and one with a hidden layer of 64 ReLU on
               either side

Hypothesis (Wang, Ziyin, arXiv:2205.04009; constants `theory/linear_vae.py`). Mode i is lost iff
ζ_i² ≤ β (learned variance) or ζ_i² ≤ βσ² (fixed); survivors have u_i = √(ζ_i² − β) and so on. For
an auto-encoder ζ_i² are the eigenvalues of Σ_x: on pictures the linear net must use
#{eig_i(Σ_x) > β} latents. For the ReLU net this is a reference only: a curved decoder can store
more, or less, in one latent.

Controls. β = 0 collapses nothing; fixing the variance moves the threshold as predicted.

Bands. Five modes: counts 5/3/2/1/0 at β = .3/1/2/3/4.1, and four digits (read as 1e-4 absolute)
in u, w and σ²: published with the theory's derivation. Those of pictures guard against change: the
linear net was within one latent of theory at every β, the ReLU net used fewer (10 of 14 at β = .1,
6 of 10 at .2). A
direction of latent space is active when posterior means vary by more than .01 along it (the
criterion of Burda et al., arXiv:1509.00519, free of the choice of axes). About 20 seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...record import Measurement, Run, RunWriter, open_run
from ...theory.linear_vae import Modes, fixed_variance, learned_variance
from ..beside import beside
from ..datasets import batches, flatten, load
from ..experiment import Band, Experiment, Settings, last, setting
from ..job import Job
from ..training import cosine
from ..world import measured_steps, paced

Array = NDArray[np.float64]

ZETA = np.array([2.0, 1.5, 1.2, 0.8, 0.6])
BETAS = (0.3, 1.0, 2.0, 3.0, 4.1)
COUNTS = (5, 3, 2, 1, 0)
FIXED = 0.5
"""σ² of the encoder that does not learn it."""
REAL_BETAS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 1.2)
ACTIVE = 0.01


@dataclass(frozen=True)
class PosteriorCollapse(Settings):
    device: str = setting("cpu", "A world this small is fastest on a CPU.", ("cpu",))
    data: str = setting("digits", "digits, fashion-mnist, mnist-1d, a .npz file or a folder.")
    steps: int = setting(3_000, "Steps, in each of the worlds.")
    learning_rate: float = setting(5e-3, "Learning rate of Adam on pictures, falling to 0.")
    batch: int = setting(128, "Pictures in a batch.")
    latents: int = setting(16, "Latents of the VAEs of pictures.")
    width: int = setting(64, "Hidden units on either side of the ReLU VAE.")


def train(settings: PosteriorCollapse, job: Job) -> Run:
    data = flatten(load(settings.data))
    with job.world(laws=("posterior_collapse", "mode_strength"), data=data.describe()) as writer:
        modes(settings, job, writer)
        pictures(settings, data.x_train, job, writer)
    return open_run(job.out)


# -- five modes ----------------------------------------------------------------------------------


def modes(s: PosteriorCollapse, job: Job, writer: RunWriter) -> None:
    """Descent at every β, learned and fixed variance, beside the closed form."""
    theory = {f"β={b:g}": learned_variance(ZETA, b) for b in BETAS}
    theory |= {f"β={b:g}, fixed σ²": fixed_variance(ZETA, b, FIXED) for b in BETAS}
    wanted = measured_steps(s.measurements, s.steps)
    path = descend(torch.tensor(BETAS * 2).double(), len(BETAS), job.seed)
    for step in paced(s.steps + 1, "five modes", job.progress):
        found = next(path)
        if step not in wanted:
            continue
        for i, (case, closed) in enumerate(theory.items()):
            seen = found(i)
            cost = BETAS[i % len(BETAS)] * (FIXED if "fixed" in case else 1.0)
            rows = beside(step, case, "active_modes", int((seen.u > 1e-2).sum()), closed.active)
            rows.append(Measurement(step, case, "vae_threshold", cost))
            rows.append(Measurement(step, case, "spectrum_error", error(seen, closed)))
            if case == "β=1":
                for k, (u, v) in enumerate(zip(seen.u, closed.u, strict=True)):
                    rows += beside(step, f"{case}, mode {k + 1}", "mode_strength", u, v)
            writer.write(step, rows)


def descend(betas: Tensor, learned: int, seed: int) -> Iterator[Callable[[int], Modes]]:
    """Heavy-ball descent on the exact objective of R linear VAEs, the first `learned` of which
    learn their variance; gives, before each step and after, a function from case to `Modes`.

    In whitened data E[yxᵀ] = L diag(ζ) Rᵀ with rotations L, R.
    """
    draw = torch.Generator().manual_seed(seed)
    d, R = len(ZETA), len(betas)
    left, right = torch.linalg.qr(torch.randn(2, d, d, generator=draw).double()).Q
    cross = left @ torch.diag(torch.tensor(ZETA)) @ right.T
    U, W = 0.5 * torch.randn(2, 1, d, d, generator=draw).double().repeat(1, R, 1, 1)
    log_variance = torch.zeros(R, d).double()
    log_variance[learned:] = np.log(FIXED)
    learns = (torch.arange(R) < learned)[:, None]
    b, speed = betas[:, None], [torch.zeros_like(p) for p in (U, W, log_variance)]
    while True:
        yield partial(_read, U, W, log_variance)
        code = W.mT @ W + torch.diag_embed(log_variance.exp())
        dU = U @ code - cross @ W
        dW = W @ (U.mT @ U + b[..., None] * torch.eye(d)) - cross.T @ U
        dv = ((U.square().sum(1) + b) * log_variance.exp() - b) / 2 * learns
        speed = [0.9 * v + g for v, g in zip(speed, (dU, dW, dv), strict=True)]
        U, W, log_variance = (
            p - 0.05 * v for p, v in zip((U, W, log_variance), speed, strict=True)
        )


def _read(U: Tensor, W: Tensor, log_variance: Tensor, case: int) -> Modes:
    """Singular values of U and W, falling, and σ², rising."""
    u, w = (torch.linalg.svdvals(M[case]).numpy() for M in (U, W))
    return Modes(u, w, log_variance[case].exp().sort().values.numpy())


def error(seen: Modes, closed: Modes) -> float:
    """Largest difference over u, w and σ², each sorted."""
    pairs = (
        (seen.u, closed.u),
        (seen.w, np.sort(closed.w)[::-1]),
        (seen.sigma2, np.sort(closed.sigma2)),
    )
    return max(float(np.abs(a - b).max()) for a, b in pairs)


# -- real pictures -------------------------------------------------------------------------------


def pictures(s: PosteriorCollapse, x: Tensor, job: Job, writer: RunWriter) -> None:
    """Active latents of a linear and of a ReLU β-VAE beside the linear count."""
    x = x - x.mean(0)
    values = torch.linalg.eigvalsh(x.T @ x / len(x))
    x, values = x / values[-1].sqrt(), (values / values[-1]).double()
    predicted = [min(s.latents, int((values > b).sum())) for b in REAL_BETAS]
    near = [int(((values / b - 1).abs() < 0.1).sum()) if b else 0 for b in REAL_BETAS]
    wanted = measured_steps(s.measurements, s.steps)
    for kind, width in (("linear", 0), ("ReLU", s.width)):
        names = [f"{s.data}, {kind}, β={b:g}" for b in REAL_BETAS]
        path = fit(s, x, width, job.seed)
        for step in paced(s.steps + 1, f"pictures, {kind}", job.progress):
            vae = next(path)
            if step in wanted:
                with torch.no_grad():
                    mean, _ = vae.encode(x)
                active = (spectra(mean) > ACTIVE).sum(1).tolist()
                rows: list[Measurement] = []
                for i, name in enumerate(names):
                    row, theory = beside(step, name, "active_modes", active[i], predicted[i])
                    rows += [row, replace(theory, stderr=float(near[i]))]
                    if kind == "linear":
                        rows.append(Measurement(step, name, "vae_threshold", REAL_BETAS[i]))
                writer.write(step, rows)


def spectra(mean: Tensor) -> Tensor:
    """Eigenvalues of the covariance over samples of posterior means (R, n, latents), (R, latents).

    They count modes even while the latents are still turning onto them, which takes long.
    """
    mean = mean - mean.mean(1, keepdim=True)
    return torch.linalg.eigvalsh(mean.mT @ mean / mean.shape[1])


class BetaVae(nn.Module):
    """R β-VAEs side by side; width 0: no hidden layers. x (n, d) or (R, n, d) → (R, n, …)."""

    def __init__(self, R: int, d: int, latents: int, width: int, draw: torch.Generator) -> None:
        super().__init__()

        def maps(*sizes: int) -> nn.ParameterList:
            pairs = pairwise(n for n in sizes if n)
            return nn.ParameterList(
                torch.randn(1, a, b, generator=draw).repeat(R, 1, 1) / a**0.5 for a, b in pairs
            )

        self.mean, self.decoder = maps(d, width, latents), maps(latents, width, d)
        self.log_variance = nn.Parameter(torch.zeros(R, 1, latents))
        # Only a curved encoder needs a variance that depends on x.
        self.spread = maps(d, width, latents) if width else None

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior means and log variances, (R, n, latents)."""
        mean = _chain(self.mean, x)
        more = _chain(self.spread, x) if self.spread is not None else torch.zeros_like(mean)
        return mean, self.log_variance + more

    def loss(self, x: Tensor, beta: Tensor, draw: torch.Generator) -> Tensor:
        """Sum over the R models of the mean over samples of ‖x − x̂‖²/2 + β·KL."""
        mean, log_variance = self.encode(x)
        noise = torch.randn(mean.shape, generator=draw)
        error = _chain(self.decoder, mean + (log_variance / 2).exp() * noise) - x
        kl = (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1) / 2
        return (error.square().sum(-1) / 2 + beta * kl).mean(1).sum()


def _chain(maps: nn.ParameterList, x: Tensor) -> Tensor:
    """Linear maps with ReLU between them."""
    for i, W in enumerate(maps):
        x = (torch.relu(x) if i else x) @ W
    return x


def fit(s: PosteriorCollapse, x: Tensor, width: int, seed: int) -> Iterator[BetaVae]:
    """Adam at every β at once; yields the models before the first step and after each."""
    draw = torch.Generator().manual_seed(seed)
    vae = BetaVae(len(REAL_BETAS), x.shape[1], s.latents, width, draw)
    optimizer = torch.optim.Adam(vae.parameters(), lr=s.learning_rate)
    beta = torch.tensor(REAL_BETAS)[:, None]
    yield vae
    rate = cosine(s.learning_rate, s.steps)  # Adam at a constant rate keeps dead modes jittering
    for step, (batch, _) in enumerate(batches(x, x, s.batch, steps=s.steps, seed=seed)):
        optimizer.param_groups[0]["lr"] = rate(step)
        optimizer.zero_grad()
        vae.loss(batch, beta, draw).backward()
        optimizer.step()
        yield vae


# -- what is expected ----------------------------------------------------------------------------


def worst(run: Run) -> float:
    """The largest error of u, w or σ² over every β."""
    names = [n for n in run.layers if run.at("spectrum_error", n) is not None]
    return max(last("spectrum_error", n, run) for n in names)


def gap(kind: str, run: Run) -> float:
    """Largest |active − linear count| over β > 0 on the default pictures."""
    names = [f"digits, {kind}, β={b:g}" for b in REAL_BETAS[1:]]
    return max(
        abs(last("active_modes", n, run) - last("active_modes_predicted", n, run)) for n in names
    )


ON = {"data": "digits"}
LATENTS = partial(last, "active_modes")

experiment = Experiment(
    name="posterior-collapse",
    statement="A β-VAE loses the modes whose signal is weaker than β times the decoder's variance.",
    settings=PosteriorCollapse,
    train=train,
    bands=(
        *(
            Band(f"active modes at β = {b:g}", n, n, partial(LATENTS, f"β={b:g}"))
            for b, n in zip(BETAS, COUNTS, strict=True)
        ),
        Band("largest error of u, w and σ²", 0, 1e-4, worst),
        Band("pictures, linear: largest error of a count", 0, 1, partial(gap, "linear"), ON),
        Band("pictures, ReLU: largest difference", 0, 6, partial(gap, "ReLU"), ON),
        Band("pictures, ReLU: active at β = 0", 16, 16, partial(LATENTS, "digits, ReLU, β=0"), ON),
        Band("the same at β = 1.2", 0, 0, partial(LATENTS, "digits, ReLU, β=1.2"), ON),
    ),
)
