"""Gradient noise: how much of a mini-batch gradient is signal, layer by layer, as training goes.

    signal    ‖∇L‖²,  noise  trΣ = E‖g_s‖² − ‖∇L‖²,  noise scale  trΣ/‖∇L‖²       (g_s: one sample)
    power     E‖g_B‖² = ‖∇L‖² + κ_B trΣ              what balance laws speak of; also by neuron
    Hebbian   cos(−g_B, mean h_b h_aᵀ), h_b = W h_a + b before the activation function
    virial    E⟨W, −g_B⟩ = λE‖W‖² − (η/2)E‖U‖²,      U = (W′ − W)/η the whole increment
    balance   η(E‖g_i‖² − E‖g_j‖²) and 2λ(‖W_i‖² − ‖W_j‖²) of layers i, j that may trade scale

One ordinary backward pass gives all of it: ‖g_s‖² follows from the layer's inputs and output
gradients (`estimators.per_sample`), g_B is on the parameter, and two batch sizes, one sample and
the batch, tell signal from noise without bias (`estimators.gradient_noise`). Where gradients are
accumulated, or averaged over processes, the micro-batches are a third size, free, and see every
parameter. Several processes are as many micro-batches: their sums over samples are added up at a
reading, and g_B is the mean over all of them already.

Numbers are means over the batches of a window, or ratios of such means, with jackknife errors
over batches. Numbers of a layer are those of its W; numbers of the whole run ("") add the biases.
Embeddings and norms are not covered, and the share that is covered is recorded.

What would make a sum over samples something else is found out and told: a random projection of
Σ g_s/n is compared with that of the gradient on the parameter (clipping, a penalty in the loss, a
weight used elsewhere), and BatchNorm in training mode has no per-sample loss.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..estimators.gradient_noise import mean, ratio, two_batch_sizes
from ..record import Measurement
from ..symmetry.certify import batch_statistics
from .chains import rescalable
from .distributed import ALONE, Ranks, added, copies, held, sharded, whole
from .instrument import Rates, Reading
from .maps import LinearMap
from .micro_batches import MicroBatches, inverse_size, sums_of
from .readings import Label
from .sample_sums import SampleSums, update_of, widened
from .tap import Hooks, Scale, Tap

BATCHES = 32
EVERY = 16  # one batch in so many gives what costs more: Hebb, the increment, neurons
MISMATCH = 1e-2  # of Σ_s |projection|: above what half precision rounds off
ONE_SAMPLE = (
    "batches of one sample: one batch size tells no noise from signal; accumulate or enlarge"
)
Array = NDArray[np.float64]


class GradientNoise:
    """Signal, noise, Hebbian alignment, virial and balance of every linear map.

    model, maps: the model and its maps from `survey`.  scale: what turns an autograd gradient
    into that of one sample.  seed: of the private random projections.
    batches:     batches of a window.  batch_dim: which dimension of the inputs counts samples.
    ranks:       the processes that share the batches out; the first one's reading is of them all.
    """

    quantities = frozenset({
        "gradient_power", "neuron_gradient_power", "signal_norm2", "noise_trace", "noise_scale",
        "signal_to_noise", "signal_norm2_micro", "noise_trace_micro", "noise_scale_micro",
        "noise_scale_all", "noise_coverage", "batch_size", "hebbian_cosine", "hebbian_ceiling",
        "virial", "virial_predicted", "virial_decay", "virial_step", "gradient_balance",
        "gradient_balance_predicted", "balance_charge", "balance_pull", "balance_rate",
        "balance_neurons",
    })  # fmt: skip

    def __init__(
        self, model: nn.Module, maps: list[LinearMap], scale: Scale, *,
        seed: int, batches: int = BATCHES, batch_dim: int = 0, ranks: Ranks = ALONE,
    ) -> None:  # fmt: skip
        uses = Counter(p for m in model.modules() for p in m._parameters.values())
        self.model, self.scale, self.batches, self.ranks = model, scale, batches, ranks
        alone = [m for m in maps if m.parameter is not None and uses[m.parameter] == 1]
        alone = [m for m in alone if m.kind != "embedding" and m.parameter.requires_grad]  # type: ignore[union-attr]
        self.layers = [
            _Layer(m, scale, seed + 2 * i, batch_dim, ranks) for i, m in enumerate(alone)
        ]
        self.hooks = Hooks(model, [layer.tap for layer in self.layers], scale, batch_dim)
        self.pairs = [_Pair(self.layers[i], self.layers[j]) for i, j in rescalable(model, alone)]
        self.micro = MicroBatches(model, scale, ranks)
        self._told: set[str] = set()
        self._begin()

    def _begin(self) -> None:
        self._seen = self._taken = 0
        for layer in self.layers:
            layer.steps.clear()
        for pair in self.pairs:
            pair.clear()
        self.micro.steps.clear()

    # -- collecting ------------------------------------------------------------------------------

    def place(self) -> None:
        """Hooks on."""
        for layer in self.layers:
            layer.tap.active = True
            layer.samples.begin(hebbian=self._hebbian)
        self.hooks.place()
        self.micro.place()

    def lift(self) -> None:
        """Hooks off."""
        for layer in self.layers:
            layer.tap.active = False
        self.hooks.lift()
        self.micro.lift()

    @torch.no_grad()
    def before(self, step: int, rates: Mapping[nn.Parameter, Rates], divisor: float = 1.0) -> None:
        """Take in the gradients of a batch; W is kept until `after` where its step is measured."""
        at, self._seen = self._seen, self._seen + 1
        fully = at % EVERY == 0
        if fully:
            self._add_hebbian()
        gathered = (layer.gathered(rates, fully=fully) for layer in self.layers)
        try:
            for layer in self.layers:  # one is held whole at a time
                layer.before(at, rates, divisor, next(gathered), fully=fully)
        finally:
            for _ in gathered:  # whatever happened here, the others wait for our shards
                pass
        for pair in self.pairs:
            pair.before(rates)
        self.micro.before(divisor, next((m.samples.sizes for m in self.layers), []))
        self._taken += 1
        self.scale.passes += 1

    @torch.no_grad()
    def after(self, step: int) -> None:
        """Take in the increments of the weights."""
        for layer in self.layers:
            layer.after()
            layer.samples.begin(hebbian=self._hebbian)

    @property
    def _hebbian(self) -> bool:
        """Whether the coming batch shows Hebb's update."""
        return self._seen % EVERY == 0

    # -- several processes -----------------------------------------------------------------------

    def _add_hebbian(self) -> None:
        """Hebb's update over the samples of all processes: its norm is no sum of theirs."""
        if self.ranks.size == 1:
            return
        for layer in self.layers:
            [M] = added([layer.hebbian()], self.ranks)
            layer.samples.hebbian = M.to(widened(held(layer.map.weight())))

    def _merge(self) -> int:
        """Add up the sums of all processes; how many of them could not take a batch in."""
        if self.ranks.size == 1:
            return 0
        failed = torch.tensor([float(self._seen != self._taken)])
        troubles = torch.tensor([float(bool(layer.tap.problem)) for layer in self.layers])
        tables = [layer.sums(self.batches) for layer in self.layers]
        lost, missing, micro, *tables = added(
            [failed, troubles, self.micro.sums(self.batches), *tables], self.ranks
        )
        self.micro.take(micro)
        for layer, table, count in zip(self.layers, tables, missing.tolist(), strict=True):
            layer.take(table)
            if count and not layer.tap.problem:
                layer.tap.problem = f"could not be observed in {int(count)} of the processes"
        return int(lost)

    # -- reading ---------------------------------------------------------------------------------

    def read(self, step: int) -> Reading:
        """The window's numbers at `step`; the next batch opens a new window."""
        reading, lost = Reading(), self._merge()
        if lost:
            told = f"{lost} of {self.ranks.size} processes could not take a batch in: "
            reading.problems.append(("", told + "the window of the gradient noise is given up"))
        elif self.ranks.first:
            self._read(step, reading)
        self._begin()
        return reading

    def _read(self, step: int, reading: Reading) -> None:
        coupled = batch_statistics(self.model)
        if coupled:
            reading.problems.append(("", "BatchNorm couples samples: no per-sample gradients"))
        covered: list[tuple[_Layer, _Table]] = []
        for layer in self.layers:
            table, problem = layer.table()
            if problem:
                reading.problems.append((layer.map.name, problem))
            elif table is not None:
                label = Label(step, layer.map.name, len(table))
                reading.rows += layer.readings(label, table)
                rows = [s.rows for s in layer.steps if s.rows is not None]
                if rows:
                    power = torch.stack(rows).double().mean(0).cpu().numpy()
                    reading.arrays[layer.map.name, "neuron_gradient_power"] = power
                doubt = table.doubt()
                if doubt:
                    reading.problems.append((layer.map.name, doubt))
                elif not coupled:
                    reading.rows += table.noise(label)
                    covered.append((layer, table))
        for pair in self.pairs:
            pair.read(step, reading)
        reading.rows += self._whole(step, covered)
        if covered and all((table.inverse == 1).all() for _, table in covered):
            reading.problems += self._once([("", ONE_SAMPLE)])
        reading.problems += self._once(self._uncovered([layer for layer, _ in covered]))

    def _whole(self, step: int, layers: list[tuple[_Layer, _Table]]) -> list[Measurement]:
        """Of all covered parameters together, over the batches in which every layer took part."""
        layers = [(m, t) for m, t in layers if len(t) == self._seen]
        label = Label(step, "", self._seen)
        inside = {p for m, _ in layers for p in m.parameters()}
        out = self.micro.readings(label, inside)
        if not layers:
            return out
        seen = np.all([t.whole for _, t in layers], axis=0)
        inverse = layers[0][1].inverse[seen]
        if not len(inverse):
            return out
        tables = [t for _, t in layers]
        S = np.sum([t.samples + t.samples_b for t in tables], axis=0)[seen]
        P = np.sum([t.batch + t.batch_b for t in tables], axis=0)[seen]
        power = np.sum([t.power + t.power_b for t in tables], axis=0)[seen]
        covered = sum(m.covered for m, _ in layers)
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        return [
            *out,
            label.value("gradient_power", *mean(power)),
            label.value("batch_size", 1 / inverse.mean()),
            label.value("noise_coverage", covered / trained),
            *_signal_and_noise(label, S, P, inverse),
        ]

    def _uncovered(self, covered: list[_Layer]) -> list[tuple[str, str]]:
        """Which trained parameters the noise scale leaves out."""
        inside = {id(p) for layer in covered for p in layer.parameters()}
        left = [n for n, p in self.model.named_parameters()
                if p.requires_grad and id(p) not in inside]  # fmt: skip
        if not left:
            return []
        some = ", ".join(left[:6]) + (", …" if len(left) > 6 else "")
        return [("", f"the noise scale leaves out {len(left)} parameters: {some}")]

    def _once(self, problems: list[tuple[str, str]]) -> list[tuple[str, str]]:
        fresh = [p for p in problems if p[1] not in self._told]
        self._told.update(text for _, text in fresh)
        return fresh


