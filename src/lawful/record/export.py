"""Taking the numbers elsewhere: one flat table, one row a measurement.

Columns as in `Run.table`. A missing number is an empty cell in CSV and a null in Parquet. The
arrays need no export: they already lie in an open format, one safetensors file a step.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from .errors import RecordError, explained
from .folder import written_for_user
from .run import Run

FORMATS = ("csv", "parquet")


def export(run: Run, out: str | Path, format: str = "csv") -> Path:
    """Write every measurement of `run` to one file and return its path.

    out:    the file, or a folder in which `measurements.<format>` is made.
    format: "csv" or "parquet" (needs the `parquet` extra).
    Raises `RecordError` when `out` cannot be written or the extra is not installed.
    """
    if format not in FORMATS:
        raise ValueError(f"format={format!r}: a run exports as {' or '.join(FORMATS)}")
    if format == "parquet" and find_spec("pyarrow") is None:
        raise RecordError("Parquet needs pyarrow: pip install 'lawful[parquet]', or export to csv")
    out = Path(out)
    file = out / f"measurements.{format}" if out.is_dir() else out
    table = run.table()
    with explained(f"cannot export to {file}"), written_for_user(file) as draft:
        if format == "csv":
            table.to_csv(draft, index=False)
        else:
            table.to_parquet(draft, index=False, engine="pyarrow")
    return file
