"""A snapshot answers as the run does, and asks it once a layer."""

import math

import numpy as np
import pytest

from lawful.laws.snapshot import Snapshot
from lawful.record import RunWriter, open_run
from lawful.record.measurement import Measurement


@pytest.fixture
def run(tmp_path):
    with RunWriter.create(tmp_path / "run", {"layers": [{"name": "blocks[0]"}]}) as writer:
        for step, value in ((0, 0.1), (10, 0.8), (20, math.nan)):
            writer.write(step, [Measurement(step, "blocks[0]", "rga_b", value, 0.02, 64)])
    return open_run(tmp_path / "run")


def test_the_same_answers(run):
    moment = Snapshot(run)
    assert moment.layers == run.layers
    for quantity in ("rga_b", "rga_a"):
        left, right = moment.series(quantity, "blocks[0]"), run.series(quantity, "blocks[0]")
        assert np.array_equal(left.reset_index(), right.reset_index(), equal_nan=True)
        assert moment.first(quantity, "blocks[0]") == run.first(quantity, "blocks[0]")
        for step in (None, 0, 10, 15):
            assert moment.at(quantity, "blocks[0]", step) == run.at(quantity, "blocks[0]", step)
    assert math.isnan(moment.at("rga_b", "blocks[0]", 20).value)
    assert moment.steps == run.steps  # anything else is asked of the run


def test_unknown_quantities_are_refused(run):
    with pytest.raises(KeyError, match="rga_c"):
        Snapshot(run).at("rga_c", "blocks[0]")