# -- one layer ---------------------------------------------------------------------------------


@dataclass
class _Step:
    """One batch of one layer, its numbers on the layer's device.

    at:       its place in the window.         rates:   how the optimiser moves W.
    samples:  (8,) sums over samples, those of `_Table` before they are divided: ‖g_s‖² of W and
              of b, uᵀg_sv and its modulus; then `sums_of` the micro-batches, and whether some
              were missed. Additive over processes.
    gradient: (6,) from the parameter, in the first process: ‖g‖² of W and of b, ⟨g, W⟩, ‖W‖²,
              ‖b‖², uᵀgv.
    rows:     (d_b,) ‖row of g_B‖².            moved:   ‖W′ − W‖².
    hebbian:  (3,) products of −g_B, W, M with M.
    """

    at: int
    rates: Rates
    samples: Tensor
    gradient: Tensor | None = None
    rows: Tensor | None = None
    moved: Tensor | None = None
    hebbian: Tensor | None = None


@dataclass(frozen=True)
class _Gathered:
    """∂L/∂W and W (d_b, d_a), ∂L/∂b where it is trained and b, with the shards of all."""

    G: Tensor
    W: Tensor
    b: Tensor | None
    bias: Tensor | None


_SUMS = 8
_POWER, _POWER_B, _WEIGHT, _BIAS = 0, 1, 3, 4  # of `_Step.gradient`


