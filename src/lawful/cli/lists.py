"""Commands that say what there is: laws, experiments, open questions."""

from __future__ import annotations

from itertools import groupby

import click

from .models import function_named
from .shell import Refused, a_seed, as_json, console, emit, refusals


@click.command()
@as_json
def laws(as_json: bool) -> None:
    """List the laws that can be tested, those of plug-ins included.

    \b
    Example:
      lawful laws
    """
    from ..laws import laws as registry
    from ..report.catalogue import chapters

    found = registry().values()
    if as_json:
        fields = ("name", "family", "statement", "equation", "source", "needs")
        emit({"laws": [{f: getattr(law, f) for f in fields} for law in found]})
        return
    families = groupby(found, key=lambda law: law.family)
    rows = {name: [(w.name, w.statement, w.equation) for w in some] for name, some in families}
    console().print(chapters([(name, "", some) for name, some in rows.items()]))


@click.command()
@as_json
def experiments(as_json: bool) -> None:
    """List the experiments that can be run, with their settings.

    \b
    Example:
      lawful experiments --json
    """
    from ..lab.experiment import experiments as registry
    from ..lab.experiment import spelled
    from ..report.catalogue import chapters

    found = [experiment.listed() for experiment in registry().values()]
    if as_json:
        emit({"experiments": found})
        return
    settings = [
        [(f"{s['name']}={spelled(s['default'])}", s["help"]) for s in e["settings"]] for e in found
    ]
    parts = [(e["name"], e["statement"], rows) for e, rows in zip(found, settings, strict=True)]
    console().print(chapters(parts))


@click.command("challenge")
@click.argument("name", required=False)
@click.option("--theory", metavar="MODULE:FUNCTION", help="Your own theory, beside the baseline.")
@a_seed
@as_json
def dare(name: str | None, theory: str | None, seed: int, as_json: bool) -> None:
    """Score theories on an open question.

    All predict first, then the world is run. Without NAME the open questions are listed. FUNCTION
    takes what the question tells of a case and returns what it wants; theories of installed
    packages (entry points `lawful.challenges`) compete too. Less is better.

    \b
    Example:
      lawful challenge exponent --theory mytheory:predict
    """
    from .. import challenge as room
    from ..report.catalogue import listing, score_table

    if name is None and theory is not None:
        raise Refused("--theory needs the NAME of the question it answers: lawful challenge NAME")
    if name is None:
        fields = ("name", "direction", "question", "told", "wanted", "scored")
        board = [{f: getattr(c, f) for f in fields} for c in room.challenges().values()]
        if as_json:
            emit({"challenges": board})
        else:
            rows = [(e["name"], f"{e['direction']}", e["question"]) for e in board]
            console().print(listing(rows))
        return
    with refusals(LookupError):
        chosen = room.challenge(name)
    rivals = room.entries(name)
    if theory is not None:
        rivals.append(room.Entry(name, theory, function_named(theory)))
    with refusals(FileNotFoundError):
        results = room.run(chosen, rivals, seed=seed)
    if as_json:
        emit({"challenge": name, "seed": seed, "results": [vars(r) for r in results]})
    else:
        console().print(score_table(chosen.scored, results))
