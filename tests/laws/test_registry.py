"""Selection, plug-ins and citations."""

import importlib.metadata
import math
from dataclasses import replace

import pytest

from lawful import laws
from lawful.laws import registry
from lawful.laws.snapshot import Snapshot
from lawful.record.vocabulary import RELATIONS, quantity

CANONICAL = {
    *RELATIONS, "crh", "redundancy", "pah_phase", "cross_term_a", "cross_term_b",
    "norm_stationarity", "fdt_a", "fdt_b", "compactness",
}  # fmt: skip


@pytest.fixture
def clean():
    """Forget the plug-ins that a test brought."""
    before = dict(registry._LAWS), dict(registry._PLUGIN), set(registry._seen)
    yield
    for current, old in zip((registry._LAWS, registry._PLUGIN), before, strict=False):
        current.clear()
        current.update(old)
    registry._seen.clear()
    registry._seen.update(before[2])


class Entry:
    """An entry point that loads what it is told to."""

    def __init__(self, name, load):
        self.name, self.value, self.load = name, f"package_of_{name}", load


def install(monkeypatch, *entries):
    def entry_points(*, group):
        return list(entries) if group == "lawful.laws" else []

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)


def own(name, test=None):
    """A third party's law."""

    def verdict(run, layer):
        return laws.Verdict(name, layer, 0, "holds", 1, (1, 1), math.nan, math.nan, "Yes.")

    return laws.Law(
        name=name, family="theirs", statement="Theirs.", equation="x = x", source="them",
        bibtex="@misc{them, year={2026}}", needs=("loss",), regime=lambda run, layer: (),
        predict=lambda run, layer: laws.Prediction(1.0, "one"), test=test or verdict,
    )  # fmt: skip


def test_families_hold_the_laws_of_the_house():
    assert {law.name for law in laws.select("canonical")} == CANONICAL
    assert [law.name for law in laws.select("collapse")] == ["nc1", "nc2", "nc3", "nc4"]
    assert {law.name for law in laws.select("feature_ansatz")} == {"nfa", "nfa_sqrt", "enfa"}
    assert {"canonical", "collapse", "feature_ansatz"} <= set(laws.families())


def test_select_by_name_glob_and_list():
    assert [law.name for law in laws.select("rga_b")] == ["rga_b"]
    assert [law.name for law in laws.select(["crh", "fdt_*", "crh"])] == ["crh", "fdt_b", "fdt_a"]
    assert len(laws.select("*")) == len(laws.laws())


def test_an_unknown_law_is_named_with_its_neighbours():
    with pytest.raises(LookupError, match=r"unknown law 'rga_c': did you mean .*rga_[ab]"):
        laws.select(["crh", "rga_c"])
    with pytest.raises(LookupError, match="canonical"):
        laws.select("canonicl")


@pytest.mark.parametrize("law", laws.laws().values(), ids=lambda law: law.name)
def test_every_law_says_what_it_is(law, aligned):
    assert law.statement.endswith(".")
    assert law.equation
    assert law.source
    assert law.bibtex.lstrip().startswith("@")
    assert all(quantity(name).name == name for name in law.needs)
    run = Snapshot(aligned)
    assert all(isinstance(c, laws.Condition) for c in law.regime(run, "fc"))
    assert law.predict(run, "fc").sentence


def test_needs_are_the_union():
    assert {"rga_b", "rga_b_permutation", "nc3"} <= laws.needs(["rga_b", "collapse"])
    assert "nc3" not in laws.needs("canonical")


@pytest.mark.parametrize("law", laws.laws())
def test_every_law_answers_a_run_that_holds_nothing(law, empty):
    """No measurement, no layer, no crash, no `holds`."""
    for world in (empty, type(empty)({"layers": []}), type(empty)({"layers": [{"name": "fc"}]})):
        for verdict in laws.test(world, law):
            assert verdict.status in ("undetermined", "out of regime")
            assert verdict.sentence.endswith(".")
            assert verdict.to_json()["effect"] is None


@pytest.mark.parametrize("law", laws.laws().values(), ids=lambda law: law.name)
def test_a_law_reads_no_more_than_it_asks_for(law, aligned):
    """Quantities outside `needs` that a verdict could hang on are an unmet promise."""
    asked = set()

    class Listening(type(aligned)):
        def series(self, quantity, layer):
            asked.add((quantity, layer))
            return Snapshot(aligned).series(quantity, layer)

        def at(self, quantity, layer, step=None):
            asked.add((quantity, layer))
            return Snapshot(aligned).at(quantity, layer, step)

    law.verdicts(Listening(aligned.manifest, aligned.rows))
    assert {quantity for quantity, layer in asked if layer} <= set(law.needs)


