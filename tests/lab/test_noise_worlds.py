"""The worlds of gradient noise run at toy size and leave predictions beside measurements."""

import pytest

from lawful.lab.experiment import experiment
from lawful.record import open_run

TOY = {
    "critical-batch": ["limit=60", "target=1.8", "seeds=2", "dimensions=20"],
    "linear-scaling": ["samples=640", "copies=2"],
    "entropic-force": ["reshuffled=50", "independent=50"],
    "gradient-balance": ["steps=20", "descent=20", "long=40", "replicas=2"],
    "sharpen-or-flatten": ["steps=40", "replicas=2"],
    "platonic-linear": ["steps=20", "descent=20", "breaker=labels"],
    "hebbian": ["steps=20", "rest=2", "draws=100"],
}


@pytest.mark.parametrize("name", TOY)
def test_it_runs_and_predicts(name, tmp_path):
    chosen = experiment(name)
    settings = chosen.configure([*TOY[name], "measurements=4", "device=cpu"])
    run = chosen.run(settings, tmp_path / "out", progress=False)
    assert open_run(run.path).manifest["status"] == "finished"
    rows = run.table()
    said = rows[rows.quantity.str.endswith("_predicted")]
    assert len(said)
    for row in said.itertuples():
        assert run.at(row.quantity.removesuffix("_predicted"), row.layer, row.step) is not None


def test_only_the_breaker_asked_for_is_tried(tmp_path):
    chosen = experiment("platonic-linear")
    pairs = [*TOY["platonic-linear"], "measurements=3"]
    run = chosen.run(chosen.configure(pairs), tmp_path, progress=False)
    assert run.layers == ["entropy", "descent", "SGD", "labels turned", "labels stretched"]
    assert {band.name for band, _, _ in chosen.check(run)}.isdisjoint({"weight decay 0.1"})
