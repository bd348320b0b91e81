"""The door for scripts: `python train.py` as it is, with an observation attached from outside.

    lawful observe --out runs/mine -- python train.py --lr 0.1

The script runs in this very process as `__main__`, with its own arguments, output, exceptions and
exit code. Nothing in it is replaced: torch calls us through its public global hooks, and we look
at what is there.

1. *The model.* The first module called in training mode, with gradients, whose parameters a live
   optimiser holds. Is it only a part of what that optimiser holds, then the smallest module that
   holds most of it. The observation opens before this first call goes on, so that step 0, the
   initialisation, is measured as it is from inside the code.
2. *The loss.* Until the first step a `TorchFunctionMode` waits for `loss.backward()` and reads in
   the loss's own graph whether it is a mean or a sum, and by how many micro-batches it is divided;
   no gradient has arrived by then (`loss_form`).
3. *The clock.* The optimiser's own steps, as always.

What cannot be told is said in one line on stderr, and what is certain is recorded. torch is
imported before the script starts: what torch reads when it is imported (OMP_NUM_THREADS) must be
set outside the script.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import runpy
import shutil
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)
from torch.overrides import TorchFunctionMode

from . import laws as law_room
from .instruments import panel
from .observe import Observation, observe
from .record.manifest import MANIFEST
from .schedule import Schedule, at, budget, every, log_spaced

Parameters = set[nn.Parameter]


@dataclass(frozen=True)
class Wish:
    """What is asked of an observation from outside.

    out, laws, layers, seed, schedule: as in `lawful.observe`.
    reduction, accumulation: of the loss; None: by watching.
    quiet: nothing of ours on stderr.
    """

    out: Path
    laws: Sequence[str] = ("canonical",)
    layers: Sequence[str] = ("*",)
    schedule: Schedule | None = None
    reduction: str | None = None
    accumulation: int | None = None
    seed: int = 0
    quiet: bool = False

    def __post_init__(self) -> None:
        if (self.out / MANIFEST).exists():
            raise ValueError(f"out={str(self.out)!r} holds a run: choose another folder, --out NEW")
        for law in law_room.select(self.laws):
            needs = set(law.needs)
            if panel.asks_for_probe(needs) or panel.asks_for_symmetries(needs):
                raise ValueError(
                    f"laws={law.name!r} needs a probe or the model's symmetries, which a script "
                    "does not show: use lawful.observe(model, probe=…) in the code, or lawful "
                    "inspect on a checkpoint"
                )


def run(command: Sequence[str], wish: Wish, options: Sequence[str], *, module: bool = False) -> int:
    """Run a training command under observation; returns its exit code.

    command: [`python`,] `train.py` or `-m package.train`, and its arguments.
    options: ours as they were typed, to be handed on to another interpreter.
    module:  True when the command begins with the name of a module.

    Raises `ValueError` when the command is neither a script nor python.
    """
    python, flags, target = interpreter(["-m", *command] if module else command)
    if python is None and not flags:
        return _here(target, wish)
    other = [python or sys.executable, *flags]
    probe = subprocess.run([*other, "-c", "import lawful"], capture_output=True)
    if probe.returncode:
        raise ValueError(
            f"command={other[0]!r}: lawful is not installed for this interpreter; install it "
            f"there, or write {sys.executable}"
        )
    return subprocess.run([*other, "-m", "lawful.observe", *options, *target]).returncode


def interpreter(command: Sequence[str]) -> tuple[str | None, list[str], list[str]]:
    """(another interpreter or None, its flags, the script and its arguments).

    >>> interpreter(["train.py", "--lr", "1"])
    (None, [], ['train.py', '--lr', '1'])
    """
    head, rest = command[0], list(command[1:])
    if not Path(head).name.startswith("python"):
        if head == "-m" or head.endswith(".py") or Path(head).is_dir():
            return None, [], list(command)
        raise ValueError(
            f"command={head!r} is neither python nor a script: write lawful observe -- python "
            "train.py; a launcher comes first, as in torchrun -m lawful.observe train.py"
        )
    found = shutil.which(head)
    if found is None:
        raise ValueError(f"command={head!r}: there is no such interpreter")
    flags: list[str] = []
    while rest and rest[0].startswith("-") and not rest[0].startswith("-m"):
        if rest[0].startswith("-c") or rest[0] == "-":
            raise ValueError(f"command={head!r} {rest[0]!r}: name a script or -m MODULE")
        flags += [rest.pop(0) for _ in range(2 if rest[0] in ("-W", "-X") else 1)]
    if not rest:
        raise ValueError(f"command={head!r} runs no script: add it, e.g. python train.py")
    ours = os.path.dirname(os.path.abspath(found)) == os.path.dirname(sys.executable)
    return None if ours else found, flags, rest


def _here(target: list[str], wish: Wish) -> int:
    """Run the script in this process, as `python` would."""
    named = target[0] == "-m"
    script, arguments = (target[1], target[2:]) if named else (target[0], target[1:])
    if not named and not Path(script).exists():
        raise ValueError(f"command={script!r}: there is no such script")
    sys.argv = [script, *arguments]
    if not sys.flags.safe_path:
        # Where a script is a link, its modules lie beside what it leads to.
        sys.path[0] = os.getcwd() if named else os.path.dirname(os.path.realpath(script))
    # Nothing that is here by now is the script's, or garbage: neither the collector of objects nor
    # `living` need walk over it again and again.
    gc.freeze()
    try:
        with Watcher(wish):
            if named:
                runpy.run_module(script, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(os.path.abspath(script), run_name="__main__")
    except SystemExit:
        raise
    except BaseException as error:
        _trim(error)
        sys.excepthook(type(error), error, error.__traceback__)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _trim(error: BaseException | None) -> None:
    """Let the tracebacks of an error, and of those behind it, begin at the script's first frame."""
    ours = {__file__, runpy.__file__, "<frozen runpy>"}
    while error is not None:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename in ours:
            trace = trace.tb_next
        error.__traceback__ = trace
        error = error.__cause__ or error.__context__


