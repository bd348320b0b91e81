"""TensorBoard: scalars under `lawful/`, verdicts as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..laws import Verdict
from .extra import extra
from .feed import markdown


class TensorBoard:
    """A log folder of TensorBoard."""

    def __init__(self, folder: str | Path) -> None:
        self.writer = extra("torch.utils.tensorboard", "tensorboard").SummaryWriter(str(folder))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(f"lawful/{name}", value, step)

    def verdicts(self, step: int, found: Sequence[Verdict]) -> None:
        self.writer.add_text("lawful/verdicts", markdown(found), step)
        self.writer.close()
