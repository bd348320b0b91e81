"""Pairs of measured and predicted numbers, in a table and on the page."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from lawful.record import Measurement, RunWriter, open_run
from lawful.report.html import render
from lawful.report.predictions import Pair, prediction_table, predictions


@pytest.fixture
def run(tmp_path):
    with RunWriter.create(tmp_path / "run", {"laws": []}) as writer:
        for step, charge in ((0, 2.0), (10, 1.5)):
            writer.write(step, [
                Measurement(step, "start [1]", "charge", charge, 0.1, 4),
                Measurement(step, "start [1]", "charge_predicted", 1.4, 0.0, 4),
                Measurement(step, "", "loss", 0.3),
            ])  # fmt: skip
        # Predicted where nothing was measured, and the other way round: no pair.
        writer.write(20, [Measurement(20, "start [1]", "charge_predicted", 1.3, 0.0)])
    return open_run(tmp_path / "run")


def test_a_pair_is_the_last_step_that_holds_both(run):
    assert predictions(run) == [Pair("charge", "start [1]", 10, 1.5, 0.1, 1.4)]
    assert predictions(run)[0].apart == pytest.approx(1.5 / 1.4)


def test_no_ratio_to_a_prediction_of_nothing():
    assert math.isnan(Pair("rank", "", 0, 1.0, 0.0, 0.0).apart)


def test_the_table_prints_user_names_as_they_are(run):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(prediction_table(run))
    text = console.export_text()
    assert "start [1]" in text
    assert "1.50 ± 0.10" in text


def test_the_page_draws_them(run):
    page = render(run, [])
    assert 'id="foretold-plot"' in page
    assert "Prediction beside measurement" in page


def test_a_run_without_predictions_has_no_such_section(tmp_path):
    with RunWriter.create(tmp_path / "run", {"laws": []}) as writer:
        writer.write(0, [Measurement(0, "", "loss", 0.3)])
    run = open_run(tmp_path / "run")
    assert predictions(run) == []
    assert 'id="foretold-plot"' not in render(run, [])
