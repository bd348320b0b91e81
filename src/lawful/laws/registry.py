"""The registry of laws: declared by a decorator here, by entry points elsewhere.

A third party adds laws without touching this package. In its pyproject.toml:

    [project.entry-points."lawful.laws"]
    mine = "mypackage.laws"          # a Law, a list of them, or a module that registers some

Plug-ins load on the first look-up. One that fails to load, or whose test raises, costs a
warning that names it and nothing else.
"""

from __future__ import annotations

import difflib
import fnmatch
import importlib.metadata
import math
import re
import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

from .law import Law
from .snapshot import Snapshot
from .verdict import Verdict

if TYPE_CHECKING:
    from ..record import Run

GROUP = "lawful.laws"

_LAWS: dict[str, Law] = {}
_PLUGIN: dict[str, str] = {}  # law name -> entry point that brought it
_seen: set[str] = set()  # entry points already tried


def register(law: Law) -> Law:
    """Add a law. A name is taken once, and no law is called like a family."""
    if law.name in _LAWS:
        raise ValueError(f"a law named {law.name!r} is already registered: choose another name")
    kin = {law.family, *(other.family for other in _LAWS.values())}
    if law.name in kin or law.family in _LAWS:
        word = law.name if law.name in kin else law.family
        raise ValueError(f"{word!r} would name both a law and a family: choose another name")
    _LAWS[law.name] = law
    return law


def declare(**fields: Any) -> Callable[[Callable[[Run, str], Verdict]], Law]:
    """Decorator: turn a test `(run, layer) -> Verdict` into a registered `Law`.

    The keywords are the fields of `Law` other than `test`.
    """
    return lambda test: register(Law(test=test, **fields))


def laws() -> dict[str, Law]:
    """Every law by name, family by family, those of installed plug-ins among them."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        if f"{entry.name} = {entry.value}" not in _seen:
            _seen.add(f"{entry.name} = {entry.value}")
            _load(entry)
    families = list(dict.fromkeys(law.family for law in _LAWS.values()))
    ordered = sorted(_LAWS.values(), key=lambda law: families.index(law.family))
    return {law.name: law for law in ordered}


def families() -> list[str]:
    """Names of the families, in order of registration."""
    return list(dict.fromkeys(law.family for law in laws().values()))


def select(spec: str | Iterable[str]) -> list[Law]:
    """The laws that a name, a family, a glob pattern or a list of those stands for.

    >>> [law.name for law in select("rga_*")]
    ['rga_a', 'rga_b']

    Raises `LookupError` naming what is unknown and the closest known names.
    """
    known = laws()
    chosen: dict[str, Law] = {}
    for word in [spec] if isinstance(spec, str) else spec:
        matched = {
            name: law
            for name, law in known.items()
            if law.family == word or fnmatch.fnmatchcase(name, word)
        }
        if not matched:
            raise LookupError(_unknown(word, [*known, *families()]))
        chosen |= matched
    return list(chosen.values())


def needs(spec: str | Iterable[str]) -> set[str]:
    """Quantities that must be recorded to test these laws."""
    return {name for law in select(spec) for name in law.needs}


def test(run: Run, laws: str | Iterable[str] | None = None) -> list[Verdict]:  # noqa: PT028
    """Test laws on a run, one verdict per law and layer.

    laws: as for `select`; None means those the run was observed for (all, if it names none).
    """
    chosen = _observed_for(run) if laws is None else select(laws)
    moment = cast("Run", Snapshot(run))
    return [verdict for law in chosen for verdict in _verdicts(law, moment)]


test.__test__ = False  # type: ignore[attr-defined]  # pytest would collect it by its name


def cite(source: Run | Iterable[Verdict]) -> str:
    """BibTeX of the laws, and of the estimators, behind a run's verdicts; each entry once."""
    verdicts = test(cast("Run", source)) if hasattr(source, "manifest") else source
    known = laws()
    behind = [known[name] for name in dict.fromkeys(v.law for v in verdicts) if name in known]
    text = "\n".join([law.bibtex for law in behind] + [law.estimators for law in behind])
    entries = (entry.strip() for entry in re.split(r"(?m)^(?=@)", text))
    return "\n\n".join(dict.fromkeys(entry for entry in entries if entry))


def _observed_for(run: Run) -> list[Law]:
    """The laws the manifest names; one that is no longer installed is passed over, aloud.

    A run that names none was observed for all of them, unless it is a simulation without layers.
    """
    chosen: dict[str, Law] = {}
    everything = ["*"] if "layers" in run.manifest else []
    for name in run.manifest.get("laws") or everything:
        try:
            chosen |= {law.name: law for law in select(name)}
        except LookupError as error:
            warnings.warn(f"the run was observed for {error}", stacklevel=3)
    return list(chosen.values())


def _verdicts(law: Law, run: Run) -> list[Verdict]:
    if law.name not in _PLUGIN:
        return [_verdict(law, run, layer) for layer in law.layers(run)]
    try:
        return law.verdicts(run)
    except Exception as error:
        plugin = f"law {law.name!r} of plug-in {_PLUGIN[law.name]!r}"
        warnings.warn(f"{plugin} failed and is skipped: {error!r}", stacklevel=3)
        return []


def _verdict(law: Law, run: Run, layer: str) -> Verdict:
    """What a law of the house says of a layer, also where the numbers on record cannot be."""
    try:
        return law.test(run, layer)
    except ArithmeticError as error:  # a width of 0, a rate of 1e308: nobody measured that
        sentence = f"{law.equation}: the record holds numbers that cannot be ({error})."
        step, nan = max(run.steps, default=0), math.nan
        return Verdict(law.name, layer, step, "undetermined", nan, (nan, nan), nan, nan, sentence)


def _load(entry: importlib.metadata.EntryPoint) -> None:
    before = set(_LAWS)
    try:
        found = entry.load()
        candidates = [found] if isinstance(found, Law) else _iterable(found)
        for candidate in candidates:
            if not isinstance(candidate, Law):
                raise TypeError(f"{candidate!r} is not a lawful.laws.Law")
            if _LAWS.get(candidate.name) is not candidate:
                register(candidate)
    except Exception as error:
        for name in set(_LAWS) - before:  # half a plug-in is none
            del _LAWS[name]
        warnings.warn(
            f"law plug-in {entry.name!r} ({entry.value}) could not be loaded and is skipped: "
            f"{error!r}",
            stacklevel=3,
        )
    _PLUGIN.update(dict.fromkeys(set(_LAWS) - before, entry.name))


def _iterable(found: Any) -> list[Any]:
    """A plain module has nothing to list: importing it registered its laws."""
    return list(found) if isinstance(found, list | tuple) else []


def _unknown(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(dict.fromkeys(known)), n=3)
    hint = f": did you mean {', '.join(near)}?" if near else "."
    return f"unknown law {word!r}{hint} (lawful.laws.laws() lists them, `lawful laws` too)"
