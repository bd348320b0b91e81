"""An experiment: a world, its knobs, and the numbers it is expected to show.

    settings → run → record;   band:  low ≤ read(record) ≤ high

A band guards against change; it is a prediction only where the experiment's file names a source
for it. The others were set from trial runs, and the file says so. An experiment may sweep one
setting: it then leaves one run a value, each a complete run of its own.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import torch

from ..record import RELATIONS, Run, open_run
from .job import Job


@dataclass(frozen=True)
class Band:
    """One expected number.

    name:      what is read, in words.
    low, high: the band, both ends inside.
    read:      Run -> number; NaN lies in no band.
    when:      the settings a run must have been made with for the band to speak of it.
    """

    name: str
    low: float
    high: float
    read: Callable[[Run], float]
    when: Mapping[str, Any] = field(default_factory=dict)

    def applies(self, run: Run) -> bool:
        """Whether the run was made with the settings that the band speaks of."""
        made_with = run.manifest.get("experiment", {}).get("settings", {})
        return all(made_with.get(key) == value for key, value in self.when.items())

    def holds(self, run: Run) -> bool:
        """Whether the number of this run lies in the band."""
        return self.low <= self.read(run) <= self.high


def _least(default: Any) -> float:
    """The least value a setting takes, by its default: counts stay counts, sizes stay sizes.

    >>> _least(16), _least(0), _least(0.1), _least((-3.0, 2.0)), _least("auto")
    (1, 0, 0, -inf, -inf)
    """
    numbers = default if isinstance(default, tuple) else (default,)
    if isinstance(numbers[0], bool | str) or min(numbers) < 0:
        return -math.inf
    return 1 if isinstance(numbers[0], int) and min(numbers) >= 1 else 0


def setting(
    default: Any, help: str, choices: tuple[Any, ...] = (), *, least: float | None = None
) -> Any:
    """A field of a settings class: its default, one sentence, its choices if few, its least value.

    least: left out, the default tells (`_least`).
    """
    if least is None:
        least = _least(default)
    return field(default=default, metadata={"help": help, "choices": choices, "least": least})


@dataclass(frozen=True)
class Settings:
    """What every experiment can be told."""

    scale: str = setting("small", "small: a CPU and minutes; paper: a GPU.", ("small", "paper"))
    device: str = setting("auto", "Where to compute; auto takes a GPU when there is one.")
    measurements: int = setting(30, "Measurements, evenly spaced in log step.", least=2)


@dataclass(frozen=True)
class Experiment:
    """One experiment of the lab.

    name:      as on the command line.
    statement: one sentence: what it shows.
    settings:  a frozen dataclass deriving from `Settings`, all fields made by `setting`.
    train:     (settings, job) -> Run: one run.
    bands:     the expected numbers, at the default settings unless a band says otherwise.
    sweep:     the setting that may hold several values, or the empty string.
    scales:    the defaults that another `scale` replaces.
    """

    name: str
    statement: str
    settings: type[Settings]
    train: Callable[[Any, Job], Run]
    bands: tuple[Band, ...]
    sweep: str = ""
    scales: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def configure(self, pairs: Iterable[str] = ()) -> Any:
        """Settings from `key=value` strings; `scale` first, whatever its place.

        Raises `ValueError` naming the key and the valid keys, or the value and its type.
        """
        given = dict(parse(self.settings, pair) for pair in pairs)
        scale = given.get("scale", self.settings.scale)
        return self.settings(**{**self.scales.get(scale, {}), **given})

    def plan(self, settings: Any, out: Path) -> dict[Path, Any]:
        """Which runs these settings make: folder -> settings of that one run."""
        if not self.sweep:
            return {out: settings}
        values = getattr(settings, self.sweep)
        if len(values) == 1:
            return {out: settings}
        return {
            out / f"{self.sweep}-{spelled(value)}": replace(settings, **{self.sweep: (value,)})
            for value in values
        }

    def run(
        self,
        settings: Any,
        out: str | Path,
        seed: int = 0,
        *,
        progress: bool = True,
        resume: bool = False,
    ) -> Run:
        """Make every run of the plan; returns the last one.

        resume: finished runs are left as they are and interrupted ones go on.

        Raises `KeyboardInterrupt` at Ctrl-C, after the run in hand has been saved, and
        `ValueError` when a run to resume was made with other settings or another seed.
        """
        for folder, single in self.plan(settings, Path(out)).items():
            if resume and (folder / "manifest.json").exists():
                run = open_run(folder)
                _same(run, self.describe(single), seed)
                if run.manifest.get("status") == "finished":
                    continue
            job = Job(folder, seed, progress, resume, self.describe(single))
            run = self.train(single, job)
        return run

    def listed(self) -> dict[str, Any]:
        """Name, statement and every setting, with its default, its sentence and its choices."""
        return {
            "name": self.name,
            "statement": self.statement,
            "sweep": self.sweep,
            "settings": [
                {"name": f.name, "default": f.default, **f.metadata} for f in fields(self.settings)
            ],
        }

    def describe(self, settings: Any) -> dict[str, Any]:
        """The `experiment` entry of the manifest; the swept setting as the one value it has."""
        values = asdict(settings)
        if self.sweep:
            (values[self.sweep],) = values[self.sweep]
        return {"name": self.name, "settings": values}

    def check(self, run: Run) -> list[tuple[Band, float, bool]]:
        """Each band that speaks of this run, its number and whether it holds."""
        return [(b, b.read(run), b.holds(run)) for b in self.bands if b.applies(run)]


EXPERIMENTS = (
    "canonical_digits",
    "canonical_decay",
    "canonical_width",
    "canonical_conv",
    "canonical_gpt",
    "canonical_ssl",
    "mirror_transition",
    "neuron_merging",
    "tanh_same_features",
    "ssl_collapse",
    "posterior_collapse",
    "noise_equilibrium",
    "deep_linear_equilibrium",
    "neuron_noise",
    "warmup",
    "scale_invariance",
    "spred_lasso",
    "syre",
    "edge_of_stability",
    "central_flow",
    "critical_batch",
    "linear_scaling",
    "entropic_force",
    "gradient_balance",
    "sharpen_or_flatten",
    "platonic_linear",
    "hebbian",
    "deep_linear_modes",
    "kernel_generalization",
    "lazy_rich",
    "wide_limit",
    "double_descent",
    "a_priori_exponent",
    "scaling_law",
    "mup_transfer",
    "grokking",
    "mode_connectivity",
)
"""The modules of `experiments/`, in the order they are listed."""


def experiments() -> dict[str, Experiment]:
    """All experiments by name."""
    modules = (import_module(f"{__package__}.experiments.{e}") for e in EXPERIMENTS)
    return {m.experiment.name: m.experiment for m in modules}


def experiment(name: str) -> Experiment:
    """One experiment; raises `KeyError` naming those there are."""
    known = experiments()
    if name not in known:
        raise KeyError(f"unknown experiment {name!r}{_near(name, known)}")
    return known[name]


def parse(settings: type[Settings], pair: str) -> tuple[str, Any]:
    """One `key=value` as (key, typed value).

    >>> parse(Settings, "measurements=12")
    ('measurements', 12)
    >>> parse(Settings, "measurement=12")
    Traceback (most recent call last):
    ValueError: unknown setting 'measurement': did you mean measurements? Valid: scale, device, ...
    """
    key, equals, text = pair.partition("=")
    known = {f.name: f for f in fields(settings)}
    if not equals:
        raise ValueError(f"{pair!r} is not of the form key=value. Valid: {', '.join(known)}")
    if key not in known:
        raise ValueError(f"unknown setting {key!r}{_near(key, known)}")
    kind = get_type_hints(settings)[key]
    try:
        value = _convert(text, kind)
    except ValueError as cause:
        shown = {int: "a whole number", float: "a number", bool: "true or false"}
        wanted = shown.get(kind, "numbers divided by commas")
        raise ValueError(f"setting {key}={text!r}: {wanted} is needed") from cause
    choices = known[key].metadata["choices"]
    if choices and value not in choices:
        raise ValueError(f"setting {key}={text!r}: use one of {', '.join(map(str, choices))}")
    fault = _out_of_range(value, known[key].metadata["least"])
    if fault:
        raise ValueError(f"setting {key}={text!r}: {fault}")
    return key, value


def spelled(value: Any) -> str:
    """A setting's value as it is typed after `key=`, and as it stands in the name of a folder.

    >>> spelled((0.0, 0.001)), spelled(1 / 3), spelled(True), spelled("tanh")
    ('0,0.001', '0.3333333333333333', 'true', 'tanh')
    """
    if isinstance(value, tuple):
        return ",".join(map(spelled, value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)


def on(device: str) -> torch.device:
    """The device a setting names; `auto` is the GPU when there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=device).device
    except (RuntimeError, AssertionError) as cause:
        first = str(cause).splitlines()[0]
        raise ValueError(f"device={device!r} cannot be used ({first}); try cpu or auto") from cause


