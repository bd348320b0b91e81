"""The charge instrument: what symmetry conserves, and the exact account of what changes it.

For every continuous symmetry with charges C = θᵀAθ (`charge_form`), at each measured step of SGD:

    C' = (1−ηλ)² C + η² gᵀAg                      (no momentum; any η, batch, λ, data)
    C' = C − 2ηp + η²K,  m' = p − ηK,  p = μm + (1−d)λC,  K = v'ᵀAv',  m = θᵀAv    (momentum μ)

because θᵀAg = 0 for every batch. Groups with rates of their own are accounted tensor by tensor:
Σ (1−ηλ)²C_a + η²gᵀA_ag − 2 (ηρ_a − ηρ_0) θᵀA_ag, ρ = 1−ηλ. What the account leaves, relative to
the ‖θ‖² that a charge compares, is the residual: round-off where the symmetry is exact and the
optimiser is SGD, and the honest measure of the breaking where not (Adam, clipping by value).

The push gᵀAg is split into noise and mean, E[gᵀAg] = Tr[Σ₁A]/S + ḡᵀAḡ, with Tr[Σ₁A] from
per-sample gradients (`sample_gradients`): (mean_s g_sᵀAg_s − g_BᵀAg_B)·n/(n−1), unbiased, averaged
over the batches of a window; of a sum over S samples, or after clipping by a factor c, the noise
enters the push S² or c² times. Processes that share a batch out have θ and g in common, and add up
their samples' part; where θ and g lie in shards they are gathered at each measured step, and the
first process keeps the books. The norms of a window and the noise of all windows in the latter
half of the run so far (16 at most) give the noise equilibrium
(`theory.noise_equilibrium`, `theory.gl_equilibrium`): the shift λ* along the orbit that is
still to go, the charge there, and the steps it takes.

Sources: Ziyin et al., arXiv 2402.07193; Kunin et al., arXiv 2012.04728; exact forms derived in
`theory.noise_equilibrium` and `theory.momentum_charge`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ..record import Measurement
from ..symmetry import Mixing, Scaling, Symmetry
from ..symmetry.certify import batch_statistics
from ..theory.gl_equilibrium import GLPoint, gl_equilibrium, gl_relaxation
from ..theory.momentum_charge import Momentum, quadratic_step
from ..theory.noise_equilibrium import Orbit, equilibrium, relaxation_steps
from .charge_form import ChargeForm, Moments, Squares, charge_forms
from .distributed import ALONE, Ranks, added, whole
from .instrument import Rates, Reading
from .sample_gradients import Batch, SampleGradients
from .tap import Scale

QUANTITIES = frozenset({
    "charge", "charges", "charge_size", "charge_change", "charge_residual", "charge_closure",
    "charge_decay", "charge_push", "charge_pushes", "charge_noise", "charge_noises", "charge_gap",
    "equilibrium_shift", "equilibrium_shifts", "relaxation_steps", "symmetry_violation",
    "angular_step", "radial_gradient", "unit_gradient2", "balance_gap",
})  # fmt: skip


MEMORY = 16  # windows whose noise is remembered
EVERY = 2  # of the batches of a window, one in so many shows its noise; the account needs none


@dataclass
class Account:
    """The books of one form: of the run so far, of the window, and of the step in hand."""

    form: ChargeForm
    first: Tensor | None = None  # the charge at the first measured step
    owed: Tensor | None = None  # Σ residuals since then
    mixed: Tensor | None = None  # m = θᵀAv after `step`, under momentum
    step: int = -2
    past: deque[tuple[int, Moments]] = field(default_factory=lambda: deque(maxlen=MEMORY))
    problem: str = ""
    unexplained: str = ""  # why there is no noise
    # of the window
    worst: Tensor | None = None
    pushes: list[Tensor] = field(default_factory=list)
    gradients: list[Moments | None] = field(default_factory=list)  # of the batches watched
    noises: list[_Noise] = field(default_factory=list)
    turns: list[Tensor] = field(default_factory=list)
    radial: Tensor | None = None
    now: _Step | None = None

    def begin(self) -> None:
        """Open a window."""
        self.worst = self.radial = None
        self.pushes, self.gradients, self.noises, self.turns = [], [], [], []


@dataclass
class _Step:
    """What is known of a step before the optimiser moves; expected None: only `after` can tell."""

    rates: list[Rates]
    moments: Moments
    charge: Tensor
    gradient: Moments
    expected: Tensor | None


@dataclass
class _Noise:
    """Moments of Σ₁, and what share of it the gradient of a batch has: 1/n for a mean."""

    moments: Moments
    share: float


class Charges:
    """A stream instrument for the charges of the given symmetries.

    symmetries: as `lawful.symmetries(model, example_input, loss)` finds them; those without a
                quadratic charge, refuted ones and those of frozen tensors are passed over.
    scale:      how autograd's gradient becomes that of one sample.
    seed:       of the sampling of rows; the run's random state is never touched.
    tolerance:  largest violation of a symmetry that is still followed.
    ranks:      the processes that share the batches out; the first one's reading is of them all.
                Of a model in shards find the symmetries before `fully_shard`: names stay as they
                are. Of the tensors that they move, the first process then holds θ and g whole for
                the length of a measured step.

    The optimiser is plain SGD or heavy-ball SGD for the account to be exact; with momentum a
    window needs two consecutive batches. A BatchNorm in training mode makes samples depend on
    each other: the account stands, and the noise is left out.
    """

    quantities = QUANTITIES
    batches = 8

    def __init__(
        self,
        model: nn.Module,
        symmetries: Sequence[Symmetry],
        scale: Scale,
        *,
        seed: int = 0,
        batch_dim: int = 0,
        tolerance: float = 1e-3,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model, self.scale, self.ranks = model, scale, ranks
        forms = charge_forms(model, symmetries, tolerance=tolerance)
        self.accounts = [Account(form) for form in forms]
        moved = {name for form in forms for name in form.parameters}
        self.parameters = {n: p for n, p in model.named_parameters() if n in moved}
        wanted = [(a, f.family.size) for f in forms for a in f.actions]
        self.samples = SampleGradients(
            model, wanted, scale, seed=seed, batch_dim=batch_dim, ranks=ranks
        )
        self._batches: list[Batch] = []  # of the window, those watched
        self._old: dict[str, Tensor] = {}  # θ before the step, where the step itself is measured
        self._seen = self._taken = 0
        self._watching = False
        self._told: set[tuple[str, str]] = set()

    @property
    def names(self) -> list[str]:
        """Of the symmetries that are followed."""
        return [account.form.name for account in self.accounts]

    # -- the protocol --------------------------------------------------------------------------

    def place(self) -> None:
        """Watch the coming batch."""
        self._watching = self._seen % EVERY == 0
        if self._watching:
            self.samples.begin()
            self.samples.place()
        else:
            self.samples.lift()

    def lift(self) -> None:
        """Watch no longer."""
        self.samples.lift()

    @torch.no_grad()
    def before(self, step: int, rates: Mapping[nn.Parameter, Rates], divisor: float) -> None:
        """Charges, gradient forms and noise of the step that is about to be taken."""
        self._seen += 1
        self._old = {}
        for account in self.accounts:
            account.now = None
        # Gathered before anything can fail: the others would wait for a process that did not come.
        held = self.parameters.items()
        theta = self._gathered({n: p.detach() for n, p in held})
        grads = self._gathered({n: p.grad for n, p in held if p.grad is not None})
        if not isinstance(divisor, float) or divisor != 1.0:
            grads = {n: g / divisor for n, g in grads.items()}
        if self._watching:
            self._batches.append(self.samples.close(grads))
            self.samples.begin()
        if self.ranks.first:
            self._open(theta, grads, rates)
        self._taken += 1

    def _open(self, theta: Mapping, grads: Mapping, rates: Mapping[nn.Parameter, Rates]) -> None:
        """Write down what is known before the step."""
        squares, gradients = Squares(theta), Squares(grads, exact=False)
        for account in self.accounts:
            form = account.form
            account.problem = self._impossible(form, rates, grads)
            if account.problem:
                if self._watching:
                    account.gradients.append(None)
                continue
            mine = [rates[self.parameters[a.parameter]] for a in form.actions]
            moments = form.moments(squares)
            now = _Step(mine, moments, form.values(moments), form.moments(gradients), None)
            account.now = now
            if account.first is None:
                account.first = now.charge
            if not mine[0].momentum:
                now.expected = _plain(form, now, theta, grads)
                account.pushes.append(form.values(now.gradient))
            if mine[0].momentum or _scale_free(form):
                self._old |= {n: theta[n].clone() for n in form.parameters if n not in self._old}
            if _scale_free(form) and account.radial is None:
                account.radial = _radial(form, now, theta, grads)
            if self._watching:
                account.gradients.append(now.gradient)

    @torch.no_grad()
    def after(self, step: int) -> None:
        """Close the books of the step."""
        theta = self._gathered({n: p.detach() for n, p in self.parameters.items()})
        if not self.ranks.first:
            return
        squares = Squares(theta)
        move = {n: old - theta[n] for n, old in self._old.items()}
        moves = Squares(move)
        for account in self.accounts:
            form, now = account.form, account.now
            if now is None:
                continue
            charge = form.values(form.moments(squares))
            if now.rates[0].momentum:
                known = account.mixed if account.step == step - 1 else None
                kinetic = form.values(form.moments(moves)) / now.rates[0].lr ** 2
                if known is None:
                    known_now = form.paired(self._old, move, [1 / now.rates[0].lr] * len(now.rates))
                    account.mixed = known_now - now.rates[0].lr * kinetic
                else:
                    now.expected, account.mixed = _heavy_ball(now, known, kinetic)
            account.step = step
            if _scale_free(form):
                account.turns.append(_turn(now.charge, charge, form.values(form.moments(moves))))
            if now.expected is not None:
                left = charge - now.expected
                account.owed = left if account.owed is None else account.owed + left
                so_far = left.abs() if account.worst is None else account.worst
                account.worst = torch.maximum(left.abs(), so_far)
        self._old = {}

    def _gathered(self, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors whole, in the first process; the others hand in their shards, one by one."""
        pieces = ((n, whole(t)) for n, t in x.items())
        return {n: t for n, t in pieces if self.ranks.first}

    @torch.no_grad()
    def read(self, step: int) -> Reading:
        """The latest charges of the window, its worst residual, its mean push and noise.

        What cannot be measured is told once.
        """
        reading, lost = Reading(), self._merge()
        if lost:
            told = f"{lost} of {self.ranks.size} processes could not take a batch in: "
            reading.problems.append(("", told + "the window of the charges is given up"))
        elif self.ranks.first:
            self._explain()
            self._read(step, reading)
        for account in self.accounts:
            account.begin()
        self._batches, self._seen, self._taken = [], 0, 0
        return reading

    def _read(self, step: int, reading: Reading) -> None:
        for account in self.accounts:
            for problem in (account.problem, account.unexplained):
                if problem and (account.form.name, problem) not in self._told:
                    reading.problems.append((account.form.name, problem))
                    self._told.add(reading.problems[-1])
            if account.now is not None:
                _read(account, step, reading)

    def _merge(self) -> int:
        """Add up what the samples of all processes have shown, in one all-reduce; how many of the
        processes could not take a batch in."""
        if self.ranks.size == 1:
            return 0
        failed = torch.tensor([float(self._seen != self._taken)])
        slots = math.ceil(self.batches / EVERY)
        unused = [self.samples.nothing()] * (slots - len(self._batches))
        lost, *sums = added(
            [failed, *(x for b in [*self._batches, *unused] for x in b.sums)], self.ranks
        )
        for batch in self._batches:
            mine, sums = sums[: len(batch.sums)], sums[len(batch.sums) :]
            *batch.totals, batch.counts, batch.shown = mine
        return int(lost)

    def _explain(self) -> None:
        """The noise of every batch watched, account by account."""
        coupled = batch_statistics(self.model)
        for i, batch in enumerate(self._batches):
            n, shrunk, bad = self.samples.judge(batch)
            # What makes the gradient the optimiser gets that of a mean over the samples.
            whole = shrunk if self.scale.mean else shrunk * n / self.ranks.size
            totals = iter(batch.totals)
            for account in self.accounts:
                seen = [next(totals) for _ in account.form.actions]
                gradient = account.gradients[i]
                if gradient is None:
                    continue
                account.unexplained = _unexplained(account.form, bad, n, shrunk, coupled)
                if not account.unexplained:
                    found = _covariance(seen, gradient, n, whole**2)
                    account.noises.append(_Noise(found, whole**2 / n))

    def _impossible(self, form: ChargeForm, rates: Mapping, grads: Mapping) -> str:
        """Why there is no account of this step, "" if there is one."""
        for name in form.parameters:
            if name not in grads:
                return f"{name} has no gradient at this step"
            if self.parameters[name] not in rates:
                return f"the optimiser does not hold {name}"
        mine = [rates[self.parameters[a.parameter]] for a in form.actions]
        if any(r.momentum for r in mine):
            if any(r.nesterov for r in mine):
                return "nesterov=True: the recurrence of a charge is that of heavy-ball momentum"
            if any(r != mine[0] for r in mine) or mine[0].decoupled:
                return "momentum with rates that differ between its tensors is not accounted for"
            if not mine[0].lr:
                return "momentum at a learning rate of 0: the step does not show the buffer"
        return ""


