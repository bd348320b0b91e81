"""Small worlds: runs made of chosen numbers, so that a law must answer in a chosen way."""

import math
from dataclasses import dataclass, field

import pandas as pd
import pytest

from lawful import laws
from lawful.record.measurement import Measurement
from lawful.record.vocabulary import RELATIONS

SGD = {"class": "SGD", "groups": [{"lr": 0.1, "momentum": 0.0, "weight_decay": 3e-3}]}


@dataclass
class World:
    """A run in memory: what the laws read of a run, nothing else."""

    manifest: dict
    rows: list[Measurement] = field(default_factory=list)

    @property
    def layers(self):
        declared = [layer["name"] for layer in self.manifest["layers"]]
        return list(dict.fromkeys(declared + [m.layer for m in self.rows if m.layer]))

    def table(self, *, quantity=None, layer=None, step=None):
        columns = ["step", "layer", "quantity", "value", "stderr", "n"]
        rows = [
            [getattr(m, c) for c in columns]
            for m in self.rows
            if layer in (None, m.layer) and quantity in (None, m.quantity)
        ]
        return pd.DataFrame(rows, columns=columns)

    def array_steps(self, quantity, layer):
        return []

    def record(self, quantity, values, *, layer="fc", stderr=0.01, steps=(0, 1000), n=512):
        """Write values at steps (a single value: at all of them) and return the world."""
        values = [values] * len(steps) if isinstance(values, int | float) else values
        for step, value in zip(steps, values, strict=True):
            self.rows = [
                m for m in self.rows if (m.step, m.layer, m.quantity) != (step, layer, quantity)
            ]
            self.rows.append(Measurement(step, layer, quantity, value, stderr, n))
        return self

    def forget(self, *quantities, step=None):
        """Drop quantities, everywhere or at one step."""
        self.rows = [
            m for m in self.rows if m.quantity not in quantities or step not in (None, m.step)
        ]
        return self

    def verdict(self, law, layer="fc"):
        """The one verdict of a law on a layer."""
        (found,) = [v for v in laws.test(self, law) if v.layer == layer]
        return found


@pytest.fixture
def empty():
    """A trained layer 64 → 32, well sampled, of which nothing else was measured."""
    world = World({"layers": [{"name": "fc"}], "optimizer": SGD, "steps": 1000, "laws": []})
    for name, value in {
        "width_a": 64, "width_b": 32, "samples": 1024, "effective_samples": 900,
        "clusters": 512, "drift": 0.01,
    }.items():  # fmt: skip
        world.record(name, value, stderr=0.0)
    return world


@pytest.fixture
def aligned(empty):
    """All six relations formed: 0.15 at initialisation, 0.95 at the end, null 0.25."""
    for relation in RELATIONS:
        empty.record(relation, [0.15, 0.95])
        empty.record(relation + "_plugin", [0.20, 0.95], stderr=math.nan)
        empty.record(relation + "_haar", 0.20, stderr=math.nan)
        empty.record(relation + "_permutation", 0.25, stderr=math.nan)
    return empty
