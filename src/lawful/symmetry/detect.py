"""Which symmetries does this model have under this loss?

Stage 1 proposes: the computation is recorded as a graph, and each channel in it is asked what it
survives. Stage 2 certifies: per-sample gradients at several θ must be orthogonal to every
proposed direction. A proposal that fails is returned too, with its violation, uncertified.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from . import read_attention, read_elementwise, read_maps, read_norms  # noqa: F401  (their rules)
from .action import Mixing
from .certify import Bench, Certificate, batch_statistics, certify, draws
from .discrete import Discrete
from .errors import SymmetryError
from .generator import Family
from .graph import Graph, Loss, arguments, split_pair, trace
from .propose import Proposal, propose
from .refuse import check_data, check_graph, check_loss, check_model, unreachable
from .symmetry import Symmetry, charge_expression, layer_of
from .walk import Walk

WHOLE = "graph of the model"


def symmetries(
    model: nn.Module,
    example_input: Any,
    loss: Loss,
    *,
    tolerance: float = 1e-8,
    samples: int = 4,
    perturbations: int = 2,
    seed: int = 0,
) -> list[Symmetry]:
    """The symmetries ℓ(gθ, x) = ℓ(θ, x) of a model, each with the number by which it is violated.

    example_input: a batch x (N, …), or a pair (x, y); several model inputs are a tuple in x's
                   place. Random inputs do; the more neurons they wake the better.
    loss:          loss(model(x)) or loss(model(x), y) → one number.
    tolerance:     the largest violation that is certified (double precision).
    samples:       per-sample gradients taken at each θ; with BatchNorm in training mode samples
                   are not independent and a gradient of the batch is taken instead.
    perturbations: random points around θ that are tried besides θ itself.

    The model, its mode, buffers and the global random state are left as they are: a copy in
    double precision is examined. Raises SymmetryError, one sentence, for active dropout,
    operations without a gradient, quantised or unused parameters, a random or non-scalar loss.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    >>> x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    >>> for s in symmetries(model, x, lambda f: f.square().mean()):
    ...     print(s.name, s.dimension, s.certified)
    permutation of 0, 2 4 True
    sign of 0, 2 4 True
    """
    check_model(model)
    x, targets = split_pair(example_input)
    count = check_data(x, targets)
    with torch.random.fork_rng(devices=[]), sdpa_kernel(SDPBackend.MATH), _quiet():
        bench = _bench(model, x, targets, loss, count, samples)
        proposals = _proposals(bench)
        generator = torch.Generator().manual_seed(seed)
        theta = {n: p.detach() for n, p in bench.model.named_parameters()}
        points = draws(theta, perturbations, generator)
        certificates = certify([p.act for p, _ in proposals], bench, points, generator)
        exact = _without_eps([p for p, _ in proposals], certificates, bench, points, tolerance)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    return [
        part
        for i, ((p, source), c) in enumerate(zip(proposals, certificates, strict=True))
        for part in _parts(p, c, _Found(source, tolerance, frozen, exact.get(i)))
    ]


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _bench(model: nn.Module, x: Any, targets: tuple, loss: Loss, count: int, samples: int) -> Bench:
    """A double-precision copy on the CPU that has been tried once."""
    twin = copy.deepcopy(model).cpu().double()
    x, targets = tree_map(_double, x), tree_map(_double, targets)
    whole = batch_statistics(twin)
    if whole and count < 2:
        raise SymmetryError(
            "BatchNorm is in training mode and example_input holds one sample; pass two or more"
        )
    bench = Bench(twin, x, targets, loss, min(count, 4 if whole else samples), whole)
    theta: dict[str, Tensor] = dict(twin.named_parameters())
    try:
        value = bench.value(theta, 0)
    except RuntimeError as error:
        raise SymmetryError(
            f"the model or loss fails on one sample in double precision ({error}); remove fixed "
            "dtypes such as .float() and assumptions on the batch size"
        ) from error
    check_loss(value, bench.value(theta, 0))
    grads = torch.autograd.grad(
        value, [p for p in theta.values() if p.requires_grad], allow_unused=True
    )
    trained = [n for n, p in theta.items() if p.requires_grad]
    unreachable(twin, dict.fromkeys(theta) | dict(zip(trained, grads, strict=True)))
    twin.requires_grad_(True)
    return bench


def _double(t: Any) -> Any:
    if not isinstance(t, Tensor):
        return t
    return t.detach().cpu().double() if t.is_floating_point() else t.detach().cpu()


def _proposals(bench: Bench) -> list[tuple[Proposal, str]]:
    """From the graph of model and loss; where it cannot be recorded, from those of its parts."""

    def few(t: Any) -> Any:
        return t[:2] if isinstance(t, Tensor) and t.dim() > 0 else t

    x, targets = tree_map(few, bench.x), tree_map(few, bench.targets)
    graph = _recorded(copy.deepcopy(bench.model), x, targets, bench.loss)
    if graph is not None:
        return [(p, WHOLE) for p in _from_graph(graph)]
    parts = _from_parts(copy.deepcopy(bench.model), arguments(x), "")
    if not parts:
        raise SymmetryError(
            "torch.fx can record neither this model nor any part of it that has symmetries; "
            "pass a part without branches on values"
        )
    return parts


def _recorded(model: nn.Module, x: Any, targets: tuple, loss: Loss | None) -> Graph | None:
    """The graph, or None where the run cannot be followed: that may fail in as many ways as
    there are models, and each of them means the same."""
    try:
        return trace(model, x, targets, loss)
    except Exception:
        return None


def _from_graph(graph: Graph, prefix: str = "") -> list[Proposal]:
    check_graph(graph)
    shapes = {name: tuple(graph.leaves[node].shape) for node, name in graph.names.items()}
    return [_named(p, prefix) for p in propose(Walk(graph).run(), shapes)]


def _from_parts(model: nn.Module, args: tuple, prefix: str) -> list[tuple[Proposal, str]]:
    """The same for each child, with the inputs it gets; its output may not change."""
    calls: dict[str, list[tuple]] = {}
    hooks = [
        child.register_forward_pre_hook(lambda _, a, n=name: calls.setdefault(n, []).append(a))
        for name, child in model.named_children()
    ]
    with torch.no_grad():
        model(*args)
    for hook in hooks:
        hook.remove()
    found: list[tuple[Proposal, str]] = []
    for name, seen in calls.items():
        child, path = model.get_submodule(name), f"{prefix}{name}"
        if len(seen) != 1 or not list(child.parameters()):
            continue
        graph = _recorded(child, tuple(seen[0]), (), None)
        if graph is None:
            found += _from_parts(child, tuple(seen[0]), f"{path}.")
        else:
            found += [(p, f"graph of the part {path}") for p in _from_graph(graph, f"{path}.")]
    return found


def _named(p: Proposal, prefix: str) -> Proposal:
    """The same proposal with parameter names as the whole model has them."""
    if not prefix:
        return p

    def full(a: Any) -> Any:
        a = replace(a, parameter=prefix + a.parameter)
        near = getattr(a, "companion", None)
        return a if near is None else replace(a, companion=(prefix + near[0], near[1]))

    if isinstance(p.act, Family):
        return replace(p, act=replace(p.act, actions=tuple(map(full, p.act.actions))))
    return replace(p, act=replace(p.act, moves=tuple(map(full, p.act.moves))))


def _without_eps(
    proposals: list[Proposal],
    certificates: list[Certificate],
    bench: Bench,
    points: list[dict],
    tolerance: float,
) -> dict[int, float]:
    """The violation, with every ε of a norm set to 0, of what is broken with it: by proposal."""
    broken = {
        i: p.act
        for i, (p, c) in enumerate(zip(proposals, certificates, strict=True))
        if bool((c.violation[~c.violation.isnan()] > tolerance).any())
    }
    norms = [m for m in bench.model.modules() if isinstance(getattr(m, "eps", None), float)]
    if not broken or not norms:
        return {}
    twin = copy.deepcopy(bench.model)
    for m in twin.modules():
        if isinstance(getattr(m, "eps", None), float):
            m.eps = 1e-30  # type: ignore[assignment]  # lost beside a variance; torch refuses 0
    again = certify(
        list(broken.values()), replace(bench, model=twin), points[-1:], torch.Generator()
    )
    found = [c.violation[~c.violation.isnan()] for c in again]
    return {i: float(v.max()) for i, v in zip(broken, found, strict=True) if len(v)}


# From certificates to sentences ------------------------------------------------------------------


@dataclass(frozen=True)
class _Found:
    """What the sentences need besides proposal and certificate; exact: violation at ε = 0."""

    source: str
    tolerance: float
    frozen: set[str]
    exact: float | None


def _parts(p: Proposal, c: Certificate, found: _Found) -> Iterator[Symmetry]:
    """The tested directions, and apart from them those on which nothing could be tested."""
    live, dead = c.live.nonzero().flatten(), (~c.live).nonzero().flatten()
    if len(live) and not bool(torch.isnan(c.violation).all()):
        worst = float(c.violation[~c.violation.isnan()].max())
        yield _symmetry(p, _cut(p.act, live, len(dead) > 0), worst, found)
    else:
        dead = torch.arange(len(c.live))
    if len(dead):
        yield _symmetry(p, _cut(p.act, dead, len(dead) < len(c.live)), float("nan"), found)


def _cut(act: Family | Discrete, chosen: Tensor, needed: bool) -> Family | Discrete:
    if not needed:
        return act
    if isinstance(act, Discrete):
        return act.only(chosen)
    embed = chosen if act.embed is None else act.embed[..., chosen]
    return replace(act, embed=embed)


def _symmetry(p: Proposal, act: Family | Discrete, violation: float, found: _Found) -> Symmetry:
    layers = tuple(dict.fromkeys(map(layer_of, act.parameters)))
    shown = layers if len(layers) <= 4 else (*layers[:3], f"… ({len(layers)} modules)")
    name = f"{p.kind} of {', '.join(shown)}{_head(p)}"
    family = isinstance(act, Family)
    dimension = act.dimension if isinstance(act, Family) else act.size
    stuck = [n for n in act.parameters if n in found.frozen]
    noun = "direction" if family else "neuron"
    through = f" through {p.absorbed}" if p.absorbed else ""
    verdict = _verdict(violation, stuck, found)
    return Symmetry(
        name=name,
        kind=p.kind,
        layers=layers,
        generator=act,
        charge=charge_expression(act),
        dimension=dimension,
        laws=act.laws if isinstance(act, Family) else 0,
        violation=violation,
        certified=violation <= found.tolerance and not stuck,
        source=found.source,
        sentence=f"{name}{through}: {dimension} {noun}{'s' * (dimension != 1)}, {verdict}.",
    )


def _head(p: Proposal) -> str:
    """Which of several heads in one tensor."""
    first = p.act.actions[0] if isinstance(p.act, Family) else None
    if not isinstance(first, Mixing) or p.absorbed == "linear maps":
        return ""
    return f" [rows {int(first.at.min())}–{int(first.at.max())} of {first.parameter}]"


def _verdict(violation: float, stuck: list[str], found: _Found) -> str:
    if violation != violation:
        return "no gradient reaches them on these inputs (dead), so nothing is certified"
    if violation <= found.tolerance and stuck:
        return (
            f"the loss has it (violation {violation:.1e}) but it moves the frozen {stuck[0]}, "
            "so training does not follow it"
        )
    if violation <= found.tolerance:
        return f"holds for every sample (violation {violation:.1e})"
    if found.exact is not None and found.exact <= found.tolerance:
        return (
            f"broken by the eps > 0 of a norm (violation {violation:.1e}; "
            f"{found.exact:.1e} at eps = 0)"
        )
    if violation < 1e-3:
        return f"nearly holds (violation {violation:.1e}), as with the eps of a hand-written norm"
    return f"refuted (violation {violation:.1e})"
