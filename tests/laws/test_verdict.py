"""The form of a verdict."""

import json
import math

import pytest

from lawful.laws import STATUSES, Verdict


def test_json_has_no_nan():
    verdict = Verdict("crh", "", 0, "undetermined", math.nan, (math.nan, math.inf), 0.1, 0.2, "?")
    fields = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert list(fields) == [
        "law", "layer", "step", "status", "effect", "interval", "null", "initial", "sentence",
    ]  # fmt: skip
    assert fields["effect"] is None
    assert fields["interval"] == [None, None]
    assert fields["null"] == 0.1


def test_a_status_is_one_of_four():
    assert STATUSES == ("holds", "violated", "undetermined", "out of regime")
    with pytest.raises(ValueError, match="maybe"):
        Verdict("crh", "", 0, "maybe", 0, (0, 0), 0, 0, "?")