# One step ------------------------------------------------------------------------------------


def _plain(
    form: ChargeForm, now: _Step, theta: Mapping[str, Tensor], grads: Mapping[str, Tensor]
) -> Tensor:
    """Σ_a ρ_a²C_a + η_a²gᵀA_ag − 2(η_aρ_a − η_0ρ_0)θᵀA_ag: the charge after a step of SGD."""
    keep = [1 - r.lr * r.weight_decay for r in now.rates]
    books = zip(keep, now.rates, now.moments, now.gradient, strict=True)
    expected = form.values([k**2 * m + r.lr**2 * g for k, r, m, g in books])
    cross = [r.lr * k for k, r in zip(keep, now.rates, strict=True)]
    apart = [-2 * (c - cross[0]) for c in cross]
    return expected + form.paired(theta, grads, apart) if any(apart) else expected


def _heavy_ball(now: _Step, mixed: Tensor, kinetic: Tensor) -> tuple[Tensor, Tensor]:
    """(C', m') of a step with momentum, m from the step before."""
    rate = now.rates[0]
    settings = Momentum(rate.lr, rate.momentum, rate.dampening, rate.weight_decay)
    return quadratic_step(now.charge, mixed, kinetic, settings)  # type: ignore[arg-type, return-value]


def _covariance(seen: list, gradient: Moments, n: int, mean: float) -> Moments:
    """Moments of Σ₁: (mean_s g_s g_sᵀ − g_B g_Bᵀ)·n/(n−1); mean: what makes g² that of the mean."""
    pairs = zip(seen, gradient, strict=True)
    return [(total.to(g) / n - g / mean) * (n / (n - 1)) for total, g in pairs]


