"""The terminal at 80 columns: nothing is wider, nothing is lost, no name is markup."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console, RenderableType
from synthetic_run import NAN, synthetic_run, verdicts

from lawful.laws.verdict import Verdict
from lawful.record import RELATIONS
from lawful.report import compare_table, show, verdict_table

LONG = "blocks.11.attention.qkv[q.head3]"


def printed(thing: RenderableType, width: int = 80) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(thing)
    return console.export_text()


@pytest.fixture
def console() -> Console:
    return Console(width=80, record=True, file=io.StringIO())


def test_show_prints_every_section_within_80_columns(tmp_path: Path, console: Console) -> None:
    run = synthetic_run(tmp_path / "r", ["fc1", LONG], [0, 100, 20_000])
    show(run, verdicts(["fc1", LONG]), console)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for part in ("canonical-digits", "MLP, 101,770 parameters", "weight decay 0.003", "20k",
                 *RELATIONS, "drift 0.12 [window]", "undetermined"):  # fmt: skip
        assert part in text
    # value ± error of rga_a, and below it its larger null
    assert ".95±.02" in text or ".96±.02" in text or ".94±.02" in text
    assert ".35" in text


def test_coverage_names_every_module_that_was_not_seen(tmp_path: Path, console: Console) -> None:
    unobserved = [{"name": "emb", "kind": "Embedding", "reason": "[bold] sparse", "parameters": 9}]
    run = synthetic_run(tmp_path / "r", ["fc"], [], unobserved=unobserved)
    show(run, [], console)
    text = console.export_text()
    assert "0 layers measured, 1 observed but never measured, 1 not observed" in text
    assert "Embedding: [bold] sparse" in text
    assert "was it ever called?" in text.replace("\n", " ")
    assert "No law was tested." in text


def test_an_unknown_coverage_is_said_to_be_unknown(tmp_path: Path, console: Console) -> None:
    run = synthetic_run(tmp_path / "r", ["fc"], [0], unobserved=...)
    show(run, [], console)
    assert "does not say which modules" in console.export_text().replace("\n", " ")


def test_the_verdict_table_counts_and_keeps_brackets() -> None:
    text = printed(verdict_table(verdicts([LONG], ["rga_b", "crh"])))
    assert "[0.870, 0.930]" in text
    assert "● 1 holds" in text
    assert LONG in text.replace("\n", "").replace(" ", "")


@pytest.mark.parametrize("name", ["qkv[q.0]", "qkv[k.0]", "odd[/b]"])
def test_the_map_of_verdicts_keeps_brackets(name: str) -> None:
    text = printed(verdict_table(verdicts([name], ["rga_b"])))
    head = text[: text.rindex("rga_b")].splitlines()[-1]  # over the last row that names the law
    assert head.split() == [name]


def test_verdicts_stand_under_their_law_with_the_numbers_on_one_line() -> None:
    text = printed(verdict_table(verdicts(["fc1", "fc2"], ["norm_stationarity", "rga_b"])))
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[0] == "norm_stationarity"
    assert lines[1] == "  ● holds          fc1  0.900 [0.870, 0.930] · null 0.300 · start 0.200"
    assert lines.index("rga_b") > 1


def test_a_verdict_without_a_number_is_its_sentence() -> None:
    nothing = Verdict("crh", "fc", 0, "undetermined", NAN, (NAN, NAN), NAN, NAN, "Too few samples.")
    assert "◐ undetermined   fc  Too few samples." in printed(verdict_table([nothing]))


def test_compare_puts_runs_side_by_side(tmp_path: Path) -> None:
    first = synthetic_run(tmp_path / "one", ["fc"], [0])
    second = synthetic_run(tmp_path / "two", ["fc"], [0])
    text = printed(compare_table([first, second], [verdicts(["fc"]), verdicts(["fc"])[1:]]))
    row = next(line for line in text.splitlines() if line.startswith("rga_a"))
    assert row.split() == ["rga_a", "fc", "●", "0.900", "–"]
    assert max(map(len, text.splitlines())) <= 80
    with pytest.raises(ValueError, match="one list of verdicts for each run"):
        compare_table([first], [])
