"""μP on a user's model: tune a narrow one, train a wide one with the same numbers.

    small = mup(make, 64, base=64, delta=128)       # make: width -> nn.Module
    large = mup(make, 1024, base=64, delta=128)
    optimizer = torch.optim.AdamW(large.groups(lr, weight_decay=0.1))     # lr as tuned on small

What changes against `make(width)` and one rate for all: the deviation of the initial weights, read
off the base model; the learning rate, ε and decay of each parameter group
(`theory.parametrization.maximal`); and, where no group can say it, a factor in the forward pass:
1/m in front of a tied readout, m^−½ on queries whose heads widen (so q·k/√d becomes ∝ q·k/d), and
m_L^−α on residual branches of a deeper model. At width = base nothing changes at all.

The model keeps its class and its names, so `state_dict()` is plain; to load, build it the same way
and `load_state_dict`. Schedulers must multiply the rates, not set them.

Regime. Every width grows together (delta shows which sides are widths), depth is equal in all three
models, steps are few against the width. Deviations are measured on the base model: a layer of k
numbers has them to a relative 1/√(2k). Check a model by `mup_check` before trusting the transfer.

Source: Yang et al., arXiv 2203.03466, table 3 (the form without factors; the rates are those of the
package `mup` 1.0.0, which replaces the readout's class, drops the shapes in `torch.save`, and has
neither ε nor depth); Dey et al., arXiv 2505.01618 (depth, ε).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from ..theory.parametrization import Growth, attention_factor, branch_factor, maximal
from .coordinate_check import Coordinates, Trainable, coordinate_check

Make = Callable[[int], nn.Module]
INPUT_FIRST = (nn.Embedding, nn.EmbeddingBag, nn.ConvTranspose1d, nn.ConvTranspose2d)


@dataclass(frozen=True)
class Maximal:
    """A model in maximal-update parametrisation.

    model:   make(width), its initial weights rescaled, factors attached.
    growths: parameter name -> how its two sides grew from the base model.
    blocks:  names of the parameters that take the rate of depth.
    depth, alpha: growth in depth and its exponent.
    """

    model: nn.Module
    growths: dict[str, Growth]
    blocks: frozenset[str]
    depth: float
    alpha: float

    def groups(
        self, lr: float, *, optimizer: str = "adam", weight_decay: float = 0.0, eps: float = 1e-8
    ) -> list[dict[str, Any]]:
        """Parameter groups for torch.optim, from the numbers that were tuned on the base model.

        optimizer: "adam" (Adam, AdamW, and other optimisers of unit-size steps) or "sgd".
        eps:       of Adam; it must shrink with the gradients. Left out for "sgd".
        """
        found: dict[tuple[float, ...], list[nn.Parameter]] = {}
        for name, p in self.model.named_parameters():
            depth = self.depth if name in self.blocks else 1.0
            f = maximal(self.growths[name], optimizer, depth=depth, alpha=self.alpha)
            if p.requires_grad:
                found.setdefault((lr * f.rate, weight_decay * f.decay, eps * f.eps), []).append(p)
        groups = [
            {"params": params, "lr": rate, "weight_decay": decay, "eps": small}
            for (rate, decay, small), params in found.items()
        ]
        if optimizer == "sgd":
            for group in groups:
                del group["eps"]
        return groups


def mup(
    make: Make,
    width: int,
    *,
    base: int,
    delta: int,
    queries: Iterable[tuple[str, int]] = (),
    branches: Iterable[str] = (),
    blocks: Iterable[str] = (),
    depth: float = 1.0,
    alpha: float = 1.0,
) -> Maximal:
    """make(width) in μP, relative to make(base).

    delta:    any other width; sides that differ between make(base) and make(delta) are widths.
    queries:  (module glob, parts): linear maps that make queries of heads that widen; the first of
              `parts` equal parts of the output is the query (3 for a fused q, k, v). Leave out when
              more heads, not wider ones, make the model wide. `nn.MultiheadAttention` needs no
              entry.
    branches: globs of modules whose output is added to a residual stream; scaled by depth^−alpha.
    blocks:   globs of modules whose parameters take the rate of depth; by default the branches.
    depth:    layers over layers of the model that was tuned.

    Random numbers are drawn as by make(width) alone. Raises ValueError when the three models do
    not have the same parameters, nothing grows, or a factor has no place to go.
    """
    model = make(width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        small, other = make(base), make(delta)
    growths = _growths(model, small, other)
    if base == delta or (width != base and all(g == Growth(1, 1) for g in growths.values())):
        raise ValueError(f"base={base}, delta={delta}: no side differs; give two different widths")
    _tie(model, growths)
    _rescale(model, small, growths)
    _attention(model, small, list(queries))
    scaled = _modules(model, branches, "branches")
    for _, module in scaled if depth != 1 else ():
        module.register_forward_hook(_Output(branch_factor(depth, alpha)))
    inside = _modules(model, blocks, "blocks") or scaled
    names = {
        f"{prefix}.{leaf}".removeprefix(".")  # the model itself has no name
        for prefix, module in inside
        for leaf, _ in module.named_parameters()
    }
    return Maximal(model, growths, frozenset(names), depth, alpha)


def mup_check(
    make: Make,
    x: Tensor,
    loss: Callable[[Tensor], Tensor],
    *,
    base: int,
    delta: int,
    lr: float,
    optimizer: str = "adam",
    widths: Sequence[int] = (),
    steps: int = 3,
    seeds: int = 4,
    **options: Any,
) -> Coordinates:
    """The coordinate check of `mup(make, …)`: every slope should be within ±0.2.

    lr: on the large side of what trains. widths: by default base × 1, 2, 4, 8.
    options: `queries`, `branches`, … as for `mup`.
    """
    trained = trainable(make, base=base, delta=delta, lr=lr, optimizer=optimizer, **options)
    widths = widths or [base * k for k in (1, 2, 4, 8)]
    return coordinate_check(trained, widths, x, loss, steps=steps, seeds=seeds)


def trainable(
    make: Make, *, base: int, delta: int, lr: float, optimizer: str = "adam", **options: Any
) -> Trainable:
    """(width, seed) -> model in μP and torch's Adam or SGD on its groups."""

    def build(width: int, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made = mup(make, width, base=base, delta=delta, **options)
        kind = torch.optim.Adam if optimizer == "adam" else torch.optim.SGD
        return made.model, kind(made.groups(lr, optimizer=optimizer), lr=lr)

    return build


# -- which sides are widths ------------------------------------------------------------------------


def _growths(model: nn.Module, small: nn.Module, other: nn.Module) -> dict[str, Growth]:
    """Every parameter's growth, from its shape in the three models."""
    shapes = [{n: p.shape for n, p in m.named_parameters()} for m in (model, small, other)]
    if not shapes[0].keys() == shapes[1].keys() == shapes[2].keys():
        odd = min(set(shapes[0]) ^ set(shapes[1]) | set(shapes[0]) ^ set(shapes[2]))
        raise ValueError(f"{odd!r} is not in all three models: let them differ in width alone")
    growths = {}
    for name in shapes[0]:
        now, was, moved = (s[name] for s in shapes)
        if not len(now) == len(was) == len(moved):
            raise ValueError(f"{name!r} has not the same number of dimensions at every width")
        ratios = [n / w if w != m else 1.0 for n, w, m in zip(now, was, moved, strict=True)]
        fixed = [n != w for n, w, m in zip(now, was, moved, strict=True) if w == m]
        if any(fixed):
            raise ValueError(f"{name!r} grows on a side where base and delta agree: choose delta")
        growths[name] = _growth(ratios, _owner(model, name), name)
    return growths


def _growth(ratios: list[float], owner: nn.Module, name: str) -> Growth:
    """fan-in is the second axis, or the first of an embedding; alone, a growing axis is fan-out."""
    if sum(r != 1 for r in ratios) > 2:
        raise ValueError(f"{name!r} has more than two sides that grow: no rule is known for it")
    if len(ratios) >= 2 and name.endswith("weight") and not _is_norm(owner):
        b, a = (1, 0) if isinstance(owner, INPUT_FIRST) else (0, 1)
        return Growth(fan_in=ratios[a], fan_out=ratios[b])
    grown = [r for r in ratios if r != 1] + [1.0, 1.0]
    return Growth(fan_in=grown[1], fan_out=grown[0])


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, nn.LayerNorm | nn.GroupNorm | nn.modules.batchnorm._BatchNorm)


