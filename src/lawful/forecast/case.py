"""The case that is forecast: a model, a sample of its data, its loss, and how it will be trained.

Everything is measured on a copy of the model on the CPU, in its own precision, on one random
sample of the data; the model, its buffers and the random state are left as they are.

Where samples are independent the unit of noise is one sample. Where they see each other
(BatchNorm in training mode, a contrastive loss, a loss that sums over the batch) it is a batch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map

from ..symmetry import Family, Symmetry, SymmetryError, symmetries
from ..symmetry.certify import batch_statistics
from ..symmetry.graph import arguments
from ..symmetry.refuse import check_model
from .noise import GradientNoise, gradient_noise

Named = dict[str, Tensor]
OPTIMIZERS = ("sgd", "adam", "adamw")
OPERATIONS = 3e11  # floating-point operations that one group of measurements may cost


@dataclass(frozen=True)
class Training:
    """The run to come, in torch's terms. steps: how long it is; None: not known."""

    optimizer: str
    lr: float
    batch_size: int
    weight_decay: float = 0.0
    momentum: float = 0.0
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            known = ", ".join(OPTIMIZERS)
            raise ValueError(f"optimizer={self.optimizer!r} is not known here; use one of {known}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr={self.lr}: give a finite number > 0")
        if not 0 <= self.weight_decay * self.lr < 1:
            raise ValueError(
                f"weight_decay={self.weight_decay} at lr={self.lr}: their product must be in [0, 1)"
            )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum}: give a number in [0, 1)")
        if self.momentum and self.optimizer != "sgd":
            raise ValueError(
                f"momentum={self.momentum} with optimizer={self.optimizer!r}: momentum is an "
                "option of sgd; leave it out"
            )
        for name, value in (("batch_size", self.batch_size), ("steps", self.steps)):
            if value is not None and not (value >= 1 and value == int(value)):
                raise ValueError(f"{name}={value}: give a whole number ≥ 1")

    @property
    def sgd(self) -> bool:
        """Whether charges obey the laws of SGD."""
        return self.optimizer == "sgd"

    @property
    def rate(self) -> float:
        """η/(1 − μ): the rate at which momentum SGD moves under gradients that are uncorrelated."""
        return self.lr / (1 - self.momentum)

    @property
    def noise_terms(self) -> dict[str, Any]:
        """eta, batch and weight_decay as the theory of noise equilibrium takes them."""
        return {"eta": self.rate, "batch": self.batch_size, "weight_decay": self.weight_decay}

    @property
    def coupled_decay(self) -> bool:
        """Whether the optimiser descends L + (λ/2)‖θ‖²: not so with decoupled decay (AdamW)."""
        return self.optimizer != "adamw"


@dataclass(frozen=True, eq=False)
class Case:
    """A model on a sample of its data. x, y: `size` samples; theta: the trained parameters."""

    model: nn.Module
    x: Any
    targets: tuple
    loss: Callable[..., Tensor]
    training: Training
    size: int
    seed: int

    @cached_property
    def theta(self) -> Named:
        return {n: p.detach() for n, p in self.model.named_parameters() if p.requires_grad}

    @cached_property
    def symmetries(self) -> list[Symmetry]:
        """Those of the model, certified on the first samples."""
        few = self.cut(slice(0, min(self.size, 32)))
        example = (few[0], few[1][0]) if few[1] else few[0]
        return symmetries(self.model, example, self.loss, seed=self.seed)

    @cached_property
    def independent(self) -> bool:
        """Whether the loss of a batch is the mean of the losses of its samples."""
        if batch_statistics(self.model):
            return False
        few = min(self.size, 4)
        alone = [self.value(self.theta, slice(i, i + 1)) for i in range(few)]
        together = self.value(self.theta, slice(0, few))
        return math.isclose(float(together), float(sum(alone)) / few, rel_tol=1e-3, abs_tol=1e-6)

    @cached_property
    def operations(self) -> float:
        """Floating-point operations of one forward pass on one sample."""
        from torch.utils.flop_counter import FlopCounterMode

        few = min(self.size, 2)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            self.value(self.theta, slice(0, few))
        return counter.get_total_flops() / few

    def affordable(self, passes: float) -> int:
        """How many samples may go forward and back `passes` times each; at least 2."""
        return int(max(2, min(self.size, OPERATIONS / (3 * passes * max(self.operations, 1)))))

    def cut(self, part: slice) -> tuple[Any, tuple]:
        """(x, targets) of some of the samples."""

        def one(t: Any) -> Any:
            return t[part] if isinstance(t, Tensor) and t.dim() > 0 else t

        return tree_map(one, self.x), tree_map(one, self.targets)

    def value(self, theta: Named, part: slice) -> Tensor:
        """The loss of some of the samples at θ; frozen parameters are the model's own."""
        x, targets = self.cut(part)
        with quiet():
            return self.loss(functional_call(self.model, theta, arguments(x)), *targets)

    def gradient(self, part: slice) -> Named:
        """∇ of that loss, one tensor for every trained parameter."""
        leaves = {n: t.clone().requires_grad_() for n, t in self.theta.items()}
        found = torch.autograd.grad(self.value(leaves, part), list(leaves.values()))
        return dict(zip(leaves, found, strict=True))

    @cached_property
    def families(self) -> list[tuple[Symmetry, Family]]:
        """The continuous symmetries that training follows."""
        return [
            (s, s.generator)
            for s in self.symmetries
            if isinstance(s.generator, Family) and _followed(s, s.generator, self.theta)
        ]

    @cached_property
    def noise(self) -> GradientNoise:
        """The gradient noise on this sample, measured once for all forecasts."""
        return gradient_noise(self)

    @cached_property
    def excess(self) -> float:
        """How far θ is from a minimum of L + (λ/2)‖θ‖²: see `GradientNoise.excess`."""
        return self.noise.excess(self.theta, self.training.weight_decay)


