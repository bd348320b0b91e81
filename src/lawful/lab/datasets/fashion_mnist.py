"""Fashion-MNIST: 60,000 + 10,000 pictures of 28 × 28, ten kinds of clothing.

Source: H. Xiao, K. Rasul, R. Vollgraf, arXiv:1708.07747. Read from the four idx files, a
format of a short header (magic number, sizes, big-endian) followed by bytes; the Debian package
`dataset-fashion-mnist` carries them, or the user's own folder does. MNIST, KMNIST and others in
the same format load with the same function.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset
from .find import find

CLASSES = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)

REMEDY = (
    "Install the Debian package: apt-get install dataset-fashion-mnist; or put the four files "
    "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and "
    "t10k-labels-idx1-ubyte.gz into a folder fashion-mnist inside the folder that LAWFUL_DATA "
    "names."
)


def fashion_mnist() -> Dataset:
    """Load Fashion-MNIST: x (N, 1, 28, 28), ten classes.

    Raises `DataNotFound` when the files are absent and `ValueError` when one is damaged.
    """
    return idx_folder(
        find("fashion-mnist", remedy=REMEDY),
        name="fashion-mnist",
        classes=CLASSES,
        meaning="A grey picture of a piece of clothing, 28 × 28 pixels.",
        licence="MIT",
        source="Debian package dataset-fashion-mnist; arXiv:1708.07747",
    )


def idx_folder(
    folder: Path, *, name: str, classes: tuple[str, ...], meaning: str, licence: str, source: str
) -> Dataset:
    """A data set of four gzipped idx files, as MNIST and its relatives are published."""
    arrays = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        arrays[f"x_{part}"] = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
        arrays[f"y_{part}"] = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz").long()
    for part in ("x_train", "x_test"):
        arrays[part] = arrays[part].float().div(255).unsqueeze(1)
    return Dataset(
        name=name, classes=classes, meaning=meaning, licence=licence, source=source, **arrays
    )


def read_idx(path: Path) -> Tensor:
    """One gzipped idx file of bytes as a uint8 tensor of the shape in its header."""
    try:
        raw = gzip.decompress(path.read_bytes())
    except FileNotFoundError as cause:
        raise ValueError(f"{path.parent} has no file {path.name}. {REMEDY}") from cause
    except (gzip.BadGzipFile, EOFError) as cause:
        raise ValueError(f"{path} is not a whole gzip file ({cause}): fetch it again") from cause
    axes = raw[3] if len(raw) > 3 else 0
    shape = tuple(int(n) for n in np.frombuffer(raw, ">i4", count=axes, offset=4))
    body = np.frombuffer(raw, np.uint8, offset=4 + 4 * axes)
    if raw[:3] != b"\x00\x00\x08" or body.size != int(np.prod(shape)):
        raise ValueError(f"{path} is not an idx file of bytes: header {raw[:4]!r}, shape {shape}")
    return torch.from_numpy(body.reshape(shape).copy())
