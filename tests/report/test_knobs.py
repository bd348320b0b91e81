"""The knobs panel: what is said, and that nothing is said where nothing is known."""

from __future__ import annotations

import math

import pytest

from lawful.laws import Verdict
from lawful.record import Measurement, RunWriter, open_run
from lawful.report.html import render
from lawful.report.knobs import knobs


def recorded(path, **values: tuple[float, float]):
    with RunWriter.create(path / "run", {"laws": []}) as writer:
        for step in (10, 50, 70, 100):
            rows = [Measurement(step, "", q, v, e, 8) for q, (v, e) in values.items()]
            writer.write(step, rows)
    return open_run(path / "run")


@pytest.mark.parametrize(
    ("ratio", "says"), [(1.1, "At the edge"), (0.7, "Near the edge"), (0.2, "Far below the edge")]
)
def test_the_edge(tmp_path, ratio, says):
    (knob,) = knobs(recorded(tmp_path, edge_ratio=(ratio, 0.01)), [])
    assert knob.advice.startswith(says)
    assert knob.bounds == pytest.approx((ratio - 0.0196, ratio + 0.0196), abs=1e-4)
    assert knob.law == "edge_of_stability"
    assert knob.trend == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("scale", "says"), [(300.0, "Noise dominates"), (32.0, "Batch size and"), (3.0, "The gradient")]
)
def test_the_batch(tmp_path, scale, says):
    run = recorded(tmp_path, noise_scale=(scale, scale / 10), batch_size=(32.0, 0.0))
    (knob,) = knobs(run, [])
    assert knob.advice.startswith(says)
    assert knob.value == pytest.approx(scale / 32)


def test_only_a_relaxed_layer_is_told_to_be_out_of_balance(tmp_path):
    run, nan = recorded(tmp_path), math.nan
    found = [
        Verdict("gradient_balance", layer, 100, status, 0.4, (0.3, 0.5), nan, nan, "")
        for layer, status in (("a", "violated"), ("b", "undetermined"), ("c", "holds"))
    ]
    assert [k.layer for k in knobs(run, found)] == ["a"]


def test_nothing_is_said_without_an_error_bar(tmp_path):
    run = recorded(tmp_path, edge_ratio=(0.9, math.nan), noise_scale=(50.0, math.nan))
    assert knobs(run, []) == []


def test_a_noise_scale_that_is_not_resolved_says_nothing(tmp_path):
    run = recorded(tmp_path, noise_scale=(50.0, 40.0), batch_size=(32.0, 0.0))
    assert knobs(run, []) == []


def test_the_page_shows_the_panel(tmp_path):
    assert 'id="knobs"' in render(recorded(tmp_path, edge_ratio=(0.9, 0.01)), [])
