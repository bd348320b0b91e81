"""How fast is the record? 5,000 steps × 100 rows written, then the questions a report asks.

python benchmarks/record.py [STEPS]
"""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from lawful.record import RELATIONS, Measurement, Run, RunWriter, open_run

LAYERS = [f"block{i}" for i in range(16)]
PLACES = [(layer, name) for layer in LAYERS for name in (*RELATIONS, "samples")][:100]


def write(path: Path, steps: int) -> float:
    """Rows per second of a run of `steps` steps, closing it included."""
    start = perf_counter()
    with RunWriter.create(path, {}) as writer:
        for step in range(steps):
            writer.write(step, [Measurement(step, *place, 0.5, 0.01, 128) for place in PLACES])
    return steps * len(PLACES) / (perf_counter() - start)


def milliseconds(question: Callable[[], object], repeats: int = 20) -> float:
    """Median time of one question."""
    times = []
    for _ in range(repeats):
        start = perf_counter()
        question()
        times.append(1e3 * (perf_counter() - start))
    return sorted(times)[repeats // 2]


def questions(run: Run) -> dict[str, Callable[[], object]]:
    """What laws and reports ask of a run."""
    last = run.steps[-1]
    return {
        "open": lambda: open_run(run.path),
        "one number": lambda: run.at("rga_b", "block7"),
        "one curve": lambda: run.series("rga_b", "block7"),
        "one curve as a table": lambda: run.table(quantity="rga_b", layer="block7"),
        "one step": lambda: run.table(step=last),
    }


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        print(f"write {write(path, steps):12,.0f} rows/s")
        run = open_run(path)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        print(f"size  {size / (steps * len(PLACES)):12.1f} bytes/row")
        for name, question in questions(run).items():
            print(f"{name:22} {milliseconds(question):9.2f} ms")
        print(f"{'everything':22} {milliseconds(run.table, 1):9.2f} ms")


if __name__ == "__main__":
    main()