def _averaged(noises: Sequence[Moments]) -> Moments:
    """The mean of several moments, action by action."""
    return [torch.stack(parts).mean(0) for parts in zip(*noises, strict=True)]


def _scale_free(form: ChargeForm) -> bool:
    """Whether the charge is a squared norm: the loss does not depend on the scale of θ."""
    return all(isinstance(a, Scaling) and a.degree == 1 for a in form.actions)


def _radial(form: ChargeForm, now: _Step, theta: Mapping, grads: Mapping) -> Tensor:
    """|⟨w, g⟩|/(‖w‖‖g‖): (n,); 0 where one of them is 0."""
    across = form.paired(theta, grads, [1.0] * len(now.rates)).abs()
    lengths = (now.charge * form.values(now.gradient)).sqrt()
    return torch.where(lengths == 0, 0.0, across / lengths)


def _turn(before: Tensor, after: Tensor, moved: Tensor) -> Tensor:
    """The angle between w and w' from ‖w‖², ‖w'‖², ‖w − w'‖²; sin(½∠)² = (d² − (r−r')²)/4rr'."""
    chord = moved - (before.sqrt() - after.sqrt()).square()
    return 2 * (chord / (4 * (before * after).sqrt())).clamp(0, 1).sqrt().arcsin()


def _unexplained(
    form: ChargeForm, bad: Mapping[str, str], n: int, shrunk: float, coupled: bool
) -> str:
    """Why the noise of single samples is not known, "" if it is."""
    if coupled:
        return "BatchNorm in training mode couples the samples: no noise of single samples"
    for name in form.parameters:
        if name in bad:
            return f"no per-sample gradients of {name}: {bad[name]}"
    if n < 2:
        return "fewer than two samples in the batch: no covariance"
    if not math.isfinite(shrunk):
        return "no weight to compare the rows with: their mean gradient is not known"
    return ""


