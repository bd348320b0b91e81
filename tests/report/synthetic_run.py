"""Synthetic runs for the tests of the report: a training that never happened, written to disk.

Alignments rise from a common start as 1 − (1 − a₀)·exp(−t/τ) with a layer's own τ, exponents
walk from (1, 1) to (0, 2), and the correlation matrices gain blocks as training goes on.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from lawful.laws.verdict import Verdict
from lawful.record import RELATIONS, Measurement, Run, RunWriter, open_run

NASTY = "<script>alert(1)</script>"
NAN = math.nan


def manifest(layers: list[str], **more: Any) -> dict[str, Any]:
    """A manifest in the form that `observe` writes; a field given as `...` is left out."""
    linear = {"kind": "Linear", "d_a": 128, "d_b": 64, "bias": True, "block": "", "note": ""}
    fields = {
        "format": 1,
        "lawful": "0.1.0",
        "created": "2026-05-01T12:00:00+00:00",
        "seed": 0,
        "model": {"class": "MLP", "parameters": 101_770, "repr": "MLP()"},
        "optimizer": {
            "class": "SGD",
            "groups": [{"lr": 0.1, "momentum": 0.0, "weight_decay": 3e-3, "parameters": 8}],
        },
        "reduction": "mean",
        "schedule": "40 steps, evenly spaced in log step",
        "source": "probe",
        "laws": ["canonical"],
        "layers": [{"name": n} | linear for n in layers],
        "unobserved": [
            {"name": "norm", "kind": "LayerNorm", "reason": "not a linear map", "parameters": 256}
        ],
        "environment": {"python": "3.11.2", "torch": "2.13.0", "device": "cpu"},
        "experiment": {"name": "canonical-digits", "settings": {"width": 128, "depth": 4}},
        "status": "finished",
        "steps": 10_000,
    }
    return {k: v for k, v in (fields | more).items() if v is not ...}


def synthetic_run(
    path: Path,
    layers: list[str],
    steps: list[int] | None = None,
    *,
    arrays: bool = True,
    exponents: bool = True,
    holes: bool = False,
    **fields: Any,
) -> Run:
    """Write a run of `layers` to `path` and open it.

    arrays, exponents: leave them out when False.  holes: every third value is NaN.
    """
    if steps is None:
        steps = [0, *sorted({round(10 ** (4 * i / 30)) for i in range(31)})]
    rng = np.random.default_rng(0)
    with RunWriter.create(path, manifest(layers, **fields)) as writer:
        for i, step in enumerate(steps):
            rows = [
                Measurement(step, "", "loss", 2.3 * math.exp(-step / 2000) + 0.05, NAN, 1),
                Measurement(step, "", "accuracy", 0.98 - 0.88 * math.exp(-step / 900), NAN, 1),
            ]
            kept: dict[tuple[str, str], np.ndarray] = {}
            for j, layer in enumerate(layers):
                progress = 1 - math.exp(-step / (1500 / (1 + j)))
                decomposed = i in (0, len(steps) - 1) or i % 4 == 0
                rows += _scalars(rng, step, layer, progress, decomposed and exponents)
                if arrays and decomposed:
                    kept |= _arrays(rng, layer, progress)
            if holes:
                rows = [
                    Measurement(m.step, m.layer, m.quantity, NAN) if k % 3 == i % 3 else m
                    for k, m in enumerate(rows)
                ]
            writer.write(step, rows, kept)
        if steps:
            writer.event(steps[-1], layers[0] if layers else "", "warning", "drift 0.12 [window]")
    return open_run(path)


def verdicts(layers: list[str], laws: list[str] | None = None) -> list[Verdict]:
    """One verdict per law and layer, of every status in turn."""
    words = {
        "holds": "follows the relation, above every null.",
        "violated": "does not follow the relation: its interval lies below the threshold.",
        "undetermined": "cannot be called: 120 samples are too few for 128 neurons.",
        "out of regime": "is outside the law's regime: the weight decay is 0.",
    }
    found = []
    for k, law in enumerate(laws or [*RELATIONS, "crh", "pah_phase"]):
        for j, layer in enumerate(layers):
            status = list(words)[(k * k + j) % 4]
            effect = NAN if status == "out of regime" else 0.9 - 0.1 * ((k + j) % 5)
            bounds = (effect - 0.03, effect + 0.03)
            sentence = f"{layer}: {law} {words[status]}"
            found.append(Verdict(law, layer, 10_000, status, effect, bounds, 0.3, 0.2, sentence))
    return found


def _scalars(
    rng: np.random.Generator, step: int, layer: str, progress: float, fitted: bool
) -> list[Measurement]:
    rows = []
    for k, relation in enumerate(RELATIONS):
        value = 0.2 + (0.75 - 0.08 * k) * progress
        for suffix, shift in (
            ("", 0.0),
            ("_centred", 0.03),
            ("_tracefree", -0.1),
            ("_plugin", 0.02),
        ):
            noisy = value + shift + 0.01 * rng.standard_normal()
            rows.append(Measurement(step, layer, relation + suffix, noisy, 0.02, 512))
        rows.append(Measurement(step, layer, f"{relation}_haar", 0.3 - 0.1 * progress, NAN, 512))
        if fitted:
            rows.append(Measurement(step, layer, f"{relation}_permutation", 0.35, NAN, 512))
    for name, start, end in (
        ("participation_H_a", 40, 9), ("participation_H_b", 30, 8), ("participation_G_a", 20, 7),
        ("participation_G_b", 12, 7), ("participation_Z", 60, 8), ("weight_norm2", 80, 20),
    ):  # fmt: skip
        rows.append(Measurement(step, layer, name, start + (end - start) * progress, 0.3, 512))
    for name, exact in (("width_a", 128), ("width_b", 64), ("samples", 2048),
                        ("effective_samples", 2048), ("required_samples", 512)):  # fmt: skip
        rows.append(Measurement(step, layer, name, exact, 0, 2048))
    if fitted:
        for name, start, end in (
            ("exponent_p", 1.0, 0.05), ("exponent_q", 1.0, 2.1), ("directions", 20, 20),
            ("decades", 2, 2), ("rank_W", 64, 9), ("rank_H_b", 64, 12),
            ("entropy_rank_H_b", 42, 9), ("entropy_rank_Z", 50, 9),
        ):  # fmt: skip
            rows.append(Measurement(step, layer, name, start + (end - start) * progress, 0.12, 512))
    return rows


def _arrays(
    rng: np.random.Generator, layer: str, progress: float
) -> dict[tuple[str, str], np.ndarray]:
    blocks = np.kron(np.eye(4), np.ones((8, 8)))
    sign = np.outer(*(2 * (np.arange(32) % 3 > 0) - 1,) * 2)
    view = []
    for _ in range(6):
        noise = rng.standard_normal((32, 64)) / 8
        matrix = (1 - progress) * noise @ noise.T + progress * blocks * sign * 0.8
        scale = np.sqrt(np.diag(matrix))
        view.append(matrix / np.outer(scale, scale))
    s = np.sort(rng.lognormal(0, 1.2, 64))[::-1]
    p, q = 1 - 0.95 * progress, 1 + 1.1 * progress
    spread = np.exp(0.3 * rng.standard_normal((2, 64)))
    curves = {
        "singular_values": s,
        "power_H_a": s**p * spread[0],
        "power_G_b": s**q * spread[1],
    }
    for k, name in enumerate(("spectrum_H_a", "spectrum_G_a", "spectrum_H_b", "spectrum_G_b")):
        size = 128 if name.endswith("a") else 64
        curves[name] = np.arange(1, size + 1.0) ** -(0.5 + 0.3 * k + 2 * progress)
    curves["view"] = np.stack(view)
    return {(layer, name): a.astype(np.float32) for name, a in curves.items()}
