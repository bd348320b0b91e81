"""Checkpoints: where a run stood between two steps, in an open format that cannot run code.

One safetensors file. Its tensors are the model's, the optimiser's and the states of the random
streams (bytes); its header carries the rest as JSON under the key `lawful`:

    {"format": 1, "step": 70, "optimizer": "SGD", "state": tree}

    tree = number | text | null | {"tensor": its name in the file}
         | {"dict": [[key, tree], …]} | {"list": [tree, …]} | {"tuple": [tree, …]}

Pairs stand for dictionaries because JSON would turn the optimiser's whole-number keys into text.
Two names of one tensor (tied weights) are two leaves with one tensor. JSON keeps every float to
the last bit, so a run resumed from here goes on as if it had never stopped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..record import RecordError
from ..record.folder import replacing

CHECKPOINT = "checkpoint.safetensors"
"""Its name in a run folder."""

FORMAT = 1


def save(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Write model, optimiser, random streams and step to `path`; the old file stays until then.

    Raises `RecordError` when the file cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": _random(_device(model)),
    }
    header = {
        "format": FORMAT,
        "step": step,
        "optimizer": type(optimizer).__name__,
        "state": _split(state, "", tensors, {}),
    }
    try:
        with replacing(path) as draft:
            save_file(tensors, draft, {"lawful": json.dumps(header)})
    except (OSError, SafetensorError) as cause:
        raise RecordError(
            f"{path} cannot be written ({_first(cause)}); make room or choose another folder"
        ) from cause


def resume(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Read a checkpoint into model and optimiser; returns the steps already taken.

    A file that is not there means 0 steps. Raises `ValueError` when it cannot be read or belongs
    to another model or optimiser.
    """
    if not path.exists():
        return 0
    try:
        header, state = _read(path)
        if header["optimizer"] != type(optimizer).__name__:
            raise ValueError(f"it was made with {header['optimizer']}")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"]["cpu"])
        if "cuda" in state["random"] and _device(model).type == "cuda":
            torch.cuda.set_rng_state(state["random"]["cuda"], _device(model))
        return int(header["step"])
    except Exception as cause:  # a damaged file raises half a dozen kinds
        raise ValueError(
            f"{path} is not a checkpoint of this model ({_first(cause)}); "
            "delete it to start over, or resume with the settings it was made with"
        ) from cause


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and state of a checkpoint, its tensors on the CPU."""
    with safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {}).get("lawful", "{}"))
        if header.get("format") != FORMAT:
            raise ValueError(f"no checkpoint of format {FORMAT}")
        # Copies: tensors mapped from the file would keep some systems from replacing it.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    return header, _join(header["state"], tensors)


def _split(value: Any, name: str, tensors: dict[str, Tensor], seen: dict[Any, str]) -> Any:
    """`value` as a tree of JSON, its tensors put into `tensors`, each piece of memory once."""
    match value:
        case Tensor():
            memory = value.device, value.data_ptr(), value.shape, value.stride(), value.dtype
            if memory not in seen:
                seen[memory] = name
                tensors[name] = value.detach().cpu().contiguous().clone()
            return {"tensor": seen[memory]}
        case dict():
            prefix = f"{name}." if name else ""
            items = value.items()
            return {"dict": [[k, _split(v, f"{prefix}{k}", tensors, seen)] for k, v in items]}
        case list() | tuple():
            parts = [_split(v, f"{name}.{i}", tensors, seen) for i, v in enumerate(value)]
            return {"list" if isinstance(value, list) else "tuple": parts}
        case None | bool() | int() | float() | str():
            return value
    raise TypeError(f"{name} is a {type(value).__name__}: a checkpoint holds tensors and numbers")


def _join(tree: Any, tensors: dict[str, Tensor]) -> Any:
    """The value that `_split` took apart."""
    match tree:
        case {"tensor": name}:
            return tensors[name]
        case {"dict": pairs}:
            return {key: _join(value, tensors) for key, value in pairs}
        case {"list": parts}:
            return [_join(part, tensors) for part in parts]
        case {"tuple": parts}:
            return tuple(_join(part, tensors) for part in parts)
    return tree


def _random(device: torch.device) -> dict[str, Tensor]:
    """States of the random streams that a model on this device draws from, as bytes."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _first(cause: Exception) -> str:
    """What went wrong, in one line; torch says what does not fit in its second."""
    lines = [line.strip() for line in str(cause).splitlines()[:2]]
    return " ".join(lines).rstrip(".") or type(cause).__name__
