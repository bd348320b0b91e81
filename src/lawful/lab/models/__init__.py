"""The models of the lab, one file each, all plain `torch.nn.Module`s.

>>> with seeded(0):
...     model = MLP(32, 8, width=48, depth=5, activation="tanh", bias=False)
>>> [name for name, _ in model.named_children()]
['fc0', 'fc1', 'fc2', 'fc3', 'fc4', 'fc5']
"""

from .conv import ConvNet
from .gpt import GPT
from .mlp import MLP
from .resnet import ResNet18
from .seeded import seeded
from .simclr import SimCLR, augment, nt_xent, two_views

__all__ = [
    "GPT",
    "MLP",
    "ConvNet",
    "ResNet18",
    "SimCLR",
    "augment",
    "nt_xent",
    "seeded",
    "two_views",
]
