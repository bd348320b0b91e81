"""Where the runs of a sweep are made: an executor, opened and closed.

    processes(2)                    processes of this machine, of one thread each
    dask("tcp://head:8786")         a Dask cluster (which runs on Slurm, Kubernetes, SSH, …)
    slurm(Path("jobs"))             one Slurm job a run; without Slurm, processes in its own way

Each gives a function that opens the executor, so that a broken one can be opened again.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from multiprocessing import connection
from pathlib import Path
from typing import Any

from .sweep import Engine

PATIENCE = 20.0
"""Seconds that a process is given to save its run when the sweep is interrupted."""

DAY = 24 * 60  # minutes: what a job asks for unless the environment says otherwise

Opener = Callable[[], AbstractContextManager[Engine]]


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processes(workers: int) -> Opener:
    """Processes of this machine, started afresh (`spawn`), with one thread each."""
    return partial(_processes, workers)


def dask(address: str) -> Opener:
    """The Dask cluster whose scheduler is at `address`; ImportError when Dask is not installed."""
    return partial(_dask, _extra("distributed", "dask"), address)


def slurm(folder: Path) -> Opener:
    """Jobs through submitit, its files in `folder`; ImportError when it is not installed.

    sbatch reads its usual environment: SBATCH_PARTITION, SBATCH_TIMELIMIT, SBATCH_ACCOUNT, ….
    """
    return partial(_slurm, _extra("submitit", "submitit"), folder)


class _Pool(ProcessPoolExecutor):
    """A pool whose processes are born with one thread and deaf to Ctrl-C.

    The terminal sends Ctrl-C to every process; the sweep alone answers, and tells the others.
    """

    def submit(self, fn: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        with _inherited():
            return super().submit(fn, *args, **named)


@contextmanager
def _processes(workers: int) -> Iterator[Engine]:
    before = set(multiprocessing.active_children())
    spawn = multiprocessing.get_context("spawn")
    pool = _Pool(workers, mp_context=spawn, initializer=end_with_parent)
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        ours = set(multiprocessing.active_children()) - before
        for child in ours:
            child.terminate()  # a run in training saves a checkpoint first
        for child in ours:
            child.join(PATIENCE)
            child.kill()
        raise
    pool.shutdown()


@contextmanager
def _dask(distributed: Any, address: str) -> Iterator[Engine]:
    try:
        client = distributed.Client(address, timeout=20)
    except (OSError, ValueError) as error:
        raise ConnectionError(f"no Dask scheduler answers at {address}: {error}") from error
    with client:
        pool = client.get_executor(pure=False)
        try:
            yield pool
        finally:
            pool.shutdown(wait=False)


@contextmanager
def _slurm(submitit: Any, folder: Path) -> Iterator[Engine]:
    pool = submitit.AutoExecutor(folder=folder)
    pool.update_parameters(name="lawful", timeout_min=DAY)
    yield pool


def end_with_parent() -> None:
    """End this process when the one that started it is gone, however that went."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_outlast, args=(parent.sentinel,), daemon=True).start()


def _outlast(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)  # every step written is whole: there is nothing to tidy


@contextmanager
def _inherited() -> Iterator[None]:
    """What a process started in this block is born with."""
    threads = os.environ.get("OMP_NUM_THREADS")
    main = threading.current_thread() is threading.main_thread()
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        if threads is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = threads
        if main:
            signal.signal(signal.SIGINT, heard)


def _extra(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"this needs {module}, which is not installed: pip install 'lawful[{extra}]'"
        ) from error
