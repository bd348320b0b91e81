"""The common form of a data set: arrays in, four tensors out.

    (x_train, y_train)  and  (x_test, y_test),   split once, by the loader of the data set.

Images are float32 (N, channels, rows, columns) in [0, 1]; tables float32 (N, d); text is
int64 (N, T) windows of character numbers with y the next character. A label is an int64
class number, a regression target a float32 row.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .stream import stream


@dataclass(frozen=True)
class Dataset:
    """One data set, split into train and test.

    name:    as `load()` knows it.
    x_train: (N, ...) inputs; x_test: (M, ...).
    y_train: (N,) int64 classes, (N, k) float32 targets or (N, T) int64 characters; y_test alike.
    classes: names of the classes (characters of the alphabet for text); empty for regression.
    meaning: one sentence: what a sample is.
    licence: under which terms the data came.
    source:  where they came from, so that another person can find them.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: tuple[str, ...]
    meaning: str
    licence: str
    source: str

    def __post_init__(self) -> None:
        for part in ("train", "test"):
            x, y = getattr(self, f"x_{part}"), getattr(self, f"y_{part}")
            if len(x) != len(y) or len(x) == 0:
                raise ValueError(
                    f"data set {self.name!r}: x_{part} has {len(x)} samples and y_{part} has "
                    f"{len(y)}; they must be equal and not empty"
                )

    @property
    def features(self) -> int:
        """Numbers in one input sample."""
        return self.x_train[0].numel()

    @property
    def outputs(self) -> int:
        """What a model must put out: classes, or the width of the target."""
        return len(self.classes) if self.classes else self.y_train.shape[-1]

    def describe(self) -> dict[str, object]:
        """The `data` entry of a run's manifest."""
        return {
            "name": self.name,
            "train": len(self.x_train),
            "test": len(self.x_test),
            "shape": list(self.x_train.shape[1:]),
            "classes": len(self.classes),
            "meaning": self.meaning,
            "licence": self.licence,
            "source": self.source,
            "sha256": fingerprint(self),
        }


def fingerprint(data: Dataset) -> str:
    """First 16 hex digits of the SHA-256 of all four arrays: the same digits, the same data."""
    digest = hashlib.sha256()
    for part in (data.x_train, data.y_train, data.x_test, data.y_test):
        digest.update(part.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def subset(data: Dataset, train: int = 0, test: int = 0, *, seed: int = 0) -> Dataset:
    """A seeded random choice of `train` and `test` samples; 0 keeps them all, in their order.

    Raises `ValueError` when more samples are asked for than there are.
    """
    picked: dict[str, Tensor] = {}
    for part, wanted in (("train", train), ("test", test)):
        x, y = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
        if wanted > len(x) or wanted < 0:
            raise ValueError(
                f"{part}={wanted}: data set {data.name!r} has {len(x)} {part} samples; "
                f"ask for 1 to {len(x)}, or 0 for all"
            )
        if wanted:
            chosen = torch.randperm(len(x), generator=stream(seed, part))[:wanted]
            x, y = x[chosen], y[chosen]
        picked |= {f"x_{part}": x, f"y_{part}": y}
    return replace(data, **picked)  # type: ignore[arg-type]


def classified(data: Dataset) -> Dataset:
    """The data set as it is; `ValueError` when its labels are numbers and not classes."""
    if not data.classes:
        raise ValueError(
            f"data set {data.name!r} has floating targets; this world tells classes apart: give "
            "whole numbers from 0 as y"
        )
    return data


def permute_labels(data: Dataset, *, seed: int = 0) -> Dataset:
    """The negative control: the same x and the same y, dealt out at random.

    Train and test labels are shuffled apart, so that nothing is left to learn but a list.
    """

    def dealt(y: Tensor, part: str) -> Tensor:
        return y[torch.randperm(len(y), generator=stream(seed, "labels", part))]

    return replace(
        data,
        y_train=dealt(data.y_train, "train"),
        y_test=dealt(data.y_test, "test"),
        meaning=data.meaning + " Labels are permuted at random.",
    )


def standardise(data: Dataset) -> Dataset:
    """x ← (x − μ)/σ with one μ and σ for each channel (axis 1 of an image), from the train set.

    A table or a vector gets one μ and σ for the whole array: the shape of its covariance,
    which the laws look at, stays as it is.
    """
    image = data.x_train.dim() == 4
    axes = (0, 2, 3) if image else tuple(range(data.x_train.dim()))
    mean = data.x_train.mean(dim=axes, keepdim=True)
    scale = data.x_train.std(dim=axes, keepdim=True).clamp_min(1e-8)
    return replace(data, x_train=(data.x_train - mean) / scale, x_test=(data.x_test - mean) / scale)


def flatten(data: Dataset) -> Dataset:
    """Each sample as one row: (N, ...) becomes (N, features)."""
    return replace(data, x_train=data.x_train.flatten(1), x_test=data.x_test.flatten(1))


def move(data: Dataset, device: str | torch.device) -> Dataset:
    """The four tensors on another device."""
    return replace(
        data,
        x_train=data.x_train.to(device),
        y_train=data.y_train.to(device),
        x_test=data.x_test.to(device),
        y_test=data.y_test.to(device),
    )
