"""Lists in the terminal: within 80 columns, no name broken that fits, no name markup."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

from lawful.challenge import Result
from lawful.report.catalogue import chapters, listing, score_table

NAN = float("nan")


def printed(thing: RenderableType) -> list[str]:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(thing)
    return [line.rstrip() for line in console.export_text().splitlines()]


def test_chapters_share_their_columns() -> None:
    first = ("one", "A sentence.", [("a=1", "what a is", "a ∝ b"), ("b", "long " * 20)])
    lines = printed(chapters([first, ("two", "", [("a_name_of_some_length", "[bold]")])]))
    assert lines[:4] == ["one", "A sentence.", f"  {'a=1':21}  what a is", f"{'':25}a ∝ b"]
    assert lines[-2:] == ["two", "  a_name_of_some_length  [bold]"]
    assert max(map(len, lines)) <= 80


def test_the_longest_names_are_folded_and_none_is_lost() -> None:
    lines = printed(chapters([("one", "", [("x" * 50, "what it is")])]))
    assert "".join(lines).count("x") == 50
    assert printed(chapters([])) == []


def test_a_listing_wraps_its_last_column() -> None:
    lines = printed(listing([("name", "word " * 30), ("[red]", "b")]))
    assert lines[0].startswith("name   word word")
    assert lines[1].startswith("       word")
    assert lines[-1] == "[red]  b"


def test_a_theory_that_failed_says_why() -> None:
    results = [Result("mine", "case", (1.0,), (0.1,), (NAN,), NAN, "ValueError: [no]")]
    assert any("[no]" in line for line in printed(score_table("less is better", results)))
