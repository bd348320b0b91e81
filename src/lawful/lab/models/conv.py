"""A small convolutional network: three convolutions, two linear maps, no normalisation.

    conv1 → φ → halve → conv2 → φ → halve → conv3 → φ → mean over positions → fc1 → φ → fc2

A convolution is a linear map on unfolded 3 × 3 patches, used at every position: W is
(channels_out, 9·channels_in) and one image gives as many samples as it has positions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvNet(nn.Module):
    """Images (N, channels, rows, columns) → (N, outputs); `width` channels, doubled twice.

    outputs: 0 leaves the two linear maps out; the features (N, 4·width) are then the output.
    """

    def __init__(
        self, channels: int, outputs: int, *, width: int = 16, hidden: int = 64, bias: bool = True
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=bias)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1, bias=bias)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1, bias=bias)
        self.halve = nn.MaxPool2d(2)
        self.headless = outputs == 0
        if not self.headless:
            self.fc1 = nn.Linear(4 * width, hidden, bias=bias)
            self.fc2 = nn.Linear(hidden, outputs, bias=bias)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels, rows, columns) → (N, outputs)."""
        x = self.halve(torch.relu(self.conv1(x)))
        x = self.halve(torch.relu(self.conv2(x)))
        x = torch.relu(self.conv3(x)).mean(dim=(2, 3))
        return x if self.headless else self.fc2(torch.relu(self.fc1(x)))
