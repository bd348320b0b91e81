"""What the page is told: small JSON documents, each bounded whatever the run holds.

    /api/runs    every run that changed: title, status, steps, verdicts counted
    /api/run     one run: facts, settings, knobs, and the status of every law in every layer
    /api/layer   one layer: its verdicts in words, its place in the phase plane, its quantities
    /api/series  some of its curves after a step, thinned to `POINTS` points each

A layer or a quantity is asked for by name, and the name is a value in a query of the record, never
a part of a path.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..record import RELATIONS, quantity
from ..report.summary import facts, settings
from ..report.wording import RELATION_MEANING, interval, number, status
from .follow import Follower
from .wording import plain, short

if TYPE_CHECKING:
    from ..laws.verdict import Verdict

LAYERS = 1000
LAWS = 100
QUANTITIES = 300
CURVES = 32
POINTS = 400
"""Most layers, laws, quantities told, curves in an answer, and points of a curve in it."""

Query = dict[str, str]


def runs(follower: Follower, query: Query) -> dict[str, Any]:
    """Every run that changed since change number `after`."""
    epoch = query.get("epoch", "")
    return follower.since(int(query.get("after", "0")) if epoch == follower.epoch else 0)


def run(follower: Follower, query: Query) -> dict[str, Any]:
    """One run; `KeyError` when it is not followed."""
    found = follower.find(query["run"])
    if found.fault:
        return {"fault": found.fault}
    layers = found.run.layers
    laws = list(dict.fromkeys(v.law for v in found.verdicts))[:LAWS]
    seen = {(v.layer, v.law): v for v in found.verdicts}
    rows = list(dict.fromkeys(["", *layers, *(v.layer for v in found.verdicts)]))
    rows = [name for name in rows if any((name, law) in seen for law in laws)]
    return {
        "facts": [[short(a), short(b)] for a, b in facts(found.run)[:20]],
        "settings": [[short(a, 80), short(b, 200)] for a, b in settings(found.run)[:100]],
        "layers": [short(name, 200) for name in layers[:LAYERS]],
        "more": max(0, len(layers) - LAYERS),
        "laws": laws,
        "glance": [
            [short(name, 200), [_sign(seen.get((name, law))) for law in laws]]
            for name in rows[:LAYERS]
        ],
        "step": found.at,
        "note": found.note,
        "knobs": [
            [k.name, short(k.layer, 200), number(k.value), interval(k.bounds), k.advice, k.law]
            for k in found.knobs[:50]
        ],
    }


def layer(follower: Follower, query: Query) -> dict[str, Any]:
    """One layer of a run, "" being the run as a whole."""
    from ..report.plane import read_plane

    found = follower.find(query["run"])
    name = query.get("layer", "")
    about = [v for v in found.verdicts if v.layer == name]
    known = [q for q in found.run.measured(name)[:QUANTITIES] if _named(q)]
    return {
        "verdicts": [_told(v) for v in about[:LAWS]],
        "plane": asdict(read_plane(found.run, name)),
        "quantities": {q: quantity(q).meaning for q in known},
    }


def series(follower: Follower, query: Query) -> dict[str, Any]:
    """Curves `q` (names divided by commas) of a layer, after step `after`."""
    found = follower.find(query["run"])
    name, after = query.get("layer", ""), int(query.get("after", "-1"))
    wanted = [q for q in query.get("q", "").split(",")[:CURVES] if _named(q)]
    stepsets: dict[tuple[int, ...], int] = {}
    curves = {}
    for q in wanted:
        rows = found.run.since(after, q, name, POINTS)
        if rows:
            steps = tuple(row[0] for row in rows)
            place = stepsets.setdefault(steps, len(stepsets))
            errors = [plain(e) for _, _, e in rows]
            curves[q] = [place, [plain(v) for _, v, _ in rows], errors if any(errors) else None]
    return {"stepsets": list(stepsets), "series": curves}


def phases() -> list[dict[str, Any]]:
    """The phases of the plane, for the page."""
    from ..report.payload import phase
    from ..theory.master_theorem import PHASES

    return [phase(p) for p in PHASES]


def relations() -> list[tuple[str, str]]:
    """The six relations and what they say."""
    return [(r, RELATION_MEANING[r]) for r in RELATIONS]


def _sign(v: Verdict | None) -> list[str] | None:
    return None if v is None else [status(v.status).slug, status(v.status).sign]


def _told(v: Verdict) -> dict[str, Any]:
    look = status(v.status)
    return {
        "law": v.law,
        "look": [look.slug, look.sign, look.name],
        "effect": number(v.effect),
        "interval": interval(v.interval),
        "null": number(v.null),
        "initial": number(v.initial),
        "step": v.step,
        "sentence": short(v.sentence, 1000),
    }


def _named(name: str) -> bool:
    try:
        return not quantity(name).array
    except KeyError:
        return False
