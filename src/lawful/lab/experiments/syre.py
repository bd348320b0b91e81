"""syre: what frees a net from a symmetric state, and what keeps it free.

World. f(x) = Σ_j u_j tanh(w_jᵀx) with 32 neurons, of which 29 start as exact copies of one;
5 inputs, a teacher of 16 such neurons, 128 samples and as many to test on; mean squared error, full
batch, η = .05 and momentum .9. Weight decay λ = 1e-4, 1e-3, 1e-2, three draws of each, and

    decay      λθ: plain weight decay
    syre       λ(θ − θ₀), θ₀ ~ N(0, σ₀²) drawn once; the start is the same as for decay
    control    plain decay, after θ has been moved by that same θ₀ once

beside the smallest world with a mirror, (s² − 1)² with λ = 2γ at γ = 1.5 γ_c, γ_c = 2.

Hypothesis (Ziyin, Xu & Chuang, ICLR 2025, arXiv 2408.15495; `methods/syre.py`). Clones have equal
gradients: under plain decay they stay clones, exactly, and the net stays one of 4 neurons. Syre
has no clones to keep; all 32 neurons come apart and the loss falls. A single push does so too, and
just as well: that control was asked for in the paper's review. Only where decay collapses neurons
do the two differ: pushed neurons fall back to equal (zero) weights, those of syre to points of
their own. In the pitchfork the pushed s returns to 0 exactly, and syre keeps
s* = γs₀/(γ − γ_c), to first order in s₀.

Bands. 4 neurons under plain decay (exact; clone spread 0) and 32 under syre: theory's; s* within
1 %, the pushed s below 1e-12. From trial runs: 32 under the control at λ ≤ 1e-3, fewer than 28 at
1e-2; plain decay at least 3 times the loss of syre at λ = 1e-4; the control's loss .3–2 times
syre's. About 25 seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...record import Run, RunWriter, open_run
from ..experiment import Band, Experiment, Settings, last, on, setting
from ..job import Job
from ..world import averaged, measured_steps, paced, ratio

METHODS = ("decay", "syre", "control")


@dataclass(frozen=True)
class Syre(Settings):
    device: str = setting("cpu", "Where to compute; a world this small is fastest on a CPU.")
    decay: tuple[float, ...] = setting((1e-4, 1e-3, 1e-2), "λ; advanced together.")
    sigma: float = setting(0.03, "σ₀, the size of θ₀ a weight.")
    learning_rate: float = setting(0.05, "η.")
    momentum: float = setting(0.9, "Momentum.")
    steps: int = setting(4_000, "Steps.")
    draws: int = setting(3, "Draws of start, teacher and θ₀.")
    neurons: int = setting(32, "Hidden neurons.")
    clones: int = setting(29, "Of which so many start as one.")
    samples: int = setting(128, "Samples, and as many to test on.")
    teacher: int = setting(16, "Neurons of the teacher.")


def train(settings: Syre, job: Job) -> Run:
    with job.world() as writer:
        clones(settings, job, writer)
        pitchfork(settings, job, writer)
    return open_run(job.out)


# -- cloned neurons ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    """Samples of every draw: x (draws, n, d), y (draws, n)."""

    x: Tensor
    y: Tensor

    def repeated(self, times: int) -> Data:
        """All draws, so many times over."""
        return Data(self.x.repeat(times, 1, 1), self.y.repeat(times, 1))


def clones(s: Syre, job: Job, writer: RunWriter) -> None:
    """All methods, decays and draws as one batch of nets: (methods · decays · draws)."""
    draw = torch.Generator(on(s.device)).manual_seed(job.seed)
    real: dict[str, Any] = {"dtype": torch.float64, "device": draw.device, "generator": draw}
    seen, unseen = data(s, real)
    start = [0.5 * torch.randn(s.draws, s.neurons, 5, **real),
             0.5 * torch.randn(s.draws, s.neurons, 1, **real)]  # fmt: skip
    for p in start:
        p[:, -s.clones :] = p[:, -1:].clone()
    offset = [s.sigma * torch.randn(p.shape, **real) for p in start]

    groups = [(method, decay) for method in METHODS for decay in s.decay]
    W, u = (
        torch.cat([p + o if method == "control" else p for method, _ in groups])
        for p, o in zip(start, offset, strict=True)
    )
    anchor = [
        torch.cat([o if method == "syre" else torch.zeros_like(o) for method, _ in groups])
        for o in offset
    ]
    decay = torch.tensor([value for _, value in groups], dtype=W.dtype, device=W.device)
    decay = decay.repeat_interleave(s.draws)[:, None, None]
    known, test = seen.repeated(len(groups)), unseen.repeated(len(groups))
    speed, moments = [torch.zeros_like(W), torch.zeros_like(u)], measured_steps(20, s.steps)
    for step in paced(s.steps + 1, "clones", job.progress):
        if step in moments:
            write_clones(step, s, W, u, known, test, writer)
        for p, g, v, home in zip((W, u), gradients(W, u, known), speed, anchor, strict=True):
            v.mul_(s.momentum).add_(g + decay * (p - home))
            p.sub_(v, alpha=s.learning_rate)


def data(s: Syre, real: dict[str, Any]) -> tuple[Data, Data]:
    """Training and test samples of a tanh teacher, one a draw."""
    W = torch.randn(s.draws, s.teacher, 5, **real)
    u = torch.randn(s.draws, s.teacher, 1, **real) / s.teacher**0.5
    found = []
    for _ in range(2):
        x = torch.randn(s.draws, s.samples, 5, **real)
        found.append(Data(x, predict(W, u, x)))
    return found[0], found[1]


def hidden(W: Tensor, x: Tensor) -> Tensor:
    """tanh(w_jᵀx): W (runs, m, d), x (runs, n, d) -> (runs, n, m).

    Here and below sums are written out: a matrix product rounds equal columns differently, and
    the symmetric state is unstable, so that rounding alone would part the clones in the end.
    """
    return sum(x[:, :, None, i] * W[:, None, :, i] for i in range(x.shape[-1])).tanh()  # type: ignore[union-attr]


def predict(W: Tensor, u: Tensor, x: Tensor) -> Tensor:
    """Σ_j u_j tanh(w_jᵀx), (runs, n); u (runs, m, 1)."""
    return (hidden(W, x) @ u)[..., 0]


def gradients(W: Tensor, u: Tensor, data: Data) -> tuple[Tensor, Tensor]:
    """Of the mean squared error, shaped like W and u."""
    h = hidden(W, data.x)
    r = 2 * ((h @ u)[..., 0] - data.y)[..., None] / data.y.shape[-1]
    back = r * (1 - h**2) * u.mT
    dW = [(back * data.x[..., i, None]).sum(1) for i in range(data.x.shape[-1])]
    return torch.stack(dW, -1), (h * r).sum(1)[..., None]


def neuron_classes(W: Tensor, grain: float = 1e-3) -> Tensor:
    """How many classes of neurons with equal incoming weights, to `grain`: (runs, m, d) -> (runs,).

    >>> neuron_classes(torch.tensor([[[1.0, 2.0], [1.0, 2.0], [0.0, 1.0]]])).tolist()
    [2]
    """
    # The first of its kind: no earlier neuron within the grain.
    same = (W[:, :, None] - W[:, None]).abs().amax(-1) < grain
    earlier = same.tril(-1).any(-1)
    return (~earlier).sum(-1)


def write_clones(
    step: int, s: Syre, W: Tensor, u: Tensor, seen: Data, unseen: Data, writer: RunWriter
) -> None:
    """Loss, test loss, classes of neurons and how far the clones have spread, a case each."""
    losses = [(predict(W, u, d.x) - d.y).square().mean(1) for d in (seen, unseen)]
    kinds = neuron_classes(W)
    spread = (W[:, -s.clones :] - W[:, -1:]).abs().amax((1, 2))
    alone = s.neurons - s.clones + 1
    for i, (method, decay) in enumerate((m, d) for m in METHODS for d in s.decay):
        case, own = f"{method}, λ={decay:g}", slice(i * s.draws, (i + 1) * s.draws)
        rows = averaged(step, case, "loss", losses[0][own])
        rows += averaged(step, case, "test_loss", losses[1][own])
        foreseen = {"decay": alone, "syre": s.neurons}.get(method) if step else None
        rows += averaged(step, case, "neuron_classes", kinds[own], foreseen)
        zero = 0.0 if method == "decay" else None
        writer.write(step, rows + averaged(step, case, "clone_spread", spread[own], zero))


# -- the imperfect pitchfork ---------------------------------------------------------------------


def pitchfork(s: Syre, job: Job, writer: RunWriter) -> None:
    """(s² − 1)² + γ(s − s₀)² at γ = 3 > γ_c = 2, started at .3: where syre and the control end."""
    gamma, critical, offset = 3.0, 2.0, 0.01
    state = {"syre": 0.3, "control": 0.3 + offset}
    home = {"syre": offset, "control": 0.0}
    rest = {"syre": gamma * offset / (gamma - critical), "control": 0.0}
    for step in range(3001):
        if step % 100 == 0:
            for case, value in state.items():
                where = f"pitchfork, {case}"
                rows = averaged(step, where, "order_parameter", abs(value), rest[case])
                writer.write(step, rows)
        for case, value in state.items():
            slope = 4 * value * (value**2 - 1) + 2 * gamma * (value - home[case])
            state[case] = value - 0.02 * slope


def over(case: str, other: str) -> Callable[[Run], float]:
    """Reads the loss of one case over that of another."""
    return lambda run: last("loss", case, run) / last("loss", other, run)


def classes(case: str) -> Callable[[Run], float]:
    """Reads how many neurons differ, the mean over draws."""
    return partial(last, "neuron_classes", case)


FULL = {"steps": 4_000, "sigma": 0.03, "learning_rate": 0.05}
DECAYS = ("0.0001", "0.001", "0.01")

experiment = Experiment(
    name="syre",
    statement="Clones never part under plain decay; syre parts them, and so does one push.",
    settings=Syre,
    train=train,
    bands=(
        *(
            Band(f"neurons, {method}, λ={x}", n, n, classes(f"{method}, λ={x}"), FULL)
            for method, n in (("decay", 4), ("syre", 32))
            for x in DECAYS
        ),
        *(
            Band(f"neurons, control, λ={x}", low, high, classes(f"control, λ={x}"), FULL)
            for x, low, high in (("0.0001", 32, 32), ("0.001", 32, 32), ("0.01", 4, 28))
        ),
        *(
            Band(
                f"spread of the clones, λ={x}", 0, 0,
                partial(last, "clone_spread", f"decay, λ={x}"),
            )
            for x in DECAYS
        ),
        Band("loss, decay / syre", 3, 1e4, over("decay, λ=0.0001", "syre, λ=0.0001"), FULL),
        *(
            Band(
                f"loss, control / syre, λ={x}", 0.3, 2,
                over(f"control, λ={x}", f"syre, λ={x}"), FULL,
            )
            for x in DECAYS
        ),
        Band("s* above γ_c, syre", 0.99, 1.01, ratio("order_parameter", "pitchfork, syre")),
        Band(
            "s* above γ_c, control", 0, 1e-12,
            partial(last, "order_parameter", "pitchfork, control"),
        ),
    ),
)  # fmt: skip
