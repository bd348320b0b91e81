"""A run reads back what was written, and says in one sentence why it cannot."""

import json
import math
import os
import shutil
import sqlite3
from contextlib import closing

import numpy as np
import pytest

from lawful.record import Measurement, RecordError, RunWriter, open_run
from lawful.record.folder import ARRAYS, DATABASE, array_file
from lawful.record.manifest import MANIFEST

NAN = math.nan
ODD = ["a/b", "../../etc", "q\"uo'te", "<script>alert(1)</script>", "層.0", "x[0]*", "a\nb", " "]


@pytest.fixture
def path(tmp_path):
    """A finished run: two declared layers, one undeclared, three steps, arrays at two of them."""
    path = tmp_path / "run"
    manifest = {"layers": [{"name": "fc2"}, {"name": "fc1"}], "seed": None}
    rng = np.random.default_rng(0)
    with RunWriter.create(path, manifest) as writer:
        for step in (0, 10, 200):
            places = [(layer, name) for layer in ("fc1", "fc2", "extra") for name in NAMES]
            rows = [Measurement(step, *place, step / 10, 0.5, 3) for place in places]
            arrays = {("fc1", name): rng.normal(size=(3, 2)) for name in ("W",)}
            arrays[("fc1", "H_a")] = rng.normal(size=(2, 2)).astype("float32")
            if step == 10:
                arrays[("fc1", "G_b")] = rng.normal(size=(3, 3))
            loss = Measurement(step, "", "loss", 1.0)
            writer.write(step, [*rows, loss], arrays if step else None)
        writer.event(10, "fc1", "warning", "drift 0.3 over the window")
    return path


NAMES = ["rga_b", "rga_a", "samples"]


def test_layers_and_steps(path):
    run = open_run(str(path))
    assert run.layers == ["fc2", "fc1", "extra"]
    assert run.steps == [0, 10, 200]
    assert run.manifest["format"] == 1


def test_a_predicted_number_is_found_by_its_name(tmp_path):
    with RunWriter.create(tmp_path, {}) as writer:
        writer.write(1, [Measurement(1, "", name, 1.0) for name in ("loss", "loss_predicted")])
    table = open_run(tmp_path).table(quantity=["loss", "loss_predicted"])
    assert table.quantity.tolist() == ["loss", "loss_predicted"]


def test_table_columns_order_and_types(path):
    table = open_run(path).table()
    assert list(table.columns) == ["step", "layer", "quantity", "value", "stderr", "n"]
    assert table.layer.unique().tolist() == ["", "fc2", "fc1", "extra"]
    assert table[table.layer == "fc2"].quantity.tolist() == [
        q for q in sorted(NAMES) for _ in "123"
    ]
    assert table[table.quantity == "rga_a"].step.tolist() == [0, 10, 200] * 3
    assert [str(table[c].dtype) for c in ("step", "value", "stderr", "n")] == [
        "int64",
        "float64",
        "float64",
        "int64",
    ]


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        ({"quantity": "rga_b"}, 9),
        ({"quantity": "rga_?"}, 18),
        ({"quantity": ["rga_a", "loss"]}, 12),
        ({"layer": "fc1"}, 9),
        ({"layer": "fc*"}, 18),
        ({"layer": ["", "extra"]}, 12),
        ({"layer": "absent"}, 0),
        ({"step": 10}, 10),
        ({"step": 11}, 0),
        ({"quantity": "rga_*", "layer": "fc*", "step": 200}, 4),
        ({"quantity": "nc1"}, 0),
    ],
)
def test_table_selects(path, chosen, count):
    table = open_run(path).table(**chosen)
    assert len(table) == count
    assert str(table.value.dtype) == "float64"


def test_unknown_quantities_are_named(path):
    run = open_run(path)
    for ask in (
        lambda: run.table(quantity="rga_c"),
        lambda: run.table(quantity=["rga_a", "zzz*"]),
        lambda: run.series("rga_c", "fc1"),
        lambda: run.at("rga_c", "fc1"),
        lambda: run.array("H_c", layer="fc1"),
    ):
        with pytest.raises(KeyError, match="unknown quantity"):
            ask()


