"""Commands on a model: its symmetries, what theory expects of it, what it holds once trained."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .shell import (
    Refused,
    a_seed,
    as_json,
    console,
    emit,
    in_a_sentence,
    refusals,
    some_data,
    some_layers,
)

if TYPE_CHECKING:
    from ..inspect import Loaded
    from ..lab.datasets import Dataset
    from ..lab.training import Loss


@click.command()
@click.argument("factory", metavar="MODULE:FUNCTION")
@as_json
def symmetries(factory: str, as_json: bool) -> None:
    """List the parameter symmetries of a model.

    Each is certified to hold (●), or found and not certified (◐). FUNCTION takes nothing and
    returns (model, example_input, loss): a batch x or a pair (x, y), and a function of the
    model's output (and y) that returns one number. MODULE is imported from the current folder
    or the installed packages.

    \b
    Example:
      lawful symmetries mymodel:build
    """
    from ..report.catalogue import listing
    from ..symmetry import SymmetryError
    from ..symmetry import symmetries as found_in

    model, example_input, loss = made_by(factory)
    with refusals(SymmetryError):
        found = found_in(model, example_input, loss)
    fields = (
        *("name", "kind", "layers", "charge", "dimension", "laws"),
        *("violation", "certified", "source", "sentence"),
    )
    if as_json:
        emit({"model": factory, "symmetries": [{f: getattr(s, f) for f in fields} for s in found]})
    else:
        console().print(listing([("●" if s.certified else "◐", s.sentence) for s in found]))


@click.command()
@click.argument("model", metavar="MODEL")
@some_data
@click.option(
    "--optimizer",
    type=click.Choice(["sgd", "adam", "adamw"]),
    default="sgd",
    show_default=True,
    help="Charges obey the laws of sgd only.",
)
@click.option("--lr", type=float, required=True, help="Learning rate.")
@click.option("--batch-size", type=int, required=True, help="Samples in a mini-batch.")
@click.option("--weight-decay", type=float, default=0.0, show_default=True, help="As in torch.")
@click.option("--momentum", type=float, default=0.0, show_default=True, help="Of sgd, as in torch.")
@click.option("--steps", type=int, help="Length of the run, to compare predicted times with.")
@click.option(
    "--samples",
    type=int,
    default=256,
    show_default=True,
    help="Samples of DATA on which noise and curvature are measured.",
)
@a_seed
@as_json
def predict(model: str, data: str | None, as_json: bool, seed: int, **settings: Any) -> None:
    """Say before training what theory expects of it.

    Equilibria, ranks, critical weight decays, times. MODEL is MODULE:FUNCTION as in `lawful
    symmetries` (without --data its example_input is the data), or a model of the lab:
    mlp:64-128-10, mlp-tanh:…, mlp-linear:…, resnet18, gpt.

    \b
    Example:
      lawful predict mlp:64-128-10 --data digits --lr 0.1 --weight-decay 1e-3 --batch-size 32
    """
    from ..forecast import predict as forecasts_of
    from ..report.forecasts import forecast_table

    built, sample, loss = case_for(model, data, seed)
    with refusals(ValueError):
        found = forecasts_of(built, sample, loss, seed=seed, **settings)
    if as_json:
        emit(
            {
                "model": model,
                "data": data,
                "settings": settings,
                "forecasts": [f.to_json() for f in found],
            }
        )
    else:
        console().print(forecast_table(found))


@click.command()
@click.argument("model", metavar="CHECKPOINT|MODEL")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder [runs/NAME].")
@click.option("--weights", type=click.Path(path_type=Path), help="File of weights for a function.")
@some_data
@click.option(
    "--loss", type=click.Choice(["cross_entropy", "mse"]), help="Of DATA [by its labels]."
)
@click.option("--laws", multiple=True, metavar="NAME", help="Only these; may be repeated.")
@some_layers
@click.option(
    "--samples",
    type=click.IntRange(min=2),
    default=2048,
    show_default=True,
    help="Samples of DATA that are measured.",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    default=256,
    show_default=True,
    help="Samples that go through the model at a time.",
)
@click.option(
    "--step",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Optimiser steps behind the checkpoint.",
)
@a_seed
@as_json
def inspect(
    model: str,
    out: Path | None,
    weights: Path | None,
    data: str | None,
    loss: str | None,
    laws: tuple[str, ...],
    samples: int,
    batch_size: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure a trained model once.

    Its weights, and with --data all that a probe can tell. CHECKPOINT is a .safetensors or .pt
    file, or a folder of transformers; MODEL is torchvision:NAME, timm:NAME, transformers:NAME
    or a function of your own, MODULE:FUNCTION, that returns a model. Files are loaded without
    running anything in them, or refused.

    \b
    Example:
      lawful inspect mymodel:build --weights model.safetensors --data digits --out runs/mine
    """
    from .. import inspect as room
    from ..lab.cases import LOSSES
    from ..record import RecordError

    out = out or Path("runs") / re.sub(r"[^\w.-]+", "-", Path(model).stem)
    with refusals(ValueError, LookupError, RecordError), in_a_sentence():
        loaded = room.load(model, weights)
        batches, of = (None, None) if data is None else probed(loaded, data, samples, batch_size)
        room.inspect(
            loaded,
            out,
            laws=laws or None,
            batches=batches,
            loss=LOSSES[loss] if loss else of,
            **options,
        )
    if as_json:
        emit({"model": model, "run": str(out)})
    else:
        click.echo(out)


