"""The shell's face: parse, call, print.

    lawful COMMAND …   →   one call into the library   →   a table, or with --json one document

Exit codes: 0 done; 1 training broke down; 2 the command line, a run or a file cannot be used
(one sentence on stderr says why); 130 interrupted by Ctrl-C. What a verdict says never changes
the exit code: a violated law is a finding, not a failure. The rooms are imported inside the
commands, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from . import __version__

if TYPE_CHECKING:
    from rich.console import Console

    from .lab.experiment import Experiment
    from .laws.verdict import Verdict
    from .record import Run
    from .record.sweep import Sweep


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


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96})
@click.version_option(__version__)
def cli() -> None:
    """Measure a training run and ask which laws of learning hold in it.

    \b
    lawful run canonical-digits --out runs/digits
    lawful test runs/digits
    lawful report runs/digits -o report.html
    """


@cli.command()
@click.argument("experiment")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder [runs/EXPERIMENT].")
@click.option("--seed", type=int, default=0, show_default=True)
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


@cli.command("test")
@a_run
@some_laws
@as_json
def judge(run: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Test the laws on RUN and print a verdict for each layer.

    \b
    Example:
      lawful test runs/digits --law rga_b --law crh
    """
    from .report import verdict_table

    verdicts = verdicts_of(opened(run), names)
    if as_json:
        emit({"run": str(run), "verdicts": [v.to_json() for v in verdicts]})
    else:
        console().print(verdict_table(verdicts))


@cli.command()
@a_run
@as_json
def show(run: Path, as_json: bool) -> None:
    """Show RUN: manifest, coverage, last measurements, events, verdicts.

    \b
    Example:
      lawful show runs/digits
    """
    from . import report

    record = opened(run)
    verdicts = verdicts_of(record)
    if not as_json:
        report.show(record, verdicts, console())
        return
    last = record.table().groupby(["layer", "quantity"], sort=False).tail(1)
    emit(
        {
            "run": str(run),
            "manifest": record.manifest,
            "steps": record.steps,
            "measurements": last.to_dict("records"),
            "events": record.events().to_dict("records"),
            "verdicts": [v.to_json() for v in verdicts],
        }
    )


@cli.command()
@a_run
@click.option("-o", "out", type=click.Path(path_type=Path), help="File [RUN/report.html].")
@as_json
def report(run: Path, out: Path | None, as_json: bool) -> None:
    """Write RUN, or a sweep, as one HTML file that opens offline.

    \b
    Example:
      lawful report runs/digits -o digits.html
      lawful report sweeps/digits
    """
    from .record.sweep import is_sweep
    from .report import write_report
    from .report.sweep import write_sweep_report

    out = out or run / "report.html"
    with refusals(ImportError, OSError):
        if is_sweep(run):
            write_sweep_report(*swept(run), out)
        else:
            write_report(record := opened(run), verdicts_of(record), out)
    written(run, out, as_json)


@cli.command()
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
    """Run EXPERIMENT at every point of a grid, with several seeds, and draw where laws hold.

    Runs are made by processes of this machine, or with --dask or --submitit (Slurm, which reads
    SBATCH_PARTITION, SBATCH_TIMELIMIT, …) elsewhere; the sweep folder must be the same there.
    A run that fails is tried once more. `lawful report DIR` draws the phase diagrams.

    \b
    Example:
      lawful sweep canonical-digits --grid weight_decay=0,1e-4,1e-3 --grid width=32,64 --seeds 3
      lawful sweep canonical-digits --grid weight_decay=0,1e-3 --dask tcp://head:8786
    """
    from .report.sweep import sweep_table

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