def test_series_at_and_first(path):
    run = open_run(path)
    series = run.series("rga_b", "fc1")
    assert series.index.name == "step"
    assert series.loc[10].tolist() == [1.0, 0.5, 3.0]
    assert run.series("nc1", "fc1").empty
    assert run.at("rga_b", "fc1") == Measurement(200, "fc1", "rga_b", 20.0, 0.5, 3)
    assert run.at("rga_b", "fc1", 10).value == 1.0
    assert run.at("rga_b", "fc1", 11) is None
    assert run.first("rga_b", "fc1").step == 0
    assert run.first("nc1", "fc1") is None


def test_nan_and_infinity_come_back(tmp_path):
    values = [(0, NAN, NAN), (1, 1.0, NAN), (2, math.inf, 0.0), (3, NAN, 0.5)]
    with RunWriter.create(tmp_path, {}) as writer:
        for step, value, stderr in values:
            writer.write(step, [Measurement(step, "fc", "rga_a", value, stderr, 2)])
    run = open_run(tmp_path)
    series = run.series("rga_a", "fc")
    np.testing.assert_array_equal(series.value, [v for _, v, _ in values])
    np.testing.assert_array_equal(series.stderr, [s for _, _, s in values])
    assert run.at("rga_a", "fc").step == run.first("rga_a", "fc").step == 1
    assert math.isnan(run.at("rga_a", "fc", 3).value)


def test_odd_layer_names_are_data_not_paths(tmp_path):
    out = tmp_path / "run #1?mode=rw%20ü"
    with RunWriter.create(out, {"layers": [{"name": name} for name in ODD]}) as writer:
        arrays = {(name, "W"): np.full((1, 1), i) for i, name in enumerate(ODD)}
        writer.write(0, [Measurement(0, name, "rga_a", i) for i, name in enumerate(ODD)], arrays)
        writer.event(0, ODD[3], "info", ODD[3])
    run = open_run(out)
    assert run.layers == ODD
    for i, name in enumerate(ODD):
        assert run.at("rga_a", name).value == i
        assert run.table(layer=name).value.tolist()[0] in range(len(ODD))
        assert run.array("W", layer=name) == [[i]]
    assert run.events().layer.tolist() == [ODD[3]]
    assert [p.name for p in tmp_path.iterdir()] == [out.name]
    assert os.listdir(out / ARRAYS) == ["step-00000000.safetensors"]


def test_a_run_sees_new_rows_while_it_is_written(tmp_path):
    with RunWriter.create(tmp_path, {"status": "running"}) as writer:
        run = open_run(tmp_path)
        assert run.table().empty
        for step in range(3):
            writer.write(step, [Measurement(step, "fc", "rga_a", step)])
            assert run.at("rga_a", "fc").value == step
        writer.update_manifest(status="finished")
        assert run.manifest["status"] == "finished"
    assert run.steps == [0, 1, 2]


# --- arrays -----------------------------------------------------------------------------------


def test_the_other_four_matrices_are_derived(path):
    run = open_run(path)
    W, H_a, G_b = (run.array(name, layer="fc1", step=10) for name in ("W", "H_a", "G_b"))
    for name, expected in {
        "H_b": W @ H_a.astype("float64") @ W.T,
        "G_a": W.T @ G_b @ W,
        "Z_a": W.T @ W,
        "Z_b": W @ W.T,
    }.items():
        derived = run.array(name, layer="fc1", step=10)
        assert derived.dtype == np.float64
        np.testing.assert_allclose(derived, expected, rtol=1e-13)
    assert run.array_steps("H_b", "fc1") == [10, 200]
    assert run.array_steps("G_a", "fc1") == [10]
    assert run.array_steps("Z_a", "fc2") == []


def test_a_stored_matrix_is_preferred_to_a_derived_one(tmp_path):
    with RunWriter.create(tmp_path, {}) as writer:
        writer.write(0, [], {("fc", "W"): np.eye(2)})
        writer.write(1, [], {("fc", "Z_a"): np.zeros((2, 2)), ("fc", "W"): np.eye(2)})
    run = open_run(tmp_path)
    assert run.array_steps("Z_a", "fc") == [0, 1]
    assert run.array("Z_a", layer="fc", step=0).trace() == 2
    assert run.array("Z_a", layer="fc").trace() == 0