def function_named(address: str) -> Any:
    """The function MODULE:FUNCTION, its module from the current folder or installed."""
    module, _, function = address.partition(":")
    if not (module and function):
        raise Refused(f"{address!r} is not MODULE:FUNCTION: name a function, e.g. mymodel:build")
    sys.path.insert(0, "")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise Refused(f"cannot load {address}: {error}") from error
    finally:
        sys.path.remove("")
    if not callable(found):
        raise Refused(f"{address} is a {type(found).__name__}, not a function")
    return found


def made_by(factory: str) -> tuple[Any, Any, Any]:
    """What the function named MODULE:FUNCTION returns, checked to be three things."""
    make = function_named(factory)
    made = make()
    if not (isinstance(made, tuple) and len(made) == 3):
        raise Refused(f"{factory} must return (model, example_input, loss)")
    return made


def case_for(model: str, data: str | None, seed: int) -> tuple[Any, Any, Any]:
    """(model, data, loss) of a function of the user's or of a model and data set of the lab."""
    after = model.partition(":")[2]
    own = bool(after) and not after[0].isdecimal()
    if data is None:
        if own:
            return made_by(model)
        raise Refused(f"MODEL {model!r} is of the lab and needs --data, e.g. --data digits")
    from ..lab.cases import loss_of, shaped_like
    from ..lab.models.named import named

    found = data_named(data)
    if not own:
        with refusals(ValueError):
            return named(model, found, seed=seed), (found.x_train, found.y_train), loss_of(found)
    built, example, loss = made_by(model)
    return built, (shaped_like(found.x_train, example), found.y_train), loss


def probed(loaded: Loaded, data: str, samples: int, size: int) -> tuple[list[Any], Loss]:
    """Batches of a data set as the model takes them, and the loss that its labels ask for."""
    from ..lab.cases import flat_for, loss_of
    from ..lab.job import chunks

    found = data_named(data)
    x, y = flat_for(loaded.model, found.x_train[:samples]), found.y_train[:samples]
    return chunks(x, y, size), loss_of(found)


def data_named(name: str) -> Dataset:
    """A data set of the lab, a .npz file or a folder of pictures."""
    from ..lab import datasets

    with refusals(ValueError, datasets.DataNotFound):
        return datasets.load(name)
