"""The executors of a sweep: what a process is born with, and how it ends."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest

from lawful.lab import engines


def wait_for(done: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_a_process_has_one_thread_and_leaves_ctrl_c_to_the_sweep() -> None:
    before = os.environ.get("OMP_NUM_THREADS"), signal.getsignal(signal.SIGINT)
    with engines.processes(1)() as pool:
        assert pool.submit(os.getenv, "OMP_NUM_THREADS").result() == "1"
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN
        assert pool.submit(os.getppid).result() == os.getpid()
        with pytest.raises(BrokenProcessPool):
            pool.submit(os._exit, 1).result()
    assert (os.environ.get("OMP_NUM_THREADS"), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.slow
def test_an_interrupted_sweep_leaves_no_process() -> None:
    numbers = []

    def interrupted() -> None:
        with engines.processes(1)() as pool:
            numbers.append(pool.submit(os.getpid).result())
            pool.submit(time.sleep, 600)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(ProcessLookupError):
        os.kill(numbers[0], 0)


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ImportError, match=r"pip install 'lawful\[dask\]'"):
        engines.dask("tcp://nowhere:8786")
    with pytest.raises(ImportError, match=r"pip install 'lawful\[submitit\]'"):
        engines.slurm(Path("jobs"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_dask_cluster_is_an_engine() -> None:
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False}
    with (
        distributed.LocalCluster(**options, dashboard_address=None) as cluster,
        engines.dask(cluster.scheduler_address)() as pool,
    ):
        future = pool.submit(divmod, 7, 2)
        wait_for(future.done)
        assert future.result() == (3, 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_submitit_is_an_engine(tmp_path: Path) -> None:
    pytest.importorskip("submitit")
    with engines.slurm(tmp_path / "jobs")() as pool:
        job = pool.submit(divmod, 7, 2)
        wait_for(job.done, 120)
        assert job.result() == (3, 1)