def test_an_absent_array_says_what_is_kept(path):
    run = open_run(path)
    with pytest.raises(RecordError, match=r"keeps G_b, H_a, W.*keep=\"matrices\""):
        run.array("view", layer="fc1")
    with pytest.raises(RecordError, match="keeps no array"):
        run.array("H_b", layer="fc2")
    with pytest.raises(RecordError, match="not kept at step 11: it is at 10, 200"):
        run.array("H_a", layer="fc1", step=11)


def test_shapes_that_do_not_fit_are_one_sentence(tmp_path):
    with RunWriter.create(tmp_path, {}) as writer:
        writer.write(0, [], {("fc", "W"): np.eye(2), ("fc", "H_a"): np.eye(3)})
    with pytest.raises(RecordError, match="cannot derive H_b of layer 'fc' at step 0"):
        open_run(tmp_path).array("H_b", layer="fc")


def bomb(dtype, shape, length):
    """A safetensors file whose header lies about its one array."""
    entry = {"W:fc1": {"dtype": dtype, "shape": shape, "data_offsets": [0, length]}}
    header = json.dumps(entry).encode()
    return len(header).to_bytes(8, "little") + header + bytes(16)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 a pickle, perhaps",
        b"\xff" * 64,
        bomb("F64", [10**6, 10**6], 16),
        bomb("F64", [-1], 16),
        bomb("F99", [2], 16),
        bomb("F64", [2], 10**9),
        bomb("BF16", [8], 16),
        bomb("F64", "two", 16),
        None,
    ],
)
def test_damaged_arrays_are_one_sentence_and_numbers_stay(path, content):
    file = array_file(path, 200)
    file.unlink() if content is None else file.write_bytes(content)
    run = open_run(path)
    with pytest.raises(RecordError, match="missing or damaged") as failure:
        run.array("W", layer="fc1")
    assert "\n" not in str(failure.value)
    assert run.array("W", layer="fc1", step=10).shape == (3, 2)
    assert len(run.table()) == 30


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated_arrays_are_one_sentence(path, share):
    file = array_file(path, 10)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(RecordError, match="missing or damaged"):
        open_run(path).array("W", layer="fc1", step=10)


# --- folders that are not runs ------------------------------------------------------------------


def test_what_is_missing_is_named(path, tmp_path):
    with pytest.raises(RecordError, match="no such folder"):
        open_run(tmp_path / "nowhere")
    with pytest.raises(RecordError, match=r"has no manifest\.json"):
        open_run(tmp_path)
    with pytest.raises(RecordError, match="this is a file, a run is a folder"):
        open_run(path / MANIFEST)
    (path / DATABASE).unlink()
    with pytest.raises(RecordError, match=r"has no measurements\.sqlite"):
        open_run(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "damaged or cut short"),
        ('{"format": 1, "lay', "damaged or cut short"),
        ("[" * 100_000, "damaged or cut short"),
        ("\udcff", "damaged or cut short"),
        ("[]", "manifest should be dict, found list"),
        ("{}", "manifest lacks 'format'"),
        ('{"format": "1"}', r"manifest\.format should be int, found str"),
        ('{"format": true}', r"manifest\.format should be int, found bool"),
        ('{"format": 99}', "update lawful"),
        ('{"format": 1, "layers": 3}', r"manifest\.layers should be list"),
        ('{"format": 1, "layers": ["fc"]}', r"manifest\.layers\[0\] should be dict"),
        ('{"format": 1, "layers": [{"kind": "x"}]}', r"manifest\.layers\[0\] lacks 'name'"),
        ('{"format": 1, "layers": [{"name": 3}]}', r"layers\[0\]\.name should be str"),
        ('{"format": 1, "layers": [{"name": "a", "d_a": "b"}]}', r"d_a should be int, found str"),
        ('{"format": 1, "optimizer": {"groups": [1]}}', r"optimizer\.groups\[0\] should be dict"),
        ('{"format": 1, "seed": "x"}', r"manifest\.seed should be int"),
        ('{"format": 1, "model": null}', r"manifest\.model should be dict, found NoneType"),
    ],
)
def test_crafted_manifests_are_one_sentence(path, text, reason):
    (path / MANIFEST).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RecordError, match=reason) as failure:
        open_run(path)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("size", [1, 50, 100, 1024, 3000, -1024])