# The reading ---------------------------------------------------------------------------------


def _read(account: Account, step: int, reading: Reading) -> None:
    form, now = account.form, account.now
    assert now is not None
    assert account.first is not None
    charge, sizes = now.charge, form.sizes(now.moments)
    size, along = float(sizes.norm()), charge / charge.norm().clamp(min=1e-300)
    batches = max(len(account.pushes), len(account.turns), 1)

    def row(quantity: str, value: float, stderr: float = math.nan, count: int = batches) -> None:
        reading.rows.append(Measurement(step, form.name, quantity, value, stderr, count))

    def keep(quantity: str, values: Tensor) -> None:
        reading.arrays[form.name, quantity] = values.cpu().numpy()

    row("charge", float(charge.norm()))
    row("charge_size", size)
    row("charge_change", float((charge - account.first).norm()) / size if size else math.nan)
    row("charge_residual", _worst(account.worst, sizes))
    row("charge_closure", _worst(account.owed, sizes))
    row("symmetry_violation", form.violation)
    keep("charges", charge)
    if account.pushes:
        kept = [(1 - r.lr * r.weight_decay) ** 2 - 1 for r in now.rates]
        lost = form.values([k * m for k, m in zip(kept, now.moments, strict=True)])
        row("charge_decay", float(lost @ along))
        pushes = torch.stack(account.pushes)
        row("charge_push", *_mean(now.rates[0].lr ** 2 * (pushes @ along)))
        keep("charge_pushes", pushes.mean(0))
    if account.turns:
        mean, error = _mean(torch.stack(account.turns).square().mean(1))
        row("angular_step", math.sqrt(mean), error / (2 * math.sqrt(mean)) if mean else math.nan)
    if account.turns and account.pushes:
        row("unit_gradient2", *_mean((torch.stack(account.pushes) * charge).mean(1)))
    if account.radial is not None:
        row("radial_gradient", float(account.radial.max()))
    if account.noises:
        _read_noise(account, step, now, size, along, row, keep)