@dataclass(frozen=True)
class _Table:
    """A window of one layer: (batches,) each.

    samples, samples_b, batch, batch_b: E‖g_s‖² and ‖g_B‖² of W and of b, of a mean loss.
    power, power_b, dot, weight:        ‖g_B‖², ⟨g, W⟩ and ‖W‖² as the optimiser sees them.
    of_rows, of_gradient, size: uᵀ(·)v of Σ g_s/n and of the gradient; Σ|uᵀg_sv|/n.
    inverse: 1/B.                       whole: every sample was seen.
    """

    samples: Array
    samples_b: Array
    batch: Array
    batch_b: Array
    power: Array
    power_b: Array
    dot: Array
    weight: Array
    of_rows: Array
    of_gradient: Array
    size: Array
    inverse: Array
    whole: NDArray[np.bool_]

    @classmethod
    def of(cls, samples: Array, gradient: Array, scale: Scale, processes: int) -> _Table:
        """From what the steps of a window have kept, (batches, 8) and (batches, 6)."""
        norm2, norm2_b, of_rows, size, parts, inverses, count, broken = samples.T
        power, power_b, dot, weight, _, of_gradient = gradient.T
        # A mean is what has a noise scale; processes divide the sum of a summed loss by R.
        share, of_mean = (parts, 1.0) if scale.mean else (count, processes / count)
        return cls(
            samples=norm2 / parts, samples_b=norm2_b / parts,
            batch=power * of_mean**2, batch_b=power_b * of_mean**2,
            power=power, power_b=power_b, dot=dot, weight=weight,
            of_rows=of_rows / share, of_gradient=of_gradient * of_mean, size=size / share,
            inverse=inverse_size(parts, inverses, count, scale.mean),
            whole=(broken == 0) & (parts == scale.accumulation * processes),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.power)

    def doubt(self) -> str:
        """Why Σ g_s/n is not the gradient on the parameter; empty when it is."""
        off = np.abs(self.of_rows - self.of_gradient)
        if (off <= MISMATCH * self.size)[self.whole].all():
            return ""
        return (
            "its gradient is not the mean of its samples' gradients, so no noise scale: gradients "
            "are clipped, the loss has a penalty, or the weight is used elsewhere"
        )

    def noise(self, label: Label) -> list[Measurement]:
        """Signal and noise of W over the batches whose samples were all seen."""
        seen = self.whole
        return _signal_and_noise(label, self.samples[seen], self.batch[seen], self.inverse[seen])