def test_the_default_is_what_the_run_was_observed_for(aligned):
    assert {v.law for v in laws.test(aligned)} >= CANONICAL
    aligned.manifest["laws"] = ["rga_b", "crh"]
    assert [v.law for v in laws.test(aligned)] == ["rga_b", "crh"]
    aligned.manifest["laws"] = ["rga_b", "gone"]
    with pytest.warns(UserWarning, match="unknown law 'gone'"):
        assert [v.law for v in laws.test(aligned)] == ["rga_b"]


def test_no_law_is_called_like_a_family(clean):
    for law in (own("canonical"), replace(own("mine"), family="rga_b"), own("theirs")):
        with pytest.raises(ValueError, match="both a law and a family"):
            laws.register(law)


def test_plugins_join_the_registry(monkeypatch, clean, aligned):
    install(monkeypatch, Entry("one", lambda: own("theirs_1")),
            Entry("two", lambda: [own("theirs_2"), own("theirs_3")]))  # fmt: skip
    assert [law.name for law in laws.select("theirs")] == ["theirs_1", "theirs_2", "theirs_3"]
    assert [v.status for v in laws.test(aligned, "theirs_*")] == ["holds"] * 3
    assert laws.cite(laws.test(aligned, "theirs_1")) == "@misc{them, year={2026}}"


def test_a_module_may_register_by_decorator(monkeypatch, clean):
    def module():
        fields = {k: getattr(own("x"), k) for k in ("statement", "equation", "source", "bibtex",
                  "needs", "regime", "predict")}  # fmt: skip
        laws.declare(name="declared", family="theirs", **fields)(own("x").test)
        return laws

    install(monkeypatch, Entry("module", module))
    assert "declared" in laws.laws()


def broken():
    raise ImportError("no module named theirs")


@pytest.mark.parametrize(
    "load",
    [broken, lambda: [own("fine"), 3], lambda: own("rga_b"), lambda: [own("fine"), broken()]],
)
def test_a_broken_plugin_is_named_and_skipped(monkeypatch, clean, load):
    install(monkeypatch, Entry("bad", load), Entry("good", lambda: own("good")))
    with pytest.warns(UserWarning, match="plug-in 'bad'"):
        known = laws.laws()
    assert "fine" not in known
    assert "good" in known
    assert known["rga_b"].family == "canonical"
    assert laws.laws().keys() == known.keys()  # told once


def test_a_plugin_whose_test_raises_is_named_and_skipped(monkeypatch, clean, aligned):
    def explode(run, layer):
        raise ZeroDivisionError

    install(monkeypatch, Entry("bad", lambda: own("explosive", explode)))
    with pytest.warns(UserWarning, match="'explosive' of plug-in 'bad'"):
        found = laws.test(aligned, ["rga_b", "explosive"])
    assert [v.law for v in found] == ["rga_b"]


def test_numbers_that_cannot_be_are_told_and_the_other_laws_are_tested(monkeypatch, aligned):
    broken = replace(laws.laws()["rga_b"], test=lambda run, layer: 1 / 0)
    monkeypatch.setitem(registry._LAWS, "rga_b", broken)
    monkeypatch.setattr(type(aligned), "steps", [0, 100], raising=False)
    first, second = laws.test(aligned, ["rga_b", "rga_a"])
    assert (first.law, first.status, second.law) == ("rga_b", "undetermined", "rga_a")
    assert "numbers that cannot be (division by zero)" in first.sentence


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="'crh' is already registered"):
        laws.register(laws.laws()["crh"])


def test_needs_outside_the_vocabulary_are_refused():
    fields = {k: getattr(own("x"), k) for k in own("x").__dataclass_fields__} | {
        "needs": ("rga_c",)
    }
    with pytest.raises(KeyError, match="rga_c"):
        laws.Law(**fields)


def test_citations_come_once_each(aligned):
    text = laws.cite(aligned)
    assert text.count("@inproceedings{ziyin2025formation") == 1
    assert text.count("@") == text.count("\n}") == text.count("year = ")
    for key in ("papyan2020prevalence", "radhakrishnan2024mechanism", "efron1982jackknife"):
        assert key in text
    assert "papyan" not in laws.cite(laws.test(aligned, "rga_b"))
