"""What every command takes and says: its options, its refusals, its JSON.

An error of a room below says what is wrong in one sentence; `refusals` makes that sentence and an
exit code of it. A warning is told in one sentence too, without the place in our code.
"""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from ..laws.verdict import Verdict
    from ..record import Run
    from ..record.sweep import Sweep


class Refused(click.ClickException):
    """What was asked for cannot be done; the message says why, in one sentence."""

    exit_code = 2


class Broken(click.ClickException):
    """Training broke down; the message says at which step, and what to try."""

    exit_code = 1


class Interrupted(click.ClickException):
    """Ctrl-C: the message says how to go on."""

    exit_code = 130

    def show(self, file: Any = None) -> None:
        click.echo(self.message, err=True)


as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
a_run = click.argument("run", type=click.Path(path_type=Path))
some_laws = click.option(
    "--law", "names", multiple=True, metavar="NAME", help="Only this law; may be repeated."
)
some_layers = click.option(
    "--layers",
    multiple=True,
    default=("*",),
    show_default=True,
    metavar="GLOB",
    help="Layers to measure, !GLOB leaves out; may be repeated.",
)
some_data = click.option(
    "--data", metavar="DATA", help="Data set of the lab, a .npz file or an image folder."
)
SEEDS = click.IntRange(0, 2**32 - 1)
"""What torch, NumPy and scikit-learn all take."""

a_seed = click.option(
    "--seed", type=SEEDS, default=0, show_default=True, help="Of everything that is drawn."
)


def opened(path: Path) -> Run:
    """Open a run folder; a folder that is none ends the command with one sentence."""
    from ..record import RecordError, open_run
    from ..record.manifest import MANIFEST

    within = [] if (path / MANIFEST).exists() else sorted(path.glob(f"*/{MANIFEST}"))
    if within:
        raise Refused(f"{path} is not a run but holds {len(within)}: name one, {within[0].parent}")
    with refusals(RecordError):
        return open_run(path)


def verdicts_of(run: Run, names: Iterable[str] = ()) -> list[Verdict]:
    """Test the laws of the given names, or those that the run was observed for."""
    from .. import laws as room
    from ..record import RecordError

    with refusals(RecordError, LookupError), in_a_sentence():
        return room.test(run, list(names) or None)


def swept(path: Path) -> tuple[Sweep, dict[str, list[Verdict]]]:
    """A sweep and the verdicts on its finished runs, by name."""
    from ..record import RecordError
    from ..record.sweep import read_sweep

    with refusals(RecordError):
        record = read_sweep(path)
    done = [run.name for run in record.runs if run.status == "finished"]
    return record, {name: verdicts_of(opened(path / name)) for name in done}


@contextlib.contextmanager
def refusals(*kinds: type[Exception], then: type[click.ClickException] = Refused) -> Iterator[None]:
    """Turn errors that already say what is wrong into that sentence and an exit code."""
    try:
        yield
    except kinds as error:
        # str() of a KeyError is the repr of its message.
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise then(str(message)) from error


@contextlib.contextmanager
def in_a_sentence() -> Iterator[None]:
    """Tell the warnings of the block without the line of code that gave them.

    NumPy's on what overflows are left out: the number is NaN on the record, and said to be there.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.showwarning = lambda told, *_: click.echo(f"Warning: {told}", err=True)
        yield


def emit(document: Any) -> None:
    """Print one JSON document on stdout; a number that does not exist is null."""
    click.echo(json.dumps(finite(document), allow_nan=False, default=str))


def finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON cannot carry, by None.

    >>> finite({"value": float("nan"), "interval": (0.5, 1.0)})
    {'value': None, 'interval': [0.5, 1.0]}
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def console(*, stderr: bool = False) -> Console:
    """A console on stdout, or stderr: colours only when a person is looking."""
    from rich.console import Console

    return Console(stderr=stderr)
