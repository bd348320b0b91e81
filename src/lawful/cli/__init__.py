"""The shell's face: parse, call, print.

    lawful COMMAND …   →   one call into the library   →   a table, or with --json one document

Exit codes: 0 done; 1 training broke down; 2 the command line, a run or a file cannot be used
(one sentence on stderr says why); 130 interrupted by Ctrl-C. What a verdict says never changes
the exit code: a violated law is a finding, not a failure. The rooms are imported inside the
commands, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

from .. import __version__
from .lists import dare, experiments, laws
from .making import observe, run, sweep
from .models import inspect, predict, symmetries
from .reading import cite, compare, export, judge, report, show, watch
from .shell import Interrupted


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 96})
@click.version_option(__version__)
def cli() -> None:
    """Measure a training run and ask which laws of learning hold in it.

    \b
    Example:
      lawful run canonical-digits --out runs/digits
      lawful test runs/digits
      lawful report runs/digits -o report.html
    """


for command in (
    *(run, judge, show, report, sweep, watch, compare, laws, experiments, export, cite),
    *(symmetries, predict, observe, inspect, dare),
):
    cli.add_command(command)


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