Row = Callable[..., None]


def _read_noise(
    account: Account, step: int, now: _Step, size: float, along: Tensor, row: Row, keep: Row
) -> None:
    form, rate = account.form, now.rates[0]
    account.past.append((step, _averaged([n.moments for n in account.noises])))
    # A window holds few samples, and where their noise balances is a ratio of what they show.
    noise = _averaged([m for at, m in account.past if 2 * at >= step])
    traces = torch.stack([form.values(n.moments) for n in account.noises])
    shares = traces.new_tensor([n.share for n in account.noises])
    row("charge_noise", *_mean(rate.lr**2 * shares * (traces @ along)))
    keep("charge_noises", traces.mean(0))
    if _full(form):
        into, out = _sides(form, noise)
        largest = max(float(into.norm()), float(out.norm()), 1e-300)
        row("balance_gap", float((into - out).norm()) / largest)
    if rate.momentum or len({(r.lr, r.weight_decay) for r in now.rates}) > 1:
        return
    batch = 1 / float(shares.mean())
    settings = {"eta": rate.lr, "batch": batch, "weight_decay": rate.weight_decay}
    found = rest(form, now.moments, noise, settings)
    if found is None:
        return
    shift, target, steps = found
    good, count = np.isfinite(target), int(np.isfinite(shift).sum())
    gap = np.linalg.norm((now.charge.cpu().numpy() - target)[good]) / size if count else math.nan
    goal = float(np.linalg.norm(target[good])) if count else math.nan
    keep("equilibrium_shifts", torch.from_numpy(shift))
    row("equilibrium_shift", _rms(shift), math.nan, count)
    row("charge_predicted", goal, math.nan, count)
    row("charge_gap", float(gap), math.nan, count)
    row("relaxation_steps", steps, math.nan, count)


def rest(
    form: ChargeForm, moments: Moments, noise: Moments, settings: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray, float] | None:
    """(λ*, charge at the equilibrium, slowest relaxation steps there), None where no closed form.

    For scalings λ* and charge are (n,), NaN or infinite where noise pushes one way only; for a
    full k × k mixing λ* holds the k logarithms of M and the charge is (k²,).
    """
    if all(isinstance(a, Scaling) for a in form.actions):
        if form.family.embed is not None and form.family.embed.dim() != 1:
            return None
        kept = slice(None) if form.family.embed is None else form.family.embed.numpy()
        degrees = np.array([a.degree for a in form.actions if isinstance(a, Scaling)])
        if (degrees > 0).all():
            return None  # a scale: noise only ever pushes it up
        theta2, sigma = (torch.stack(m).cpu().numpy()[:, kept] for m in (moments, noise))
        return _rest_of_scalings(degrees, theta2, sigma, settings)
    if not _full(form):
        return None
    sides = [*_sides(form, moments), *_sides(form, noise)]
    return _rest_of_mixing(GLPoint(*(m.cpu().numpy() for m in sides)), settings)


