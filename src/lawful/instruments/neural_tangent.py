"""The neural tangent kernel of a network in training: how far features, kernel and f have moved.

    Θ(x, x′) = (1/C) Σ_c ∇f_c(x)·∇f_c(x′)         over the trained parameters, C outputs

on the first `points` samples of the probe's first batch. Against the first measurement (0):

    ntk_change              ‖Θ_t − Θ_0‖/‖Θ_0‖
    ntk_turn                1 − cos(Θ_t, Θ_0), blind to scale
    ntk_alignment           cos(K_c, Y_cY_cᵀ), K_c = Θ with row and column means removed: how
                            well the kernel is made for the targets
    linearisation_distance  ‖f_t − f_0 − J_0(w_t − w_0)‖/‖f_t − f_0‖, by one forward derivative
    weight_change           ‖w_t − w_0‖/‖w_0‖
    feature_change          ‖h_t − h_0‖/‖h_0‖ of the output of each linear or convolutional module

Gradients of samples are rows of a matrix J (points·C, D) and Θ comes from JJᵀ: exact while J fits
`memory`. Beyond it, outputs are mixed into fewer random ones (Θ stays unbiased), then rows are
hashed with random signs into 2^16 buckets (an inner product keeps its mean, and gains an error of
about ‖·‖‖·‖/2^8). Buckets and mixtures are the same at every measurement, so changes are compared
on equal terms; `ntk_sketched` is 1 where anything was sketched.

In the probe's mode; where samples see each other (BatchNorm in train mode) gradients go through
the whole batch. Dropout draws the same masks at every measurement.

Source: A. Jacot et al., arXiv 1806.07572; alignment, A. Baratin et al., arXiv 2008.00938; hashing,
M. Charikar, K. Chen, M. Farach-Colton 2002; R. Novak et al., arXiv 2206.08720 (cost).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from ..record import Measurement
from ..symmetry.certify import batch_statistics
from .instrument import Rates, Reading
from .probe import Probe, _call, _pair, seeded, undisturbed

MEMORY = 2**28
"""Bytes that the rows of J may take."""

BUCKETS = 2**16
MIXTURES = 8
Named = dict[str, Tensor]


@dataclass
class _Start:
    """What later measurements are compared with."""

    theta: Named
    kernel: Tensor
    output: Tensor
    features: dict[str, Tensor]
    x: Any
    y: Any


class NeuralTangent:
    """A `ProbeInstrument`; remembers the weights of its first measurement.

    points: samples looked at.  memory: bytes for their gradients.  seed: of the sketches.
    """

    quantities = frozenset(
        {
            "ntk", "ntk_change", "ntk_turn", "ntk_alignment", "ntk_trace", "ntk_sketched",
            "linearisation_distance", "weight_change", "feature_change",
        }
    )  # fmt: skip

    def __init__(self, *, points: int = 32, memory: int = MEMORY, seed: int = 0) -> None:
        if points < 2:
            raise ValueError(f"points={points}: a kernel takes at least 2 samples")
        self.points, self.memory, self.seed = points, memory, seed
        self.start: _Start | None = None

    def measure(
        self, step: int, model: nn.Module, probe: Probe, rates: Mapping[nn.Parameter, Rates]
    ) -> Reading:
        """Kernel and alignment now; changes from the second measurement on (0 at the first)."""
        out = Reading()
        theta = {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}
        if not theta:
            out.problems.append(("", "no parameter of the model is trained: it has no kernel"))
            return out
        with undisturbed(model, probe.mode, probe.batches), sdpa_kernel(SDPBackend.MATH):
            try:
                x, y = self._samples(probe)
                self._look(step, model, theta, x, y, out)
            except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
                told = str(error).strip().splitlines() or [type(error).__name__]
                out.problems.append(("", f"no tangent kernel: {told[0]}"))
        return out

    def _samples(self, probe: Probe) -> tuple[Any, Any]:
        """The first `points` samples, the same ones at every measurement."""
        if self.start is not None:
            return self.start.x, self.start.y
        first = next(iter(probe.batches), None)
        if first is None:
            raise ValueError("the probe gave no batch")

        def few(t: Any) -> Any:
            return t[: self.points] if isinstance(t, Tensor) and t.dim() else t

        return tree_map(few, _pair(first))

    def _look(
        self, step: int, model: nn.Module, theta: Named, x: Any, y: Any, out: Reading
    ) -> None:
        seeded(model, self.seed)
        with torch.no_grad(), _Features(model) as features:
            output = _call(model, x)
        if not isinstance(output, Tensor) or output.dim() < 1 or not len(output) > 1:
            raise ValueError(f"the model gives {type(output).__name__}, not one row a sample")
        if not bool(torch.isfinite(output).all()):
            raise ValueError("the model's output is not finite")
        kernel, sketched = tangent_kernel(
            model, theta, x, outputs=output[0].numel(), memory=self.memory, seed=self.seed
        )
        n = len(kernel)

        def row(quantity: str, value: float, layer: str = "") -> None:
            out.rows.append(Measurement(step, layer, quantity, value, 0.0, n))

        out.arrays["", "ntk"] = kernel.cpu().numpy()
        row("ntk_trace", float(kernel.trace()) / n)
        row("ntk_sketched", float(sketched))
        row("ntk_alignment", alignment(kernel, targets(y, n)))
        if self.start is None:
            kept = {name: t.clone() for name, t in theta.items()}
            self.start = _Start(kept, kernel, output, features.seen, x, y)
        began = self.start
        if began.theta.keys() != theta.keys():
            raise ValueError("other parameters are trained than at first: its changes mean nothing")
        row("ntk_change", _ratio(kernel - began.kernel, began.kernel))
        cosine = float((kernel * began.kernel).sum() / (kernel.norm() * began.kernel.norm()))
        row("ntk_turn", max(1 - cosine, 0.0))  # in this order NaN stays NaN
        moved = {name: theta[name] - began.theta[name] for name in theta}
        row("weight_change", _norm(moved) / _norm(began.theta) if _norm(began.theta) else math.nan)
        for name, h in features.seen.items():
            if name in began.features and began.features[name].shape == h.shape:
                row("feature_change", _ratio(h - began.features[name], began.features[name]), name)
        gone = output - began.output
        if float(gone.norm()) > 0:
            seeded(model, self.seed)
            row("linearisation_distance", _ratio(gone - _along(model, began, moved), gone))


def _along(model: nn.Module, began: _Start, moved: Named) -> Tensor:
    """J_0 Δw by one forward derivative."""
    with warnings.catch_warnings():  # torch builds its forward formulas with torch.jit
        warnings.simplefilter("ignore", DeprecationWarning)
        found: Any = jvp(lambda t: _call_with(model, t, began.x), (began.theta,), (moved,))
    return torch.as_tensor(found[1]).detach()


def tangent_kernel(
    model: nn.Module, theta: Named, x: Any, *, outputs: int, memory: int = MEMORY, seed: int = 0
) -> tuple[Tensor, bool]:
    """(Θ (n, n) in double precision, whether it was sketched) of samples x, outputs = C."""
    n = len(_leaves(x)[0])
    D = sum(t.numel() for t in theta.values())
    row = D * n * next(iter(theta.values())).element_size()
    count, directions = outputs, torch.eye(outputs)
    if outputs * row > memory:
        count = min(outputs, max(1, min(MIXTURES, memory // row)))
    if count < outputs:
        generator = torch.Generator().manual_seed(seed)
        directions = torch.randn(count, outputs, generator=generator) / math.sqrt(count)
    directions = directions.to(next(iter(theta.values())))
    hashed = count * row > memory
    if hashed:
        into = _Hash(theta, seed)
        samples = _one_by_one(model, theta, x, directions)
        parts = [torch.stack([into(block).flatten() for block in samples])]
    else:
        parts = list(jacobian(model, theta, x, directions).values())
    # Flat rows: their products sum over outputs, and over parameters tensor by tensor.
    kernel = sum((_gram(t.flatten(1)) for t in parts), torch.zeros(n, n, dtype=torch.float64))
    return kernel / outputs, hashed or count < outputs


def _gram(J: Tensor) -> Tensor:
    return (J @ J.T).double().cpu()


def alignment(kernel: Tensor, y: Tensor | None) -> float:
    """cos(K_c, Y_cY_cᵀ) with means removed; y (n, k). NaN without targets that vary.

    >>> y = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)
    >>> round(alignment(y @ y.T + 3, y), 9)
    1.0
    """
    if y is None:
        return math.nan
    y = (y - y.mean(0)).to(kernel)
    centred = kernel - kernel.mean(0) - kernel.mean(1, keepdim=True) + kernel.mean()
    made = y @ y.T
    size = float(centred.norm() * made.norm())
    return float((centred * made).sum()) / size if size > 0 else math.nan


def targets(y: Any, n: int) -> Tensor | None:
    """Targets as (n, k): classes one-hot, numbers as they are; None for anything else."""
    if not isinstance(y, Tensor) or y.dim() == 0 or len(y) != n:
        return None
    if y.is_floating_point():
        return y.reshape(n, -1)
    return nn.functional.one_hot(y - y.min()).double() if y.dim() == 1 else None


# -- gradients of samples ------------------------------------------------------------------------


def jacobian(model: nn.Module, theta: Named, x: Any, directions: Tensor) -> Named:
    """∂(ξ_r·f)/∂θ of all samples at once: by name (n, rows, …); directions ξ (rows, outputs)."""

    def of_sample(sample: Any) -> Named:
        single = tree_map(lambda t: t[None], sample)
        back: Any = vjp(lambda t: _call_with(model, t, single).reshape(-1), theta)[1]
        return vmap(lambda xi: back(xi)[0])(directions)

    if not batch_statistics(model):
        try:
            return vmap(of_sample)(x)
        except RuntimeError:
            pass  # an operation that cannot be batched: one by one then
    blocks = list(_one_by_one(model, theta, x, directions))
    return {name: torch.stack([b[name] for b in blocks]) for name in theta}


def _one_by_one(model: nn.Module, theta: Named, x: Any, directions: Tensor) -> Iterator[Named]:
    """The same by plain backward passes, a sample at a time: by name (rows, …)."""
    leaves = {name: t.clone().requires_grad_() for name, t in theta.items()}
    wanted, whole = list(leaves.values()), batch_statistics(model)
    with torch.enable_grad():
        batch = _call_with(model, leaves, x) if whole else None
        for i in range(len(_leaves(x)[0])):
            if batch is None:
                single = tree_map(lambda t, i=i: t[i : i + 1], x)
                f = _call_with(model, leaves, single).reshape(-1)
            else:
                f = batch[i].reshape(-1)
            grads = [
                torch.autograd.grad(
                    f @ xi, wanted, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                for xi in directions
            ]
            yield {name: torch.stack([g[k] for g in grads]) for k, name in enumerate(leaves)}


class _Hash:
    """Each parameter to a random bucket with a random sign: E⟨Sa, Sb⟩ = ⟨a, b⟩."""

    def __init__(self, theta: Named, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.where: dict[str, Tensor] = {}
        self.sign: dict[str, Tensor] = {}
        for name, t in theta.items():
            draws = torch.randint(2 * BUCKETS, (t.numel(),), generator=generator)
            self.where[name] = (draws // 2).to(t.device)
            self.sign[name] = (draws % 2 * 2 - 1).to(t)

    def __call__(self, block: Named) -> Tensor:
        first = next(iter(block.values()))
        out = first.new_zeros(len(first), BUCKETS)
        for name, t in block.items():
            out.index_add_(1, self.where[name], t.flatten(1) * self.sign[name])
        return out


def _call_with(model: nn.Module, theta: Named, x: Any) -> Tensor:
    args = () if isinstance(x, dict) else tuple(x) if isinstance(x, tuple | list) else (x,)
    found = functional_call(model, theta, args, x if isinstance(x, dict) else {})
    assert isinstance(found, Tensor)
    return found


def _leaves(x: Any) -> list[Tensor]:
    parts = x.values() if isinstance(x, dict) else x if isinstance(x, tuple | list) else (x,)
    return [t for t in parts if isinstance(t, Tensor)]


def _ratio(a: Tensor, b: Tensor) -> float:
    size = float(b.double().norm())
    return float(a.double().norm()) / size if size > 0 else math.nan


def _norm(a: Named) -> float:
    return math.sqrt(sum(float(t.double().square().sum()) for t in a.values()))


class _Features:
    """Outputs of linear and convolutional modules during one forward pass."""

    KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

    def __init__(self, model: nn.Module) -> None:
        self.model, self.seen = model, dict[str, Tensor]()

    def __enter__(self) -> _Features:
        self.handles = [
            m.register_forward_hook(self._keep(name))
            for name, m in self.model.named_modules()
            if isinstance(m, self.KINDS)
        ]
        return self

    def _keep(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple, output: Any) -> None:
            if isinstance(output, Tensor):
                self.seen[name] = output.detach().clone()

        return hook

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()
