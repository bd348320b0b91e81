"""Pairs of layers that may trade scale: found where they are, and nowhere else."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lawful.instruments.chains import rescalable
from lawful.instruments.layers import survey
from lawful.lab.models.mlp import MLP


class Skips(nn.Module):
    """A second reader of the hidden layer: its scale is not free."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        h = torch.relu(self.one(x))
        return h + self.two(h)


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.two(self.one(x)) if x.sum() > 0 else x


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.two(torch.relu(self.one(torch.relu(self.one(x)))))


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(12, 5),
        nn.Linear(5, 2),
    )


@pytest.mark.parametrize(
    ("model", "pairs"),
    [
        (MLP(6, 3, width=8, depth=3, activation="relu"), [(0, 1), (1, 2), (2, 3)]),
        (MLP(6, 3, width=8, depth=2, activation="linear"), [(0, 1), (1, 2)]),
        (MLP(6, 3, width=8, depth=2, activation="tanh"), []),
        (conv(), [(0, 1), (1, 2)]),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2)), []),
        (Skips(), []),
        (Branches(), []),
        (Twice(), []),
        # A linear map reads positions, not channels; a convolution reads rows, not neurons.
        (nn.Sequential(nn.Conv1d(2, 8, 1), nn.ReLU(), nn.Linear(16, 3)), []),
        (nn.Sequential(nn.Conv1d(2, 8, 1), nn.ReLU(), nn.Flatten(2), nn.Linear(16, 3)), []),
        (nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Conv1d(16, 3, 1)), []),
        # Positions that are flattened, and neurons that are pooled.
        (nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)), []),
        (nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.MaxPool1d(3, 1, 1), nn.Linear(8, 3)), []),
        (nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)), [(0, 1)]),
    ],
)
def test_pairs(model, pairs):
    maps, _ = survey(model, "*")
    assert rescalable(model, maps) == pairs


@pytest.mark.parametrize("model", [MLP(6, 3, width=8, depth=2), conv()])
def test_a_pair_is_a_symmetry(model):
    """Scaling neuron k in and out by c and 1/c leaves the output unchanged."""
    maps, _ = survey(model, "*")
    x = torch.randn(7, *((6,) if isinstance(model, MLP) else (1, 6, 6)))
    before = model(x)
    for i, j in rescalable(model, maps):
        c = torch.linspace(0.5, 2.0, maps[i].d_b)
        with torch.no_grad():
            maps[i].parameter.copy_((c[:, None] * maps[i].weight()).view_as(maps[i].parameter))
            maps[i].module.bias.mul_(c)
            W = maps[j].weight().unflatten(1, (maps[i].d_b, -1)) / c[:, None]
            maps[j].parameter.copy_(W.reshape_as(maps[j].parameter))
    torch.testing.assert_close(model(x), before)


def test_no_hook_is_called_by_looking():
    model = nn.Sequential(MLP(6, 3, width=8, depth=2, activation="relu"), nn.ReLU())
    maps, _ = survey(model, "*")
    calls = []
    for module in model.modules():
        module.register_forward_pre_hook(lambda *_: calls.append(1))
        module.register_forward_hook(lambda *_: calls.append(1))
    assert rescalable(model, maps) == [(0, 1), (1, 2)]
    assert calls == []
