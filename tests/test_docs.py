"""The textbook follows the code: nothing without a page, nothing stale, no example that lies."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from lawful.cli import cli
from lawful.lab.experiment import experiments
from lawful.laws import laws
from lawful.record import VOCABULARY

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    """The fenced code blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_docs", DOCS / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_pages_follow_the_code(build: ModuleType) -> None:
    assert build.faults(DOCS) == [], "run `make docs`"


def test_a_missing_a_stale_and_a_left_over_page_are_found(
    build: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / "docs"
    for path, text in build.pages().items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    assert build.faults(folder) == []
    (folder / "quantities.md").unlink()
    (folder / "commands.md").write_text("old")
    (folder / "laws" / "flat_earth.md").write_text("gone")
    assert build.faults(folder) == [
        "quantities.md is missing",
        "commands.md is stale",
        "laws/flat_earth.md describes no law",
    ]


def test_every_law_has_a_page_with_an_example() -> None:
    for name in laws():
        page = DOCS / "laws" / f"{name}.md"
        assert page.is_file(), name
        assert f"lawful test RUN --law {name}" in page.read_text(encoding="utf-8")


def test_every_quantity_experiment_and_command_is_described() -> None:
    described = {
        "quantities.md": [f'<a id="{q}"></a>' for q in VOCABULARY],
        "experiments.md": [f"## `{e}`" for e in experiments()],
        "commands.md": [f"## `lawful {c}`" for c in cli.commands],
    }
    for page, marks in described.items():
        text = (DOCS / page).read_text(encoding="utf-8")
        assert [mark for mark in marks if mark not in text] == []


def test_the_readme_names_every_law_experiment_and_command(build: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    wanted = [build.law_row(law, "docs/laws/") for law in laws().values()]
    wanted += [f"| `{e.name}` | {e.statement} |" for e in experiments().values()]
    wanted += [f"lawful {command} " for command in cli.commands]
    assert [name for name in wanted if name not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), target
        if anchor:
            assert f'id="{anchor}"' in file.read_text(encoding="utf-8"), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rows_have_the_cells_of_their_head(page: Path) -> None:
    """A bar that is not escaped ends a cell, also between backquotes."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, *rows = [len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()]
        assert set(rows) == {head}, table


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_command_lines_are_accepted(page: Path) -> None:
    lines = [line for block in blocks(page, "bash") for line in block.splitlines()]
    for line in (line for line in lines if line.startswith("lawful ")):
        _, name, *arguments = shlex.split(line, comments=True)
        cli.commands[name].make_context(name, arguments)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_examples_are_python(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert {"demo", "test"} <= named <= targets | {"a"}


def test_the_example_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = [b for b in blocks(ROOT / "README.md", "python") if "lawful.observe(" in b]
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    said = capsys.readouterr().out
    assert "rga_b" in said
    assert any(status in said for status in ("holds", "violated", "undetermined", "out of regime"))


@pytest.mark.slow
def test_the_demo_gives_the_verdicts_of_the_readme(tmp_path: Path) -> None:
    """Same status and, to the last digit but one, the same effect."""
    out = str(tmp_path / "run")
    assert CliRunner().invoke(cli, ["run", "canonical-digits", "--out", out]).exit_code == 0
    result = CliRunner().invoke(cli, ["test", out, "--json"])
    found = {(v["law"], v["layer"]): v for v in json.loads(result.stdout)["verdicts"]}
    block = next(b for b in blocks(ROOT / "README.md", "text") if "null" in b)
    row = r"^  . (holds|violated|undetermined|out of regime) +(\w+) +([\d.]+) \["
    shown = [
        (law, *found)
        for law, rows in re.findall(r"^(\w+)\n((?:  .*\n)+)", block, re.MULTILINE)
        for found in re.findall(row, rows, re.MULTILINE)
    ]
    assert len(shown) == 4
    for law, status, layer, effect in shown:
        verdict = found[law, layer]
        assert verdict["status"] == status
        assert verdict["effect"] == pytest.approx(float(effect), abs=0.02)
