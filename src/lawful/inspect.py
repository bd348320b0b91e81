"""A trained model without its training: what its weights say, and with data what all else says.

    lawful inspect model.safetensors                     W alone: spectra and ranks of every matrix
    lawful inspect mymodel:build --data digits           H, G, W and all that a probe can tell

Only what is safe is loaded: safetensors, and `.pt` files through `torch.load(weights_only=True)`,
which runs nothing that the file brings along. A model's code comes from a library the user has
installed, or from a function that the user names.

The run has one step, 1 unless said otherwise: never 0, which is the initialisation, and of which a
checkpoint knows nothing. Laws that compare with it stay undetermined.

    participation_Z = (Σ s²)²/Σ s⁴     entropy_rank_Z = exp(−Σ π ln π), π = s²/Σ s²
    rank_W = #{s_i > 0.01 s_1}         weight_norm2 = Σ s²            (s: singular values of W)
"""

from __future__ import annotations

import datetime
import importlib
import pickle
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from . import laws as law_room
from .estimators import spectra
from .instruments import panel
from .instruments.charges import Charges
from .instruments.layers import LayerMoments, survey
from .instruments.noise import GradientNoise
from .instruments.probe import Probe
from .instruments.readings import Label
from .observe import observe
from .record import Measurement, Run, RunWriter, open_run
from .record.manifest import write_manifest
from .schedule import every
from .symmetry import Symmetry, SymmetryError, symmetries

State = dict[str, Tensor]
PICKLED = (".pt", ".pth", ".bin", ".ckpt")
NESTED = ("state_dict", "model_state_dict", "model", "module", "net")
OF_WEIGHTS = {
    *("width_a", "width_b", "weight_norm2", "rank_W", "entropy_rank_Z", "participation_Z"),
    "singular_values",
}


@dataclass(frozen=True)
class Loaded:
    """What a name stood for: a model, or the bare tensors of one.

    example, loss: as a factory gave them; None otherwise.
    """

    model: nn.Module | None = None
    state: State | None = None
    example: Any = None
    loss: Callable[..., Tensor] | None = None


# -- loading -------------------------------------------------------------------------------------


def load(source: str, weights: str | Path | None = None) -> Loaded:
    """Find and load what `source` names.

    source:  a `.safetensors` or `.pt` file; a folder of `transformers`; `torchvision:NAME`,
             `timm:NAME`, `transformers:NAME`; or a function of one's own, `module:function`, that
             returns a model, or (model, example, loss).
    weights: a file of weights for the model of a function.

    Raises `ValueError` naming what cannot be found, read, or loaded without running its code.
    """
    path = Path(source or " ")  # an empty path would be this very folder
    library, colon, name = source.partition(":")
    if path.is_file():
        found = Loaded(state=state_of(path))
    elif path.is_dir():
        found = _folder(path)
    elif colon and library in _LIBRARIES:
        found = Loaded(model=_LIBRARIES[library](name))
    elif library and colon and name:
        found = _made(source)
    else:
        missing = path.suffix in (".safetensors", *PICKLED) or len(path.parts) > 1
        what = "there is no such file" if missing else "it is no file, folder or name"
        raise ValueError(
            f"source={source!r}: {what}; give model.safetensors, model.pt, "
            "torchvision:NAME, timm:NAME, transformers:NAME or module:function"
        )
    if weights is not None:
        if found.model is None:
            raise ValueError(f"weights={str(weights)!r} need a model: source={source!r} has none")
        _fill(found.model, state_of(Path(weights)), str(weights))
    return found