class Watcher:
    """Waits for a model to be trained, and observes it; a context manager around the script."""

    def __init__(self, wish: Wish) -> None:
        # Absolute: the script may change the current folder.
        self.wish = replace(wish, out=Path(os.path.abspath(wish.out)))
        self.observation: Observation | None = None
        self._handles: list[Any] = []
        self._forward: Any = None
        self._chosen: nn.Module | None = None  # trained, and not called yet
        self._calls: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()
        self._inside: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # parts of those called
        self._steps: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()
        self._loss: _Backward | None = None
        self._failed = False

    def __enter__(self) -> Watcher:
        # A compiled model would tell of our hook, which is gone before it is compiled.
        warnings.filterwarnings("ignore", message=r"Using `torch.compile\(module\)` when there")
        self._forward = register_module_forward_pre_hook(self._called)
        self._handles += [
            register_optimizer_step_pre_hook(self._stepping),
            register_optimizer_step_post_hook(self._stepped),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._listen_no_more()
        for handle in self._handles:
            handle.remove()
        self._leave()
        if self.observation is None:
            if not self._failed:
                self._say(
                    "no module was trained by an optimiser of torch: nothing is recorded (a step "
                    "of your own is told with observation.advance() in the code)"
                )
            return
        if self.observation.step == 0:
            self._say(
                "the optimiser never stepped: what is recorded is of step 0 (a step of your own is "
                "told with observation.advance() in the code)"
            )
        if isinstance(error, SystemExit):
            self.observation.close("failed" if error.code else "finished")
        else:
            self.observation.__exit__(kind, error, trace)
        self._say(f"recorded in {self.wish.out}: lawful test {self.wish.out}")

    # -- finding the model -----------------------------------------------------------------------

    def _called(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Global forward pre-hook, until the model is found."""
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return
        if self._chosen is not None:
            if module is self._chosen or module in set(self._chosen.modules()):
                there = living()
                found = holder(self._chosen, there.optimizers)
                self._open(self._chosen, found, there.scaler, module, args)
            return
        if module in self._inside or not module.training:
            return
        if not any(p.requires_grad for p in module.parameters()):
            return
        self._inside.update(part for part in module.modules() if part is not module)
        calls = self._calls[module] = self._calls.get(module, 0) + 1
        if calls & (calls - 1) == 0:  # ever rarer: a script may step without torch, for ever
            self._search(module, args)

    def _search(self, called: nn.Module, args: tuple[Any, ...]) -> None:
        there = living()
        found = holder(called, there.optimizers)
        if found is None:
            return
        model = trained_by(found, called, there.modules)
        if called in set(model.modules()):
            self._open(model, found, there.scaler, called, args)
        else:
            self._chosen = model

    def _stepping(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: Any) -> None:
        """Before a step: one with a closure makes its gradients inside."""
        if self._settled and optimizer in self._steps:
            return
        if callable(args[1] if len(args) > 1 else kwargs.get("closure")):
            if self.observation is None and not self._failed:
                self._open_for(optimizer)
        else:
            self._leave()
        if self.observation is not None and optimizer not in self._steps:
            self._another(optimizer)
        self._steps.setdefault(optimizer, 0)

    def _stepped(self, optimizer: Optimizer, *_: object) -> None:
        if self._settled:
            return
        self._steps[optimizer] = self._steps.get(optimizer, 0) + 1
        self._leave()
        if self.observation is None and not self._failed:
            self._open_for(optimizer)

    @property
    def _settled(self) -> bool:
        """Whether all is known that steps tell: only a new optimiser would be news."""
        return self.observation is not None and self._loss is None

    def _open_for(self, optimizer: Optimizer) -> None:
        """The optimiser is known before the model was seen to be called in training."""
        there = living()
        model = trained_by(optimizer, None, there.modules)
        if model is not None:
            self._open(model, optimizer, there.scaler)

    # -- opening ---------------------------------------------------------------------------------

    def _open(
        self, model: nn.Module, optimizer: Optimizer | None, scaler: Any,
        called: nn.Module | None = None, args: tuple[Any, ...] = (),
    ) -> None:  # fmt: skip
        """Attach; `called` is the module whose call is under way, if one is."""
        self._listen_no_more()
        before = set() if called is None else set(called._forward_pre_hooks)
        try:
            # In the code the door would be open before any mixed precision begins.
            with torch.autocast(next(model.parameters()).device.type, enabled=False):
                self.observation = self._observed(model, optimizer, scaler)
                self.observation.warn = lambda told: self._say(told.removeprefix("lawful, "))
                self.observation.__enter__()
        except Exception as problem:
            self.observation, self._failed = None, True
            self._say(f"nothing is recorded: {problem}")
            return
        if called is not None:
            _replay(called, before, args)
        self._introduce(model, optimizer)
        self._watch_loss(model)

    def _observed(self, model: nn.Module, optimizer: Optimizer | None, scaler: Any) -> Observation:
        wish = self.wish
        steps = 0 if optimizer is None else self._steps.get(optimizer, 0)
        if steps:
            self._say(f"the model showed itself late: recording starts at step {steps}")
        return observe(
            model, wish.out, list(wish.laws), optimizer=optimizer, schedule=wish.schedule,
            reduction=wish.reduction or "mean", accumulation=wish.accumulation or 1,
            layers=list(wish.layers), scaler=scaler, seed=wish.seed, first_step=steps,
            manifest={"script": {"argv": list(sys.argv)}},
        )  # fmt: skip

    def _introduce(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        assert self.observation is not None
        count = len(self.observation.layers.taps)
        under = "" if optimizer is None else f" under {type(optimizer).__name__}"
        layers = f"{count} layer" + "s" * (count != 1)
        self._say(f"observing {_class(model)}{under}, {layers}, into {self.wish.out}")
        if optimizer is None:
            return
        self._steps.setdefault(optimizer, 0)
        rest = size(held(optimizer) - set(model.parameters()))
        if rest:
            self._say(
                f"the optimiser also holds {rest:,} parameters outside it: these are not recorded"
            )

    def _another(self, optimizer: Optimizer) -> None:
        """A second optimiser steps: is it of parameters that we do not see?"""
        assert self.observation is not None
        others = held(optimizer) - set(self.observation.model.parameters())
        if others:
            self._say(
                f"several models are trained: {size(others):,} parameters under another "
                f"{type(optimizer).__name__} are not recorded"
            )
        elif optimizer is not self.observation.optimizer:
            self._say(
                f"another {type(optimizer).__name__} moves parameters of the model too: its steps "
                "are not counted"
            )

    # -- the loss --------------------------------------------------------------------------------

    def _watch_loss(self, model: nn.Module) -> None:
        """Wait for the first backward pass, unless all was said."""
        if self.wish.reduction is not None and self.wish.accumulation is not None:
            return
        compiled = self.observation is not None and self.observation._compiled
        if compiled or _innermost() is not None:
            self._say("the loss is not read here: taken for a mean (else --reduction sum)")
            return
        self._loss = _Backward(model, self._heard)
        self._loss.__enter__()

    def _heard(self, loss: Tensor) -> None:
        """The first loss of the model is about to be differentiated."""
        assert self.observation is not None
        scaler = self.observation._scale.scaler
        form = loss_form(loss, 1.0 if scaler is None else float(scaler.get_scale()))
        if form is None:
            self._say("whether the loss is a mean or a sum cannot be told: taken for a mean")
            return
        reduction = self.wish.reduction or form[0]
        accumulation = self.wish.accumulation or form[1]
        if self._loss is not None:
            self._loss.expected = accumulation
        self.observation.loss_is(reduction, accumulation)

    def _leave(self) -> None:
        """The first step is here: no more waiting for a loss."""
        loss, self._loss = self._loss, None
        if loss is None or not loss.leave():
            return
        if not loss.passes:
            self._say("no loss.backward() was seen: the loss is taken for a mean")
        elif loss.passes != loss.expected:
            self._say(
                f"{loss.passes} backward passes made the first step, and the loss is divided by "
                f"{loss.expected}: if that is not the accumulation, give --accumulation"
            )

    def _listen_no_more(self) -> None:
        if self._forward is not None:
            self._forward.remove()
            self._forward = None

    def _say(self, line: str) -> None:
        if not self.wish.quiet:
            with contextlib.suppress(OSError, ValueError):  # stderr may be closed
                print(f"lawful: {line}", file=sys.stderr, flush=True)


class _Backward(TorchFunctionMode):
    """Sees `loss.backward()` while it is on, and counts those of the model."""

    def __init__(self, model: nn.Module, heard: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.passes, self.expected = 0, 1
        self._model, self._heard, self._on = model, heard, True

    def __torch_function__(self, func, _types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is Tensor.backward and self._on:
            with contextlib.suppress(Exception):
                self._see(args[0])
        return func(*args, **(kwargs or {}))

    def _see(self, loss: Tensor) -> None:
        if reaches(loss, set(self._model.parameters())):
            self.passes += 1
            if self.passes == 1:
                self._heard(loss)

    def leave(self) -> bool:
        """Take the mode off; False, and deaf from now on, when another lies on top of it."""
        self._on = False
        if _innermost() is not self:
            return False
        self.__exit__(None, None, None)
        return True


# -- looking at what is there ------------------------------------------------------------------


@dataclass(frozen=True)
class Living:
    """Every optimiser, module and loss scaler in use in this process."""

    optimizers: list[Optimizer]
    modules: list[nn.Module]
    scalers: list[Any]

    @property
    def scaler(self) -> Any:
        """The loss scaler, if there is exactly one."""
        return self.scalers[0] if len(self.scalers) == 1 else None


def living() -> Living:
    """What is alive now; one walk over all objects, some hundredths of a second."""
    things = gc.get_objects()
    # Never isinstance: objects may lie about their class, or compute it. And classes are few.
    wanted = {k for k in set(map(type, things)) if issubclass(k, _SOUGHT)}
    found = [t for t in things if type(t) in wanted]

    def kind(of: type) -> Iterator[Any]:
        return (t for t in found if issubclass(type(t), of))

    return Living(
        # Without hooks of its own, an optimiser only wraps another one.
        optimizers=[o for o in kind(Optimizer) if "_optimizer_step_pre_hooks" in o.__dict__],
        modules=[m for m in kind(nn.Module) if "_parameters" in m.__dict__],
        scalers=[s for s in kind(torch.amp.GradScaler) if s.is_enabled()],
    )


_SOUGHT = (nn.Module, Optimizer, torch.amp.GradScaler)


def held(optimizer: Optimizer) -> Parameters:
    """The parameters that an optimiser moves."""
    return {p for g in optimizer.param_groups for p in g["params"] if p.requires_grad}


def size(parameters: Iterable[nn.Parameter]) -> int:
    return sum(p.numel() for p in parameters)


def holder(model: nn.Module, optimizers: Sequence[Optimizer]) -> Optimizer | None:
    """The optimiser that holds most of the model; None when none holds any of it."""
    ours = set(model.parameters())
    best = max(optimizers, key=lambda o: size(held(o) & ours), default=None)
    return best if best is not None and held(best) & ours else None


def trained_by(optimizer: Optimizer, called: nn.Module | None, modules: Iterable[nn.Module]) -> Any:
    """The module that the optimiser holds most of: `called` if it is as good as any, else the
    smallest of the best; None when there is none.
    """
    wanted = held(optimizer)
    if called is not None and wanted <= set(called.parameters()):
        return called
    best, merit = called, (0, 0)
    if called is not None:
        merit = (size(wanted & set(called.parameters())), 1)
    for module in modules:
        share = size(wanted & set(module.parameters()))
        score = (share, -sum(1 for _ in module.modules()))
        if share and score > merit:
            best, merit = module, score
    return best


def reaches(loss: Tensor, parameters: Parameters) -> bool:
    """Whether a loss depends on any of these parameters."""
    seen, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if getattr(node, "variable", None) in parameters:
            return True
        todo += [parent for parent, _ in node.next_functions]
    return False


MEAN, SUM = 1, 2  # torch's own numbers for a loss's reduction


def loss_form(loss: Tensor, scale: float = 1.0) -> tuple[str, int] | None:
    """(`mean` or `sum`, micro-batches it is divided by) of a loss; None when it cannot be told.

    scale: a factor to take off, that of a loss scaler.

    What a mean is divided by is the micro-batches, what it is multiplied by its weight. A sum
    divided by its number of terms, or of samples, and then by k, is a mean divided by k.

    >>> x = torch.ones(6, requires_grad=True)
    >>> loss_form(x.square().mean() / 4), loss_form(x.sum()), loss_form(x.sum() / 6)
    (('mean', 4), ('sum', 1), ('mean', 1))
    """
    found = _reduced(loss.grad_fn, 1.0 / scale, 1.0, None)
    if found is None:
        return None
    if not found.counts:
        return "mean", _whole(found.divisor) or _whole(found.outer) or 1
    factor = abs(found.factor / found.divisor)
    if math.isclose(factor, 1.0, rel_tol=1e-5):
        return "sum", 1
    divided = (_whole(1 / (factor * n)) for n in found.counts if n)
    return next((("mean", k) for k in divided if k), None)


@dataclass(frozen=True)
class _Reduction:
    """What a loss is multiplied and divided by after its reduction (outer: after the last sum of
    terms), and the counts by which a sum becomes a mean; none of them for a mean.
    """

    factor: float
    divisor: float
    outer: float
    counts: list[int]


def _reduced(node: Any, factor: float, divisor: float, outer: float | None) -> _Reduction | None:
    """Go down the graph of a loss to its reduction."""
    if node is None:
        return None
    kind = node.name().rstrip("0123456789").removesuffix("Backward")
    counts = _counts(node, kind)
    if counts is not None:
        return _Reduction(factor, divisor, divisor if outer is None else outer, counts)
    if kind in ("Mul", "Div"):
        other = getattr(node, "_saved_other", None)
        if other is None or (isinstance(other, Tensor) and other.numel() != 1) or not float(other):
            return None
        if kind == "Mul":
            factor *= float(other)
        else:
            divisor *= float(other)
    elif kind not in _PASSING:
        return None
    if kind in ("Add", "Sub") and outer is None:
        outer = divisor
    parents = (_reduced(parent, factor, divisor, outer) for parent, _ in node.next_functions)
    return next((found for found in parents if found is not None), None)


def _counts(node: Any, kind: str) -> list[int] | None:
    """Empty for a mean; by what a sum may be divided; None when this is no reduction."""
    reduction = getattr(node, "_saved_reduction", None)
    if reduction == MEAN or kind == "Mean":
        return []
    if reduction == SUM:
        return list(_targets(node))
    if kind == "Sum":
        sizes = node._saved_self_sym_sizes
        return [math.prod(sizes), *sizes[:1]]
    return None


_PASSING = {"Add", "Sub", "Neg", "ToCopy", "Clone", "Alias", "View", "Squeeze", "Unsqueeze"}
_PASSING |= {"UnsafeView", "ReshapeAlias", "Select", "Expand"}


def _targets(node: Any) -> Iterator[int]:
    """What a summed loss may be divided by: targets that count, all of them, samples."""
    target = getattr(node, "_saved_target", None)
    if target is None:
        yield 0  # a sum all the same
        return
    ignored = getattr(node, "_saved_ignore_index", None)
    if ignored is not None:  # kept unsigned
        yield int((target != (ignored - (1 << 64) if ignored >> 63 else ignored)).sum())
    yield target.numel()
    yield target.shape[0] if target.dim() else 1


def _whole(x: float) -> int | None:
    """x as a whole number ≥ 1, if it is one to float32."""
    return round(x) if round(x) >= 1 and math.isclose(x, round(x), rel_tol=1e-3) else None


def schedule_from(text: str) -> Schedule:
    """A schedule as it is typed: every:K, log:N, at:STEP,STEP…, budget:SHARE.

    >>> schedule_from("every:10").name, schedule_from("at:0,5").name
    ('every(10)', 'at([0, 5])')
    """
    kind, _, value = text.partition(":")
    makers: dict[str, Callable[[], Schedule]] = {
        "every": lambda: every(int(value)),
        "log": lambda: log_spaced(int(value)),
        "at": lambda: at([int(step) for step in value.split(",")]),
        "budget": lambda: budget(float(value)),
    }
    try:
        return makers[kind]()
    except (KeyError, ValueError) as error:
        why = f" ({error})" if kind in makers else ""
        raise ValueError(
            f"schedule={text!r}{why}: write every:10, log:40, at:0,100,1000 or budget:0.02"
        ) from None


def _innermost() -> Any:
    return torch.overrides._get_current_function_mode()


def _replay(called: nn.Module, before: Container[int], args: tuple[Any, ...]) -> None:
    """Give the call under way to the hooks just placed: torch had listed its hooks already."""
    arguments = _keywords()
    for key, hook in list(called._forward_pre_hooks.items()):
        if key not in before and key in called._forward_pre_hooks_with_kwargs:
            hook(called, args, arguments)
        elif key not in before:
            hook(called, args)


def _keywords() -> dict[str, Any]:
    """The keyword arguments of the module call that is under way.

    torch hands a global hook the positional ones only; the call itself is two frames up. Where a
    future torch names them otherwise, the number of samples is read off the layers instead.
    """
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename != nn.modules.module.__file__:
        frame = frame.f_back  # type: ignore[assignment]
    found = {} if frame is None else frame.f_locals.get("kwargs")
    return found if isinstance(found, dict) else {}


def _class(model: nn.Module) -> str:
    return type(getattr(model, "_orig_mod", model)).__name__
