"""MNIST-1D: 4000 + 1000 noisy one-dimensional digits of 40 numbers, made by a program.

Source: S. Greydanus and D. Kobak, arXiv:2011.14439 (Apache-2.0). Small, and yet linear models,
MLPs and convolutions lie far apart on it: a fast world for feature learning. The generator is
the package `mnist1d` itself; nothing is fetched.
"""

from __future__ import annotations

import importlib
import random

import numpy as np
import torch

from .dataset import Dataset
from .find import DataNotFound


def mnist_1d() -> Dataset:
    """Generate MNIST-1D: x (N, 40), ten classes.

    Raises `DataNotFound` when the package `mnist1d` is not installed.
    """
    try:
        package = importlib.import_module("mnist1d.data")
    except ImportError as cause:
        raise DataNotFound(
            "'mnist-1d' is made by the package mnist1d. Install it: pip install mnist1d"
        ) from cause
    # The generator seeds the global streams; they are put back so that a run does not notice.
    outside = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    raw = package.make_dataset(package.get_dataset_args())
    random.setstate(outside[0])
    np.random.set_state(outside[1])  # noqa: NPY002
    torch.set_rng_state(outside[2])
    return Dataset(
        name="mnist-1d",
        x_train=torch.tensor(raw["x"], dtype=torch.float32),
        y_train=torch.tensor(raw["y"], dtype=torch.int64),
        x_test=torch.tensor(raw["x_test"], dtype=torch.float32),
        y_test=torch.tensor(raw["y_test"], dtype=torch.int64),
        classes=tuple("0123456789"),
        meaning="A one-dimensional digit: 40 samples of a shifted, scaled, sheared noisy curve.",
        licence="Apache-2.0",
        source="Python package mnist1d, arXiv:2011.14439",
    )
