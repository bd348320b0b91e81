"""A run that ended in NaN or infinity is not judged by what it was before."""

import math

import numpy as np
import pytest

from lawful import laws
from lawful.record.measurement import Measurement
from lawful.record.vocabulary import quantity

STEPS = range(0, 2001, 50)
# An identity of every measured window, whatever became of the run.
EVERY_WINDOW = {"radial_gradient"}


@pytest.mark.parametrize(("level", "end"), [(0.05, math.nan), (1.0, math.nan), (1.0, math.inf)])
@pytest.mark.parametrize("name", sorted(set(laws.laws()) - EVERY_WINDOW))
def test_nothing_is_claimed_of_a_run_that_diverged(empty, name, level, end):
    """All that the law needs near one level for most of the run, and not finite at the end."""
    empty.rows = []
    wobble = 1 + 0.1 * np.random.default_rng(0).normal(size=len(STEPS) - 3)
    values = [*(level * wobble), *[end] * 3]
    scalars = {q for q in laws.laws()[name].needs if not quantity(q).array}
    for layer in ("fc", ""):
        for one in scalars | {f"{q}_predicted" for q in scalars if "predicted" not in q}:
            rows = zip(STEPS, values, strict=True)
            empty.rows += [Measurement(k, layer, one, x, 0.1 * level, 99) for k, x in rows]
    assert {v.status for v in laws.test(empty, name)} <= {"undetermined", "out of regime"}
