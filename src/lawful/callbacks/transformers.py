"""Hugging Face Trainer: the door as a callback.

    Trainer(..., callbacks=[lawful.callbacks.Transformers("runs/mine", laws="canonical")])

The optimiser and the accumulation are the Trainer's; what it logs as `loss` is recorded too. The
Trainer tells its callbacks of no error: a run cut short stays readable, with the status `running`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..observe import Observation, observe
from .accelerate import bare
from .extra import extra
from .feed import Feed, Sink

TrainerCallback: Any = extra("transformers", "transformers").TrainerCallback


class Transformers(TrainerCallback):
    """Observe the model of a `Trainer` while it is trained.

    out, laws, options: as in `lawful.observe`.  sinks: dashboards to feed, at every log.
    """

    def __init__(
        self, out: str | Path, laws: str | Sequence[str] = "canonical", *,
        sinks: Iterable[Sink] = (), **options: Any,
    ) -> None:  # fmt: skip
        self.out, self.laws, self.options = Path(out), laws, options
        self.feed = Feed(out, sinks)
        self.observation: Observation | None = None

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: Any = None, optimizer: Any = None,
        **_: Any,
    ) -> None:  # fmt: skip
        told = {
            "optimizer": bare(optimizer),
            "accumulation": args.gradient_accumulation_steps,
            "first_step": state.global_step,
        }
        door = observe(model, self.out, self.laws, **(told | self.options))
        self.observation = door.__enter__()

    def on_log(
        self, args: Any, state: Any, control: Any, *, logs: Mapping[str, float] | None = None,
        **_: Any,
    ) -> None:  # fmt: skip
        if self.observation is not None and logs and "loss" in logs:
            self.observation.log(loss=float(logs["loss"]))
            self.feed.send()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.observation is not None:
            self.observation.close()
            self.feed.close()
