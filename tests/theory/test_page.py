"""docs/theory.md names every public function of the modules that it describes, and no other."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[2] / "docs" / "theory.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("name", SECTIONS)
def test_section_lists_the_functions_of_its_module(name: str) -> None:
    module = importlib.import_module(f"lawful.theory.{name}")
    public = {
        function
        for function, value in inspect.getmembers(module, inspect.isfunction)
        if value.__module__ == module.__name__ and not function.startswith("_")
    }
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", SECTIONS[name], re.MULTILINE)
    assert {f for row in rows for f in re.findall(r"\w+", row)} == public


def test_the_modules_on_symmetry_are_described() -> None:
    assert len(SECTIONS) >= 10
