"""A plain training loop, as thousands are written; knows nothing of lawful."""

import argparse
import sys

import torch
import torch.nn.functional as F
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
parser.add_argument("--steps", type=int, default=12)
parser.add_argument("--sum", action="store_true")
parser.add_argument("--fail", action="store_true")
arguments = parser.parse_args()

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=arguments.lr, weight_decay=1e-3)
generator = torch.Generator().manual_seed(1)
for step in range(arguments.steps):
    x = torch.randn(32, 6, generator=generator)
    y = (x[:, :3] + 0.3 * torch.randn(32, 3)).argmax(1)
    loss = F.cross_entropy(model(x), y, reduction="sum" if arguments.sum else "mean")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(step, loss.item().hex())
if arguments.fail:
    raise RuntimeError("as the script has it")
print("done", file=sys.stderr)
sys.exit(3)
