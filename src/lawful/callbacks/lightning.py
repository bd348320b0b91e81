"""PyTorch Lightning: the door as a callback.

    Trainer(callbacks=[lawful.callbacks.Lightning("runs/mine", laws="canonical")])

The optimiser, the accumulation, the loss scaler and the first step of a fit that goes on are the
Trainer's. Under Fabric the loop is one's own: call `lawful.observe` with the model and optimiser as
they were before `fabric.setup`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..observe import Observation, observe
from .extra import extra
from .feed import Feed, Sink

Callback: Any = extra("lightning.pytorch", "lightning").Callback


class Lightning(Callback):
    """Observe a `LightningModule` while it is fitted.

    out, laws, options: as in `lawful.observe`.  sinks: dashboards to feed, after every epoch.
    """

    def __init__(
        self, out: str | Path, laws: str | Sequence[str] = "canonical", *,
        sinks: Iterable[Sink] = (), **options: Any,
    ) -> None:  # fmt: skip
        self.out, self.laws, self.options = Path(out), laws, options
        self.feed = Feed(out, sinks)
        self.observation: Observation | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        told = {
            "optimizer": trainer.optimizers[0] if len(trainer.optimizers) == 1 else None,
            "accumulation": trainer.accumulate_grad_batches,
            "scaler": getattr(trainer.precision_plugin, "scaler", None),
            # Of a fit that goes on; the Trainer counts the steps of all its optimisers.
            "first_step": trainer.global_step // max(1, len(trainer.optimizers)),
        }
        door = observe(pl_module, self.out, self.laws, **(told | self.options))
        self.observation = door.__enter__()

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        # A training step may call parts of the module and never the whole: its samples are new.
        if self.observation is not None:
            scale = self.observation.layers.scale
            scale.begin(scale.batch)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.feed.send()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        if self.observation is not None:
            self.observation.close()
            self.feed.close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        if self.observation is not None:
            self.observation.__exit__(type(exception), exception, exception.__traceback__)
