"""Several processes on shares of a batch measure what one process measures on the whole of it."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import data_parallel
import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

import lawful
from lawful.estimators.stream import KEEP_CLUSTERS
from lawful.instruments import sample_gradients
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


def alone_with_noise(out: Path, **how: Any) -> lawful.Run:
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore", lawful.LawfulWarning)
        patch.setattr(sample_gradients, "SHARE", sample_gradients.SHARE)  # the script changes it
        data_parallel.train_with_noise("single", out, **how)
    return lawful.open_run(out)


def assert_same_noise(
    one: lawful.Run, several: lawful.Run, *, beyond: set[str], rows: int = 400
) -> None:
    """Every number of gradient noise and charges; several processes are micro-batches besides."""
    key = ["step", "layer", "quantity"]
    a, b = (r.table().set_index(key) for r in (one, several))
    assert {q for _, _, q in b.index.difference(a.index)} == beyond
    assert not len(a.index.difference(b.index))
    assert len(a) > rows
    b = b.loc[a.index]
    for column in ("value", "stderr", "n"):
        np.testing.assert_allclose(a[column], b[column], rtol=1e-5, atol=1e-9, err_msg=column)
    for quantity in ("charge_noises", "charge_pushes", "balance_neurons", "neuron_gradient_power"):
        for layer in set(one.table().layer):
            for step in one.array_steps(quantity, layer):
                ours = (r.array(quantity, layer=layer, step=step) for r in (one, several))
                np.testing.assert_allclose(*ours, rtol=1e-5, atol=1e-12)
    for v, w in zip(lawful.test(one), lawful.test(several), strict=True):
        assert (v.law, v.layer, v.step, v.status) == (w.law, w.layer, w.step, w.status)
        np.testing.assert_allclose(v.effect, w.effect, rtol=1e-5, atol=1e-9)
    assert one.events().message.tolist() == several.events().message.tolist()


MICRO = {"signal_norm2_micro", "noise_trace_micro", "noise_scale_micro", "noise_scale_all"}


def test_gradient_noise_and_charges_of_two_processes(tmp_path: Path) -> None:
    one = alone_with_noise(tmp_path / "one")
    assert torchrun(2, "ddp", tmp_path / "run", "noise") == 0
    assert_same_noise(one, lawful.open_run(tmp_path / "run"), beyond=MICRO)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "kind", "how"),
    [(4, "ddp", "noise"), (2, "ddp", "noise in parts"), (2, "fsdp", "noise in parts")],
)
def test_processes_are_as_many_micro_batches(
    processes: int, kind: str, how: str, tmp_path: Path
) -> None:
    one = alone_with_noise(tmp_path / "one", parts=4)
    assert torchrun(processes, kind, tmp_path / "run", how) == 0
    assert_same_noise(one, lawful.open_run(tmp_path / "run"), beyond=set())


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kind"), [(3, "fsdp"), (4, "hsdp")])
def test_gradient_noise_and_charges_of_shards(processes: int, kind: str, tmp_path: Path) -> None:
    one = alone_with_noise(tmp_path / "one")
    assert torchrun(processes, kind, tmp_path / "run", "noise") == 0
    assert_same_noise(one, lawful.open_run(tmp_path / "run"), beyond=MICRO)


def test_charges_of_shards_are_kept_and_broken_as_in_one_process(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", lawful.LawfulWarning)
        patch.setattr(sample_gradients, "SHARE", sample_gradients.SHARE)
        data_parallel.train_with_charges("single", tmp_path / "one")
    assert torchrun(2, "fsdp", tmp_path / "run", "charges") == 0
    worst = {}
    for how in data_parallel.CHARGED:
        one, run = (lawful.open_run(tmp_path / which / how) for which in ("one", "run"))
        assert_same_noise(one, run, beyond=set(), rows=60)
        left = run.table(quantity="charge_residual")
        worst[how] = left[~left.layer.str.startswith("scale")].value.max()  # but for a norm's ε
        budget = {v.status for v in lawful.test(run, "charge_budget")} - {"out of regime"}
        holds = how in ("decay", "momentum")
        assert budget == ({"holds"} if holds else set() if how == "Adam" else {"violated"})
        assert ("charge_noise" in set(run.table().quantity)) == (how != "clipped by value")
    assert max(worst["decay"], worst["momentum"]) < 1e-12
    assert min(worst["clipped by value"], worst["Adam"]) > 1e-4


@pytest.mark.slow
def test_noise_of_a_sum_over_processes(tmp_path: Path) -> None:
    """They divide the sum by their number; what is of one sample, and the charges, do not care."""
    one = alone_with_noise(tmp_path / "one", reduction="sum")
    assert torchrun(2, "ddp", tmp_path / "run", "noise of a sum") == 0
    run = lawful.open_run(tmp_path / "run")
    for quantity in (
        "noise_trace", "signal_norm2", "noise_scale", "charge", "charge_push", "charge_noise",
        "charge_predicted", "equilibrium_shift",
    ):  # fmt: skip
        a, b = (r.table(quantity=quantity).value for r in (one, run))
        assert len(a), quantity
        np.testing.assert_allclose(a, b, rtol=1e-5, err_msg=quantity)


@pytest.mark.slow
def test_uneven_shares_have_noise_and_charges_but_not_the_noise_of_charges(tmp_path: Path) -> None:
    assert torchrun(2, "ddp", tmp_path / "run", "noise of uneven shares") == 0
    run = lawful.open_run(tmp_path / "run")
    assert run.series("batch_size", "").value.to_numpy() == pytest.approx(4 / (1 / 24 + 1 / 17))
    assert len(run.table(quantity="noise_trace"))
    assert run.table(quantity="charge_residual").value.max() < 1e-5
    assert not len(run.table(quantity="charge_noise"))
    assert run.events().message.str.contains("the processes' shares of the batch differ").any()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_noise_that_fails_in_one_process_is_given_up_in_all(kind: str, tmp_path: Path) -> None:
    assert torchrun(2, kind, tmp_path / "run", "noise that fails") == 0  # and does not hang
    run = lawful.open_run(tmp_path / "run")
    told = run.events().message.tolist()
    assert sum("1 of 2 processes could not take a batch in" in m for m in told) == 2
    assert run.series("charge", "rescaling of 0, 3").index.tolist() == [16, 24, 32, 36]
    assert run.series("noise_trace", "").index.tolist() == [36]


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
    assert len(run.series("samples", "head")) > (how == "share")


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
    assert ALONE.agree(["a symmetry"])
    assert ALONE.keep == KEEP_CLUSTERS


@pytest.mark.parametrize("same", [True, False])
def test_processes_that_hold_different_symmetries_find_it_out(
    same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Tensor] = []

    def largest(mine: Tensor, op: object, group: object) -> None:
        said.append(mine.clone())
        mine.copy_(torch.stack(said).amax(0))

    monkeypatch.setattr(dist, "all_reduce", largest)
    Ranks(0, 2).agree(["rescaling of 0, 2", "GL of 3, 4"])
    assert Ranks(1, 2).agree(["rescaling of 0, 2", "GL of 3, 4"][: 2 if same else 1]) is same


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