class _Layer:
    """The batches of a window, as one map saw them."""

    def __init__(
        self, map: LinearMap, scale: Scale, seed: int, batch_dim: int, ranks: Ranks
    ) -> None:
        self.map, self.scale, self.ranks = map, scale, ranks
        self.tap = Tap(map, scale, seed=seed, batch_dim=batch_dim)
        self.tap.rows_cap = sys.maxsize  # a gradient of one sample needs all of its positions
        self.samples = SampleSums(map, seed, scale)
        self.tap.stream = self.samples  # type: ignore[assignment]
        bias = map.module._parameters.get("bias") if map.kind in ("linear", "conv") else None
        self.bias = bias if bias is not None and bias.requires_grad else None
        self.steps: list[_Step] = []
        self.now: _Step | None = None  # of the current batch
        self.neurons: _Neurons | None = None  # of some batches, for the pairs
        self._before: Tensor | None = None

    def parameters(self) -> list[nn.Parameter]:
        return [p for p in (self.map.parameter, self.bias) if p is not None]

    @property
    def covered(self) -> int:
        bias = 0 if self.bias is None else self.bias.numel()
        return self.map.d_a * self.map.d_b + bias

    def hebbian(self) -> Tensor:
        """Hebb's update over the samples of this process, or what makes it."""
        M = self.samples.hebbian
        rows = self.map.d_a + 1 if sharded(self.map.parameter) else self.map.d_b
        return torch.zeros(rows, self.map.d_a) if M is None else M

    def gathered(self, rates: Mapping[nn.Parameter, Rates], *, fully: bool) -> _Gathered | None:
        """Gradient and weight, whole: of shards, the one thing that asks for all processes.

        None where the optimiser does not move the weight, or no gradient has reached it.
        """
        p = self.map.parameter
        assert p is not None
        # A layer that only other processes have called has a gradient all the same.
        called = bool(self.samples.sizes) or self.ranks.size > 1
        if p.grad is None or p not in rates or not called:
            return None
        b = None if self.bias is None or self.bias.grad is None else whole(self.bias.grad)
        bias = whole(self.map.bias()) if fully or b is not None else None
        return _Gathered(whole(self.map.gradient(p.grad)), whole(self.map.weight()), b, bias)

    def before(
        self, at: int, rates: Mapping[nn.Parameter, Rates], divisor: float,
        gathered: _Gathered | None, *, fully: bool,
    ) -> None:  # fmt: skip
        p, s = self.map.parameter, self.samples
        assert p is not None
        self.now = self.neurons = self._before = None
        if gathered is None or self.tap.problem:
            return
        G, W, b, bias = gathered.G, gathered.W, gathered.b, gathered.bias
        b = None if b is None else b / divisor
        norm2_b = s.norm2_b * 0 if b is None else s.norm2_b
        sums = torch.stack([x.double() for x in (s.norm2, norm2_b, s.projection, s.size)])
        counts = torch.cat([sums_of(s.sizes), torch.tensor([float(s.broken)])]).to(sums)
        found = self.now = _Step(at, rates[p], torch.cat([sums, counts]))
        self.steps.append(found)
        if fully and _plain(rates[p]) and (self.ranks.first or sharded(p)):
            self._before = widened(held(self.map.weight())).clone()
        if not self.ranks.first:
            return
        G, W = widened(G), widened(W)
        G = G if divisor == 1 else G / divisor
        g, w = G.reshape(-1), W.reshape(-1)
        power = g.dot(g)
        none = power.new_zeros(())
        trained = None if b is None else bias
        power_b, weight_b = (none if x is None else x.double().square().sum() for x in (b, trained))
        s.u, s.v = s.u.to(G), s.v.to(G)
        values = [power, power_b, g.dot(w), w.dot(w), weight_b, s.v @ (G @ s.u)]
        found.gradient = torch.stack([v.double() for v in values])
        if s.hebbian is not None:
            M = update_of(W, bias, s.hebbian) if sharded(p) else s.hebbian
            m = M.reshape(-1)
            found.hebbian = torch.stack([-g.dot(m), w.dot(m), m.dot(m)]).double()
        if fully:
            found.rows = _rows(G)
            self.neurons = _Neurons.of(G, W, b, trained)

    def after(self) -> None:
        if self._before is not None:
            assert self.now is not None
            step = self._before.sub_(widened(held(self.map.weight())))
            self.now.moved = torch.linalg.vector_norm(step).double().square()
        self.now = self.neurons = self._before = None

    def sums(self, batches: int) -> Tensor:
        """(batches, 9) what is added up over the processes; the last: ‖W′ − W‖² of shards."""
        out = torch.zeros(batches, _SUMS + 1, dtype=torch.float64)
        for s in self.steps:
            out[s.at, :_SUMS] = s.samples
            if s.moved is not None and sharded(self.map.parameter):
                out[s.at, _SUMS] = s.moved / copies(self.map.parameter)
        return out

    def take(self, sums: Tensor) -> None:
        """Put what all processes have seen in place of what this one has."""
        for s in self.steps:
            s.samples = sums[s.at, :_SUMS].to(s.samples)
            if s.moved is not None and sharded(self.map.parameter):
                s.moved = sums[s.at, _SUMS].to(s.moved)
        self.steps = [s for s in self.steps if s.samples[4] > 0]

    def table(self) -> tuple[_Table | None, str]:
        """The window as numbers, or why there is none."""
        if self.tap.problem:
            return None, self.tap.problem
        if not self.steps:
            return None, ""
        kept = [torch.cat([s.samples, s.gradient]) for s in self.steps if s.gradient is not None]
        values = torch.stack(kept).cpu().numpy()
        if not np.isfinite(values).all():
            return None, "its weights, activations or gradients are not finite"
        samples, gradient = values[:, :_SUMS], values[:, _SUMS:]
        return _Table.of(samples, gradient, self.scale, self.ranks.size), ""

    def readings(self, label: Label, table: _Table) -> list[Measurement]:
        """What needs no per-sample gradient: power, Hebbian cosine, virial."""
        out = [label.value("gradient_power", *mean(table.power))]
        kept = [(s.hebbian, i) for i, s in enumerate(self.steps) if s.hebbian is not None]
        if kept:
            cross, with_w, m2 = torch.stack([h for h, _ in kept]).cpu().numpy().T
            at = [i for _, i in kept]
            with np.errstate(divide="ignore", invalid="ignore"):
                cosines = cross / np.sqrt(table.power[at] * m2)
                ceilings = with_w / np.sqrt(table.weight[at] * m2)
            few = Label(label.step, label.layer, len(kept))
            out.append(few.value("hebbian_cosine", *mean(cosines)))
            out.append(few.value("hebbian_ceiling", *mean(ceilings)))
        rates = self.steps[-1].rates
        moved = [s.moved / s.rates.lr**2 for s in self.steps if s.moved is not None]
        if moved:
            steps2 = torch.stack(moved).cpu().numpy()
            decay = mean(rates.weight_decay * table.weight)
            step = mean(rates.lr / 2 * steps2)
            out += [
                label.value("virial", *mean(-table.dot)),
                label.value("virial_decay", *decay),
                label.value("virial_step", *step),
                label.value("virial_predicted", decay[0] - step[0], math.hypot(decay[1], step[1])),
            ]
        return out


