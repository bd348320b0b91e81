"""Optical handwritten digits: 1797 pictures of 8 × 8, embedded in scikit-learn.

Source: E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, 1998. Values 0…16 are scaled
to [0, 1]. The test set is the last 397 samples. The file is not shuffled and neighbouring digits
are often by one hand, so this split is harder, and more honest, than a random one.
"""

from __future__ import annotations

import torch

from .dataset import Dataset
from .find import DataNotFound

TRAIN = 1400


def digits() -> Dataset:
    """Load the digits: x (N, 1, 8, 8), ten classes.

    Raises `DataNotFound` when scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as cause:
        raise DataNotFound(
            "'digits' is a part of scikit-learn. Install it: pip install 'lawful[lab]'"
        ) from cause
    raw = load_digits()
    x = torch.tensor(raw.images / 16.0, dtype=torch.float32).unsqueeze(1)
    y = torch.tensor(raw.target, dtype=torch.int64)
    return Dataset(
        name="digits",
        x_train=x[:TRAIN],
        y_train=y[:TRAIN],
        x_test=x[TRAIN:],
        y_test=y[TRAIN:],
        classes=tuple("0123456789"),
        meaning="A handwritten digit, 8 × 8 grey pixels.",
        licence="CC BY 4.0 (UCI)",
        source="scikit-learn, sklearn.datasets.load_digits",
    )
