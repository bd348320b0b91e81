"""A user's own arrays in one `.npz` file.

Keys `x_train, y_train, x_test, y_test` are taken as they are; keys `x, y` are split, one sample
in five going to the test set. x become float32. Integer y are classes, of shape (N,) or (N, 1);
floating y are regression targets, (N,) or (N, k). Integer x and y of one shape (N, T) are text:
character numbers and the characters after them. The file is read with allow_pickle=False: it can
hold numbers, never code.
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

    Raises `ValueError` naming the keys that are there when they are not those above, or the array
    that cannot be used.
    """
    path = Path(path)
    arrays = _read(path)
    if set(SPLIT) <= set(arrays):
        pairs = {part: _pair(path, arrays, f"_{part}") for part in ("train", "test")}
        for letter, train, test in zip("xy", *pairs.values(), strict=True):
            if (train.shape[1:], train.dtype) != (test.shape[1:], test.dtype):
                raise ValueError(
                    f"{path}: a sample of {letter}_train is {_form(train)}, of {letter}_test "
                    f"{_form(test)}; they must be alike"
                )
    elif {"x", "y"} <= set(arrays):
        x, y = _pair(path, arrays, "")
        order = torch.randperm(len(x), generator=stream(seed, "split"))
        test, train = order[: len(order) // 5], order[len(order) // 5 :]
        pairs = {"train": (x[train], y[train]), "test": (x[test], y[test])}
    else:
        raise ValueError(
            f"{path} has the arrays {', '.join(sorted(arrays)) or 'none'}; "
            f"needed are x and y, or {', '.join(SPLIT)}"
        )
    (x_train, y_train), (x_test, y_test) = pairs["train"], pairs["test"]
    return Dataset(
        name=path.stem,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        classes=_classes(path, torch.cat([y_train.flatten(), y_test.flatten()])),
        meaning="A sample of the user's own file.",
        licence="the user's own",
        source=path.name,
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


def _pair(path: Path, arrays: dict[str, np.ndarray], part: str) -> tuple[Tensor, Tensor]:
    """x and y of one part ("" is the whole), in the form of a `Dataset`."""
    x, y = (_tensor(path, f"{letter}{part}", arrays[f"{letter}{part}"]) for letter in "xy")
    if len(x) != len(y):
        raise ValueError(f"{path}: x{part} has {len(x)} samples and y{part} has {len(y)}")
    whole = not y.is_floating_point()
    text = not x.is_floating_point() and x.dim() == 2 and x.shape[1] > 1
    if whole and text and x.shape == y.shape:
        return x, y
    x = x.float().reshape(len(x), -1) if x.dim() == 1 else x.float()
    if not bool(x.isfinite().all()):
        raise ValueError(f"{path}: x{part} holds NaN or infinite numbers: fill in or drop them")
    if whole and y.numel() != len(y):
        raise ValueError(
            f"{path}: y{part} has shape {tuple(y.shape)}: classes are one whole number a sample "
            "(of one-hot rows take argmax), targets are floating numbers"
        )
    return x, y.flatten() if whole else y.reshape(len(y), -1)


def _tensor(path: Path, key: str, array: np.ndarray) -> Tensor:
    if array.dtype.kind not in "biuf" or array.size == 0 or array.ndim == 0:
        raise ValueError(
            f"{path}: {key} has dtype {array.dtype} and shape {array.shape}; needed are real "
            "numbers, a row a sample"
        )
    return torch.from_numpy(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))


def _form(part: Tensor) -> str:
    return f"{tuple(part.shape[1:])} of {str(part.dtype).removeprefix('torch.')}"


def _classes(path: Path, labels: Tensor) -> tuple[str, ...]:
    """Names of the classes; none for targets that are numbers."""
    if labels.is_floating_point():
        return ()
    if int(labels.min()) < 0:
        raise ValueError(f"{path}: y has the class {int(labels.min())}; classes count from 0")
    return tuple(str(i) for i in range(int(labels.max()) + 1))
