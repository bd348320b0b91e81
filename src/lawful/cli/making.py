"""Commands that make runs: an experiment, a sweep of one, or the user's own script, observed."""

from __future__ import annotations

import contextlib
import gc
import math
import shlex
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from .shell import (
    SEEDS,
    Broken,
    Interrupted,
    a_seed,
    as_json,
    console,
    emit,
    in_a_sentence,
    opened,
    refusals,
    some_layers,
    swept,
)


@click.command()
@click.argument("experiment")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder [runs/EXPERIMENT].")
@a_seed
@click.option(
    "--set", "pairs", multiple=True, metavar="KEY=VALUE", help="A setting; may be repeated."
)
@click.option("--resume", is_flag=True, help="Go on with an interrupted run.")
@as_json
def run(
    experiment: str,
    out: Path | None,
    seed: int,
    pairs: tuple[str, ...],
    resume: bool,
    as_json: bool,
) -> None:
    """Train the model of EXPERIMENT, observed, into a run folder.

    Progress goes to stderr. `lawful experiments` lists the names and their settings.

    \b
    Example:
      lawful run canonical-digits --out runs/digits --seed 1 --set weight_decay=0.003
    """
    out = out or Path("runs") / experiment
    try:
        folders = trained(experiment, out, seed, pairs, resume)
    except KeyboardInterrupt:
        again = ["lawful", "run", experiment, "--out", str(out), "--seed", str(seed)]
        again += [word for pair in pairs for word in ("--set", pair)]
        raise Interrupted(f"interrupted; resume with {shlex.join([*again, '--resume'])}") from None
    if as_json:
        emit({"experiment": experiment, "seed": seed, "runs": [str(f) for f in folders]})
    else:
        click.echo("\n".join(str(f) for f in folders))
        foretold(folders)


@click.command()
@click.argument("experiment")
@click.option(
    "--grid",
    multiple=True,
    required=True,
    metavar="KEY=VALUE,VALUE…",
    help="A setting and the values it takes; may be repeated.",
)
@click.option(
    "--seeds", type=click.IntRange(1), default=1, show_default=True, help="Seeds 0, 1, …."
)
@click.option(
    "--set",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="A setting of every run; may be repeated.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Sweep folder [sweeps/EXPERIMENT].")
@click.option("--workers", type=click.IntRange(1), help="Runs at a time [here: one a core].")
@click.option("--dask", metavar="ADDRESS", help="On the Dask cluster of this scheduler.")
@click.option(
    "--submitit",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="As Slurm jobs; files here.",
)
@click.option("--resume", is_flag=True, help="Go on: finished runs are left as they are.")
@as_json
def sweep(
    experiment: str,
    grid: tuple[str, ...],
    seeds: int,
    pairs: tuple[str, ...],
    out: Path | None,
    workers: int | None,
    dask: str | None,
    submitit: Path | None,
    resume: bool,
    as_json: bool,
) -> None:
    """Run EXPERIMENT over a grid of settings, with several seeds.

    Runs are made by processes of this machine, or with --dask or --submitit (Slurm, which reads
    SBATCH_PARTITION, SBATCH_TIMELIMIT, …) elsewhere; the sweep folder must be the same there.
    A run that fails is tried once more. `lawful report DIR` draws where which law holds.

    \b
    Example:
      lawful sweep canonical-digits --grid weight_decay=0,1e-4,1e-3 --grid width=32,64 --seeds 3
      lawful sweep canonical-digits --grid weight_decay=0,1e-3 --dask tcp://head:8786
    """
    from ..report.sweep import sweep_table

    if dask and submitit:
        raise click.UsageError("use one of --dask and --submitit")
    out = out or Path("sweeps") / experiment
    try:
        made(experiment, out, grid, seeds, pairs, workers, dask, submitit, resume)
    except KeyboardInterrupt:
        given = [word for word in sys.argv[1:] if word != "--resume"]
        again = shlex.join(["lawful", *given, "--resume"])
        raise Interrupted(f"interrupted; resume with {again}") from None
    record, verdicts = swept(out)
    failed = [run for run in record.runs if run.status != "finished"]
    if as_json:
        shown = [
            {**vars(r), "verdicts": [v.to_json() for v in verdicts.get(r.name, ())]}
            for r in record.runs
        ]
        emit({"sweep": str(out), "experiment": experiment, "runs": shown})
    else:
        console().print(sweep_table(record, verdicts))
    if failed:
        raise Broken(f"{len(failed)} of {len(record.runs)} runs failed: see {out / 'logs'}")


