"""One observed training run, from the model to the record: the lines a user would write.

    with lawful.observe(model, out=..., optimizer=..., probe=...):
        train(model, optimizer, loss, batches)

and around them what makes an interrupted run go on where it stopped.
"""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import Probe, log_spaced, observe, open_run
from ..laws import select
from ..record import Run, RunWriter
from ..record.manifest import MANIFEST
from .checkpoint import CHECKPOINT, resume
from .datasets import Dataset
from .training import Batches, Loss, train


@dataclass(frozen=True)
class Job:
    """Where one run goes and how it is started.

    out:      its run folder. seed: of weights, batches and everything else drawn.
    progress: show a bar on stderr. resume: go on from the checkpoint in `out` when it is there.
    entry:    the `experiment` entry of the manifest: {"name": ..., "settings": {...}}.
    """

    out: Path
    seed: int
    progress: bool
    resume: bool
    entry: Mapping[str, Any]

    def run(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        deal: Callable[[int], Batches],
        *,
        steps: int,
        measurements: int,
        probe: list[tuple[Tensor, Tensor]],
        data: Dataset,
        laws: tuple[str, ...] = ("canonical",),
        rate: Callable[[int], float] | None = None,
        heads: Mapping[str, int] | None = None,
        whole: bool = False,
    ) -> Run:
        """Train under observation.

        deal:    deal(start) -> the (x, y) batches from number `start` on.
        probe:   the (x, y) batches over which moments are taken, at fixed weights.
        whole:   they are the whole training set, so that their gradient is exact.
        laws:    families or names of the laws to observe for.
        """
        checkpoint = self.out / CHECKPOINT
        start = resume(checkpoint, model, optimizer) if self.resume else 0
        if self.resume:
            _same_data(self.out, data)
        dealt = deal(start)  # first: a batch that cannot be dealt is to leave no run behind
        with observe(
            model,
            out=self.out,
            optimizer=optimizer,
            laws=laws,
            probe=Probe(probe, loss, whole=whole),
            schedule=log_spaced(measurements, last=max(2, steps)),
            heads=heads,
            seed=self.seed,
            manifest={"experiment": self.entry, "data": data.describe()},
            resume=self.resume,
            first_step=start,
        ):
            train(
                model,
                optimizer,
                loss,
                dealt,
                steps=steps,
                start=start,
                rate=rate,
                checkpoint=checkpoint,
                progress=self.progress,
                title=self.out.name,
            )
        return open_run(self.out)

    @contextmanager
    def world(self, *, laws: tuple[str, ...] = (), **fields: Any) -> Iterator[RunWriter]:
        """The record of a world that is no training run of a layered model: a simulation.

        Its rows are written by hand, a `q_predicted` beside every measured `q`; the `layer` of a
        row names the case (a mode, a learning rate). A world that was interrupted starts anew.

        laws:   names or families of the laws to test on it.
        fields: further fields of the manifest, e.g. `optimizer=`, `data=`.
        """
        manifest = {
            "lawful": version("lawful"),
            "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "seed": self.seed,
            "laws": [law.name for law in select(laws)] if laws else [],
            "environment": {
                "python": platform.python_version(), "torch": torch.__version__,
                "platform": platform.platform(),
            },
            "experiment": dict(self.entry),
            "status": "running",
            "steps": 0,
            **fields,
        }  # fmt: skip
        with RunWriter.create(self.out, manifest, resume=self.resume) as writer:
            try:
                yield writer
            except BaseException as end:
                stopped = isinstance(end, KeyboardInterrupt)
                writer.update_manifest(status="interrupted" if stopped else "failed")
                raise
            last = max(open_run(self.out).steps, default=0)
            writer.update_manifest(status="finished", steps=last)


def _same_data(out: Path, data: Dataset) -> None:
    """Refuse to go on with a run of other samples under the same name."""
    if not (out / MANIFEST).exists():
        return
    before, now = open_run(out).manifest.get("data", {}), data.describe()
    if before.get("sha256", now["sha256"]) != now["sha256"]:
        raise ValueError(
            f"{out} was made with other data ({before.get('name')}, sha256 {before['sha256']}, not "
            f"{now['sha256']}); resume it with those, or choose another out"
        )


def chunks(x: Tensor, y: Tensor, size: int = 512) -> list[tuple[Tensor, Tensor]]:
    """Samples in pieces of at most `size`, for a probe."""
    return list(zip(x.split(size), y.split(size), strict=True))
