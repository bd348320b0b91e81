"""The worlds of solvable theory run at toy size and leave predictions beside measurements."""

import pytest

from lawful.lab.experiment import experiment

TOY = {
    "deep-linear-modes": ["learning_rate=0.01", "inputs=8", "width=8"],
    "kernel-generalization": ["modes=100", "draws=1", "pool=120", "splits=1"],
    "lazy-rich": ["width=8", "points=4", "seeds=2", "steps=50"],
    "wide-limit": ["widths=4,8,16", "seeds=4", "target=0.5"],
    "double-descent": ["samples=20", "draws=5"],
    "a-priori-exponent": ["modes=600", "seeds=2", "trials=2", "inputs=12", "pool=200"],
}


@pytest.mark.parametrize("name", TOY)
def test_it_runs_and_predicts(name, tmp_path):
    chosen = experiment(name)
    settings = chosen.configure([*TOY[name], "measurements=4", "device=cpu"])
    run = chosen.run(settings, tmp_path / "out", progress=False)
    assert run.manifest["status"] == "finished"
    rows = run.table()
    said = rows[rows.quantity.str.endswith("_predicted")]
    assert len(said)
    for row in said.itertuples():
        assert run.at(row.quantity.removesuffix("_predicted"), row.layer, row.step) is not None
