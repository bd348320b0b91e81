"""A user's own arrays in one `.npz` file.

Keys `x_train, y_train, x_test, y_test` are taken as they are; keys `x, y` are split, one sample
in five going to the test set. Integer y are classes, floating y are regression targets. The file
is read with allow_pickle=False: it can hold numbers, never code.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset
from .stream import stream

SPLIT = ("x_train", "y_train", "x_test", "y_test")


def npz(path: str | Path, *, seed: int = 0) -> Dataset:
    """Load a `.npz` file.

    Raises `ValueError` naming the keys that are there when they are not those above.
    """
    path = Path(path)
    arrays = {key: _tensor(value) for key, value in _read(path).items()}
    if set(SPLIT) <= set(arrays):
        parts = {key: arrays[key] for key in SPLIT}
    elif {"x", "y"} <= set(arrays):
        order = torch.randperm(len(arrays["x"]), generator=stream(seed, "split"))
        test, train = order[: len(order) // 5], order[len(order) // 5 :]
        parts = {f"{k}_train": arrays[k][train] for k in "xy"}
        parts |= {f"{k}_test": arrays[k][test] for k in "xy"}
    else:
        raise ValueError(
            f"{path} has the arrays {', '.join(sorted(arrays)) or 'none'}; "
            f"needed are x and y, or {', '.join(SPLIT)}"
        )
    labels = parts["y_train"]
    whole = not labels.is_floating_point()
    if whole and int(labels.min()) < 0:
        raise ValueError(f"{path}: y has the class {int(labels.min())}; classes count from 0")
    classes = tuple(str(i) for i in range(int(labels.max()) + 1)) if whole else ()
    return Dataset(
        name=path.stem,
        classes=classes,
        meaning="A sample of the user's own file.",
        licence="the user's own",
        source=path.name,
        **parts,
    )


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {key: file[key] for key in file.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as cause:
        raise ValueError(
            f"{path} is not a readable .npz of plain numbers ({cause}); "
            "save it with numpy.savez(path, x=..., y=...)"
        ) from cause


def _tensor(array: np.ndarray) -> Tensor:
    whole = np.issubdtype(array.dtype, np.integer) or array.dtype == bool
    return torch.from_numpy(array.astype(np.int64 if whole else np.float32))
