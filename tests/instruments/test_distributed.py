"""Several processes on shares of a batch measure what one process measures on the whole of it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import data_parallel
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import lawful
from lawful.estimators.stream import KEEP_CLUSTERS
from lawful.instruments.distributed import ALONE, Ranks, merge, ranks_of, unwrapped
from lawful.instruments.layers import survey
from lawful.instruments.tap import Scale, Tap
from lawful.instruments.work import NEVER, Work

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch without distributed")
SCRIPT = Path(data_parallel.__file__)


def torchrun(processes: int, kind: str, out: Path, how: str = "at") -> int:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), str(SCRIPT), kind, str(out), how]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    print(done.stdout, done.stderr)  # shown where a test fails
    return done.returncode


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> lawful.Run:
    out = tmp_path_factory.mktemp("alone") / "run"
    data_parallel.train("single", out)
    return lawful.open_run(out)


def assert_same(run: lawful.Run, other: lawful.Run) -> None:
    """Every number of every layer, every array, every verdict."""
    key = ["step", "layer", "quantity"]
    a, b = (r.table(layer=r.layers).sort_values(key) for r in (run, other))
    assert len(a) > 500
    assert a[key].to_numpy().tolist() == b[key].to_numpy().tolist()
    for column in ("value", "stderr", "n"):
        np.testing.assert_allclose(a[column], b[column], rtol=1e-5, atol=1e-8, err_msg=column)
    for layer in run.layers:
        for quantity in ("W", "H_a", "G_b", "mean_h_a", "view"):
            if steps := run.array_steps(quantity, layer):
                ours = (r.array(quantity, layer=layer, step=steps[-1]) for r in (run, other))
                np.testing.assert_allclose(*ours, rtol=1e-5, atol=1e-8)
    for one, two in zip(lawful.test(run), lawful.test(other), strict=True):
        assert (one.law, one.layer, one.step, one.status) == (
            two.law, two.layer, two.step, two.status,
        )  # fmt: skip
        np.testing.assert_allclose(
            (one.effect, *one.interval, one.null), (two.effect, *two.interval, two.null),
            rtol=1e-5, atol=1e-8,
        )  # fmt: skip
    assert {v.status for v in lawful.test(run)} > {"violated"}


# -- processes -------------------------------------------------------------------------------------


def test_two_processes_agree_with_one(tmp_path: Path, alone: lawful.Run) -> None:
    assert torchrun(2, "ddp", tmp_path / "run") == 0
    run = lawful.open_run(tmp_path / "run")
    assert run.manifest["status"] == "finished"
    assert run.manifest["environment"]["processes"] == 2
    assert run.events().empty
    assert_same(alone, run)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kind"), [(4, "ddp"), (2, "fsdp"), (3, "fsdp"), (4, "hsdp")])
def test_more_processes_and_shards(
    processes: int, kind: str, tmp_path: Path, alone: lawful.Run
) -> None:
    assert torchrun(processes, kind, tmp_path / "run") == 0
    assert_same(alone, lawful.open_run(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("dead", [0, 3])
def test_a_killed_process_loses_nothing_recorded(dead: int, tmp_path: Path) -> None:
    data_parallel.train("single", tmp_path / "alone")
    assert torchrun(4, "ddp", tmp_path / "run", f"kill{dead}") != 0
    run, alone = lawful.open_run(tmp_path / "run"), lawful.open_run(tmp_path / "alone")
    assert run.manifest["status"] == ("running" if dead == 0 else "failed")
    layers, whole = (r.table(layer=r.layers) for r in (run, alone))
    assert len(layers) == len(whole)  # the last window closed before step 6
    assert run.series("loss", "").index.tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_unequal_shares_close_their_windows_together(tmp_path: Path) -> None:
    assert torchrun(2, "ddp", tmp_path / "run", "uneven") == 0
    head = lawful.open_run(tmp_path / "run").series("samples", "head")
    assert head.value.tolist() == [82, 82]  # 24 + 17 rows a batch, 4·13 wanted


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_where_one_fails_all_give_the_window_up_and_take_the_next(
    kind: str, tmp_path: Path
) -> None:
    assert torchrun(2, kind, tmp_path / "run", "fail") == 0
    run = lawful.open_run(tmp_path / "run")
    assert "1 of 2 processes could not take their batch in" in run.events().message[0]
    assert run.series("samples", "head").index.tolist() == [4]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["share", "budget", "every"])
def test_the_first_says_when_a_window_may_open(how: str, tmp_path: Path) -> None:
    assert torchrun(2, "ddp", tmp_path / "run", how) == 0
    run = lawful.open_run(tmp_path / "run")
    assert run.manifest["status"] == "finished"
    assert run.events().empty
    assert len(run.series("samples", "head"))


@pytest.mark.slow
def test_attaching_in_one_process_only_is_refused(tmp_path: Path) -> None:
    assert torchrun(2, "ddp", tmp_path / "run", "absent") != 0  # and does not hang
    assert not (tmp_path / "run").exists()


# -- without processes -----------------------------------------------------------------------------


def taps(ranks: Ranks = ALONE) -> list[Tap]:
    maps, _ = survey(nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 4)), "*")
    made = [Tap(m, Scale("mean", 1), seed=0) for m in maps]
    for tap in made:
        tap.stream.keep = ranks.keep
    return made


def fed(tap: Tap, batches: list[Tensor], part: slice = slice(None)) -> None:
    for rows in batches:
        rows = rows[part]
        tap.stream.update(rows[..., : tap.map.d_a], rows[..., tap.map.d_a :][..., : tap.map.d_b])


@pytest.mark.parametrize(("processes", "each"), [(2, 30), (4, 16), (8, 1), (80, 2)])
def test_moments_of_all_are_those_of_one(
    processes: int, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    size = (processes * each, 2, 8)
    batches = [torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(5)]
    first = taps()[0]
    fed(first, batches)
    total = torch.zeros(())

    def add(flat: Tensor, group: object) -> None:
        nonlocal total
        total = total + flat
        flat.copy_(total)

    monkeypatch.setattr(dist, "all_reduce", add)
    for rank in reversed(range(processes)):
        ranks = Ranks(rank, processes, dtype=torch.float64)
        shares = taps(ranks)
        fed(shares[0], batches, slice(rank * each, (rank + 1) * each))
        merge(shares, ranks)
    merged, whole = shares[0].stream.moments(), first.stream.moments()
    assert shares[1].stream.moments() is None
    assert merged is not None
    assert whole is not None
    assert (merged.rows, merged.clusters) == (whole.rows, whole.clusters)
    for name in ("H", "G", "h_sum", "g_sum"):
        torch.testing.assert_close(getattr(merged, name), getattr(whole, name))
    if processes < KEEP_CLUSTERS:  # beyond, not every process keeps some
        assert torch.equal(merged.kept_h, whole.kept_h)
        assert torch.equal(merged.kept_g, whole.kept_g)
    assert KEEP_CLUSTERS <= len(merged.kept_h) < 4 * KEEP_CLUSTERS or processes == 8


def test_a_layer_unseen_in_one_process_is_unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks, [tap, _] = Ranks(0, 2), taps()

    def add(flat: Tensor, group: object) -> None:
        flat[0] += 1  # the other process has met a problem

    monkeypatch.setattr(dist, "all_reduce", add)
    merge([tap], ranks)
    assert tap.problem == "could not be observed in 1 of the processes"


def test_a_model_that_is_not_wrapped_is_trained_alone() -> None:
    model = nn.Linear(2, 2)
    assert ranks_of(model) is ALONE
    assert unwrapped(torch.compile(model, backend="eager")) is model  # type: ignore[arg-type]
    assert ALONE.total([3, 4]) == [3, 4]
    assert ALONE.lead(lambda: 5) == 5
    assert ALONE.keep == KEEP_CLUSTERS


def test_the_step_that_can_be_afforded_is_told_in_advance() -> None:
    class Layers:
        def batch_work(self) -> float:
            return 1.0

        def reading_work(self) -> float:
            return 10.0

        def evidence_work(self) -> float:
            return 0.0

        def training_work(self) -> float:
            return 2.0

        def batches_needed(self) -> int:
            return 1

    layers, work = Layers(), Work(lawful.log_spaced(40, share=0.1))
    assert work.not_before(layers, 0) == 0  # type: ignore[arg-type]
    work._readings = 1
    assert work.not_before(layers, 3) == NEVER  # type: ignore[arg-type]  # nothing was seen yet
    work.batch(layers, 1)  # type: ignore[arg-type]
    step = work.not_before(layers, 3)  # type: ignore[arg-type]
    assert step == 60  # 1 + 1 + 10 units, at 0.2 a step
    assert not work.affords(layers, step - 1)  # type: ignore[arg-type]
    assert work.affords(layers, step)  # type: ignore[arg-type]
