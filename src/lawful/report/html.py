"""One self-contained HTML file: every verdict, every figure, no network.

    Run + verdicts  →  payload (JSON) + template + style + script + plotly.js  →  one file

The page is rendered with autoescaping, the numbers travel as JSON with `<`, `>` and `&`
written as escapes, and a content security policy forbids the page to load anything at all:
a layer called `<script>` is text, and a report sent by mail calls nobody.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..laws import cite, laws
from ..record.errors import explained
from ..record.folder import written_for_user
from ..record.vocabulary import RELATIONS
from .knobs import knobs, trend_word
from .payload import payload, to_script
from .predictions import predictions
from .summary import coverage, facts, settings, tally, title
from .wording import MISSING, RELATION_MEANING, count, interval, layer_name, number, status

if TYPE_CHECKING:
    from ..laws.verdict import Verdict
    from ..record.run import Run

VARIANTS = (
    ("", "raw"),
    ("_centred", "centred"),
    ("_tracefree", "trace-free"),
    ("_plugin", "not debiased"),
)


_INDEX = r"(?:\{([^{}]+)\}|([a-zA-Z0-9]))(?![a-zA-Z0-9_])"
_LOW = re.compile(r"(?:(?<=‖)|(?<=(?<![A-Za-z0-9_.])[A-Za-zα-ωΑ-Ω]))_" + _INDEX)
_HIGH = re.compile(r"\^" + _INDEX)


def write_report(run: Run, verdicts: Iterable[Verdict], out: Path) -> Path:
    """Write the report of `run` to the file `out` and return its path.

    run:      an open run; it may still be running or hold nothing yet.
    verdicts: what `lawful.test(run)` returned.
    out:      the HTML file; its folder is made when it is missing.

    Raises ImportError with the command to run when plotly or jinja2 is not installed, and
    `RecordError` when the run cannot be read or the file not be written.
    """
    return written(render(run, list(verdicts)), Path(out))


def written(page: str, out: Path) -> Path:
    """Write a page, whole or not at all: a reader never opens half a report."""
    with explained(f"cannot write {out}"), written_for_user(out) as draft:
        draft.write_text(page, encoding="utf-8")
    return out


def render(run: Run, verdicts: Sequence[Verdict]) -> str:
    """The page as a string."""
    template = environment().from_string(asset("page.html.j2"))
    document = payload(run)
    return template.render(
        title=title(run),
        headline=_headline(verdicts),
        facts=facts(run),
        settings=settings(run),
        manifest=json.dumps(run.manifest, indent=2, ensure_ascii=False, default=str),
        coverage=coverage(run),
        events=run.events().to_dict("records"),
        verdicts=[_row(v) for v in verdicts],
        tally=[(status(s), n) for s, n in tally(verdicts)],
        glance=_glance(verdicts, run.layers),
        overview=_overview(run),
        pairs=predictions(run),
        knobs=knobs(run, verdicts),
        relations=[(r, RELATION_MEANING[r]) for r in RELATIONS],
        variants=VARIANTS,
        phases=document["phases"],
        layers=document["layers"],
        steps=run.steps,
        laws=_laws(verdicts),
        bibtex=cite(verdicts),
        missing=MISSING,
        css=asset("page.css"),
        script=asset("figures.js") + asset("page.js"),
        plotly=plotly_js(),
        data=to_script(document),
    )


def environment() -> Any:
    """How a page is rendered: everything escaped, a missing name an error."""
    jinja2 = _extra("jinja2")
    made = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.filters.update(
        number=number,
        interval=interval,
        trend=trend_word,
        layer_name=layer_name,
        formula=formula,
        breakable=breakable,
    )
    return made


def asset(name: str) -> str:
    """A style, a script or a template of this folder."""
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def plotly_js() -> str:
    """The script of plotly; ImportError with the command to run when it is not installed."""
    return str(_extra("plotly.offline").get_plotlyjs())


def formula(text: str) -> Any:
    """Escaped text with the indices and exponents of one-letter symbols set as such.

    Longer names are left alone: `cross_b` and a layer `fc_1` are no formulas.

    >>> str(formula("H_a < s_i^p where rga_b"))
    'H<sub>a</sub> &lt; s<sub>i</sub><sup>p</sup> where rga_b'
    """
    escaped = _extra("markupsafe").escape(text)
    return type(escaped)(_HIGH.sub(_set("sup"), _LOW.sub(_set("sub"), escaped)))


def breakable(name: str) -> Any:
    """Escaped module path that a narrow column may break after a dot.

    >>> str(breakable("blocks.0.<b>"))
    'blocks.<wbr>0.<wbr>&lt;b&gt;'
    """
    markup = _extra("markupsafe").Markup
    return markup(".<wbr>").join(name.split("."))


def _set(tag: str) -> Callable[[re.Match[str]], str]:
    return lambda match: f"<{tag}>{match[1] or match[2]}</{tag}>"


def _extra(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"the page needs {module.partition('.')[0]}, which is not installed: "
            "pip install 'lawful[report]'"
        ) from error


def _headline(verdicts: Sequence[Verdict]) -> str:
    """
    >>> _headline([])
    'No law was tested on this run.'
    """
    if not verdicts:
        return "No law was tested on this run."
    counts = dict(tally(verdicts))
    head = f"{counts['holds']:,} of {count(len(verdicts), 'claim')} hold"
    rest = [f"{n:,} {name}" for name, n in counts.items() if n and name != "holds"]
    return f"{head}; {', '.join(rest)}." if rest else f"{head}."


def _row(v: Verdict) -> dict[str, Any]:
    return {"verdict": v, "look": status(v.status)}


def _glance(verdicts: Sequence[Verdict], layers: Sequence[str]) -> dict[str, Any]:
    """Layers down, laws across: the one picture of where which law holds."""
    laws = list(dict.fromkeys(v.law for v in verdicts))
    seen = {v.layer for v in verdicts}
    rows = [name for name in ["", *layers] if name in seen]
    rows += [name for name in dict.fromkeys(v.layer for v in verdicts) if name not in rows]
    cells = {(v.layer, v.law): _row(v) for v in verdicts}
    return {
        "laws": laws,
        "rows": [(name, [cells.get((name, law)) for law in laws]) for name in rows],
    }


def _overview(run: Run) -> list[tuple[str, list[float | None]]]:
    """Last value of each relation in each layer that has one."""
    rows = []
    for layer in run.layers:
        found = [run.at(relation, layer) for relation in RELATIONS]
        if any(found):
            rows.append((layer, [None if m is None else m.value for m in found]))
    return rows


def _laws(verdicts: Sequence[Verdict]) -> list[Any]:
    """The laws behind the verdicts, in the order met; one no longer installed is left out."""
    registry = laws()
    names = dict.fromkeys(v.law for v in verdicts)
    return [registry[name] for name in names if name in registry]