def _signal_and_noise(
    label: Label, small: Array, large: Array, inverse: Array
) -> list[Measurement]:
    """‖∇L‖², trΣ, their ratios, from E‖g_s‖² and ‖g_B‖² of every batch."""
    signal, trace = two_batch_sizes(
        small, large, inverse_small=np.ones_like(inverse), inverse_large=inverse
    )
    if not np.isfinite(trace).all() or not len(trace):
        return []
    scale = ratio(trace, signal)
    return [
        label.value("signal_norm2", *mean(signal)),
        label.value("noise_trace", *mean(trace)),
        label.value("noise_scale", *scale),
        label.value("signal_to_noise", *ratio(signal, trace * inverse)),
    ]


# -- pairs of layers ---------------------------------------------------------------------------


@dataclass
class _Pair:
    """Layers that may trade scale.

    steps: the numbers of every batch, (4,): ‖g‖² of the incoming weights with bias, of the
    outgoing ones, then ‖W‖² of both; neurons: the same by neuron, (4, k), of some batches.
    """

    first: _Layer
    second: _Layer
    steps: list[Tensor] = field(default_factory=list)
    neurons: list[Tensor] = field(default_factory=list)
    rates: Rates | None = None
    problem: str = ""

    def clear(self) -> None:
        self.steps.clear()
        self.neurons.clear()

    def before(self, rates: Mapping[nn.Parameter, Rates]) -> None:
        one, two = self.first.now, self.second.now
        if one is None or one.gradient is None or two is None or two.gradient is None:
            return
        of = {
            (r.optimizer, r.lr, r.weight_decay, r.momentum, r.decoupled)
            for p in (*self.first.parameters(), *self.second.parameters()[:1])
            if (r := rates.get(p)) is not None
        }
        if len(of) > 1:
            self.problem = f"trades scale with {self.second.map.name} at another learning rate"
            return
        self.rates = one.rates
        g, g2 = one.gradient, two.gradient
        self.steps.append(
            torch.stack([g[_POWER] + g[_POWER_B], g2[_POWER], g[_WEIGHT] + g[_BIAS], g2[_WEIGHT]])
        )
        if self.first.neurons is not None and self.second.neurons is not None:
            k, near, far = self.first.map.d_b, self.first.neurons, self.second.neurons
            out = [side.view(k, -1).sum(1) for side in far.out]
            self.neurons.append(torch.stack([near.into[0], out[0], near.into[1], out[1]]))

    def read(self, step: int, reading: Reading) -> None:
        name = self.first.map.name
        if self.problem:
            reading.problems.append((name, self.problem))
        if not self.steps or self.rates is None or self.problem:
            return
        into, out, weight_in, weight_out = torch.stack(self.steps).cpu().numpy().T
        eta, decay = self.rates.lr, 2 * self.rates.weight_decay
        noise, weight = eta * (into + out), weight_in + weight_out
        label = Label(step, name, len(self.steps))
        reading.rows += [
            label.value("gradient_balance", *mean(eta * (into - out))),
            label.value("gradient_balance_predicted", *mean(decay * (weight_in - weight_out))),
            label.value("balance_charge", *mean(weight_in - weight_out)),
            label.value("balance_pull", *mean((noise + decay * weight) / 2)),
            label.value("balance_rate", *mean(eta * (noise / weight + decay))),
        ]
        if self.neurons:
            neurons = torch.stack(self.neurons).double().mean(0)
            reading.arrays[name, "balance_neurons"] = neurons.cpu().numpy()


@dataclass(frozen=True)
class _Neurons:
    """‖·‖² of what goes into each neuron, rows with bias, and out of each input, columns: of the
    gradient and of the weight."""

    into: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]

    @classmethod
    def of(cls, G: Tensor, W: Tensor, b: Tensor | None, bias: Tensor | None) -> _Neurons:
        rows = [_rows(G), _rows(W)]
        if b is not None and bias is not None:
            rows = [rows[0] + b.square(), rows[1] + bias.square()]
        return cls((rows[0], rows[1]), ((G * G).sum(0), (W * W).sum(0)))


def _rows(X: Tensor) -> Tensor:
    return torch.linalg.vector_norm(X, dim=1).square()


def _plain(rates: Rates) -> bool:
    """W ← W − η(g + λW)."""
    return rates.optimizer == "SGD" and rates.lr > 0 and rates.momentum == 0 and not rates.decoupled
