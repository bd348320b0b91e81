"""The loss around the present weights: exact products with its second and third derivatives.

    H v = ∇(gᵀv)        G v = Jᵀ (∂²ℓ/∂f²) J v        ∇_θ (uᵀ H v)

H is the Hessian of the mean loss over a declared sample, G its Gauss–Newton part (J the Jacobian
of the outputs f; H − G is the curvature of the network itself), exact by double backward. The
graph of one forward and backward pass is built once for each micro-batch and serves every product
of a measurement: a product then costs less than two training steps. Graphs beyond a given memory
are built anew for each product.

Attention uses the written-out (math) kernel, the only one that can be differentiated twice. The
model is in the probe's mode: in `train` mode BatchNorm normalises each micro-batch by itself, so
the loss depends on how the sample is cut; dropout draws the same masks in every product. A weight
used twice is one parameter. ReLU and max-pooling have a second derivative almost everywhere, and
that one is meant.

Source: B. A. Pearlmutter, Neural Computation 6 (1994) 147; N. Schraudolph, ibid. 14 (2002) 1723.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..symmetry.certify import batch_statistics
from .distributed import sharded, unwrapped
from .probe import Probe, _call, _pair, _scalar, samples_in, seeded, undisturbed

MEMORY = 2**30
"""Bytes of graphs kept between products."""


BROKEN = ("torch::autograd::Error", "torch::autograd::NotImplemented")
"""Names of autograd nodes that stand for a missing second derivative."""


class NoCurvature(ValueError):
    """The loss has no second derivative that could be measured; the message says why."""


@dataclass
class _Graph:
    """One micro-batch, differentiated once and ready to be differentiated again."""

    share: float
    output: Tensor
    loss: Tensor
    gradient: tuple[Tensor, ...]


class LossSurface:
    """The probe's loss at the present weights; made by `loss_surface`, valid inside it.

    parameters: those that are trained, each once.   dimension: D, their numbers together.
    samples:    in the probe.   loss: its mean.   gradient: (D,) its gradient.
    products:   Hessian or Gauss–Newton products so far.

    Vectors are flat, in the order of `parameters`, in their precision or that of float32.
    """

    def __init__(self, model: nn.Module, probe: Probe, *, memory: int, seed: int) -> None:
        self.model, self.probe, self.seed = model, probe, seed
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise NoCurvature("no parameter of the model is trained: there is no gradient")
        self.dimension = sum(p.numel() for p in self.parameters)
        self.dtype = torch.promote_types(self.parameters[0].dtype, torch.float32)
        self.products = 0
        self.batches = [_pair(item) for item in probe.batches]
        if not self.batches:
            raise NoCurvature("the probe gave no batch: nothing was measured")
        sizes = [samples_in(x, y) for x, y in self.batches]
        self.samples = sum(sizes)
        self.shares = [size / self.samples for size in sizes]
        self.kept: dict[int, _Graph] = {}
        self.batch_gradients: list[float] = []
        self.loss, self.gradient = self._first_pass(memory)

    def hessian(self, v: Tensor) -> Tensor:
        """H v, (D,) → (D,)."""
        self.products += 1
        return self._sum(lambda graph: self._differentiate(graph, v))

    def gauss_newton(self, v: Tensor) -> Tensor:
        """G v, (D,) → (D,). Raises `NoCurvature` when the output is no single tensor."""
        self.products += 1
        return self._sum(lambda graph: self._through_output(graph, v))

    def third(self, u: Tensor, v: Tensor) -> Tensor:
        """∇_θ (uᵀ H v) with u and v held fixed, (D,).

        Raises `NoCurvature` where BatchNorm is in training mode: torch differentiates it twice
        only. Up to 2.13 the third derivative came out without a word, and half of it wrong.
        """
        if batch_statistics(self.model):
            raise NoCurvature("BatchNorm in training mode cannot be differentiated three times")

        def one(graph: _Graph) -> Tensor:
            product = _grad(graph.gradient, self.parameters, self._pieces(v), create=True)
            return self._flat(_grad(product, self.parameters, self._pieces(u)))

        return self._sum(one)

    def batch_curvatures(self) -> list[float]:
        """g_BᵀH_B g_B/‖g_B‖² of each micro-batch B along its own gradient."""
        found = []
        for graph in self._graphs():
            g = self._flat([p.detach() for p in graph.gradient]) / graph.share
            bend = self._differentiate(graph, g) / graph.share
            norm2 = float(g.double() @ g.double())
            found.append(float(g.double() @ bend.double()) / norm2 if norm2 > 0 else math.nan)
        self.products += 1  # together the micro-batches make one product with H
        return found

    # -- the pieces ---------------------------------------------------------------------------

    def _first_pass(self, memory: int) -> tuple[float, Tensor]:
        loss, gradient = 0.0, torch.zeros((), dtype=self.dtype)
        seen: dict[int, int] = {}
        for i in range(len(self.batches)):
            with saved_tensors_hooks(_note(seen), lambda t: t) if i == 0 else nullcontext():
                graph = self._graph(i)
            loss += float(graph.loss.detach())
            gradient = gradient + self._flat([p.detach() for p in graph.gradient])
            if (i + 1) * sum(seen.values()) <= memory:  # others are about as large as the first
                self.kept[i] = graph
        if not math.isfinite(loss) or not bool(torch.isfinite(gradient).all()):
            raise NoCurvature(
                f"the probe's loss is {loss:g} and its gradient "
                f"{'finite' if bool(torch.isfinite(gradient).all()) else 'not finite'}: "
                "there is no curvature to measure; look for bad input or a learning rate too large"
            )
        return loss, gradient

    def _graph(self, i: int) -> _Graph:
        x, y = self.batches[i]
        seeded(self.model, self.seed + i)  # dropout: the same masks in every product
        output = _call(self.model, x)
        loss = _scalar(self.probe.loss(output, y)) * self.shares[i]
        if not loss.requires_grad:
            raise NoCurvature("the probe's loss does not depend on any trained parameter")
        gradient = _grad((loss,), self.parameters, None, create=True)
        if i == 0:
            _check_differentiable(gradient)
        return _Graph(self.shares[i], output, loss, gradient)

    def _graphs(self) -> Iterator[_Graph]:
        for i in range(len(self.batches)):
            yield self.kept.get(i) or self._graph(i)

    def _sum(self, product: Callable[[_Graph], Tensor]) -> Tensor:
        return sum((product(graph) for graph in self._graphs()), torch.zeros_like(self.gradient))

    def _differentiate(self, graph: _Graph, v: Tensor) -> Tensor:
        return self._flat(_grad(graph.gradient, self.parameters, self._pieces(v)))

    def _through_output(self, graph: _Graph, v: Tensor) -> Tensor:
        f = graph.output
        if not isinstance(f, Tensor):
            raise NoCurvature(f"Gauss–Newton needs one output tensor, not {type(f).__name__}")
        # J v as the derivative of Jᵀu by u (at any u, as it is linear in u).
        u = torch.zeros_like(f, requires_grad=True)
        pulled = _grad((f,), self.parameters, (u,), create=True)
        (pushed,) = _grad(pulled, (u,), self._pieces(v))
        (slope,) = _grad((graph.loss,), (f,), None, create=True)
        (bent,) = _grad((slope,), (f,), (pushed,))
        return self._flat(_grad((f,), self.parameters, (bent,)))

    def _pieces(self, v: Tensor) -> tuple[Tensor, ...]:
        parts = v.split([p.numel() for p in self.parameters])
        return tuple(
            part.view(p.shape).to(p.dtype) for part, p in zip(parts, self.parameters, strict=True)
        )

    def _flat(self, pieces: Any) -> Tensor:
        return torch.cat([p.reshape(-1).to(self.dtype) for p in pieces])


@contextmanager
def loss_surface(
    model: nn.Module, probe: Probe, *, memory: int = MEMORY, seed: int = 0
) -> Iterator[LossSurface]:
    """The loss of the probe around the model's weights; afterwards all is as it was.

    memory: bytes of graphs to keep between products.
    seed:   of the dropout masks.

    In `DistributedDataParallel` one process may look alone, at its own copy of the weights.

    Raises `NoCurvature` with one sentence when there is nothing to measure: no batch, a loss
    that is not finite or that cannot be differentiated twice, weights in shards.
    """
    model = unwrapped(model)
    if any(map(sharded, model.parameters())):
        raise NoCurvature("the weights lie in shards on several processes: none has all of them")
    with undisturbed(model, probe.mode, probe.batches), sdpa_kernel(SDPBackend.MATH):
        surface = LossSurface(model, probe, memory=memory, seed=seed)
        try:
            yield surface
        finally:
            surface.kept.clear()


def _grad(
    outputs: Any, inputs: Any, vectors: tuple[Tensor, ...] | None, *, create: bool = False
) -> tuple[Tensor, ...]:
    """Vector–Jacobian product; what does not depend on an input counts as zero."""
    live = [i for i, o in enumerate(outputs) if o.requires_grad]
    if not live:
        return tuple(torch.zeros_like(p) for p in inputs)
    try:
        found = torch.autograd.grad(
            [outputs[i] for i in live], inputs,
            None if vectors is None else [vectors[i] for i in live],
            create_graph=create, retain_graph=True, allow_unused=True,
        )  # fmt: skip
    except RuntimeError as cause:
        first = str(cause).splitlines()[0]
        raise NoCurvature(f"the loss cannot be differentiated twice: {first}") from cause
    return tuple(
        torch.zeros_like(p) if g is None else g for g, p in zip(found, inputs, strict=True)
    )


def _check_differentiable(gradient: tuple[Tensor, ...]) -> None:
    """Refuse a graph that breaks off: autograd would silently leave out what lies behind."""
    queue = [g.grad_fn for g in gradient if g.grad_fn is not None]
    seen = set(queue)
    while queue:
        node = queue.pop()
        if node.name() in BROKEN:
            raise NoCurvature("the loss cannot be differentiated twice: a function forbids it")
        new = {n for n, _ in node.next_functions if n is not None} - seen
        seen |= new
        queue.extend(new)


def _note(seen: dict[int, int]) -> Callable[[Tensor], Tensor]:
    """A hook that notes the bytes of every storage a graph holds on to."""

    def note(t: Tensor) -> Tensor:
        storage = t.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return t.detach()  # t itself would be kept alive by its own graph for ever

    return note
