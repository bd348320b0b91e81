"""Any folder of pictures with one subfolder a class.

Either `root/train/CLASS/*.png` and `root/test/CLASS/*.png`, or `root/CLASS/*.png`, of which one
picture in five goes to the test set. Pictures are cut to a centred square, scaled to `size`
pixels and read with Pillow. CIFAR-10 unpacked in this way is `load("cifar10")`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .dataset import Dataset
from .find import DataNotFound, find
from .stream import stream

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


def image_folder(
    root: str | Path, *, size: int = 32, grey: bool = False, limit: int = 0, seed: int = 0
) -> Dataset:
    """Load the pictures under `root`: x (N, 3 or 1, size, size) in [0, 1].

    limit: at most so many pictures of each class and part, chosen by `seed`; 0 takes them all.

    Raises `DataNotFound` when Pillow or the folder is missing, `ValueError` when there are
    fewer than two classes or a picture cannot be read.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataNotFound(f"{root} is not a folder: give a folder with one subfolder a class")
    classes, train, test = _list(root, seed)
    x_train, y_train = _read(train, classes, size, grey, limit, seed)
    x_test, y_test = _read(test, classes, size, grey, limit, seed)
    return Dataset(
        name=root.name,
        x_train=x_train,
        y_train=y_train,
        x_test=x_test,
        y_test=y_test,
        classes=classes,
        meaning=f"A picture scaled to {size} × {size} pixels.",
        licence="the user's own",
        source=f"image folder {root.name}",
    )


def cifar10(*, limit: int = 0, seed: int = 0) -> Dataset:
    """CIFAR-10 (A. Krizhevsky, 2009) from a folder `cifar10` of pictures: x (N, 3, 32, 32).

    Raises `DataNotFound` when there is no such folder.
    """
    folder = find(
        "cifar10",
        remedy="CIFAR-10 has no package and no stated licence: export it as pictures "
        "cifar10/train/CLASS/*.png and cifar10/test/CLASS/*.png inside the folder that "
        "LAWFUL_DATA names.",
    )
    return image_folder(folder, size=32, limit=limit, seed=seed)


def _list(root: Path, seed: int) -> tuple[tuple[str, ...], dict, dict]:
    """Class names and, for each part, the files of each class."""
    divided = (root / "train").is_dir() and (root / "test").is_dir()
    top = root / "train" if divided else root
    classes = tuple(sorted(p.name for p in top.iterdir() if p.is_dir()))
    if len(classes) < 2:
        raise ValueError(f"{top} has {len(classes)} class folders; at least 2 are needed")
    files = {c: _pictures(top / c) for c in classes}
    if divided:
        return classes, files, {c: _pictures(root / "test" / c) for c in classes}
    train, test = {}, {}
    for c, all_files in files.items():
        if len(all_files) < 2:
            raise ValueError(
                f"{top / c} has one picture: one to train on and one to test are needed"
            )
        order = torch.randperm(len(all_files), generator=stream(seed, "split", c)).tolist()
        held_out = max(1, len(order) // 5)
        test[c] = [all_files[i] for i in order[:held_out]]
        train[c] = [all_files[i] for i in order[held_out:]]
    return classes, train, test


def _pictures(folder: Path) -> list[Path]:
    files = sorted(p for p in folder.glob("*") if p.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"{folder} has no pictures ({', '.join(sorted(SUFFIXES))})")
    return files


def _read(
    files: dict[str, list[Path]],
    classes: tuple[str, ...],
    size: int,
    grey: bool,
    limit: int,
    seed: int,
) -> tuple[Tensor, Tensor]:
    pictures, labels = [], []
    for number, c in enumerate(classes):
        order = torch.randperm(len(files[c]), generator=stream(seed, "limit", c)).tolist()
        for i in sorted(order[:limit] if limit else order):
            pictures.append(_picture(files[c][i], size, grey))
            labels.append(number)
    return torch.stack(pictures).float().div(255), torch.tensor(labels)


def _picture(path: Path, size: int, grey: bool) -> Tensor:
    """One picture as uint8 (channels, size, size)."""
    try:
        from PIL import Image, ImageOps
    except ImportError as cause:
        raise DataNotFound(
            "pictures are read with Pillow. Install it: pip install 'lawful[lab]'"
        ) from cause
    try:
        with Image.open(path) as picture:
            square = ImageOps.fit(picture.convert("L" if grey else "RGB"), (size, size))
            pixels = np.asarray(square, dtype=np.uint8)
    except (OSError, ValueError, Image.DecompressionBombError) as cause:
        raise ValueError(f"{path} is not a readable picture ({cause})") from cause
    return torch.from_numpy(pixels.copy()).reshape(size, size, -1).permute(2, 0, 1)