@cli.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUNS…")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port [a free one].")
@click.option(
    "--token",
    envvar="LAWFUL_TOKEN",
    help="What a reader must know; made and printed for any HOST but this machine.",
)
def watch(runs: tuple[Path, ...], host: str, port: int, token: str | None) -> None:
    """Follow RUNS, or the runs in folders, on a local page while they train.

    The page only reads. Others can open it when HOST lets them in and they know the token; what
    is sent is not encrypted, so across a network rather use a tunnel (ssh -L).

    \b
    Example:
      lawful watch runs/
      lawful watch runs/digits sweeps/digits --port 8080
    """
    from .watch import Follower, Refusal, address, serve

    with refusals(Refusal, ImportError):
        follower = Follower(runs)
        server = serve(follower, host, port, token)
    with follower, server, contextlib.suppress(KeyboardInterrupt):
        click.echo(address(server))
        click.echo("following; Ctrl-C ends the page, never a run", err=True)
        server.serve_forever()


@cli.command()
@click.argument(
    "runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN RUN…"
)
@some_laws
@as_json
def compare(runs: tuple[Path, ...], names: tuple[str, ...], as_json: bool) -> None:
    """Put the verdicts of several runs side by side.

    \b
    Example:
      lawful compare runs/decay-0 runs/decay-0.003 --law rga_b
    """
    from .report import compare_table

    if len(runs) < 2:
        raise click.UsageError("compare needs at least two runs; one alone: lawful test RUN")
    records = [opened(path) for path in runs]
    verdicts = [verdicts_of(record, names) for record in records]
    if as_json:
        found = zip(runs, verdicts, strict=True)
        emit({"runs": [{"run": str(p), "verdicts": [v.to_json() for v in vs]} for p, vs in found]})
    else:
        console().print(compare_table(records, verdicts))


@cli.command()
@as_json
def laws(as_json: bool) -> None:
    """List the laws that can be tested, those of plug-ins included.

    \b
    Example:
      lawful laws
    """
    from .laws import laws as registry

    fields = ("name", "family", "statement", "equation", "source", "needs")
    entries = [{f: getattr(law, f) for f in fields} for law in registry().values()]
    if as_json:
        emit({"laws": entries})
    else:
        listing([(e["name"], e["family"], e["statement"]) for e in entries])


@cli.command()
@as_json
def experiments(as_json: bool) -> None:
    """List the experiments that can be run, with their settings.

    \b
    Example:
      lawful experiments --json
    """
    from .lab.experiment import experiments as registry

    if as_json:
        emit({"experiments": [described(e) for e in registry().values()]})
        return
    for entry in map(described, registry().values()):
        settings = [
            (f"  {s['name']}={spelled(s['default'])}", s["help"]) for s in entry["settings"]
        ]
        listing([(entry["name"], entry["statement"]), *settings, ("", "")])


@cli.command()
@a_run
@click.option("--format", "kind", type=click.Choice(["csv", "parquet"]), default="csv")
@click.option("-o", "out", type=click.Path(path_type=Path), help="File [RUN/measurements.FORMAT].")
@as_json
def export(run: Path, kind: str, out: Path | None, as_json: bool) -> None:
    """Write every scalar measurement of RUN as one table.

    Columns: step, layer, quantity, value, stderr, n.

    \b
    Example:
      lawful export runs/digits --format parquet -o digits.parquet
    """
    from .record import RecordError
    from .record import export as write

    with refusals(RecordError):
        out = write(opened(run), out or run / f"measurements.{kind}", format=kind)
    written(run, out, as_json)


@cli.command()
@a_run
@as_json
def cite(run: Path, as_json: bool) -> None:
    """Print the BibTeX of the laws and estimators behind the verdicts of RUN.

    \b
    Example:
      lawful cite runs/digits >> paper.bib
    """
    from .laws import cite as bibliography

    text = bibliography(opened(run))
    if as_json:
        emit({"run": str(run), "bibtex": text})
    else:
        click.echo(text.rstrip())