@click.command(
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS] [--]",
)
@click.argument("command", nargs=-1, required=True, metavar="COMMAND…")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder [runs/SCRIPT].")
@click.option(
    "--laws",
    multiple=True,
    default=("canonical",),
    show_default=True,
    metavar="NAME",
    help="A law, a family or a glob; may be repeated.",
)
@click.option("--schedule", metavar="WHEN", help="every:K, log:N, at:STEP,STEP… or budget:SHARE.")
@some_layers
@click.option("--reduction", type=click.Choice(["mean", "sum"]), help="Of the loss [watched].")
@click.option(
    "--accumulation", type=click.IntRange(min=1), help="Micro-batches averaged in a step [watched]."
)
@click.option("--seed", type=SEEDS, default=0, show_default=True, help="Of our own sampling.")
@click.option("--quiet", is_flag=True, help="Nothing of ours on stderr.")
@click.option("-m", "module", is_flag=True, help="COMMAND begins with the name of a module.")
def observe(
    command: tuple[str, ...],
    out: Path | None,
    laws: tuple[str, ...],
    schedule: str | None,
    module: bool,
    **wishes: Any,
) -> None:
    """Run a training script as it is, observed into a run folder.

    COMMAND is `python train.py …`, `python -m package.train …` or `train.py …`. Its output,
    exceptions and exit code stay as they are. Also: python -m lawful.observe [OPTIONS] train.py …

    \b
    Example:
      lawful observe --out runs/mine --schedule every:100 -- python train.py --lr 0.1
    """
    with uncollected():
        from .. import script

    with refusals(ValueError, LookupError):
        chosen = None if schedule is None else script.schedule_from(schedule)
        words = [word for word in command if word != "-m"]
        stem = next((Path(w).stem for w in words if not Path(w).name.startswith("python")), "run")
        wish = script.Wish(
            out or Path("runs") / stem.rpartition(".")[2], laws, schedule=chosen, **wishes
        )
        again = {"out": wish.out, "schedule": schedule} | wishes
        code = script.run(command, wish, typed(again, laws=laws), module=module)
    sys.exit(code)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Imports make a million objects and no garbage: Python need not look for it meanwhile."""
    wanted = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if wanted:
            gc.enable()


def trained(
    experiment: str, out: Path, seed: int, pairs: Iterable[str], resume: bool
) -> list[Path]:
    """Run an experiment; returns its run folders (several when it sweeps a setting)."""
    from ..lab import experiment as lab
    from ..lab.datasets import DataNotFound
    from ..lab.training import NonFiniteLoss
    from ..record import RecordError

    # An experiment may print; on stdout there is only what this command prints.
    with contextlib.redirect_stdout(sys.stderr), refusals(ValueError), in_a_sentence():
        # An error ends the command with its own sentence; it need not be told twice.
        warnings.filterwarnings("ignore", r"lawful, step \d+: training stopped")
        with refusals(LookupError):
            chosen = lab.experiment(experiment)
        settings = chosen.configure(pairs)
        with refusals(RecordError, DataNotFound), refusals(NonFiniteLoss, then=Broken):
            chosen.run(settings, out, seed, progress=True, resume=resume)
        return list(chosen.plan(settings, out))


def made(
    experiment: str,
    out: Path,
    grid: Iterable[str],
    seeds: int,
    pairs: Iterable[str],
    workers: int | None,
    dask: str | None,
    submitit: Path | None,
    resume: bool,
) -> None:
    """Make the runs of a sweep on the engine that was asked for."""
    from ..lab import engines
    from ..lab.sweep import sweep as make
    from ..record import RecordError

    with refusals(ImportError, ConnectionError, RecordError, LookupError, ValueError):
        at_once: float = workers or math.inf
        if dask:
            engine = engines.dask(dask)
        elif submitit:
            engine = engines.slurm(submitit)
        else:
            at_once = workers or engines.cores()
            engine = engines.processes(int(at_once))
        make(
            experiment,
            out,
            grid,
            seeds=seeds,
            settings=pairs,
            engine=engine,
            at_once=at_once,
            resume=resume,
        )


def foretold(folders: Iterable[Path]) -> None:
    """What theory foretold of these runs beside what was measured, on stderr."""
    from ..report import prediction_table
    from ..report.predictions import predictions

    for folder in folders:
        run = opened(folder)
        if predictions(run):
            shown = console(stderr=True)
            shown.print(folder.name, style="bold", markup=False, highlight=False)
            shown.print(prediction_table(run))


def typed(options: dict[str, Any], **repeated: Iterable[str]) -> list[str]:
    """Options as they are typed.

    >>> typed({"seed": 1, "quiet": True, "schedule": None}, laws=["rga_a", "crh"])
    ['--seed', '1', '--quiet', '--laws', 'rga_a', '--laws', 'crh']
    """
    pairs = [*options.items(), *((name, value) for name in repeated for value in repeated[name])]
    words: list[str] = []
    for name, value in pairs:
        if isinstance(value, tuple):
            words += typed({}, **{name: value})
        elif value is not None and value is not False:
            words += [f"--{name}", *([] if value is True else [str(value)])]
    return words
