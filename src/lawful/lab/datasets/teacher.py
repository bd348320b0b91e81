"""A teacher–student world: Gaussian inputs, a noisy two-layer teacher, nothing hidden.

    x ~ N(0, I_d),   y = A tanh(B x) + σ ε,   ε ~ N(0, I_k),
    B_ij ~ N(0, β²/d) of shape (hidden, d),   A_ij ~ N(0, 1/hidden) of shape (k, hidden).

The noise floor of the loss ½‖f(x) − y‖² is kσ²/2. Whatever structure a student's layers form
beyond the k directions of the target, it did not find it in x, which has none.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .dataset import Dataset
from .stream import stream


def teacher(
    *,
    inputs: int = 32,
    outputs: int = 8,
    hidden: int = 64,
    gain: float = 2.0,
    noise: float = 0.3,
    train: int = 4096,
    test: int = 4096,
    seed: int = 0,
) -> Dataset:
    """Draw a teacher and its data: x (N, inputs), y (N, outputs).

    gain: β, the spread of the teacher's hidden units before the tanh. noise: σ.
    """
    draw = stream(seed, "teacher")
    B = torch.randn(hidden, inputs, generator=draw) * gain / math.sqrt(inputs)
    A = torch.randn(outputs, hidden, generator=draw) / math.sqrt(hidden)

    def sample(n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, inputs, generator=draw)
        return x, torch.tanh(x @ B.T) @ A.T + noise * torch.randn(n, outputs, generator=draw)

    (x_train, y_train), (x_test, y_test) = sample(train), sample(test)
    return Dataset(
        name="teacher",
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        classes=(),
        meaning=f"White noise in {inputs} dimensions and a teacher A tanh(Bx) + {noise} ε.",
        licence="none needed: drawn at random",
        source=f"seed {seed}",
    )
