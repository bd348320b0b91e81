"""The training loop of the lab, plain enough to copy.

    θ ← θ − η (∇L_B(θ) + γ θ)          (SGD as in torch: γ is `weight_decay`)

Nothing in it knows what is measured: `lawful.observe` watches from outside. What it adds to the
five usual lines is what a long run needs: a loss that is no number ends it with one clear
sentence, Ctrl-C ends it between two steps with a checkpoint behind it, and a run resumed from
that checkpoint goes on bit for bit as if it had never stopped.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .checkpoint import save

if TYPE_CHECKING:
    from rich.progress import Progress

Loss = Callable[[Tensor, Tensor], Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]

SAVE_EVERY = 30.0
"""Seconds between two checkpoints."""


class NonFiniteLoss(ArithmeticError):
    """The loss became infinite or NaN; the message says at which step."""


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    batches: Batches,
    *,
    steps: int,
    start: int = 0,
    rate: Callable[[int], float] | None = None,
    checkpoint: Path | None = None,
    progress: bool = True,
    title: str = "training",
) -> None:
    """Take the steps start + 1 … steps, one for each batch.

    loss:       loss(model(x), y) -> scalar, the mean over the batch.
    batches:    (x, y) pairs; the first one is batch number `start`.
    rate:       learning rate as a function of the step; None leaves the optimiser's own.
    checkpoint: a file that is written every half minute, at an interruption and at the end.
    progress:   show a bar on stderr.

    Raises `NonFiniteLoss` when the loss is no longer a number, and `KeyboardInterrupt`, between
    two steps and after saving, when Ctrl-C was pressed.
    """
    model.train()
    # Reading the loss waits for a GPU, so there it is read only now and then.
    glance = 1 if next(model.parameters()).device.type == "cpu" else 50
    saved = time.monotonic()
    with between_steps() as interrupted, bar(steps, start, title, progress) as advance:
        for step, (x, y) in enumerate(batches, start=start):
            if rate is not None:
                for group in optimizer.param_groups:
                    group["lr"] = rate(step)

            optimizer.zero_grad()
            value = loss(model(x), y)
            value.backward()
            optimizer.step()

            if step % glance == 0 or step == steps - 1:
                number = float(value.detach())
                if not math.isfinite(number):
                    raise NonFiniteLoss(_diagnosis(number, step, optimizer))
                advance(step + 1, number)
            if checkpoint is not None and time.monotonic() - saved > SAVE_EVERY:
                save(checkpoint, model, optimizer, step + 1)
                saved = time.monotonic()
            if interrupted():
                if checkpoint is not None:
                    save(checkpoint, model, optimizer, step + 1)
                raise KeyboardInterrupt
    if checkpoint is not None:
        save(checkpoint, model, optimizer, steps)


def cosine(peak: float, steps: int) -> Callable[[int], float]:
    """Learning rate η_t = η (1 + cos πt/T)/2, from `peak` down to 0 at the last step."""
    return lambda step: peak * (1 + math.cos(math.pi * min(1.0, step / steps))) / 2


@contextmanager
def between_steps() -> Iterator[Callable[[], bool]]:
    """Hold SIGINT and SIGTERM back; gives a function that says whether one has come.

    A step cut in half would leave weights that no checkpoint can describe. Python delivers
    signals to the main thread only; elsewhere nothing is held back.
    """
    seen = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield seen.is_set
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, lambda *_: seen.set()) for kind in kinds]
    try:
        yield seen.is_set
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


@contextmanager
def bar(steps: int, start: int, title: str, show: bool) -> Iterator[Callable[[int, float], None]]:
    """A progress bar on stderr; gives a function (steps done, loss) that moves it; NaN: no loss."""
    if not show:
        yield lambda done, loss: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = "{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, "{task.fields[loss]}", console=Console(stderr=True)) as shown:
        yield _mover(shown, shown.add_task(escape(title), total=steps, completed=start, loss=""))


def _mover(shown: Progress, task: Any) -> Callable[[int, float], None]:
    last = 0.0

    def move(done: int, loss: float) -> None:
        nonlocal last
        if time.monotonic() - last > 0.1 or done == shown.tasks[0].total:
            said = f"loss {loss:.4f}" if math.isfinite(loss) else ""
            shown.update(task, completed=done, loss=said)
            last = time.monotonic()

    return move


def _diagnosis(number: float, step: int, optimizer: torch.optim.Optimizer) -> str:
    rate = optimizer.param_groups[0]["lr"]
    return (
        f"the loss is {number} at step {step + 1} (learning rate {rate:g}): training stopped, "
        "everything recorded before is intact; lower the learning rate or look for bad input"
    )
