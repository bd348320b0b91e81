"""Parameter symmetries: what may be done to θ without changing the loss, and what that conserves.

>>> import torch
>>> model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
>>> x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
>>> y = torch.arange(16) % 3
>>> found = symmetries(model, (x, y), torch.nn.functional.cross_entropy, samples=16)
>>> sorted((s.kind, s.dimension) for s in found if s.certified)
[('permutation', 6), ('rescaling', 6), ('shift', 7)]
"""

from .action import Mixing, Scaling, Shifting
from .conservation import LawCount, independent_laws
from .detect import symmetries
from .discrete import Discrete, Move
from .errors import SymmetryError
from .generator import Family, Generator
from .mirror import Mirror, nearest_mirror
from .parameter_space import ParameterSpace
from .symmetry import Symmetry

__all__ = [
    "Discrete",
    "Family",
    "Generator",
    "LawCount",
    "Mirror",
    "Mixing",
    "Move",
    "ParameterSpace",
    "Scaling",
    "Shifting",
    "Symmetry",
    "SymmetryError",
    "independent_laws",
    "nearest_mirror",
    "symmetries",
]
