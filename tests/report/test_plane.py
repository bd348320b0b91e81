"""The sentence beside the phase plane agrees with the theory's own classification."""

from __future__ import annotations

from pathlib import Path

import pytest

from lawful.record import Measurement, RunWriter, open_run
from lawful.report.plane import Reading, read_plane


def reading(folder: Path, **values: tuple[float, float]) -> Reading:
    """Write one step with the quantities given as (value, standard error), and read it."""
    with RunWriter.create(folder / "run", {"format": 1}) as writer:
        writer.write(9, [Measurement(9, "fc", k, *v) for k, v in values.items()])
    return read_plane(open_run(folder / "run"), "fc")


@pytest.mark.parametrize(
    ("p", "q", "stderr", "phase"),
    [(0.05, 2.1, 0.1, "forward CRH"), (2.0, 2.2, 0.1, "8"), (1.0, 1.0, 0.1, None),
     (0.05, 2.1, 0.9, None)],
)  # fmt: skip
def test_a_phase_is_named_only_within_its_interval(
    tmp_path: Path, p: float, q: float, stderr: float, phase: str | None
) -> None:
    found = reading(tmp_path, exponent_p=(p, stderr), exponent_q=(q, stderr))
    assert found.phase == phase
    assert ("Unassigned" in found.sentence) == (phase is None)


def test_a_flat_spectrum_names_no_phase(tmp_path: Path) -> None:
    found = reading(
        tmp_path, exponent_p=(0, 0.1), exponent_q=(2, 0.1), directions=(5, 0), decades=(0.4, 0)
    )
    assert found.phase is None
    assert "5 directions over 0.400 decades" in found.sentence
    assert "too flat" in found.sentence


def test_one_exponent_alone_is_no_point(tmp_path: Path) -> None:
    assert "No pair of exponents" in reading(tmp_path, exponent_p=(0, 0.1)).sentence


def test_directions_that_were_not_counted_leave_the_exponents(tmp_path: Path) -> None:
    found = reading(
        tmp_path,
        exponent_p=(0, 0.1), exponent_q=(2, 0.1), directions=(float("nan"), 0), decades=(2, 0),
    )  # fmt: skip
    assert found.phase == "forward CRH"
