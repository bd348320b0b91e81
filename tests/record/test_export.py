"""What is exported equals the table of the run, in any program that reads CSV or Parquet."""

import math
import os

import pandas as pd
import pytest

from lawful.record import Measurement, RecordError, RunWriter, export, open_run


@pytest.fixture
def run(tmp_path):
    layers = ["fc1", 'a,"b"\n<c>']
    with RunWriter.create(tmp_path / "run", {}) as writer:
        for step in range(3):
            value = [0.1 + 0.2, math.nan, 1e-300][step]
            writer.write(step, [Measurement(step, name, "rga_a", value) for name in layers])
    return open_run(tmp_path / "run")


@pytest.mark.parametrize(("format", "read"), [("csv", pd.read_csv), ("parquet", pd.read_parquet)])
def test_the_export_reads_back(run, tmp_path, format, read):
    if format == "parquet":
        pytest.importorskip("pyarrow")
    file = export(run, tmp_path / "out" / f"numbers.{format}", format)
    assert file == tmp_path / "out" / f"numbers.{format}"
    pd.testing.assert_frame_equal(read(file), run.table(), check_dtype=False, rtol=1e-15)


def test_a_folder_gets_a_named_file(run, tmp_path):
    assert export(run, tmp_path) == tmp_path / "measurements.csv"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_link_is_followed_and_a_pipe_is_written_not_replaced(run, tmp_path):
    """As root, replacing /dev/stdout would remove it for every program."""
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    export(run, tmp_path / "link.csv")
    assert (tmp_path / "link.csv").is_symlink()
    assert len(pd.read_csv(tmp_path / "real.csv")) == 6
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    export(run, pipe)
    assert os.read(reader, 1 << 16).startswith(b"step,layer,quantity")
    os.close(reader)
    assert pipe.is_fifo()


def test_what_cannot_be_exported_is_one_sentence(run, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="csv or parquet"):
        export(run, tmp_path, "xlsx")
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match="cannot export"):
        export(run, tmp_path / "file" / "numbers.csv")
    monkeypatch.setitem(export.__globals__, "find_spec", lambda name: None)
    with pytest.raises(RecordError, match=r"lawful\[parquet\]"):
        export(run, tmp_path, "parquet")
