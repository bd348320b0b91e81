"""Write the pages of the textbook that follow from the code: laws, quantities, estimators, …

    python docs/build.py            write them
    python docs/build.py --check    say which are missing, stale or left over, and fail if any is

`pages()` is a pure function from the package to {path: text}; the rest compares it with the disk.
The page on instruments is written by hand.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from lawful import estimators, forecast, instruments, theory
from lawful.cli import cli
from lawful.cli import main as command
from lawful.lab.experiment import Band, Experiment, experiments, spelled
from lawful.laws import laws
from lawful.laws.law import Law
from lawful.record import RELATIONS, VOCABULARY, quantity
from lawful.record.vocabulary import PREDICTED

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
GENERATED = "<!-- Written by docs/build.py: change the code, then run `make docs`. -->"


def pages() -> dict[str, str]:
    """Every generated page: path relative to docs/ -> Markdown."""
    own = {name: law for name, law in laws().items() if _ours(law)}
    found = {
        "laws/README.md": law_index(own.values()),
        "quantities.md": quantity_page(own.values()),
        "estimators.md": room_page(estimators, "Estimators", "Pure functions on tensors"),
        "theory_reference.md": room_page(theory, "Theory, file by file", "Numbers in, numbers out"),
        "instruments_reference.md": room_page(
            instruments, "Instruments, file by file", "What attaches to a live model"
        ),
        "forecasts.md": room_page(forecast, "Forecasts", "What `lawful predict` says, by theory"),
        "experiments.md": experiment_page(experiments().values()),
        "commands.md": command_page(),
    }
    found |= {f"laws/{name}.md": law_page(law) for name, law in own.items()}
    written = {path: f"{GENERATED}\n\n{text.strip()}\n" for path, text in found.items()}
    return written | {"../README.md": readme(README.read_text(encoding="utf-8"), own.values())}


def readme(text: str, all_laws: Iterable[Law]) -> str:
    """The README with its two tables brought up to date; the rest of it is written by hand."""
    tables = {
        "laws": ["| law | statement | equation |", "|---|---|---|"]
        + [law_row(law, "docs/laws/") for law in all_laws],
        "experiments": ["| experiment | what it shows |", "|---|---|"]
        + [f"| `{e.name}` | {e.statement} |" for e in experiments().values()],
    }
    for name, lines in tables.items():
        marks = rf"(<!-- {name}: [^>]*-->\n).*?(<!-- end -->)"
        body = "".join(line + "\n" for line in lines)
        text = re.sub(marks, lambda m, body=body: m[1] + body + m[2], text, flags=re.DOTALL)
    return text


def law_page(law: Law) -> str:
    """Statement, equation, the page's reasoning, what must be measured, and how to ask."""
    needs = "\n".join(f"| {_link(q)} | {_cell(quantity(q).meaning)} |" for q in law.needs)
    return f"""\
# `{law.name}`

{law.statement}

```text
{law.equation}
```

Source: {law.source}. Family: [`{law.family}`](README.md).

## What decides

{_prose(inspect.getmodule(law.test))}

{_effect(law)}## What must be measured

| quantity | meaning |
|---|---|
{needs}

## Ask a run

```bash
lawful test RUN --law {law.name}
```

```python
import lawful

for verdict in lawful.test(lawful.open_run("RUN"), laws="{law.name}"):
    print(verdict.layer, verdict.status, verdict.sentence)
```

## Cite

```bibtex
{law.bibtex.strip()}
```
"""


def law_index(all_laws: Iterable[Law]) -> str:
    """One line a law."""
    rows = "\n".join(map(law_row, all_laws))
    return f"""\
# Laws

`observe(laws=…)` and `lawful test --law …` take a name, a family, a glob pattern or several.

| law | statement | equation |
|---|---|---|
{rows}
"""


def law_row(law: Law, folder: str = "") -> str:
    """One line of a table of laws; the README has the same, from its own folder."""
    link = f"[`{law.name}`]({folder}{law.name}.md)"
    equation = law.equation.replace("|", "\\|")  # a bar ends a cell, also between backquotes
    return f"| {link} | {_cell(law.statement)} | `{equation}` |"


def quantity_page(all_laws: Iterable[Law]) -> str:
    """The closed vocabulary: meaning, unit, and the laws that read it."""
    readers: dict[str, list[str]] = {}
    for law in all_laws:
        for name in law.needs:
            readers.setdefault(name, []).append(f"[`{law.name}`](laws/{law.name}.md)")
    scalars = [q for q in VOCABULARY.values() if not q.array]
    arrays = [q for q in VOCABULARY.values() if q.array]

    def rows(quantities: Iterable[Any]) -> str:
        return "\n".join(
            f'| <a id="{q.name}"></a>`{q.name}` | {_cell(q.meaning)} | {q.unit} '
            f"| {', '.join(readers.get(q.name, [])) or '–'} |"
            for q in quantities
        )

    head = "| quantity | meaning | unit | read by |\n|---|---|---|---|"
    return f"""\
# Quantities

The vocabulary is closed: a run holds these names and no others. For a linear map h_b = W h_a
with per-sample loss ℓ: H_c = E[h_c h_cᵀ], G_c = E[g_c g_cᵀ] with g_c = ∂ℓ/∂h_c through this
layer only, Z_a = WᵀW, Z_b = W Wᵀ. Side a is the input side of W, side b its output side. The
unit `1` is a pure number.

```python
import lawful

lawful.VOCABULARY["{RELATIONS[3]}"].meaning
run = lawful.open_run("RUN")
run.table(quantity="{RELATIONS[3]}", layer="fc2")  # step, layer, quantity, value, stderr, n
run.array("singular_values", layer="fc2")
```

## Numbers

{head}
{rows(scalars)}

## Arrays

{head}
{rows(arrays)}
"""


