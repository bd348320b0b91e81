"""MLflow: scalars as metrics of a run, verdicts as an artifact."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..laws import Verdict
from .extra import extra
from .feed import markdown

MOST = 1000  # metrics that MLflow takes at once


class MLflow:
    """A run of MLflow; by default the active one.

    client: an `MlflowClient`, when the run is on another server than `mlflow`'s own.
    """

    def __init__(self, run_id: str | None = None, *, client: Any = None) -> None:
        mlflow = extra("mlflow", "mlflow")
        active = mlflow.active_run()
        if run_id is None and active is None:
            raise ValueError("run_id=None and no run is active: call mlflow.start_run() first")
        self.run_id = active.info.run_id if run_id is None else run_id
        self.client = client or mlflow.MlflowClient()
        self._metric = extra("mlflow.entities", "mlflow").Metric

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [self._metric(_key(n), v, now, step) for n, v in values.items()]
        for first in range(0, len(metrics), MOST):
            self.client.log_batch(self.run_id, metrics=metrics[first : first + MOST])

    def verdicts(self, step: int, found: Sequence[Verdict]) -> None:
        self.client.log_text(self.run_id, markdown(found), "lawful/verdicts.md")


def _key(name: str) -> str:
    """A name with only what MLflow allows in one.

    >>> _key("rga_b/attn.qkv[q.0]")
    'lawful/rga_b/attn.qkv_q.0_'
    """
    return re.sub(r"[^\w\-. :/]", "_", f"lawful/{name}", flags=re.ASCII)
