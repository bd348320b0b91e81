"""A library that only some people have."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def extra(module: str, name: str) -> Any:
    """Import a module of the extra `name`; `ImportError` with the remedy when it is not there."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ImportError(
            f"lawful.callbacks needs {module} here, which cannot be imported ({error}): "
            f"pip install 'lawful[{name}]'"
        ) from error