def experiment_page(all_experiments: Iterable[Experiment]) -> str:
    """Every experiment: what it shows, its settings, and the numbers expected of it."""
    return "# Experiments\n\n" + "\n".join(_experiment(e) for e in all_experiments)


def _experiment(experiment: Experiment) -> str:
    settings = "\n".join(
        f"| `{f.name}` | `{spelled(f.default)}` | {_cell(f.metadata['help'])} |"
        for f in fields(experiment.settings)
    )
    scales = "".join(
        f"\n`scale={scale}` sets {', '.join(f'`{k}={spelled(v)}`' for k, v in changes.items())}.\n"
        for scale, changes in experiment.scales.items()
    )
    sweep = (
        f"\n`{experiment.sweep}` may hold several values; each is a run of its own.\n"
        if experiment.sweep
        else ""
    )
    return f"""\
## `{experiment.name}`

{experiment.statement}

{_prose(inspect.getmodule(experiment.train), skip_first=True)}

```bash
lawful run {experiment.name} --out runs/{experiment.name}
```

| setting | default | meaning |
|---|---|---|
{settings}
{scales}{sweep}
{_bands(experiment.bands)}
"""


def _bands(bands: Iterable[Band]) -> str:
    rows = "\n".join(
        f"| {_cell(b.name)} | {_cell(', '.join(f'{k}={spelled(v)}' for k, v in b.when.items()))} "
        f"| {b.low:g} … {b.high:g} |"
        for b in bands
    )
    if not rows:
        return ""
    head = "| expected number | when | band |\n|---|---|---|"
    return f"`make test-all` checks:\n\n{head}\n{rows}\n"


def room_page(room: ModuleType, title: str, sentence: str) -> str:
    """Every file of a room: its reasoning and its public functions."""
    names = sorted(m.name for m in pkgutil.iter_modules(room.__path__))
    modules = [importlib.import_module(f"{room.__name__}.{name}") for name in names]
    return f"# {title}\n\n{sentence}, in `{room.__name__}`.\n\n" + "\n".join(
        f"## `{module.__name__.rpartition('.')[2]}`\n\n{_prose(module)}\n\n{_members(module)}\n"
        for module in modules
    )


def _members(module: ModuleType) -> str:
    """Public functions and classes with the first sentence of their docstring."""
    rows = "\n".join(
        f"| `{name}` | {_cell(_first(thing))} |"
        for name, thing in vars(module).items()
        if callable(thing)
        and not name.startswith("_")
        and getattr(thing, "__module__", "") == module.__name__
    )
    return f"| name | what it gives |\n|---|---|\n{rows}"


def _first(thing: Any) -> str:
    """First paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())


def command_page() -> str:
    """Every command's own help."""
    shown = "\n".join(
        f"## `lawful {name}`\n\n```text\n{_help(one, name)}\n```\n"
        for name, one in cli.commands.items()
    )
    codes = _paragraph(inspect.getmodule(command), "Exit codes:")
    return f"# Commands\n\n```text\n{_help(cli, '')}\n```\n\n{codes}\n\n{shown}"


def _help(one: click.Command, name: str) -> str:
    context = click.Context(cli, info_name="lawful", terminal_width=88, **cli.context_settings)
    if name:
        context = click.Context(one, info_name=name, parent=context, terminal_width=88)
    return one.get_help(context)


def _ours(law: Law) -> bool:
    module = inspect.getmodule(law.test)
    return module is not None and module.__name__.startswith("lawful.")


def _effect(law: Law) -> str:
    """What effect, null and initial are, where the test's docstring says so."""
    text = getattr(law.test, "__doc__", None)
    return f"## The number in the verdict\n\n{inspect.cleandoc(text)}\n\n" if text else ""


def _prose(module: ModuleType | None, *, skip_first: bool = False) -> str:
    """A module docstring as Markdown: indented blocks are formulas and become code."""
    parts = re.split(r"\n\s*\n", inspect.cleandoc((module and module.__doc__) or ""))
    parts = parts[1:] if skip_first else parts
    return "\n\n".join(
        f"```text\n{inspect.cleandoc(part)}\n```"
        if part.startswith("    ")
        else part.replace("](", "]\\(")  # E[ΔC](λ) is no link
        for part in parts
    )


def _paragraph(module: ModuleType | None, start: str) -> str:
    parts = re.split(r"\n\s*\n", inspect.cleandoc((module and module.__doc__) or ""))
    return next(part for part in parts if part.startswith(start))


def _link(name: str, up: str = "../") -> str:
    return f"[`{name}`]({up}quantities.md#{name.removesuffix(PREDICTED)})"


def _cell(text: str) -> str:
    """Text that a table cell can hold: ‖ is no bar, | is; and E[ΔC](λ) is no link."""
    return text.replace("|", "\\|").replace("](", "]\\(")


def faults(folder: Path = HERE) -> list[str]:
    """Pages that are missing, differ from the code, or describe a law that is gone."""
    wanted = pages()
    found = []
    for path, text in wanted.items():
        file = folder / path
        if not file.is_file():
            found.append(f"{path} is missing")
        elif file.read_text(encoding="utf-8") != text:
            found.append(f"{path} is stale")
    extra = {f"laws/{file.name}" for file in (folder / "laws").glob("*.md")} - set(wanted)
    return found + [f"{path} describes no law" for path in sorted(extra)]


def main() -> None:
    if "--check" in sys.argv[1:]:
        found = faults()
        print("\n".join(found) or "docs follow the code")
        sys.exit(bool(found))
    for path, text in pages().items():
        file = HERE / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    for fault in faults():
        (HERE / fault.split()[0]).unlink()
    print(f"{len(pages())} pages")


if __name__ == "__main__":
    main()
