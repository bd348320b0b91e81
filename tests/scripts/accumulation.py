"""Gradient accumulation: three micro-batches a step, and validation in between."""

import torch
from torch import nn

ACCUMULATION = 3


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(2, 6, 3, padding=1), nn.BatchNorm1d(6), nn.ReLU())
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.body(x).mean(-1))


def batch():
    x = torch.randn(16, 2, 9)
    return x, x.mean((1, 2)).sign().long() + 1


if __name__ == "__main__":
    torch.manual_seed(0)
    model, criterion = Net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
    with torch.no_grad():
        model(batch()[0])  # a dry run
    for step in range(10):
        for _ in range(ACCUMULATION):
            x, y = batch()
            loss = criterion(model(x), y) / ACCUMULATION
            loss.backward()
            print(step, loss.item().hex())
        optimizer.step()
        optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            print("validation", criterion(model(x), y).item().hex())
        model.train()
