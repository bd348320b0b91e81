"""Following runs: what each says of itself now, and what changed since one last asked.

    folders → look (5 times a second) → number of the change → the page asks "since which?"

Two threads work while somebody watches, and sleep when nobody does. One looks at the files' sizes
and times, and reads a run only when they changed. The other tests the laws, one run at a time, the
ones being looked at first, and spends on a run at most a tenth of the time.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..record import RecordError, Run
from .guard import JUDGED_BYTES, RUNS, Signature, arrays_inside, runs_in, signature
from .judge import Judge, judged
from .wording import short

if TYPE_CHECKING:
    from ..laws.verdict import Verdict
    from ..report.knobs import Knob
    from .judge import Judgement

LOOK = 0.2
"""Seconds between two looks at the files."""

IDLE = 15.0
"""Seconds after the last question when looking stops."""

SHARE = 0.1
"""Largest part of the time that testing the laws of one run may take."""


@dataclass
class Followed:
    """One run, as last seen.

    changed: number of its last change.  asked: when somebody last looked at it, in seconds.
    seen:    signature of what was read;  judged: of what the verdicts are of.
    fault:   why it cannot be read, or "".  at: last step when the verdicts were made.
    """

    name: str
    run: Run
    changed: int = 0
    asked: float = 0.0
    seen: Signature = ()
    judged: Signature = ()
    not_before: float = 0.0
    fault: str = ""
    summary: dict[str, Any] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    knobs: list[Knob] = field(default_factory=list)
    note: str = ""
    at: int = -1


class Follower:
    """Follows the runs in some folders; a context manager, whose threads end with it.

    Outside of its block nothing happens by itself: `look` and `judge_one` are called by hand.

    roots: run folders, or folders that hold them, which may be still to come.
    """

    def __init__(self, roots: Iterable[Path]) -> None:
        self.roots = [Path(root).resolve() for root in roots]
        self.epoch = f"{time.time_ns():x}"
        self._runs: dict[str, Followed] = {}
        self._judge: Callable[[Path], Judgement] = judged
        self._lock = threading.Lock()
        self._count = 0
        self._asked = threading.Event()
        self._end = threading.Event()
        self._last = 0.0
        self._threads = [
            threading.Thread(target=task, daemon=True) for task in (self._looking, self._judging)
        ]

    def __enter__(self) -> Follower:
        self.wake()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._asked.set()
        for thread in self._threads:
            thread.join(5)

    def wake(self) -> None:
        """Somebody is watching."""
        self._last = time.monotonic()
        self._asked.set()

    def find(self, key: str) -> Followed:
        """The run of this key; `KeyError` when it is not followed. Keys are no paths."""
        found = self._runs[key]
        found.asked = time.monotonic()
        return found

    def since(self, change: int) -> dict[str, Any]:
        """The runs that changed after change number `change`, and the number of the last one."""
        with self._lock:
            fresh = [(k, f) for k, f in self._runs.items() if f.changed > change]
            return {
                "epoch": self.epoch,
                "change": self._count,
                "keys": list(self._runs) if fresh or change == 0 else None,
                "runs": [{"key": k, "change": f.changed, **f.summary} for k, f in fresh],
            }

    def look(self) -> None:
        """One look at all the files."""
        paths = {run: root for root in self.roots for run in runs_in(root)}
        places = dict(list(paths.items())[:RUNS])
        keyed = {hashlib.sha256(str(p).encode()).hexdigest()[:16]: p for p in places}
        for key, path in keyed.items():
            if key not in self._runs:
                root = places[path]
                inside = path.relative_to(root.parent) if path != root else Path(path.name)
                with self._lock:
                    self._runs[key] = Followed(inside.as_posix(), Run(path))
            self._look_at(self._runs[key])
        for key in set(self._runs) - set(keyed):
            with self._lock:
                del self._runs[key]
                self._count += 1
                for other in list(self._runs.values())[:1]:
                    other.changed = self._count  # the list of keys is told with a change

    def judge_one(self) -> bool:
        """Test the laws on the run that needs it most; False when none does."""
        now = time.monotonic()
        due = [f for f in list(self._runs.values()) if _due(f, now)]
        if not due:
            return False
        chosen = max(due, key=lambda f: f.asked)
        seen, last = chosen.seen, chosen.summary.get("last", -1)
        if sum(size for _, size, _ in seen) > JUDGED_BYTES:
            found: Judgement = [], [], "It is too large to test its laws live: use `lawful test`."
        else:
            found = self._judge(chosen.run.path)
        cost = time.monotonic() - now
        with self._lock:
            chosen.verdicts, chosen.knobs, chosen.note = found
            chosen.judged, chosen.at = seen, last
            chosen.not_before = time.monotonic() + cost / SHARE
            self._changed(chosen)
        return True

    def _look_at(self, followed: Followed) -> None:
        fault, seen, facts = "", Signature(), dict[str, Any]()
        try:
            seen = signature(followed.run.path)
            if seen == followed.seen:
                return
            arrays_inside(followed.run.path)
            facts = brief(followed.run)
        except RecordError as error:
            fault = short(str(error))
            if fault == followed.fault and seen == followed.seen:
                return
        with self._lock:
            followed.seen, followed.fault = seen, fault
            followed.summary = {"name": short(followed.name), "fault": fault, **facts}
            self._changed(followed)

    def _changed(self, followed: Followed) -> None:
        self._count += 1
        followed.changed = self._count
        counts = dict[str, int]()
        for v in followed.verdicts:
            counts[v.status] = counts.get(v.status, 0) + 1
        followed.summary["tally"] = counts
        followed.summary["judged"] = bool(followed.judged)
        followed.summary["current"] = followed.judged == followed.seen

    def _looking(self) -> None:
        while self._watched():
            self.look()
            self._end.wait(LOOK)

    def _judging(self) -> None:
        self._judge = judge = Judge(self._end)
        while self._watched():
            if not self.judge_one():
                self._end.wait(LOOK)
        judge.end()

    def _watched(self) -> bool:
        """Wait for somebody to watch; False at the end."""
        if time.monotonic() - self._last > IDLE:
            self._asked.clear()
            self._asked.wait()
        return not self._end.is_set()


def _due(f: Followed, now: float) -> bool:
    return not f.fault and bool(f.seen) and f.judged != f.seen and now >= f.not_before


def brief(run: Run) -> dict[str, Any]:
    """One line on a run: title, status, steps, when it last wrote."""
    from ..report.summary import title

    manifest = run.manifest
    count, last = run.progress()
    return {
        "title": short(title(run)),
        "status": short(str(manifest.get("status", ""))),
        "measured": count,
        "last": last,
    }
