"""The report of a sweep: escaped, self-contained, small, and alive in a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from chromium import Browser, found
from rich.console import Console
from synthetic_run import NASTY, verdicts

from lawful.record.sweep import Sweep, SweepRun
from lawful.report.sweep import headline, render_sweep, sweep_table, write_sweep_report


@pytest.fixture
def sweep(tmp_path: Path) -> Sweep:
    values = {"a": (0.0, 0.5, 1.0), "name": ("x", NASTY), "c": (1, 2)}
    points = [
        {"a": a, "name": n, "c": c} for a in values["a"] for n in values["name"] for c in (1, 2)
    ]
    runs = [SweepRun(f"run-{i}", p, 0, "finished", 1) for i, p in enumerate(points)]
    runs[-1] = SweepRun("run-11", points[-1], 0, "failed", 2, f"ValueError: {NASTY}")
    return Sweep(tmp_path, NASTY, {"steps": NASTY}, values, (0,), tuple(runs))


def said(sweep: Sweep) -> dict:
    return {run.name: verdicts(["fc1", NASTY]) for run in sweep.runs if run.status == "finished"}


def test_names_are_text_everywhere(sweep: Sweep) -> None:
    page = render_sweep(sweep, said(sweep))
    assert NASTY not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert len(re.findall(r"<script", page)) == 2
    assert "default-src 'none'" in page
    assert not re.search(r"""\b(?:src|srcset)\s*=|@import|url\(|https?://(?!www\.w3\.org)""", page)


def test_values_that_differ_in_a_late_digit_are_told_apart(tmp_path: Path) -> None:
    values = (0.00100001, 0.00100002)
    runs = tuple(SweepRun(f"run-{v}", {"a": v}, 0, "finished", 1) for v in values)
    close = Sweep(tmp_path, "close", {}, {"a": values}, (0,), runs)
    axes = json.loads(re.search(r'id="data">(.*?)</script>', render_sweep(close, {}))[1])["axes"]
    assert axes == [["a", ["0.00100001", "0.00100002"]]]


def test_the_file_is_small_and_written_whole(sweep: Sweep) -> None:
    file = write_sweep_report(sweep, said(sweep), sweep.path / "new" / "report.html")
    assert file.stat().st_size < 300_000
    assert [p.name for p in file.parent.iterdir()] == ["report.html"]


def test_failures_are_told_in_the_page_and_in_the_terminal(sweep: Sweep) -> None:
    assert headline(sweep) == "11 of 12 runs finished; 1 failed."
    assert "started 2 times" in render_sweep(sweep, {})
    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as shown:
        console.print(sweep_table(sweep, said(sweep)))
    assert "ValueError" in shown.get()
    assert "a = 0.5" in shown.get()
    assert "1/1" in shown.get()


@pytest.mark.browser
@pytest.mark.skipif(found() is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1366, 390])
def test_the_diagrams_are_drawn_and_answer(sweep: Sweep, tmp_path: Path, width: int) -> None:
    file = write_sweep_report(sweep, said(sweep), tmp_path / "report.html")
    with Browser(tmp_path / "profile", width=width) as browser:
        browser.open(file.as_uri())
        browser.wait_for("document.documentElement.dataset.drawn")
        assert browser.ask("document.querySelectorAll('#large td').length") == 6
        assert browser.ask("document.querySelectorAll('#small button').length") == 16
        browser.ask("document.querySelectorAll('#small button')[3].click()")
        browser.ask("document.querySelectorAll('.of-axes select').forEach((s) => {"
                    "s.selectedIndex = 1; s.dispatchEvent(new Event('change')); })")  # fmt: skip
        assert browser.ask("document.documentElement.dataset.error") is None
        assert browser.ask("document.documentElement.scrollWidth - innerWidth") <= 0