def _full(form: ChargeForm) -> bool:
    """Whether every k × k matrix is allowed: the whole of GL(k)."""
    full = all(isinstance(a, Mixing) and a.basis is None for a in form.actions)
    return full and form.family.embed is None


def _sides(form: ChargeForm, moments: Moments) -> tuple[Tensor, Tensor]:
    """The moments of what makes the k channels, and of what reads them: (k, k) each."""
    dual = [isinstance(a, Mixing) and a.dual for a in form.actions]
    into, out = (
        torch.stack([m for m, d in zip(moments, dual, strict=True) if d is side]).sum(0)
        for side in (False, True)
    )
    return into, out


def _rest_of_scalings(
    degrees: np.ndarray, theta2: np.ndarray, noise: np.ndarray, settings: Mapping
) -> tuple[np.ndarray, np.ndarray, float]:
    """All neurons at once where every degree is ±1, else one by one."""
    noise = np.maximum(noise, 0.0)  # a variance; round-off may leave −1e-20
    if (np.abs(degrees) == 1).all():
        up, down = degrees > 0, degrees < 0
        T = settings["eta"] / settings["batch"]
        kappa = 2 * settings["weight_decay"] - settings["eta"] * settings["weight_decay"] ** 2
        a, b = theta2[up].sum(0), theta2[down].sum(0)
        s, t = noise[up].sum(0), noise[down].sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            shift = 0.25 * np.log((kappa * b + T * s) / (kappa * a + T * t))
            grown = np.exp(2 * shift)
            size = a * grown + b / grown
            rate = settings["eta"] * (T * (s / grown + t * grown) / size + kappa)
            return shift, a * grown - b / grown, slowest(1 / rate, size)
    points = [Orbit(degrees, c, s) for c, s in zip(theta2.T, noise.T, strict=True)]
    shift = np.array([equilibrium(p, **settings) for p in points])
    there = [p.shifted(x) for p, x in zip(points, shift, strict=True)]
    target = np.array([float(p.a @ p.theta2) for p in there])
    steps = np.array([relaxation_steps(p, **settings) for p in there])
    return shift, target, slowest(steps, np.array([p.theta2.sum() for p in there]))


def _rest_of_mixing(point: GLPoint, settings: Mapping) -> tuple[np.ndarray, np.ndarray, float]:
    k = len(point.into)
    try:
        P = gl_equilibrium(point, **settings)
    except ValueError:  # a channel without noise and decay: it does not come to rest
        return np.full(k, np.nan), np.full(k * k, np.nan), math.nan
    there = point.moved(P)
    shift = 0.5 * np.log(np.linalg.eigvalsh(P))
    return shift, there.charge.reshape(-1), slowest(*gl_relaxation(there, **settings))


def _worst(left: Tensor | None, size: Tensor) -> float:
    """The largest |left|/size; directions without any weight are passed over."""
    return math.nan if left is None else float(torch.where(size == 0, 0.0, left.abs() / size).max())


def slowest(steps: np.ndarray, size: np.ndarray) -> float:
    """The most relaxation steps, but for the slowest directions with 1 % of Σ size² between them.

    Where those still are, they leave a gap of at most a tenth. NaN when no direction is known.
    """
    known = np.isfinite(size) & ~np.isnan(steps)
    order = np.argsort(-steps[known])
    share = np.cumsum(np.square(size[known])[order])
    if not len(share):
        return math.nan
    return float(steps[known][order][np.argmax(share > 0.01 * share[-1])])


def _rms(x: np.ndarray) -> float:
    x = x[np.isfinite(x)]
    return float(np.sqrt(np.mean(x**2))) if len(x) else math.nan


def _mean(x: Tensor) -> tuple[float, float]:
    """Mean and its standard error over the batches of a window."""
    return float(x.mean()), float(x.std()) / math.sqrt(len(x)) if len(x) > 1 else math.nan
