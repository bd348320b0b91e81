"""The knobs panel: what is said, and that nothing is said where nothing is known."""

from __future__ import annotations

import io
import math

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn.functional import mse_loss

import lawful
from lawful.laws import Verdict
from lawful.record import Measurement, RunWriter, open_run
from lawful.report.html import render
from lawful.report.knobs import knob_table, knobs


def recorded(path, **values: tuple[float, float]):
    with RunWriter.create(path / "run", {"laws": []}) as writer:
        for step in (10, 50, 70, 100):
            rows = [Measurement(step, "", q, v, e, 8) for q, (v, e) in values.items()]
            writer.write(step, rows)
    return open_run(path / "run")


@pytest.mark.parametrize(
    ("ratio", "says"),
    [
        (1.1, "At the edge"), (0.98, "Near the edge"), (0.7, "Below the edge"),
        (0.2, "Far below the edge"),
    ],
)  # fmt: skip
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


def test_a_batch_of_nothing_has_no_knob(tmp_path):
    assert knobs(recorded(tmp_path, noise_scale=(3.0, 0.1), batch_size=(0.0, 0.0)), []) == []


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


def test_a_curvature_that_is_not_known_says_nothing(tmp_path):
    assert knobs(recorded(tmp_path, edge_ratio=(0.9, 0.2)), []) == []


def test_a_noise_scale_that_is_not_resolved_says_nothing(tmp_path):
    run = recorded(tmp_path, noise_scale=(50.0, 40.0), batch_size=(32.0, 0.0))
    assert knobs(run, []) == []


def test_the_page_shows_the_panel(tmp_path):
    assert 'id="knobs"' in render(recorded(tmp_path, edge_ratio=(0.9, 0.01)), [])


def test_a_real_run_is_advised_end_to_end(tmp_path):
    """Gradient noise and curvature observed together: both knobs, and the page and screen agree."""
    torch.manual_seed(0)
    x = torch.randn(128, 6)
    y = x @ torch.randn(6, 3) + torch.randn(128, 3)
    model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with lawful.observe(
        model, tmp_path / "run", laws=["noise", "curvature"], optimizer=optimizer,
        probe=lawful.Probe([(x, y)], mse_loss), schedule=lawful.log_spaced(5, last=160),
    ) as observation:  # fmt: skip
        for step in range(160):
            batch = torch.arange(8) + 8 * (step % 16)
            optimizer.zero_grad()
            mse_loss(model(x[batch]), y[batch]).backward()
            optimizer.step()
    run = observation.run
    verdicts = lawful.test(run)
    edge, batch_size = knobs(run, verdicts)
    assert edge.law == "edge_of_stability"
    assert edge.value == pytest.approx(run.at("sharpness", "").value * 0.05 / 2, rel=1e-3)
    assert edge.advice.startswith("Far below the edge")
    assert batch_size.law == "noise_scale"
    assert batch_size.value == pytest.approx(run.at("noise_scale", "").value / 8)
    for text in (render(run, verdicts), screen(run, verdicts)):
        assert "at least doubled" in text
        assert "noise scale / batch" in text


def screen(run, verdicts) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(knob_table(knobs(run, verdicts)))
    return console.export_text()
