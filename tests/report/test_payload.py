"""The embedded document: small, exact to its stated rounding, and inert."""

from __future__ import annotations

import base64
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import NASTY, synthetic_run

from lawful.record import RunWriter, open_run
from lawful.record.folder import DATABASE, array_file
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


def test_arrays_that_cannot_be_read_are_counted_and_left_out(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "r", ["fc1", "fc2"], [0, 10, 100])
    array_file(run.path, 0).write_bytes(b"cut")
    layer = payload(run)["layers"][1]
    assert layer["view"]["lost"] == 1
    assert [step for step, *_ in layer["frames"]] == [100]
    array_file(run.path, 100).unlink()  # of the last step: not even the size of a view is known
    layer = payload(run)["layers"][1]
    assert (layer["view"], layer["frames"]) == ({"size": 0, "of": 2, "lost": 2}, [])


def test_a_view_of_another_shape_is_not_drawn(tmp_path: Path) -> None:
    with RunWriter.create(tmp_path / "r", {}) as writer:
        for step, shape in ((0, (3,)), (1, (6, 4, 4)), (2, (6, 8, 8))):
            writer.write(step, [], {("fc", "view"): np.zeros(shape)})
    (layer,) = payload(open_run(tmp_path / "r"))["layers"]
    assert [view is not None for *_, view in layer["frames"]] == [False, False, True]


def test_a_quantity_of_a_later_lawful_has_no_meaning_here(tmp_path: Path) -> None:
    run = synthetic_run(tmp_path / "r", ["fc"], [0])
    with closing(sqlite3.connect(run.path / DATABASE)) as database, database:
        database.execute("UPDATE measurement SET quantity = 'zeta' WHERE quantity = 'width_a'")
    document = payload(run)
    assert document["meanings"]["zeta"] == ""
    assert "zeta" in document["layers"][0]["series"]
