"""Commands on runs that are there: verdicts, tables, pages, and what others can cite or load."""

from __future__ import annotations

import contextlib
from pathlib import Path

import click

from .shell import (
    a_run,
    as_json,
    console,
    emit,
    in_a_sentence,
    opened,
    refusals,
    some_laws,
    swept,
    verdicts_of,
)


@click.command("test")
@a_run
@some_laws
@as_json
def judge(run: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Test the laws on RUN and print a verdict for each layer.

    \b
    Example:
      lawful test runs/digits --law rga_b --law crh
    """
    from ..report import verdict_table

    verdicts = verdicts_of(opened(run), names)
    if as_json:
        emit({"run": str(run), "verdicts": [v.to_json() for v in verdicts]})
    else:
        console().print(verdict_table(verdicts))


@click.command()
@a_run
@as_json
def show(run: Path, as_json: bool) -> None:
    """Show RUN: manifest, coverage, numbers, events, verdicts.

    \b
    Example:
      lawful show runs/digits
    """
    from .. import report
    from ..record import RecordError

    record = opened(run)
    verdicts = verdicts_of(record)
    with refusals(RecordError):
        if not as_json:
            report.show(record, verdicts, console())
            return
        last = record.table().groupby(["layer", "quantity"], sort=False).tail(1)
        document = {
            "run": str(run),
            "manifest": record.manifest,
            "steps": record.steps,
            "measurements": last.to_dict("records"),
            "events": record.events().to_dict("records"),
            "verdicts": [v.to_json() for v in verdicts],
        }
    emit(document)


@click.command()
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
    from ..record import RecordError
    from ..record.sweep import is_sweep
    from ..report import write_report
    from ..report.sweep import write_sweep_report

    out = out or run
    out = out / "report.html" if out.is_dir() else out
    with refusals(ImportError, RecordError):
        if is_sweep(run):
            write_sweep_report(*swept(run), out)
        else:
            write_report(record := opened(run), verdicts_of(record), out)
    written(run, out, as_json)


@click.command()
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
    from ..report import compare_table

    if len(runs) < 2:
        raise click.UsageError("compare needs at least two runs; one alone: lawful test RUN")
    records = [opened(path) for path in runs]
    verdicts = [verdicts_of(record, names) for record in records]
    if as_json:
        found = zip(runs, verdicts, strict=True)
        emit({"runs": [{"run": str(p), "verdicts": [v.to_json() for v in vs]} for p, vs in found]})
    else:
        console().print(compare_table(records, verdicts))


@click.command()
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
    from ..record import RecordError
    from ..record import export as write

    with refusals(RecordError):
        out = write(opened(run), out or run / f"measurements.{kind}", format=kind)
    written(run, out, as_json)


@click.command()
@a_run
@as_json
def cite(run: Path, as_json: bool) -> None:
    """Print the BibTeX of what the verdicts of RUN rest on.

    \b
    Example:
      lawful cite runs/digits >> paper.bib
    """
    from ..laws import cite as bibliography
    from ..record import RecordError

    with refusals(RecordError), in_a_sentence():
        text = bibliography(opened(run))
    if as_json:
        emit({"run": str(run), "bibtex": text})
    else:
        click.echo(text.rstrip())


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUNS…")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port [a free one].")
@click.option(
    "--token",
    envvar="LAWFUL_TOKEN",
    help="What a reader must know; made and printed for any HOST but this machine.",
)
def watch(runs: tuple[Path, ...], host: str, port: int, token: str | None) -> None:
    """Follow RUNS on a local page while they train.

    RUNS are run folders, or folders that hold some. The page only reads. Others can open it when
    HOST lets them in and they know the token; what is sent is not encrypted, so across a
    network rather use a tunnel (ssh -L).

    \b
    Example:
      lawful watch runs/
      lawful watch runs/digits sweeps/digits --port 8080
    """
    from ..watch import Follower, Refusal, address, serve

    with refusals(Refusal, ImportError):
        follower = Follower(runs)
        for absent in (root for root in runs if not root.exists()):
            click.echo(f"{absent} is not there yet: it is followed as soon as it is", err=True)
        server = serve(follower, host, port, token)
    with follower, server, contextlib.suppress(KeyboardInterrupt):
        click.echo(address(server))
        click.echo("following; Ctrl-C ends the page, never a run", err=True)
        server.serve_forever()


def written(run: Path, out: Path, as_json: bool) -> None:
    """Say where a file was written; not into what may itself be that file (/dev/stdout)."""
    if as_json:
        emit({"run": str(run), "file": str(out)})
    else:
        click.echo(out, err=not out.is_file())