def test_truncated_databases_are_one_sentence(path, size):
    content = (path / DATABASE).read_bytes()
    (path / DATABASE).write_bytes(content[:size])
    with pytest.raises(RecordError, match=r"measurements\.sqlite is damaged or cannot be read"):
        open_run(path)


def test_an_empty_database_is_not_a_run(path):
    (path / DATABASE).write_bytes(b"")
    with pytest.raises(RecordError, match="not written by lawful"):
        open_run(path)


def test_foreign_databases_are_one_sentence(path):
    (path / DATABASE).write_bytes(b"step,layer,quantity,value\n" * 100)
    with pytest.raises(RecordError, match="not a database"):
        open_run(path)
    (path / DATABASE).unlink()
    with closing(sqlite3.connect(path / DATABASE)) as foreign:
        foreign.execute("CREATE TABLE step (recipe TEXT)")
    with pytest.raises(RecordError, match="not written by lawful"):
        open_run(path)


@pytest.mark.parametrize("column", ["value", "n"])
def test_text_among_the_numbers_is_one_sentence(path, column):
    with closing(sqlite3.connect(path / DATABASE)) as crafted, crafted:
        crafted.execute(f"UPDATE measurement SET {column} = '<b>' WHERE quantity = 'rga_a'")
    run = open_run(path)
    for ask in (run.table, lambda: run.series("rga_a", "fc1"), lambda: run.at("rga_a", "fc1", 0)):
        with pytest.raises(RecordError, match="damaged"):
            ask()
    assert run.at("rga_b", "fc1").value == 20.0


# --- folders that cannot be written ---------------------------------------------------------------


@pytest.fixture
def unwritable(monkeypatch):
    """SQLite as it answers where it can neither find nor make its shared index."""
    connect = sqlite3.connect

    def refusing(address, **options):
        if str(address).endswith("mode=ro"):
            raise sqlite3.OperationalError("unable to open database file")
        return connect(address, **options)

    monkeypatch.setattr(sqlite3, "connect", refusing)


@pytest.mark.usefixtures("unwritable")
def test_a_finished_run_opens_where_nothing_can_be_written(path):
    assert len(open_run(path).table()) == 30


def test_a_killed_run_never_loses_its_log_in_silence(path, tmp_path, request):
    copy = tmp_path / "copy"
    with RunWriter.create(path, {}, resume=True) as writer:
        writer.write(300, [Measurement(300, "fc1", "rga_a", 1.0)])
        shutil.copytree(path, copy)  # what a kill leaves: database, log and shared index
    assert open_run(copy).steps == [0, 10, 200, 300]
    request.getfixturevalue("unwritable")
    with pytest.raises(RecordError, match="copy the folder to a writable place"):
        open_run(copy)


def test_the_arrays_of_a_step_come_from_one_reading(path):
    run = open_run(path)
    kept = run.kept()
    assert all(steps == run.array_steps(name, layer) for (layer, name), steps in kept.items()
               if name in ("W", "H_a", "G_b"))  # fmt: skip
    step = kept["fc1", "W"][-1]
    places = [place for place, steps in kept.items() if step in steps]
    for (layer, name), array in run.arrays(step, places).items():
        assert np.array_equal(array, run.array(name, layer=layer, step=step))
    with pytest.raises(RecordError, match="missing or damaged"):
        run.arrays(step, [("fc1", "view"), ("fc9", "W")])


def test_a_layer_whose_name_is_no_text_is_refused(path):
    with closing(sqlite3.connect(path / DATABASE)) as database, database:
        database.execute("UPDATE layer SET name = x'ff00' WHERE name = 'fc1'")
    with pytest.raises(RecordError, match="a layer's name is no text"):
        _ = open_run(path).layers
