"""ResNet-18 in its CIFAR form (K. He, X. Zhang, S. Ren, J. Sun, arXiv:1512.03385).

    block:  x ← φ( BN(W_2 ∗ φ(BN(W_1 ∗ x))) + skip(x) )

The first convolution is 3 × 3 with stride 1 and there is no pooling after it, so a picture of
32 × 32 keeps its size until stage 2. A skip is the identity, or a 1 × 1 convolution where the
size changes. With `hidden` units the classifier is two linear maps (fc, φ, out), so that a
penultimate and an output layer can be compared; otherwise it is one map.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn


class Residual(nn.Module):
    """One basic block: two 3 × 3 convolutions and a skip."""

    def __init__(self, d_a: int, d_b: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(d_a, d_b, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(d_b)
        self.conv2 = nn.Conv2d(d_b, d_b, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(d_b)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or d_a != d_b:
            self.skip = nn.Sequential(
                nn.Conv2d(d_a, d_b, 1, stride=stride, bias=False), nn.BatchNorm2d(d_b)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, d_a, R, C) → (N, d_b, R/stride, C/stride)."""
        y = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(y)) + self.skip(x))


class ResNet18(nn.Module):
    """Images (N, channels, R, C) → (N, outputs); width = 64 is the network of the paper.

    outputs: 0 leaves the classifier out; the features (N, 8·width) are then the output.
    """

    def __init__(self, channels: int, outputs: int, *, width: int = 64, hidden: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        sizes = [width, width, 2 * width, 4 * width, 8 * width]
        for i, (d_a, d_b) in enumerate(pairwise(sizes), start=1):
            first = Residual(d_a, d_b, stride=1 if i == 1 else 2)
            self.add_module(f"stage{i}", nn.Sequential(first, Residual(d_b, d_b, stride=1)))
        self.fc = nn.Linear(8 * width, hidden) if hidden and outputs else None
        self.out = nn.Linear(hidden or 8 * width, outputs) if outputs else None
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, R, C) → (N, outputs)."""
        x = torch.relu(self.norm(self.conv(x)))
        for i in range(1, 5):
            x = self.get_submodule(f"stage{i}")(x)
        x = x.mean(dim=(2, 3))
        if self.fc is not None:
            x = torch.relu(self.fc(x))
        return x if self.out is None else self.out(x)
