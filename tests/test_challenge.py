"""Challenges: theories predict before the world is run, failures score NaN, plug-ins compete."""

import json
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from lawful.challenge import Case, Challenge, Entry, challenge, challenges, entries, run
from lawful.challenge.challenge import distance, log_rmse
from lawful.challenge.similarity import calibrated, centred
from lawful.cli import cli


@pytest.fixture
def toy():
    """The answer is twice what is told; the order of events is kept."""
    events = []

    def measure():
        events.append("measured")
        return np.array([4.0]), np.array([0.1])

    def base(told):
        events.append("predicted")
        return told

    made = Challenge(
        "toy", 0, "?", "a number", "twice it", "rms", lambda seed: [Case("two", 2.0, measure)],
        distance, ("identity", base),
    )  # fmt: skip
    return made, events


def test_all_theories_speak_before_the_world_is_run(toy):
    made, events = toy
    mine = Entry("toy", "double", lambda told: events.append("mine") or [2 * told])
    baseline, own = run(made, [mine])
    assert events == ["predicted", "mine", "measured"]
    assert (baseline.score, own.score) == (2.0, 0.0)


def test_a_theory_that_fails_is_told_why(toy):
    made, _ = toy
    wrong = [
        Entry("toy", "raises", lambda t: 1 / 0), Entry("toy", "long", lambda t: [1, 2]),
        Entry("toy", "unknown", lambda t: math.nan),
    ]  # fmt: skip
    _, raised, long, unknown = run(made, wrong)
    assert "1 numbers that are not finite" in unknown.failure
    assert math.isnan(raised.score)
    assert "ZeroDivisionError" in raised.failure
    assert "returned 2 numbers, 1 are wanted" in long.failure


def test_a_theory_cannot_change_the_world():
    told = np.ones(2)
    world = Case("world", told, lambda: (told.copy(), np.zeros(2)))
    made = Challenge("toy", 0, "?", "", "", "", lambda seed: [world], distance, ("own", np.copy))

    def careless(x):
        x *= 2
        return x

    assert [r.score for r in run(made, [Entry("toy", "careless", careless)])] == [0.0, 1.0]


class Point:
    name, value = "mine", "mypackage:entry"

    def __init__(self, loaded):
        self.load = lambda: loaded


def test_plug_ins_bring_theories(monkeypatch):
    good = Entry("exponent", "mine", lambda told: 0.5)
    points = [Point(good), Point([Entry("similarity", "other", lambda told: 1)])]
    challenges()  # torch, too, looks for plug-ins as it is imported
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: points)
    assert entries("exponent") == [good]
    points.append(Point(Entry("exponents", "misspelt", lambda told: 1)))
    with pytest.warns(UserWarning, match="there is no challenge 'exponents'"):
        assert entries("exponent") == [good]
    points[2] = Point(["no entry"])
    with pytest.warns(UserWarning, match="'mine' .* is skipped"):
        assert entries("exponent") == [good]


def test_scores():
    assert log_rmse(np.array([1.0]), np.array([-1.0])) == math.inf
    assert log_rmse(np.array([1.0, 1.0]), np.array([math.e, math.e])) == pytest.approx(1)


def test_the_board():
    assert [c.direction for c in challenges().values()] == [1, 2, 5, 6, 7, 8, 10]
    with pytest.raises(KeyError, match="did you mean exponent"):
        challenge("exponents")


@pytest.mark.parametrize("name", ["loss-curve", "learning-curve", "exponent"])
def test_a_baseline_is_scored_and_comes_near(name):
    """These three have a theory with numbers: near in its best case, not in all."""
    found = run(challenge(name))
    assert all(not r.failure and math.isfinite(r.score) for r in found)
    assert (
        min(r.score for r in found)
        < {"loss-curve": 0.05, "learning-curve": 0.6, "exponent": 0.2}[name]
    )


@pytest.mark.parametrize(
    ("d1", "d2", "null"), [(50, 50, 0.200), (400, 400, 0.667), (100, 800, 0.516)]
)
def test_similarity_of_independent_samples_is_the_published_null(d1, d2, null):
    """Master table, law 14: CKA √(d₁d₂/((d₁+n)(d₂+n))) within .01; nothing after calibration."""
    n, seen, left = 200, [], []
    for seed in range(3):
        draw = torch.Generator().manual_seed(seed)
        h, g = (torch.randn(n, d, generator=draw, dtype=torch.float64) for d in (d1, d2))
        seen.append(float((centred(h) * centred(g)).sum()))
        left.append(calibrated(h, g, seed))
    assert np.sqrt(d1 * d2 / ((d1 + n) * (d2 + n))) == pytest.approx(null, abs=5e-4)
    assert np.mean(seen) == pytest.approx(null, abs=0.01)
    assert max(left) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("name", ["discretisation", "rate-drift", "sharpening", "similarity"])
def test_the_longer_ones_run(name):
    assert all(not r.failure and math.isfinite(r.score) for r in run(challenge(name)))


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_theory.py").write_text("def predict(told):\n    return 1.0\n")
    shown = CliRunner().invoke(cli, ["challenge"])
    assert shown.exit_code == 0
    assert "similarity" in shown.output
    board = json.loads(CliRunner().invoke(cli, ["challenge", "--json"]).stdout)
    assert len(board["challenges"]) == 7
    done = CliRunner().invoke(
        cli, ["challenge", "exponent", "--theory", "a_theory:predict", "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)["results"]
    assert {r["theory"] for r in found} == {"n^−min(b−1, 2a)", "a_theory:predict"}
    for wrong, why in (("math:pi", "is a float"), ("exponent", "not MODULE:FUNCTION")):
        refused = CliRunner().invoke(cli, ["challenge", "exponent", "--theory", wrong])
        assert refused.exit_code == 2
        assert why in refused.output
    refused = CliRunner().invoke(cli, ["challenge", "--theory", "math:sin"])
    assert "needs the NAME" in refused.output
    refused = CliRunner().invoke(cli, ["challenge", "exponents"])
    assert refused.exit_code == 2
    assert "did you mean exponent" in refused.output