@cli.command()
@click.argument("factory", metavar="MODULE:FUNCTION")
@as_json
def symmetries(factory: str, as_json: bool) -> None:
    """List the parameter symmetries of a model, each with how exactly it holds.

    FUNCTION takes nothing and returns (model, example_input, loss): a batch x or a pair (x, y),
    and a function of the model's output (and y) that returns one number. MODULE is imported
    from the current folder or the installed packages.

    \b
    Example:
      lawful symmetries mymodel:build
    """
    from .symmetry import SymmetryError
    from .symmetry import symmetries as found_in

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
        listing([("●" if s.certified else "◐", s.sentence) for s in found])


@cli.command()
@click.argument("model", metavar="MODEL")
@click.option("--data", metavar="DATA", help="Data set of the lab, a .npz file or an image folder.")
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
@click.option("--seed", type=int, default=0, show_default=True)
@as_json
def predict(model: str, data: str | None, as_json: bool, seed: int, **settings: Any) -> None:
    """Say before training what theory expects of it: equilibria, ranks, critical decays, times.

    MODEL is MODULE:FUNCTION as in `lawful symmetries` (without --data its example_input is the
    data), or a model of the lab: mlp:64-128-10, mlp-tanh:…, mlp-linear:…, resnet18, gpt.

    \b
    Example:
      lawful predict mlp:64-128-10 --data digits --lr 0.1 --weight-decay 1e-3 --batch-size 32
    """
    from .forecast import predict as forecasts_of
    from .report.forecasts import forecast_table

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


