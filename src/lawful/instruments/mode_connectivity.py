"""Is there a hill between two solutions, and does it vanish once the neurons are put in order?

    barrier = max_t [ L((1−t)A + tB) − (1−t)L(A) − tL(B) ],      t = 0, 0.1, …, 1

Two trainings from different seeds number their hidden neurons differently, and the straight line
between them mixes neurons that have nothing in common. Matching orders B's neurons by A's: for
hidden layer l a permutation P_l maximises, by linear assignment,

    ⟨P_l, W_l Q W'_lᵀ + b_l b'_lᵀ + W_{l+1}ᵀ R W'_{l+1}⟩,       Q, R: the neighbours' permutations

one layer after the other until none changes (for one hidden layer that is the optimum).

Range. A chain of linear maps with elementwise functions between them. BatchNorm statistics of the
mixture are not those of either end: recompute them, or the barrier is of the statistics.

Source: Frankle et al., arXiv 1912.05671 (barrier); Ainsworth, Hayase, Srinivasa, arXiv 2209.04836
(matching of weights).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.func import functional_call

State = Mapping[str, Tensor]


def mixture(a: State, b: State, t: float) -> dict[str, Tensor]:
    """(1 − t)a + tb of two state dicts; integer buffers as in a."""
    return {n: torch.lerp(p, b[n], t) if p.is_floating_point() else p for n, p in a.items()}


@torch.no_grad()
def path(
    model: nn.Module, a: State, b: State, loss: Callable[[Callable[..., Tensor]], float],
    *, points: int = 11,
) -> Tensor:  # fmt: skip
    """Losses (points,) along the straight line from a to b, float64; the model is left as it is.

    loss: takes a function that maps inputs to outputs, returns the mean loss.

    >>> net = nn.Linear(1, 1, bias=False)
    >>> a, b = {"weight": torch.tensor([[1.0]])}, {"weight": torch.tensor([[-1.0]])}
    >>> path(net, a, b, lambda f: float(1 - f(torch.ones(1)) ** 2), points=3).tolist()
    [0.0, 1.0, 0.0]
    """
    at = [mixture(a, b, t) for t in torch.linspace(0, 1, points).tolist()]
    found = [loss(lambda *x, s=s: functional_call(model, s, x)) for s in at]
    return torch.tensor(found, dtype=torch.float64)


def barrier(losses: Tensor) -> float:
    """Highest rise of a path (points,) over the straight line between its ends; never below 0.

    >>> barrier(torch.tensor([1.0, 3.0, 2.0]))
    1.5
    """
    t = torch.linspace(0, 1, len(losses), dtype=losses.dtype)
    return float((losses - (1 - t) * losses[0] - t * losses[-1]).max())


def match(a: State, b: State, layers: Sequence[str], *, sweeps: int = 50) -> dict[str, Tensor]:
    """b with its hidden neurons in the order of a's: the same function, another state dict.

    layers: names of the linear maps from input to output, e.g. ["0", "2", "4"].

    Raises ValueError for fewer than two maps or for sides that do not fit.
    """
    if len(layers) < 2:
        raise ValueError(f"layers={list(layers)}: with one map there is no hidden neuron to order")
    W = [a[f"{n}.weight"].double() for n in layers]
    V = [b[f"{n}.weight"].double() for n in layers]
    for name, w, v in zip(layers, W, V, strict=True):
        if w.shape != v.shape or w.ndim != 2:
            shapes = f"{tuple(w.shape)} and {tuple(v.shape)}"
            raise ValueError(f"{name!r} has shapes {shapes}: two matrices of one shape are needed")
    # order[l]: which neuron of b stands where neuron i of a is, behind map l − 1.
    order = [torch.arange(w.shape[1], device=w.device) for w in W]
    order.append(torch.arange(W[-1].shape[0], device=W[-1].device))
    for _ in range(sweeps):
        before = [o.clone() for o in order]
        for l in range(1, len(layers)):
            gain = W[l - 1] @ V[l - 1][:, order[l - 1]].T + W[l].T @ V[l][order[l + 1]]
            bias = f"{layers[l - 1]}.bias"
            if bias in a:
                gain += torch.outer(a[bias].double(), b[bias].double())
            best = linear_sum_assignment(gain.cpu().numpy(), maximize=True)[1]
            order[l] = torch.as_tensor(best, device=gain.device)
        if all(torch.equal(x, y) for x, y in zip(before, order, strict=True)):
            break
    matched = {n: p.clone() for n, p in b.items()}
    for l, name in enumerate(layers):
        matched[f"{name}.weight"] = b[f"{name}.weight"][order[l + 1]][:, order[l]]
        if f"{name}.bias" in b:
            matched[f"{name}.bias"] = b[f"{name}.bias"][order[l + 1]]
    return matched
