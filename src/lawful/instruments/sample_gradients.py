"""Second moments of per-sample gradients, without one per-sample gradient in memory.

With h (n, T, d_a), g (n, T, d_b) the rows of n samples at T positions, G_s = Σ_t g_t h_tᵀ is the
gradient of sample s. What an action sees of Σ_s G_s G_sᵀ needs only products of rows:

    K = h hᵀ (T × T, one a sample)      Σ_s G_s G_sᵀ = Σ gᵀ K g      diagonal: Σ_t g ⊙ K g

and the same with h and g exchanged for the other side; K g is formed once a layer, and as
h (hᵀ g) where that is cheaper. Biases need Σ_t g_t; gains of a normalisation Σ_t g_t ⊙ x̂_t.

Of a layer whose products would cost more than a share of its training, a random part of the
samples is taken: the mean over samples stays unbiased. Everything kept of a batch is a sum over
its samples, and several processes add theirs up (`Batch`).

The rows must add up to the gradient that the optimiser gets. They are compared along one random
direction u, v of each weight,  uᵀ(∂L/∂W)v  against  Σ (g·u)(h·v)/n:  one common factor is
clipping by norm, and is allowed for; anything else means a use that no hook sees.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..symmetry import Mixing, Scaling
from .charge_form import moment_shape, scattered
from .distributed import ALONE, Ranks
from .maps import (
    LinearMap,
    inner_modules,
    input_rows,
    linear_maps,
    output_rows,
    positions,
    unbatched,
)
from .tap import Hooks, Scale, Tap, first_input, harmless

MISMATCH = 1e-3
SHARE = 0.05  # of a layer's multiplications in training, spent on products of its rows
CHUNK = 1 << 22  # numbers held at once: of per-sample matrices, of unfolded patches


@dataclass
class Wanted:
    """Σ_s moments of one action over the samples of a step.

    columns: of each source, by its `at`, where the indices that are mixed lie among its own: a
             packed tensor has several sources.
    """

    action: Scaling | Mixing
    size: int
    total: Tensor = field(init=False)
    columns: dict[Tensor, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.total = torch.zeros(moment_shape(self.action, self.size), dtype=torch.float64)

    def take_vectors(self, v: Tensor, at: Tensor, weight: float) -> None:
        """v (n, d): per-sample gradients of a bias or gain; at (d,): their indices."""
        self.take(v, v, at, weight)

    def take(self, x: Tensor, Kx: Tensor, at: Tensor, weight: float) -> None:
        """x (…, d) rows of one side of a weight, Kx the same after K; at (d,): their indices."""
        a, own = self.action, at.to(x.device)
        x, Kx = x.flatten(0, -2), Kx.flatten(0, -2)
        if isinstance(a, Scaling):
            along = (x * Kx).sum(0).double()
            if len(at) != len(a.direction):  # a part of a packed tensor, or unfolded channels
                along = along.new_zeros(len(a.direction)).index_add(0, own, along)
            found = scattered(a, along, self.size)
        else:
            if at not in self.columns:
                self.columns[at] = _columns(a.at.to(own.device), own)  # (m, k)
            columns = self.columns[at]
            left, right = (t[:, columns].reshape(-1, columns.shape[1]) for t in (x, Kx))
            found = (left.T @ right).double()
        self.total = self.total.to(found) + weight * found


@dataclass
class Source:
    """One module that trains some wanted tensors, and what it has shown in this step."""

    name: str
    parameters: tuple[str, ...]
    samples: int = 0
    passes: set[int] = field(default_factory=set)
    problem: str = ""

    def count(self, n: int, of_pass: int) -> None:
        if of_pass in self.passes:
            self.problem = "is called several times in a pass: its samples cannot be told apart"
        self.passes.add(of_pass)
        self.samples += n

    def begin(self) -> None:
        self.samples, self.passes = 0, set()


class MapSource(Source):
    """A linear map: the wanted actions on its weight and on its bias."""

    def __init__(
        self, map: LinearMap, weight: str | None, bias: str | None, wanted: _Table, seed: int
    ) -> None:
        super().__init__(map.name, tuple(n for n in (weight, bias) if n))
        self.map, self.weight = map, weight
        self._of: dict[str, list[tuple[Wanted, Tensor]]] = {"a": [], "b": [], "bias": []}
        for w in wanted[weight] if weight is not None else []:
            side, at = _side(map, w.action.axis)
            self._of[side].append((w, at))
        if bias is not None:
            self._of["bias"] = [(w, _bias_of(map)[1]) for w in wanted[bias]]
        self._generator = torch.Generator().manual_seed(seed)
        self.u = torch.randn(map.d_b, generator=self._generator)
        self.v = torch.randn(map.d_a, generator=self._generator)
        self.begin()

    def begin(self) -> None:
        super().begin()
        self.seen, self.scatter = torch.zeros(()).double(), torch.zeros(()).double()

    def take(self, h: Tensor, g: Tensor, factor: float) -> None:
        """Rows (n, T, d_a) and (n, T, d_b) of n samples; g still to be multiplied by factor."""
        if self.u.device != g.device or self.u.dtype != g.dtype:
            self.u, self.v = self.u.to(g), self.v.to(g)
        if self.weight is not None:
            shown = factor * ((g @ self.u) * (h @ self.v)).double()
            self.seen = self.seen.to(shown) + shown.sum()
            self.scatter = self.scatter.to(shown) + shown.square().sum()
        if self._of["bias"]:
            v = g.sum(1)
            for w, at in self._of["bias"]:
                w.take_vectors(v, at, factor**2)
        h, g, weight = self._some(h, g, factor**2)
        for side, x, y in (("b", g, h), ("a", h, g)):
            if self._of[side]:
                Kx = correlated(y, x)
                for w, at in self._of[side]:
                    w.take(x, Kx, at, weight)

    def _some(self, h: Tensor, g: Tensor, weight: float) -> tuple[Tensor, Tensor, float]:
        """As many samples as the share of work allows, at least two, and their weight."""
        n, T, d_a = h.shape
        d_b = g.shape[2]
        sides = bool(self._of["a"]) + bool(self._of["b"])
        cost = sides * T * min(T * (d_a + d_b), 2 * d_a * d_b) if T > 1 else 0
        few = max(2, math.ceil(n * SHARE * 3 * T * d_a * d_b / max(cost, 1)))
        if few >= n:
            return h, g, weight
        chosen = torch.randperm(n, generator=self._generator)[:few].to(h.device)
        return h[chosen], g[chosen], weight * n / few

    def applied(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """uᵀ(∂L/∂W)v of the gradient that the optimiser gets, NaN where there is none."""
        if self.weight is None or self.weight not in gradients:
            return torch.tensor(math.nan, dtype=torch.float64)
        G = self.map.gradient(gradients[self.weight])
        return (self.u.to(G) @ (G @ self.v.to(G))).double()


class RowTap(Tap):
    """A tap that hands the rows of a call on; patches are unfolded a few samples at a time."""

    def __init__(self, source: MapSource, scale: Scale, seed: int, batch_dim: int) -> None:
        super().__init__(source.map, scale, seed=seed, batch_dim=batch_dim)
        self.source = source

    @torch.no_grad()
    def take(
        self, h: Tensor, g: Tensor, batch: int | None = None, of_pass: int | None = None
    ) -> None:
        with torch.autocast(g.device.type, enabled=False):
            batch = None if unbatched(self.map, g) else batch
            g = self.scale.unscaled(g if g.dtype == torch.float64 else g.float())
            n = positions(self.map, g, batch, self.batch_dim)[0]
            self.source.count(n, -1 if of_pass is None else of_pass)
            parts = [(h, g)]
            if self.map.kind == "conv" and batch == n == len(h):
                each = max(1, CHUNK // (self.map.d_a * g[0, 0].numel()))
                parts = list(zip(h.split(each), g.split(each), strict=True))
            for x, y in parts:
                size = batch if len(parts) == 1 else len(y)
                columns = output_rows(self.map, y, size, None, self.batch_dim)
                rows = input_rows(self.map, x, size, None, self.batch_dim).to(columns.dtype)
                self.source.take(rows, columns, self.scale.factor(n))


class NormSource(Source):
    """A normalisation y = γ ⊙ x̂ + β: per-sample gradients Σ_t g ⊙ x̂ and Σ_t g."""

    def __init__(
        self, name: str, module: nn.Module, own: Mapping[str, str], wanted: _Table
    ) -> None:
        super().__init__(name, tuple(own.values()))
        self.module = module
        self.at = torch.arange(len(next(module.parameters(recurse=False))))
        self._gain, self._shift = wanted[own.get("weight", "")], wanted[own.get("bias", "")]

    def watch(self, scale: Scale, batch_dim: int) -> torch.utils.hooks.RemovableHandle:
        def on_forward(module: nn.Module, args: tuple, kwargs: dict, output: Tensor) -> None:
            if self.problem or not output.requires_grad or torch.compiler.is_compiling():
                return
            with harmless(self):
                x, batch, of_pass = first_input(args, kwargs).detach(), scale.batch, scale.passes

                def on_gradient(g: Tensor) -> None:
                    with harmless(self):
                        self.take(x, g.detach(), scale, batch, of_pass, batch_dim)

                output.register_hook(on_gradient)

        return self.module.register_forward_hook(on_forward, with_kwargs=True)

    @torch.no_grad()
    def take(
        self, x: Tensor, g: Tensor, scale: Scale, batch: int | None, of_pass: int, batch_dim: int
    ) -> None:
        d = len(self.at)
        channel = 1 if isinstance(self.module, nn.modules.batchnorm._BatchNorm) else -1

        def rows(t: Tensor) -> Tensor:
            t = t.movedim(channel, -1)
            t = t.movedim(batch_dim, 0) if t.dim() > 2 else t
            return t.reshape(batch if batch and t.numel() % (batch * d) == 0 else len(t), -1, d)

        y = rows(g)
        y = scale.unscaled(y if y.dtype == torch.float64 else y.float())
        weight = scale.factor(len(y)) ** 2
        self.count(len(y), of_pass)
        if self._gain:
            v = (y * rows(_unit(self.module, x)).to(y)).sum(1)
            for w in self._gain:
                w.take_vectors(v, self.at, weight)
        if self._shift:
            for w in self._shift:
                w.take_vectors(y.sum(1), self.at, weight)


_Table = dict[str, list[Wanted]]


@dataclass
class Batch:
    """What the samples of one batch have shown.

    totals:  of every wanted action.
    counts:  (sources, 3) samples, their square, whether there was trouble.
    shown:   (sources, 2) Σ uᵀG_sv and its scatter Σ (uᵀG_sv)².
    applied: (maps,) uᵀ(∂L/∂W)v of the gradient on the parameter; NaN where there is none.

    All but the last, which the first process knows, add up over the processes.
    """

    totals: list[Tensor]
    counts: Tensor
    shown: Tensor
    applied: Tensor

    @property
    def sums(self) -> list[Tensor]:
        return [*self.totals, self.counts, self.shown]


class SampleGradients:
    """Watches one batch at a time for the moments of per-sample gradients.

    wanted: actions by parameter name, with the number of coefficients of their family.
    """

    def __init__(
        self,
        model: nn.Module,
        wanted: Sequence[tuple[Scaling | Mixing, int]],
        scale: Scale,
        *,
        seed: int = 0,
        batch_dim: int = 0,
        ranks: Ranks = ALONE,
    ) -> None:
        self.scale, self.batch_dim, self.ranks = scale, batch_dim, ranks
        self.wanted = [Wanted(a, size) for a, size in wanted]
        table: _Table = {"": []}
        for w in self.wanted:
            table.setdefault(w.action.parameter, []).append(w)
        self.problems: dict[str, str] = {}  # parameter → why it has no per-sample gradients
        names = {p: n for n, p in model.named_parameters()}
        uses = Counter(
            names[p] for m in model.modules() for p in m._parameters.values() if p is not None
        )
        self.maps: list[MapSource] = []
        self.norms: list[NormSource] = []
        covered: set[nn.Module] = set()
        for name, module in model.named_modules():
            if module not in covered:
                covered.update(self._find(name, module, names, table, seed))
        self.sources: list[Source] = [*self.maps, *self.norms]
        found = {p for s in self.sources for p in s.parameters}
        for parameter in table.keys() - found - {""}:
            self.problems.setdefault(parameter, "no linear map or known normalisation uses it")
        for parameter in found & {n for n, k in uses.items() if k > 1}:
            self.problems[parameter] = "several modules share it"
        self.taps = [RowTap(s, scale, seed, batch_dim) for s in self.maps]
        self.hooks = Hooks(model, list(self.taps), scale, batch_dim)
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def _find(
        self, name: str, module: nn.Module, names: dict[nn.Parameter, str], table: _Table, seed: int
    ) -> Iterable[nn.Module]:
        """Add the sources of wanted tensors that this module is; the modules settled with it."""

        def wanted(p: nn.Parameter | None) -> str | None:
            found = None if p is None else names.get(p)
            return found if found in table else None

        try:
            maps = linear_maps(name, module)
        except (TypeError, ValueError) as reason:
            self.problems |= {n: str(reason) for p in module.parameters() if (n := wanted(p))}
            return module.modules()

        for map in maps:
            weight, bias = wanted(map.parameter), wanted(_bias_of(map)[0])
            if (weight or bias) and map.kind != "embedding":
                place = seed + len(self.maps)
                self.maps.append(MapSource(map, weight, bias, table, place))
        if not maps and isinstance(module, _NORMS) and not _strange(module):
            own = {k: n for k, p in module._parameters.items() if (n := wanted(p))}
            if own:
                self.norms.append(NormSource(name, module, own, table))
        return inner_modules(module) if maps else ()

    def place(self) -> None:
        if self._handles:
            return
        self.hooks.place()
        for tap in self.taps:
            tap.active = True
        self._handles = [n.watch(self.scale, self.batch_dim) for n in self.norms]

    def lift(self) -> None:
        self.hooks.lift()
        for tap in self.taps:
            tap.active = False
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def begin(self) -> None:
        """Forget the samples seen so far."""
        for wanted in self.wanted:
            wanted.begin()
        for source in self.sources:
            source.begin()

    def close(self, gradients: Mapping[str, Tensor]) -> Batch:
        """What this process has seen of the step."""
        self.scale.passes += 1  # also for those who call parts of the model, never the whole
        for tap in self.taps:
            tap.source.problem = tap.source.problem or tap.problem
        counts = [[s.samples, s.samples**2, float(bool(s.problem))] for s in self.sources]
        zero = torch.zeros((), dtype=torch.float64)
        shown = [(s.seen, s.scatter) for s in self.maps] + [(zero, zero)] * len(self.norms)
        return Batch(
            [w.total for w in self.wanted],
            torch.tensor(counts, dtype=torch.float64).reshape(-1, 3),
            together([x for pair in shown for x in pair]).view(-1, 2),
            together([s.applied(gradients) for s in self.maps]),
        )

    def nothing(self) -> Batch:
        """A batch without samples."""
        totals = [torch.zeros_like(w.total) for w in self.wanted]
        sources, maps = len(self.sources), len(self.maps)
        return Batch(totals, torch.zeros(sources, 3), torch.zeros(sources, 2), torch.zeros(maps))

    def judge(self, batch: Batch) -> tuple[int, float, dict[str, str]]:
        """(n, c, problems) of a batch of all processes: samples; the factor by which clipping has
        changed the gradient; and the parameters whose moments are not to be used."""
        bad = dict(self.problems)
        n = int(batch.counts[:, 0].max()) if self.sources else 0
        for s, row in zip(self.sources, batch.counts.tolist(), strict=True):
            if problem := s.problem or self._trouble(row, n):
                bad |= dict.fromkeys(s.parameters, problem)
        return n, self._shrunk(batch, n, bad), bad

    def _trouble(self, row: list[float], n: int) -> str:
        """What is wrong with a source in another process, or in all of them together."""
        samples, squares, troubles = row
        R = self.ranks.size
        if troubles:
            return f"could not be observed in {int(troubles)} of {R} processes"
        if samples != n:
            return "not every sample passed through it"
        if R > 1 and squares * R != n**2 and self.scale.mean:
            return "the processes' shares of the batch differ: the gradient is no mean over samples"
        return ""

    def _shrunk(self, batch: Batch, n: int, bad: dict[str, str]) -> float:
        """c of applied = c · seen, least squares over the maps; those that disagree are bad."""
        finite = batch.applied.isfinite().tolist()
        judged = [i for i, s in enumerate(self.maps) if finite[i] and s.weight not in bad]
        if not judged or not n:
            return math.nan
        # Several processes keep the mean of their gradients, also where the loss is a sum.
        per = n if self.scale.mean else self.ranks.size
        applied, shown = batch.applied[judged], batch.shown.to(batch.applied)[judged] / per
        seen, scatter = shown[:, 0], shown[:, 1].sqrt() / per**0.5
        c = (applied @ seen) / (seen @ seen)
        apart = (applied - c * seen).abs() > MISMATCH * (c * seen.abs() + c.abs() * scatter)
        for i, wrong in zip(judged, apart.tolist(), strict=True):
            if wrong:
                reason = (
                    "the rows seen do not add up to its gradient: another use, or clipping by value"
                )
                bad |= dict.fromkeys(self.maps[i].parameters, reason)
        return float(c)


# Products of rows ------------------------------------------------------------------------------


def correlated(h: Tensor, g: Tensor) -> Tensor:
    """K g with K = h hᵀ of each sample: (n, T, d_a), (n, T, d_b) → (n, T, d_b)."""
    T, d_a, d_b = h.shape[1], h.shape[2], g.shape[2]
    if T == 1:
        return h.square().sum(2, keepdim=True) * g
    if T * (d_a + d_b) <= 2 * d_a * d_b:
        return (h @ h.mT) @ g
    each = max(1, CHUNK // (d_a * d_b))
    parts = zip(h.split(each), g.split(each), strict=True)
    return torch.cat([x @ (x.mT @ y) for x, y in parts])


def _columns(at: Tensor, present: Tensor) -> Tensor:
    """Where the mixed indices at (m, k) lie among the columns: (m′, k).

    A convolution shows each channel once for every place of its kernel: m′ = m · places.
    """
    order = torch.argsort(present, stable=True)
    low = torch.searchsorted(present[order], at)
    high = torch.searchsorted(present[order], at, right=True)
    places = int((high - low).max())
    kept = ((high - low) == places).all(1) if places else torch.zeros(len(at), dtype=torch.bool)
    each = torch.arange(places, device=at.device)
    return order[(low[kept, None] + each[:, None]).flatten(0, 1)] if places else at[:0]


def together(numbers: Sequence[Tensor]) -> Tensor:
    """Numbers as one vector, on the device of the first that lies on one."""
    if not numbers:
        return torch.zeros(0, dtype=torch.float64)
    device = next((x.device for x in numbers if x.device.type != "cpu"), numbers[0].device)
    return torch.stack([x.to(device) for x in numbers])


# Which index is which ----------------------------------------------------------------------------


def _side(map: LinearMap, axis: int) -> tuple[str, Tensor]:
    """The side of W that an axis of the parameter is, and the index of each of its rows."""
    assert map.parameter is not None
    shape = map.parameter.shape
    flat = map.gradient(torch.arange(map.parameter.numel()).view(shape))
    index = flat // math.prod(shape[axis + 1 :]) % shape[axis]
    return ("b", index[:, 0]) if bool((index == index[:, :1]).all()) else ("a", index[0])


def _bias_of(map: LinearMap) -> tuple[nn.Parameter | None, Tensor]:
    """The trained bias of a map, and the index in it of each output."""
    if map.kind != "attention":
        return map.module._parameters.get("bias"), torch.arange(map.d_b)
    if map.name.endswith("out_proj"):
        return map.module.out_proj.bias, torch.arange(map.d_b)  # type: ignore[union-attr, return-value]
    return map.module._parameters.get("in_proj_bias"), map.gradient(torch.arange(3 * map.d_b))


_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.modules.batchnorm._BatchNorm)


def _strange(norm: nn.Module) -> bool:
    return len(getattr(norm, "normalized_shape", (0,))) != 1


def _unit(norm: nn.Module, x: Tensor) -> Tensor:
    """x̂: the normalised input, before gain and shift."""
    if isinstance(norm, nn.LayerNorm):
        return nn.functional.layer_norm(x, norm.normalized_shape, eps=norm.eps)
    if isinstance(norm, nn.RMSNorm):
        return nn.functional.rms_norm(x, norm.normalized_shape, eps=norm.eps)
    assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
    return nn.functional.batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps)