@cli.command(
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
@click.option(
    "--layers",
    multiple=True,
    default=("*",),
    show_default=True,
    metavar="GLOB",
    help="Layers to observe, !GLOB leaves out; may be repeated.",
)
@click.option("--reduction", type=click.Choice(["mean", "sum"]), help="Of the loss [watched].")
@click.option(
    "--accumulation", type=click.IntRange(min=1), help="Micro-batches averaged in a step [watched]."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of our own sampling.")
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
    from . import script

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


@cli.command()
@click.argument("model", metavar="CHECKPOINT|MODEL")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder [runs/NAME].")
@click.option("--weights", type=click.Path(path_type=Path), help="File of weights for a function.")
@click.option("--data", metavar="DATA", help="Data set of the lab, a .npz file or an image folder.")
@click.option(
    "--loss", type=click.Choice(["cross_entropy", "mse"]), help="Of DATA [by its labels]."
)
@click.option("--laws", multiple=True, metavar="NAME", help="Only these; may be repeated.")
@click.option(
    "--layers",
    multiple=True,
    default=("*",),
    show_default=True,
    metavar="GLOB",
    help="Layers to measure, !GLOB leaves out; may be repeated.",
)
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
@click.option("--seed", type=int, default=0, show_default=True)
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
    """Measure a trained model once: its weights, and with --data all that a probe can tell.

    CHECKPOINT is a .safetensors or .pt file, or a folder of transformers; MODEL is
    torchvision:NAME, timm:NAME, transformers:NAME or a function of your own, MODULE:FUNCTION,
    that returns a model. Files are loaded without running anything in them, or refused.

    \b
    Example:
      lawful inspect mymodel:build --weights model.safetensors --data digits --out runs/mine
    """
    from . import inspect as room
    from .record import RecordError

    out = out or Path("runs") / re.sub(r"[^\w.-]+", "-", Path(model).stem)
    with refusals(ValueError, LookupError, RecordError):
        loaded = room.load(model, weights)
        batches, of = (None, None) if data is None else probed(loaded, data, samples, batch_size)
        room.inspect(
            loaded,
            out,
            laws=laws or None,
            batches=batches,
            loss=losses()[loss] if loss else of,
            **options,
        )
    if as_json:
        emit({"model": model, "run": str(out)})
    else:
        click.echo(out)


@cli.command("challenge")
@click.argument("name", required=False)
@click.option("--theory", metavar="MODULE:FUNCTION", help="Your own theory, beside the baseline.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the worlds.")
@as_json
def dare(name: str | None, theory: str | None, seed: int, as_json: bool) -> None:
    """Score theories on an open question: predict first, then the world is run.

    Without NAME the open questions are listed. FUNCTION takes what the question tells of a case
    and returns what it wants; theories of installed packages (entry points `lawful.challenges`)
    compete too. Less is better.

    \b
    Example:
      lawful challenge exponent --theory mytheory:predict
    """
    from . import challenge as room

    if name is None and theory is not None:
        raise Refused("--theory needs the NAME of the question it answers: lawful challenge NAME")
    if name is None:
        fields = ("name", "direction", "question", "told", "wanted", "scored")
        board = [{f: getattr(c, f) for f in fields} for c in room.challenges().values()]
        if as_json:
            emit({"challenges": board})
        else:
            listing([(e["name"], f"{e['direction']}", e["question"]) for e in board])
        return
    with refusals(LookupError):
        chosen = room.challenge(name)
    rivals = room.entries(name)
    if theory is not None:
        rivals.append(room.Entry(name, theory, function_named(theory)))
    with refusals(FileNotFoundError):
        results = room.run(chosen, rivals, seed=seed)
    if as_json:
        emit({"challenge": name, "seed": seed, "results": [vars(r) for r in results]})
    else:
        console().print(challenge_table(chosen.scored, results))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The command `lawful`: run it and leave with one of the exit codes above."""
    try:
        code = cli.main(arguments, prog_name="lawful", standalone_mode=False) or 0
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        click.echo("interrupted", err=True)
        code = Interrupted.exit_code
    except BrokenPipeError:
        # The reader left. What is still buffered goes nowhere, or the interpreter would
        # complain of it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


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


def trained(
    experiment: str, out: Path, seed: int, pairs: Iterable[str], resume: bool
) -> list[Path]:
    """Run an experiment; returns its run folders (several when it sweeps a setting)."""
    from .lab import experiment as lab
    from .lab.datasets import DataNotFound
    from .lab.training import NonFiniteLoss
    from .record import RecordError

    # An experiment may print; on stdout there is only what this command prints.
    with contextlib.redirect_stdout(sys.stderr), refusals(ValueError):
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
    from .lab import engines
    from .lab.sweep import sweep as make
    from .record import RecordError

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


def swept(path: Path) -> tuple[Sweep, dict[str, list[Verdict]]]:
    """A sweep and the verdicts on its finished runs, by name."""
    from .record import RecordError
    from .record.sweep import read_sweep

    with refusals(RecordError):
        record = read_sweep(path)
    done = [run.name for run in record.runs if run.status == "finished"]
    return record, {name: verdicts_of(opened(path / name)) for name in done}


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
    from torch.nn.functional import cross_entropy, mse_loss

    from .lab import datasets
    from .lab.models.named import named

    after = model.partition(":")[2]
    own = bool(after) and not after[0].isdecimal()
    if data is None:
        if own:
            return made_by(model)
        raise Refused(f"MODEL {model!r} is of the lab and needs --data, e.g. --data digits")
    with refusals(ValueError, datasets.DataNotFound):
        loaded = datasets.load(data)
        x, y = loaded.x_train, loaded.y_train
        if not own:
            chosen = cross_entropy if loaded.classes else mse_loss
            return named(model, loaded, seed=seed), (x, y), lambda f, y: chosen(rows(f), y)
    built, example, loss = made_by(model)
    like = example[0] if isinstance(example, tuple | list) else example
    if getattr(like, "ndim", 0) and like[0].numel() == x[0].numel():
        x = x.reshape(len(x), *like.shape[1:])
    return built, (x, y), loss


def probed(loaded: Any, data: str, samples: int, size: int) -> tuple[list[tuple[Any, Any]], Any]:
    """Batches of a data set as the model takes them, and the loss that its labels ask for."""
    from torch import nn

    from .lab import datasets

    with refusals(ValueError, datasets.DataNotFound):
        found = datasets.load(data)
    x, y = found.x_train[:samples], found.y_train[:samples]
    inside = [] if loaded.model is None else loaded.model.modules()
    first = next((module for module in inside if not any(module.children())), None)
    if isinstance(first, nn.Linear) and first.in_features == x[0].numel():
        x = x.flatten(1)
    batches = [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]
    return batches, losses()["cross_entropy" if found.classes else "mse"]


def losses() -> dict[str, Any]:
    """Mean losses of an output, which may be a tensor or hold it as `logits`."""
    from torch.nn.functional import cross_entropy, mse_loss

    return {
        "cross_entropy": lambda f, y: cross_entropy(rows(getattr(f, "logits", f)), y),
        "mse": lambda f, y: mse_loss(f.logits if hasattr(f, "logits") else f, y),
    }


def rows(output: Any) -> Any:
    """Logits (N, T, K) of a text as cross-entropy takes them: (N, K, T)."""
    return output.movedim(-1, 1) if output.ndim == 3 else output


def described(experiment: Experiment) -> dict[str, Any]:
    """Name, statement and settings of an experiment, as listed."""
    settings = [
        {"name": f.name, "default": f.default, **f.metadata} for f in fields(experiment.settings)
    ]
    return {
        "name": experiment.name,
        "statement": experiment.statement,
        "sweep": experiment.sweep,
        "settings": settings,
    }


def spelled(value: Any) -> str:
    """A setting's value as it is typed after `--set key=`.

    >>> spelled((0.0, 0.001)), spelled(True), spelled("auto")
    ('0,0.001', 'true', 'auto')
    """
    if isinstance(value, tuple):
        return ",".join(f"{item:g}" for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def opened(path: Path) -> Run:
    """Open a run folder; a folder that is none ends the command with one sentence."""
    from .record import RecordError, open_run

    with refusals(RecordError):
        return open_run(path)


def verdicts_of(run: Run, names: Iterable[str] = ()) -> list[Verdict]:
    """Test the laws of the given names, or those that the run was observed for."""
    from . import laws as room
    from .record import RecordError

    with refusals(RecordError, LookupError):
        return room.test(run, list(names) or None)


@contextlib.contextmanager
def refusals(*kinds: type[Exception], then: type[click.ClickException] = Refused) -> Iterator[None]:
    """Turn errors that already say what is wrong into that sentence and an exit code."""
    try:
        yield
    except kinds as error:
        # str() of a KeyError is the repr of its message.
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise then(str(message)) from error


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


def written(run: Path, out: Path, as_json: bool) -> None:
    """Say where a file was written."""
    if as_json:
        emit({"run": str(run), "file": str(out)})
    else:
        click.echo(out)


def foretold(folders: Iterable[Path]) -> None:
    """What theory foretold of these runs beside what was measured, on stderr."""
    from .report import prediction_table
    from .report.predictions import predictions

    for folder in folders:
        run = opened(folder)
        if predictions(run):
            shown = console(stderr=True)
            shown.print(folder.name, style="bold", markup=False, highlight=False)
            shown.print(prediction_table(run))


def challenge_table(scored: str, results: Iterable[Any]) -> Any:
    """One row a theory and case: what was measured, what was said, the score."""
    from rich.table import Table
    from rich.text import Text

    def numbers(values: Iterable[float]) -> str:
        return " ".join(f"{v:.3g}" for v in values)

    table = Table(caption=f"score: {scored}; 0 is perfect")
    for title in ("case", "theory", "measured", "±", "predicted", "score"):
        table.add_column(title)
    for r in results:
        three = map(numbers, (r.measured, r.stderr, r.predicted))
        cells = (r.case, r.theory, *three, r.failure or f"{r.score:.3f}")
        table.add_row(*(Text(cell) for cell in cells))
    return table


def listing(rows: Iterable[tuple[str, ...]]) -> None:
    """Print rows of plain text as a table; the last column wraps."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console().print(table)


def console(*, stderr: bool = False) -> Console:
    """A console on stdout, or stderr: colours only when a person is looking."""
    from rich.console import Console

    return Console(stderr=stderr)
