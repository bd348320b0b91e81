"""The rows and steps of a simulated world, and every such experiment at toy size."""

import math
import os
import signal

import pytest
import torch

from lawful.lab import world
from lawful.lab.experiment import experiment
from lawful.record import open_run

TOY = {
    "noise-equilibrium": ["steps=40", "replicas=2"],
    "deep-linear-equilibrium": ["steps=60", "replicas=2"],
    "neuron-noise": ["steps=30", "replicas=2"],
    "warmup": ["steps=40", "then=40", "replicas=2"],
    "scale-invariance": ["steps=40", "replicas=2", "net_steps=10"],
    "spred-lasso": ["steps=40", "inputs=12", "samples=50"],
    "syre": ["steps=30", "draws=2", "samples=16"],
}


@pytest.mark.parametrize("name", TOY)
def test_it_writes_a_prediction_beside_what_it_measured(name, tmp_path):
    chosen = experiment(name)
    settings = chosen.configure([*TOY[name], "measurements=4"])
    run = chosen.run(settings, tmp_path, progress=False)
    assert run.manifest["status"] == "finished"
    assert run.manifest["experiment"]["name"] == name
    table = run.table()
    named = set(table.quantity)
    foreseen = {q.removesuffix("_predicted") for q in named if q.endswith("_predicted")}
    assert foreseen
    assert foreseen <= named
    pairs = set(zip(table.layer, table.quantity, table.step, strict=True))
    for layer, quantity, step in pairs:
        if quantity.endswith("_predicted"):
            assert (layer, quantity.removesuffix("_predicted"), step) in pairs


def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(tmp_path):
    chosen = experiment("noise-equilibrium")
    settings = chosen.configure([*TOY["noise-equilibrium"], "measurements=3"])
    where = ("charge", "scalar, from 3")
    ends = [
        chosen.run(settings, tmp_path / str(i), seed, progress=False).at(*where).value
        for i, seed in enumerate((0, 0, 1))
    ]
    assert ends[0] == ends[1] != ends[2]


def test_an_interrupted_world_says_so_and_starts_anew(tmp_path, monkeypatch):
    chosen = experiment("syre")
    settings = chosen.configure([*TOY["syre"], "measurements=3"])
    plain = chosen.train.__globals__["gradients"]
    calls = []

    def interrupting(*given):
        calls.append(1)
        if len(calls) == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return plain(*given)

    monkeypatch.setitem(chosen.train.__globals__, "gradients", interrupting)
    # A process started in the background ignores SIGINT; a person's does not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            chosen.run(settings, tmp_path, progress=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert open_run(tmp_path).manifest["status"] == "interrupted"
    run = chosen.run(settings, tmp_path, progress=False, resume=True)
    assert run.manifest["status"] == "finished"
    assert run.at("loss", "syre, λ=0.001", 30) is not None


def test_rows_hold_the_mean_over_replicas_and_its_error():
    (row,) = world.averaged(7, "here", "charge", torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    assert (row.step, row.layer, row.value, row.n) == (7, "here", 3.0, 4)
    assert row.stderr == pytest.approx(math.sqrt(14 / 3) / 2)
    (row, foreseen) = world.averaged(7, "here", "charge", 2.0, 4.0)
    assert (row.stderr, foreseen.quantity, foreseen.value) == (0.0, "charge_predicted", 4.0)


def test_the_bar_moves_without_a_loss(capsys):
    assert list(world.paced(3, "a world", True)) == [0, 1, 2]
    shown = capsys.readouterr().err
    assert "a world" in shown
    assert "nan" not in shown
