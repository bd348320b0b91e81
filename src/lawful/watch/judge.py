"""Testing the laws in a process of its own: the page answers meanwhile, and training goes first.

    path ──► [process of low priority] ──► verdicts, knobs, and why there are none

A test of all laws is seconds of work, which in the server's own process would hold its answers up.
A record on which it takes longer than `PATIENCE` (a crafted one could make it endless) costs that
process; the next run gets a new one.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from contextlib import suppress
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..record import Run
from .wording import short

if TYPE_CHECKING:
    from ..laws.verdict import Verdict
    from ..report.knobs import Knob

    Judgement = tuple[list[Verdict], list[Knob], str]

PATIENCE = 120.0
"""Seconds that the laws of one run may take."""


def judged(path: Path) -> Judgement:
    """Verdicts and knobs of a run, and in words why there are none."""
    from ..laws import test
    from ..report.knobs import knobs

    run = Run(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            verdicts = test(run)
            return verdicts, knobs(run, verdicts), ""
    except Exception as error:  # a law meets a record nobody foresaw: the page goes on
        return [], [], short(f"The laws could not be tested: {type(error).__name__}: {error}")


class Judge:
    """`judged` in another process, started at the first call; for one thread.

    stop: when it is set, nothing is waited for any longer.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._process: Any = None
        self._line: Any = None

    def __call__(self, path: Path) -> Judgement:
        """As `judged`."""
        try:
            if self._process is None or not self._process.is_alive():
                self._start()
            self._line.send(path)
            latest = time.monotonic() + PATIENCE
            while not self._stop.is_set() and time.monotonic() < latest:
                if self._line.poll(0.2):
                    return self._line.recv()
            note = f"The laws could not be tested: it took more than {PATIENCE:.0f} seconds."
        except (EOFError, OSError) as error:
            note = f"The laws could not be tested: their process ended ({error})."
        self.end()
        return [], [], note

    def end(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._line.close()
            self._process = None

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._line, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_sit, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()


def _sit(line: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the page
    if hasattr(os, "nice"):
        os.nice(10)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_outlast, args=(parent.sentinel,), daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            line.send(judged(line.recv()))


def _outlast(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