def last(quantity: str, layer: str, run: Run) -> float:
    """The last finite value of a quantity, NaN when it was never measured.

    The run comes last so that `partial(last, "rga_b", "fc4")` is what a band reads.
    """
    measured = run.at(quantity, layer)
    return math.nan if measured is None else measured.value


def first(quantity: str, layer: str, run: Run) -> float:
    """The value at initialisation, NaN when it was not measured."""
    measured = run.first(quantity, layer)
    return math.nan if measured is None else measured.value


def weakest(layer: str) -> Callable[[Run], float]:
    """The smallest of the six alignments of a layer, last measured."""
    return lambda run: min(last(relation, layer, run) for relation in RELATIONS)


def _convert(text: str, kind: Any) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if kind == tuple[float, ...]:
        return tuple(float(part) for part in text.split(","))
    if kind == tuple[int, ...]:
        return tuple(int(part) for part in text.split(","))
    return kind(text)


def _out_of_range(value: Any, least: float) -> str:
    """What is wrong with a number, or one of several; empty when nothing is."""
    numbers = value if isinstance(value, tuple) else (value,)
    if isinstance(numbers[0], str) or all(math.isfinite(n) and n >= least for n in numbers):
        return ""
    kind = "whole" if isinstance(numbers[0], int) else "finite"
    return f"a {kind} number{f' ≥ {least}' if math.isfinite(least) else ''} is needed"


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=2)
    hint = f": did you mean {' or '.join(close)}?" if close else "."
    return f"{hint} Valid: {', '.join(known)}"


def _same(run: Run, described: dict[str, Any], seed: int) -> None:
    """Refuse to go on with a run that was made in another way."""
    before = {**run.manifest.get("experiment", {}).get("settings", {})}
    # Through JSON and back, as the manifest went: tuples have become lists there.
    now = json.loads(json.dumps(described["settings"]))
    before["seed"], now["seed"] = run.manifest.get("seed"), seed
    changed = [k for k in now if before.get(k) != now[k]]
    if changed:
        there = ", ".join(f"{k}={before.get(k)}" for k in changed)
        here = ", ".join(f"{k}={now[k]}" for k in changed)
        raise ValueError(f"{run.path} was made with {there}, not {here}; resume it with those")
