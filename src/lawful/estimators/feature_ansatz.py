"""The neural feature ansatz: W's input Gram matrix against the average gradient outer product.

    AGOP = E_x[ Σ_o ∇f_o(x) ∇f_o(x)ᵀ ]   (f_o an output of the network, ∇ at the layer's input)
    NFA:   WᵀW ∝ AGOP^s

The published exponent is a choice: s = 1 for the ansatz as first stated, s = 1/2 where it fits
deep networks, or tuned. The correlation is the one of the authors' code: subtract each
matrix's grand mean, then the normalised inner product, that is Pearson over entries.

Error and bias. The AGOP is a second moment of n·(outputs) gradients, so its correlation with
the exact WᵀW is attenuated as every plug-in alignment is, by about √(m/(m+PR)) with m the
independent gradients and PR the AGOP's participation ratio. Keep one `Agop` a batch and pass
them to `uncertainty.delete_block_jackknife` for the standard error.

Source: Radhakrishnan, Beaglehole, Pandit, Belkin, "Mechanism for feature learning in neural
networks and backpropagation-free machine learning models", Science 383 (2024), and its code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from .alignment import pearson


@dataclass(frozen=True)
class Agop:
    """Sum of gradient outer products, (d, d) float64, and the number of samples in it."""

    total: Tensor
    samples: int

    @property
    def mean(self) -> Tensor:
        """The AGOP itself, (d, d); NaN before the first sample."""
        return self.total / self.samples if self.samples else self.total * torch.nan


def agop(gradients: Iterable[Tensor]) -> Agop:
    """Stream the gradients of one batch of samples, one output at a time.

    gradients: for each output o a (n, d) tensor ∇f_o of the same n samples. Only one of them
               is held at a time. Axes between the first and last (positions) are summed over.

    >>> agop([torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])]).mean.tolist()
    [[1.0, 0.0], [0.0, 4.0]]
    """
    total, samples = None, 0
    for gradient in gradients:
        if samples not in (0, gradient.shape[0]):
            raise ValueError(f"outputs disagree on samples: {samples} and {gradient.shape[0]}")
        samples = gradient.shape[0]
        rows = gradient.flatten(0, -2).double()
        total = rows.mT @ rows if total is None else total.addmm_(rows.mT, rows)
    if total is None:
        raise ValueError("gradients is empty: pass one (n, d) tensor for each output")
    return Agop(total, samples)


def merge(parts: Iterable[Agop]) -> Agop:
    """The AGOP of all parts together; exact and in any order."""
    first, *rest = parts
    return Agop(
        sum((p.total for p in rest), first.total), first.samples + sum(p.samples for p in rest)
    )


def psd_power(A: Tensor, power: float) -> Tensor:
    """A^s of a positive semi-definite matrix through its eigenvectors, in float64.

    Eigenvalues that rounding made negative count as 0, and 0 stays 0 under a negative power
    (the power of the pseudo-inverse); the cut is d·ε of the largest eigenvalue.

    >>> psd_power(torch.diag(torch.tensor([4.0, 9.0])), 0.5).diagonal().tolist()
    [2.0, 3.0]
    """
    values, vectors = torch.linalg.eigh(A.double())
    cut = A.shape[-1] * torch.finfo(torch.float64).eps * values.abs().amax(-1, keepdim=True)
    raised = torch.where(values > cut, values.clamp_min(cut).pow(power), 0.0)
    return (vectors * raised.unsqueeze(-2)) @ vectors.mT


def nfa(W: Tensor, average: Tensor, power: float = 1.0) -> float:
    """Correlation of WᵀW with AGOP^power over entries (plug-in).

    W: (d_b, d_a);  average: (d_a, d_a), `Agop.mean`.  NaN when either is constant or not finite.
    """
    if average.shape != (W.shape[1],) * 2:
        raise ValueError(
            f"W is {tuple(W.shape)}, so the AGOP must be {(W.shape[1],) * 2}: "
            f"got {tuple(average.shape)}"
        )
    if not bool(average.isfinite().all()):
        return torch.nan
    W = W.double()
    return pearson(W.mT @ W, average if power == 1 else psd_power(average, power))
