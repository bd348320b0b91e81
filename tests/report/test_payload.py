"""The embedded document: small, exact to its stated rounding, and inert."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import NASTY, synthetic_run

from lawful.report import payload as room
from lawful.report.payload import pack_view, payload, thin, to_script


@given(st.text())
def test_embedded_strings_survive_and_cannot_close_the_script(text: str) -> None:
    script = to_script({"name": text + NASTY})
    assert json.loads(script)["name"] == text + NASTY
    assert not set("<>&\u2028\u2029") & set(script)


@given(st.integers(0, 500), st.integers(1, 60))
def test_thinning_keeps_first_and_last_and_the_order(n: int, keep: int) -> None:
    kept = thin(n, keep)
    assert len(kept) <= max(keep, 1)
    assert kept == sorted(set(kept))
    assert not n or kept[-1] == n - 1
    assert n < 2 or keep < 2 or kept[0] == 0


def test_a_packed_view_is_the_matrix_to_half_a_step() -> None:
    rng = np.random.default_rng(0)
    view = np.clip(rng.standard_normal((6, 5, 5)), -1, 1)
    view = (view + view.transpose(0, 2, 1)) / 2
    packed = np.frombuffer(base64.b64decode(pack_view(view)), np.int8).reshape(6, 15)
    rows, columns = np.tril_indices(5)
    assert np.abs(packed / 127 - view[:, rows, columns]).max() <= 0.5 / 127 + 1e-12


def test_series_carry_values_errors_and_shared_steps(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "r", ["fc"], [0, 10, 100])
    document = payload(run)
    place, values, errors, n = document["layers"][0]["series"]["rga_b"]
    assert document["stepsets"][place] == [0, 10, 100]
    assert values == pytest.approx(run.series("rga_b", "fc")["value"], rel=1e-4)
    assert errors == [0.02] * 3
    assert n == 512
    assert len(document["stepsets"]) == 2  # every step; the first and the last
    assert document["layers"][0]["series"]["rga_b_haar"][2] is None


def test_the_twelve_phases_are_there_and_four_have_no_place() -> None:
    phases = [room.phase(p) for p in room.PHASES]
    assert len(phases) == 12
    assert sum(p["p"] is None for p in phases) == 4
    forward = next(p for p in phases if p["name"] == "forward CRH")
    assert (forward["p"], forward["q"]) == (0, 2)


def test_matrices_stay_within_their_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = synthetic_run(tmp_path / "r", ["fc1", "fc2"], list(range(40)))
    monkeypatch.setattr(room, "FRAME_BYTES", 60_000)
    layers = payload(run)["layers"]
    assert sum(len(to_script(layer["frames"])) for layer in layers) <= 60_000
    for layer in layers:
        assert layer["view"] == {"size": 32, "of": 11, "lost": 0}
        steps = [step for step, *_ in layer["frames"]]
        assert 2 <= len(steps) < 11
        assert (steps[0], steps[-1]) == (0, 39)


def test_many_layers_and_steps_make_a_sensible_document(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "r", [f"layer{i}" for i in range(12)])
    assert len(to_script(payload(run))) < 12 * 250_000