def state_of(path: Path) -> State:
    """The tensors of a file, safely; `ValueError` with the reason for anything else."""
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is not a whole safetensors file: {error}") from None
    if path.suffix not in PICKLED:
        known = ", ".join((".safetensors", *PICKLED))
        raise ValueError(f"{path} is refused: of files with weights only {known} are read")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        why = str(error).split("WeightsUnpickler error:")[-1].strip().split("\n")[0]
        named = re.search(r"GLOBAL (\S+)", why)
        why = f"it names {named[1]}" if named else why
        raise ValueError(
            f"{path} is refused: it holds more than tensors, and would run code to load ({why}); "
            "save model.state_dict(), or safetensors"
        ) from None
    except (RuntimeError, OSError, EOFError, KeyError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a file of torch: {error}") from None
    return _tensors(found, path)


def _tensors(found: Any, path: Path) -> State:
    """The state dictionary in what a file held, at the top or one level down."""
    places = [found] if isinstance(found, Mapping) else []
    places += [found[key] for key in NESTED if places and isinstance(found.get(key), Mapping)]
    for place in places:
        state = {str(k): v for k, v in place.items() if isinstance(v, Tensor)}
        if any(v.dim() > 1 for v in state.values()):
            return state
    what = f"keys {', '.join(map(str, found))[:80]}" if places else f"a {type(found).__name__}"
    raise ValueError(f"{path} holds no weights ({what}): save model.state_dict()")


def _folder(path: Path) -> Loaded:
    """A folder as `transformers` saves it; its bare tensors where the library is not there."""
    files = sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
    if not files:
        raise ValueError(f"{path} holds neither *.safetensors nor pytorch_model*.bin")
    if (path / "config.json").is_file() and files[0].suffix == ".safetensors":
        try:
            importlib.import_module("transformers")
        except ImportError:
            pass
        else:
            return Loaded(model=_transformers(str(path)))
    state: State = {}
    for file in files:
        state |= state_of(file)
    return Loaded(state=state)


def _torchvision(name: str) -> nn.Module:
    models = _library("torchvision").models
    with _refusing("torchvision", name):
        weights = models.get_model_weights(name).DEFAULT
        state = torch.hub.load_state_dict_from_url(
            weights.url, map_location="cpu", progress=False, check_hash=True, weights_only=True
        )
        model = models.get_model(name, weights=None, num_classes=len(weights.meta["categories"]))
        model.load_state_dict(state)
    return model


def _timm(name: str) -> nn.Module:
    timm = _library("timm")
    with _refusing("timm", name):  # its downloads are safetensors, or pickles with weights only
        return timm.create_model(name, pretrained=True)


def _transformers(name: str) -> nn.Module:
    transformers = _library("transformers")
    with _refusing("transformers", name):
        config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        kind = next(iter(config.architectures or []), "")
        # The head it was trained with, where the library itself has it.
        maker = getattr(transformers, kind, transformers.AutoModel)
        return maker.from_pretrained(name, config=config, use_safetensors=True)


_LIBRARIES = {"torchvision": _torchvision, "timm": _timm, "transformers": _transformers}


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ValueError(f"{name} is not installed ({error}): pip install {name}") from None


class _refusing:
    """Whatever a library cannot load becomes one sentence."""

    def __init__(self, library: str, name: str) -> None:
        self.what = f"{library} cannot load {name!r}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        if isinstance(error, Exception):
            first = str(error).strip().split("\n")[0]
            raise ValueError(f"{self.what}: {type(error).__name__}: {first}") from error


def _made(source: str) -> Loaded:
    """What the user's own function returns."""
    module, _, function = source.partition(":")
    sys.path.insert(0, "")
    try:
        made = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise ValueError(f"source={source!r} cannot be loaded: {error}") from error
    finally:
        sys.path.remove("")
    model, example, loss = (
        made if isinstance(made, tuple) and len(made) == 3 else (made, None, None)
    )
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"source={source!r} returns a {type(model).__name__}: return a torch.nn.Module, or "
            "(model, example, loss)"
        )
    return Loaded(model=model, example=example, loss=loss)


def _fill(model: nn.Module, state: State, where: str) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise ValueError(f"weights={where!r} do not fit the model: {detail[:300]}") from None


# -- measuring -----------------------------------------------------------------------------------


def inspect(
    source: str | Loaded, out: str | Path, *, weights: str | Path | None = None,
    laws: str | Sequence[str] | None = None, batches: Sequence[tuple[Any, Any]] | None = None,
    loss: Callable[..., Tensor] | None = None, layers: str | Sequence[str] = "*",
    step: int = 1, seed: int = 0,
) -> Run:  # fmt: skip
    """Measure a trained model once, into a run folder.

    source, weights: as in `load`; source may also be a `Loaded`.
    laws:    those to measure for; by default all that can be told without a training run.
    batches: pairs (x, y), and loss(output, y) their mean loss: without them W alone is measured.
    step:    optimiser steps behind the checkpoint, ≥ 1.

    Raises `ValueError` for what cannot be used, `RecordError` when `out` cannot be written.
    """
    loaded = source if isinstance(source, Loaded) else load(source, weights)
    if step < 1:
        raise ValueError(f"step={step}: a checkpoint is of step 1 or later; 0 is initialisation")
    if batches is not None and loaded.model is None:
        raise ValueError("batches need a model, and this is a file of tensors: name its function")
    if batches is None:
        return _weights_only(loaded, Path(out), laws, layers, step, seed)
    assert loaded.model is not None
    if loss is None:
        raise ValueError("loss=None: with batches a loss(output, y) is needed")
    found, chosen = _possible(loaded.model, batches[0], loss, laws, seed)
    probe = Probe(list(batches), loss)
    with observe(
        loaded.model, out, chosen, probe=probe, symmetries=found, layers=layers, seed=seed,
        schedule=every(1), first_step=step, manifest={"steps": step},
    ):  # fmt: skip
        pass  # a probe is taken as the door opens
    run = open_run(out)
    if not run.steps:
        told = "; ".join(run.events()["message"])
        raise ValueError(f"nothing could be measured with these data, {out} is empty: {told}")
    if laws is None:
        _name_only_what_was_seen(run, chosen)
    return run


def _name_only_what_was_seen(run: Run, chosen: Sequence[str]) -> None:
    """Leave out of the manifest the laws of which nothing is recorded.

    They are those of simulated worlds and of whole training runs.
    """
    seen = set(run.table()["quantity"])
    told = [law.name for law in law_room.select(chosen) if seen & set(law.needs)]
    write_manifest(run.path, run.manifest | {"laws": told})