def _owner(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


# -- what is done to the model ---------------------------------------------------------------------


def _tie(model: nn.Module, growths: dict[str, Growth]) -> None:
    """A weight that is embedding and readout at once is an input weight; the readout gets 1/m."""
    at: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        at.setdefault(id(p), []).append(name)
    for names in (n for n in at.values() if len(n) > 1):
        owners = [_owner(model, n) for n in names]
        embeddings = [o for o in owners if isinstance(o, nn.Embedding)]
        known = next(n for n in names if n in growths)
        m = max(growths[known].fan_in, growths[known].fan_out)
        if not embeddings or m == 1:
            continue  # copies in the same role, or nothing that grows
        growths[known] = Growth(fan_in=1.0, fan_out=m)
        for owner in owners:
            if isinstance(owner, nn.Linear):
                owner.register_forward_pre_hook(_Input(1 / m))


@torch.no_grad()
def _rescale(model: nn.Module, small: nn.Module, growths: dict[str, Growth]) -> None:
    """Give every weight that grew the deviation it must have; zeros stay zeros."""
    reference = dict(small.named_parameters())
    for name, p in model.named_parameters():
        growth = growths[name]
        now, was = (float(t.double().square().mean().sqrt()) for t in (p, reference[name]))
        if growth != Growth(1, 1) and now > 0:
            p.mul_(was * maximal(growth, "sgd").init / now)


def _attention(model: nn.Module, small: nn.Module, queries: list[tuple[str, int]]) -> None:
    """Put d^−½ of the heads' growth on the queries."""
    for glob, parts in queries:
        for name, module in _modules(model, [glob], "queries"):
            reference = small.get_submodule(name)
            if not (isinstance(module, nn.Linear) and isinstance(reference, nn.Linear)):
                raise ValueError(f"queries={glob!r} names {name!r}, which is no nn.Linear")
            factor = attention_factor(module.out_features / reference.out_features)
            module.register_forward_hook(_Output(factor, parts))
    for name, module in model.named_modules():
        if not isinstance(module, nn.MultiheadAttention):
            continue
        reference = small.get_submodule(name)
        growth = module.head_dim / reference.head_dim
        if growth == 1:
            continue
        if module.in_proj_bias is not None:
            raise ValueError(
                f"{name!r} is an nn.MultiheadAttention with biases whose heads widen: make more "
                "heads of equal size, or pass bias=False"
            )
        module.register_forward_pre_hook(_Query(attention_factor(growth)), with_kwargs=True)


def _modules(model: nn.Module, globs: Iterable[str], argument: str) -> list[tuple[str, nn.Module]]:
    found = []
    for glob in globs:
        hits = [(n, m) for n, m in model.named_modules() if fnmatchcase(n, glob)]
        if not hits:
            raise ValueError(f"{argument}={glob!r} names no module of the model")
        found += hits
    return found


@dataclass(frozen=True)
class _Input:
    """Multiplies the input of a module; a class, so that the model can be pickled."""

    factor: float

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0] * self.factor, *args[1:])


@dataclass(frozen=True)
class _Output:
    """Multiplies the first of `parts` equal parts of a module's output."""

    factor: float
    parts: int = 1

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Any) -> Any:
        if not isinstance(output, Tensor):  # attention returns (output, weights)
            return (output[0] * self.factor, *output[1:])
        first, *rest = output.chunk(self.parts, -1)
        return torch.cat([first * self.factor, *rest], -1) if rest else first * self.factor


@dataclass(frozen=True)
class _Query:
    """Multiplies the query of an `nn.MultiheadAttention`."""

    factor: float

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if "query" in kwargs:
            return args, {**kwargs, "query": kwargs["query"] * self.factor}
        return (args[0] * self.factor, *args[1:]), kwargs
