"""The entropic loss: the objective whose many small steps add up to one finite step of SGD.

A step θ ← θ − Λ g_B, with Λ a symmetric learning rate and g_B the mean gradient of a minibatch, is
averaged over batches, to second order in Λ, by gradient flow on

    F(θ) = L(θ) + (w/2)‖θ‖² + S(θ),        S = ¼ E_B[g_Bᵀ Λ g_B]        (w: weight_decay of torch)

so −∇S is a force, of the order of the learning rate, that the loss does not know: the entropic
force. It breaks the continuous symmetries of L (S is not constant along their orbits) and leaves
the discrete ones. With Σ the covariance of the N per-sample gradients g_s (divided by N),

    E_B[g_Bᵀ Λ g_B] = ḡᵀΛḡ + κ_B Tr ΛΣ = (1 − κ_B) ḡᵀΛḡ + κ_B mean_s g_sᵀΛg_s,
    κ_B = 1/B with replacement, (N − B)/(B(N − 1)) without (theory.critical_batch.kappa).

What it predicts. The mean of SGD over *reshuffled* epochs, to second order; the drift of symmetry
charges and along a valley of minima under label noise, however batches are drawn. For independent
batches E[θ'|θ] = θ − Λ∇L exactly, and the mean of θ feels nothing of Tr ΛΣ at this order.

Source: Ziyin, Xu, Chuang, arXiv 2505.12387 (F and its name); κ_B and the range derived here. For
the full batch S is the backward error of gradient descent, Barrett and Dherin, arXiv 2009.11162.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ..theory.critical_batch import kappa

Loss = Callable[[Tensor, Tensor], Tensor]


def entropic_loss(
    model: nn.Module,
    loss: Loss,
    x: Tensor,
    y: Tensor,
    *,
    lr: float | Tensor,
    batch: int,
    replacement: bool = False,
    weight_decay: float = 0.0,
) -> Tensor:
    """F at the present parameters: a scalar to call `.backward()` on.

    loss:         loss(output, y) -> scalar, the mean over samples, as in the training loop.
    x, y:         the whole training set, (N, …) each.
    lr:           η; or Λ over all trainable parameters laid end to end in the model's order: its
                  diagonal (P,), or a symmetric matrix (P, P).
    batch:        B, at most N without replacement.
    replacement:  whether batches are drawn with replacement.
    weight_decay: w, as torch's SGD takes it.

    Raises ValueError (argument, value, remedy). The memory is that of N gradients.
    """
    parameters = _trainable(model)
    mean = loss(functional_call(model, parameters, (x,)), y)
    decay = weight_decay / 2 * sum(p.square().sum() for p in parameters.values())
    return mean + decay + entropy(
        model, loss, x, y, lr=lr, batch=batch, replacement=replacement
    )  # fmt: skip


def entropy(
    model: nn.Module,
    loss: Loss,
    x: Tensor,
    y: Tensor,
    *,
    lr: float | Tensor,
    batch: int,
    replacement: bool = False,
) -> Tensor:
    """S = ¼ E_B[g_Bᵀ Λ g_B] alone, differentiable; arguments as for `entropic_loss`."""
    left = kappa(batch, len(x), replacement=replacement)
    g = sample_gradients(model, loss, x, y)
    mean = g.mean(0)
    whole, single = mean @ _rated(lr, mean), (g * _rated(lr, g)).sum(1).mean()
    return ((1 - left) * whole + left * single) / 4


def sample_gradients(model: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    """Gradients of the single samples, (N, P), differentiable in the model's parameters.

    The model must treat samples apart (BatchNorm in train mode does not).
    """
    mixing = [n for n, m in model.named_modules() if _mixes(m)]
    if mixing:
        raise ValueError(
            f"model: {mixing[0]!r} ({type(model.get_submodule(mixing[0])).__name__}) mixes the"
            " samples of a batch, so a sample has no gradient of its own; call model.eval()"
        )
    parameters = _trainable(model)

    def single(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(functional_call(model, parameters, (x.unsqueeze(0),)), y.unsqueeze(0))

    g = vmap(grad(single), in_dims=(None, 0, 0), randomness="different")(parameters, x, y)
    return torch.cat([g[n].flatten(1) for n in parameters], 1)


def _trainable(model: nn.Module) -> dict[str, Tensor]:
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def _mixes(module: nn.Module) -> bool:
    batch_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
    return batch_norm and (module.training or module.running_mean is None)


def _rated(lr: float | Tensor, g: Tensor) -> Tensor:
    """Λg for each row of g (…, P)."""
    if not isinstance(lr, Tensor) or lr.dim() == 0:
        return lr * g
    size = g.shape[-1]
    if lr.shape not in ((size,), (size, size)):
        raise ValueError(
            f"lr has shape {tuple(lr.shape)}: give a number, a diagonal ({size},) or a matrix "
            f"({size}, {size}) over the trainable parameters"
        )
    if lr.dim() == 2 and not torch.allclose(lr, lr.T):
        raise ValueError("lr is not symmetric: only a symmetric Λ has an entropic loss")
    return g * lr if lr.dim() == 1 else g @ lr