def _possible(
    model: nn.Module, batch: Any, loss: Callable[..., Tensor],
    laws: str | Sequence[str] | None, seed: int,
) -> tuple[Sequence[Symmetry], list[str]]:  # fmt: skip
    """The model's symmetries, and the laws that one look at fixed weights can serve."""
    chosen = law_room.select("*" if laws is None else laws)
    found: Sequence[Symmetry] = []
    if any(panel.asks_for_symmetries(set(law.needs)) for law in chosen):
        try:
            found = symmetries(model, batch, loss, seed=seed)
        except SymmetryError as problem:
            if laws is not None:
                raise ValueError(f"laws={laws!r} need the model's symmetries: {problem}") from None
    if laws is None:
        streamed = (Charges.quantities | GradientNoise.quantities) - LayerMoments.quantities
        for instrument in panel.ON_PROBE:
            streamed -= instrument.quantities
        unknown = streamed | {"sharpness_preconditioned"}  # by an optimiser that is not there
        chosen = [law for law in chosen if not unknown & set(law.needs)]
        if not found:
            chosen = [law for law in chosen if not panel.asks_for_symmetries(set(law.needs))]
    return found, [law.name for law in chosen]


def _weights_only(
    loaded: Loaded, out: Path, laws: str | Sequence[str] | None, layers: str | Sequence[str],
    step: int, seed: int,
) -> Run:  # fmt: skip
    matrices = _matrices(loaded, layers)
    if not matrices:
        raise ValueError("the file holds no matrix: nothing to measure")
    chosen = law_room.select("*" if laws is None else laws)
    beyond = [law.name for law in chosen if not set(law.needs) <= OF_WEIGHTS]
    if laws is not None and beyond:
        raise ValueError(f"laws={', '.join(beyond)} need more than W: give data, with --data")
    manifest = _manifest(loaded, step, seed)
    if able := [law.name for law in chosen if law.name not in beyond]:
        sides = [
            {"name": name, "kind": kind, "d_a": W.shape[1], "d_b": W.shape[0]}
            for name, kind, W in matrices
        ]
        manifest |= {"laws": able, "layers": sides}
    with RunWriter.create(out, manifest) as writer:
        rows: list[Measurement] = []
        arrays = {}
        for name, kind, W in matrices:
            label = Label(step, name, 0)
            if bool(W.isfinite().all()):
                s = torch.linalg.svdvals(W.double() if W.dtype == torch.float64 else W.float())
                rows += weight_readings(label, W, s)
                arrays[name, "singular_values"] = s.float().numpy()
            else:
                writer.event(step, name, "warning", f"its {kind} weights are not finite")
        writer.write(step, rows, arrays)
    return open_run(out)


def weight_readings(label: Label, W: Tensor, s: Tensor) -> Iterator[Measurement]:
    """What W (d_b, d_a) says alone, s its singular values."""
    s2 = s.double().square()
    yield label.value("width_a", W.shape[1])
    yield label.value("width_b", W.shape[0])
    yield label.value("weight_norm2", float(s2.sum()))
    yield label.value("rank_W", int(spectra.numerical_rank(s, 0.01)))
    if float(s2.sum()) > 0:
        yield label.value("entropy_rank_Z", float(spectra.entropy_rank(s2)))
        yield label.value("participation_Z", float(s2.sum() ** 2 / s2.square().sum()))


def _matrices(loaded: Loaded, layers: str | Sequence[str]) -> list[tuple[str, str, Tensor]]:
    """(layer, kind, W) of every linear map of a model, or of every tensor that has two sides."""
    if loaded.model is not None:
        maps, _ = survey(loaded.model, layers)
        return [(m.name, m.kind, m.weight().detach().cpu()) for m in maps]
    globs = [layers] if isinstance(layers, str) else list(layers)
    state = {
        key.removesuffix(".weight"): tensor.flatten(1)
        for key, tensor in (loaded.state or {}).items()
        if tensor.dim() > 1 and tensor.is_floating_point() and tensor.numel()
    }
    return [(name, "tensor", W) for name, W in state.items() if _selected(name, globs)]


def _selected(name: str, globs: Sequence[str]) -> bool:
    """Whether globs choose a name; one that starts with `!` takes it out again."""
    wanted = [g for g in globs if not g.startswith("!")] or ["*"]
    out = [g[1:] for g in globs if g.startswith("!")]
    return any(fnmatchcase(name, g) for g in wanted) and not any(fnmatchcase(name, g) for g in out)


def _manifest(loaded: Loaded, step: int, seed: int) -> dict[str, Any]:
    """What was looked at; layers are named only where a law asks about them."""
    model, state = loaded.model, loaded.state or {}
    tensors = state.values() if model is None else model.parameters()
    return {
        "lawful": version("lawful"),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": seed,
        "model": {
            "class": "state" if model is None else type(model).__name__,
            "parameters": sum(t.numel() for t in tensors),
            "repr": "" if model is None else repr(model)[:20_000],
        },
        "optimizer": None,
        "source": "weights",
        "status": "finished",
        "steps": step,
    }
