"""The manifest: what was run, in one JSON object that any language can read.

`FORM` is its definition. A field may be absent (except `format`, and the `name` of a layer);
one that is there has the type written here, or the run is refused with the field's address.
Fields that `FORM` does not name are kept as they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import RecordError, explained
from .folder import replacing

MANIFEST = "manifest.json"
FORMAT = 1

# A type; a tuple of alternatives; [form of each entry]; {field: form of its value}.
FORM: dict[str, Any] = {
    "format": int,
    "lawful": str,
    "created": str,
    "seed": (int, None),
    "model": {"class": str, "parameters": int, "repr": str},
    "optimizer": ({"class": str, "groups": [dict]}, None),
    "reduction": str,
    "schedule": str,
    "source": str,
    "laws": [str],
    "layers": [
        {"name": str, "kind": str, "d_a": int, "d_b": int, "bias": bool, "block": str, "note": str}
    ],
    "unobserved": [{"name": str, "kind": str, "reason": str, "parameters": int}],
    "environment": dict,
    "experiment": {"name": str, "settings": dict},
    "data": dict,
    "status": str,
    "steps": int,
}
_REQUIRED = ("format", "name")


def read_manifest(run: Path) -> dict[str, Any]:
    """Return the manifest of a run folder.

    Raises `RecordError` when the folder or the manifest is missing, cut short, of a newer
    format, or holds a field of the wrong type.
    """
    if not run.is_dir():
        found = "this is a file, a run is a folder" if run.exists() else "there is no such folder"
        raise RecordError(f"no run at {run}: {found}")
    file = run / MANIFEST
    if not file.is_file():
        raise RecordError(f"{run} is not a run: it has no {MANIFEST}")
    with explained(f"{file} is damaged or cut short", "put back a copy, or run it again"):
        manifest = json.loads(file.read_text(encoding="utf-8"))
    checked(manifest, file)
    return manifest


def write_manifest(run: Path, manifest: Mapping[str, Any]) -> None:
    """Replace the manifest of a run folder in one stroke."""
    plain = _plain(manifest)
    checked(plain, run / MANIFEST)
    with explained(f"cannot write {run / MANIFEST}"), replacing(run / MANIFEST) as draft:
        draft.write_text(json.dumps(plain, indent=1, ensure_ascii=False), encoding="utf-8")


def checked(manifest: Any, file: Path) -> None:
    """Raise `RecordError` naming the first field of `manifest` that departs from `FORM`."""
    fault = _fault(manifest, FORM, "manifest")
    if fault:
        raise RecordError(f"{file} is not a manifest of lawful: {fault}")
    if not 1 <= manifest["format"] <= FORMAT:
        found = manifest["format"]
        raise RecordError(f"{file} has format {found}, this lawful reads {FORMAT}: update lawful")


def _fault(value: Any, form: Any, where: str) -> str:
    """One phrase on the first departure of `value` from `form`; empty when there is none."""
    if isinstance(form, tuple):
        if value is None and None in form:
            return ""
        return _fault(value, form[0], where)
    wanted = form if isinstance(form, type) else type(form)
    fits = isinstance(value, wanted) and not (wanted is int and isinstance(value, bool))
    if not fits:
        return f"{where} should be {wanted.__name__}, found {type(value).__name__}"
    if isinstance(form, list):
        parts = ((entry, form[0], f"{where}[{i}]") for i, entry in enumerate(value))
    elif isinstance(form, dict):
        missing = [f for f in form if f in _REQUIRED and f not in value]
        if missing:
            return f"{where} lacks {missing[0]!r}"
        parts = ((value[f], part, f"{where}.{f}") for f, part in form.items() if f in value)
    else:
        return ""
    return next((fault for part in parts if (fault := _fault(*part))), "")


def _plain(value: Any) -> Any:
    """`value` as strict JSON: odd objects and non-finite numbers become their text.

    >>> _plain({"lr": float("inf"), "betas": (0.9, 0.99), "out": Path("a")})
    {'lr': 'inf', 'betas': [0.9, 0.99], 'out': 'a'}
    """
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return str(value)