def _followed(s: Symmetry, family: Family, theta: Named) -> bool:
    """Certified, or broken by the ε of a norm only, and of trained tensors alone."""
    broken_by_eps = s.kind == "scale invariance" and s.violation < 0.05
    return (s.certified or broken_by_eps) and set(family.parameters) <= set(theta)


def case_of(
    model: nn.Module,
    data: Any,
    loss: Callable[..., Tensor],
    training: Training,
    *,
    samples: int,
    seed: int,
) -> Case:
    """A copy of the model, and `samples` of the data in a random order; see `predict`."""
    if samples < 8:
        raise ValueError(f"samples={samples}: noise cannot be measured on fewer than 8")
    x, targets = _pair(data)
    leaves = [t for t in tree_leaves((x, targets)) if isinstance(t, Tensor) and t.dim()]
    sizes = sorted({len(t) for t in leaves})
    if len(sizes) != 1 or sizes[0] < 8:
        raise ValueError(
            f"data has leading dimensions {sizes}: give one batch (x, y) of 8 samples or more"
        )
    if any(bool(t.isnan().any()) for t in leaves):
        raise ValueError("data holds NaN: fill in or drop the samples where it does")
    check_model(model)
    order = torch.randperm(sizes[0], generator=torch.Generator().manual_seed(seed))[:samples]
    twin = copy.deepcopy(model).cpu()
    wide = any(p.dtype == torch.float64 for p in twin.parameters())
    twin = twin.to(torch.float64 if wide else torch.float32)
    dtype = torch.float64 if wide else torch.float32

    def ready(t: Any) -> Any:
        if not isinstance(t, Tensor) or not t.dim():
            return t
        t = t.detach().cpu()[order]
        return t.to(dtype) if t.is_floating_point() else t

    case = Case(
        twin, tree_map(ready, x), tree_map(ready, targets), loss, training, len(order), seed
    )
    _try(case)
    return case


def _pair(data: Any) -> tuple[Any, tuple]:
    """(x, (y,)) of a pair, x alone, or the first batches of a loader."""
    if isinstance(data, Tensor):
        return data, ()
    if isinstance(data, tuple | list) and len(data) == 2 and not isinstance(data[0], tuple | list):
        return data[0], (data[1],)
    raise ValueError(
        f"data is a {type(data).__name__}: give a pair of tensors (x, y), or x alone; "
        "of a loader, e.g. next(iter(loader))"
    )


def _try(case: Case) -> None:
    """Run once, so that what does not fit is told in one sentence."""
    try:
        value = case.value(case.theta, slice(0, 8))
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, SymmetryError):
            raise
        shapes = [tuple(t.shape[1:]) for t in tree_leaves(case.x) if isinstance(t, Tensor)]
        raise ValueError(
            f"the model or its loss fails on samples of shape {shapes} ({_first_line(error)}); "
            "give data that the model takes"
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ValueError("loss must return one number; reduce it with mean()")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """The same random numbers each time, none of them the caller's; attention that can be
    differentiated twice."""
    with torch.random.fork_rng(devices=[]), sdpa_kernel(SDPBackend.MATH):
        torch.default_generator.manual_seed(0)
        yield
