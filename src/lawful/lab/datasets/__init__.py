"""Data sets in one form: `load(name)` gives a `Dataset`, `batches(...)` deals it out.

>>> data = load("digits")
>>> tuple(data.x_train.shape), data.outputs
((1400, 1, 8, 8), 10)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .batches import batches
from .dataset import (
    Dataset,
    classified,
    fingerprint,
    flatten,
    move,
    permute_labels,
    standardise,
    subset,
)
from .digits import digits
from .fashion_mnist import fashion_mnist
from .find import DataNotFound, find
from .image_folder import cifar10, image_folder
from .mnist1d import mnist_1d
from .npz import npz
from .stream import stream
from .teacher import teacher
from .text import decode, python_source, sotu, windows

DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "mnist-1d": mnist_1d,
    "cifar10": cifar10,
    "sotu": sotu,
    "python-source": python_source,
    "teacher": teacher,
}


def load(name: str, **options: Any) -> Dataset:
    """Load a data set by its name, or the user's own `.npz` file or image folder by its path.

    options: those of the loader, e.g. `load("python-source", context=128)`.

    Raises `DataNotFound` with a remedy when the data are not on this machine, `ValueError` for
    an unknown name, `TypeError` for an option that the loader does not have.
    """
    loader = DATASETS.get(name) or _own(name)
    known = inspect.signature(loader).parameters
    for option in options:
        if option not in known:
            raise TypeError(f"load({name!r}) has no option {option!r}; it has: {', '.join(known)}")
    return loader(**options)


def _own(name: str) -> Callable[..., Dataset]:
    path = Path(name).expanduser()
    if path.suffix == ".npz" and path.is_file():
        return lambda seed=0: npz(path, seed=seed)
    if path.is_dir():
        return lambda size=32, grey=False, limit=0, seed=0: image_folder(
            path, size=size, grey=grey, limit=limit, seed=seed
        )
    raise ValueError(
        f"unknown data set {name!r}: use one of {', '.join(DATASETS)}, "
        "the path of a .npz file, or a folder with one subfolder a class"
    )


__all__ = [
    "DATASETS",
    "DataNotFound",
    "Dataset",
    "batches",
    "cifar10",
    "classified",
    "decode",
    "digits",
    "fashion_mnist",
    "find",
    "fingerprint",
    "flatten",
    "image_folder",
    "load",
    "mnist_1d",
    "move",
    "npz",
    "permute_labels",
    "python_source",
    "sotu",
    "standardise",
    "stream",
    "subset",
    "teacher",
    "windows",
]
