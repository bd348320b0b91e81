"""One run = one folder: manifest, measurements and arrays, crash-safe, readable while written."""

from .errors import RecordError
from .export import export
from .measurement import Measurement
from .run import Run, open_run
from .vocabulary import RELATIONS, VOCABULARY, Quantity, quantity
from .writer import RunWriter

__all__ = [
    "RELATIONS",
    "VOCABULARY",
    "Measurement",
    "Quantity",
    "RecordError",
    "Run",
    "RunWriter",
    "export",
    "open_run",
    "quantity",
]
