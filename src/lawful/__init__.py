"""lawful: a laboratory for the mechanics of learning.

Attach it to a PyTorch training run, and it measures the quantities that theories of learning
speak of and returns verdicts, with error bars, on the laws that hold there.

>>> import lawful
>>> lawful.quantity("rga_b").unit
'1'
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Names are loaded on first use, so that `import lawful` and the command line start at once.
_HOME = {
    "observe": "observe",
    "Observation": "observe",
    "LawfulWarning": "observe",
    "Probe": "instruments.probe",
    "every": "schedule",
    "log_spaced": "schedule",
    "at": "schedule",
    "budget": "schedule",
    "Schedule": "schedule",
    "open_run": "record",
    "Run": "record",
    "RecordError": "record",
    "Measurement": "record",
    "VOCABULARY": "record",
    "RELATIONS": "record",
    "quantity": "record",
    "export": "record",
    "test": "laws",
    "Verdict": "laws",
    "Law": "laws",
    "cite": "laws",
    "symmetries": "symmetry",
    "predict": "forecast",
    "mup": "methods.mup",
    "mup_check": "methods.mup",
    "Forecast": "forecast",
}

__all__ = ["__version__", *_HOME]

if TYPE_CHECKING:
    from .forecast import Forecast, predict
    from .instruments.probe import Probe
    from .laws import Law, Verdict, cite, test
    from .methods.mup import mup, mup_check
    from .observe import LawfulWarning, Observation, observe
    from .record import (
        RELATIONS,
        VOCABULARY,
        Measurement,
        RecordError,
        Run,
        export,
        open_run,
        quantity,
    )
    from .schedule import Schedule, at, budget, every, log_spaced
    from .symmetry import symmetries


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lawful' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
