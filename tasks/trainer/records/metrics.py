"""What a run reports while it trains: `metrics.jsonl` and a heartbeat.

A row is a dict with "kind" (step, eval, event) and "step" (optimizer steps completed). Every row goes to the file first
and then to the listeners.
Invariant: after a resume at step N the file holds no step or eval row beyond N, so that the finished log is the one an
uninterrupted run writes, but for times and money. Events stay: they say what happened.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from athanor.core.rows import Row, RowWriter, read_rows, replace_rows
from athanor.core.run_files import HEARTBEAT, METRICS

TIMES_AND_MONEY = frozenset({"tokens_per_s", "flops_per_s", "utilisation", "step_s", "wall_s", "eta_s", "cost_usd"})
ATTEMPT_VARIABLE = "ATHANOR_ATTEMPT"
HEARTBEAT_EVERY_S = 1.0
SYNC_EVERY_S = 10.0


def reproducible_rows(run_dir: Path) -> list[Row]:
    """The log without events, times and money: what is equal for every way of coming to the same end."""
    return [
        {name: value for name, value in row.items() if name not in TIMES_AND_MONEY}
        for row in read_rows(run_dir / METRICS)
        if row["kind"] != "event"
    ]


class MetricsLog:
    """Writes `run_dir/metrics.jsonl`, continuing after `step` completed steps."""

    def __init__(self, run_dir: Path, step: int, attempt: str, listeners: list[Callable[[Row], None]]):
        path = run_dir / METRICS
        kept = [row for row in read_rows(path) if row["kind"] == "event" or row["step"] <= step]
        replace_rows(path, kept)
        self._evaluated = {row["step"] for row in kept if row["kind"] == "eval"}
        self._listeners = listeners
        self._writer = RowWriter(path)
        self._synced = time.monotonic()
        message = f"resumed at step {step}" if step else "started"
        self._write({"kind": "event", "step": step, "message": message, "attempt": attempt})

    def step(self, step: int, **values: object) -> None:
        """Report one optimizer step."""
        self._write({"kind": "step", "step": step, **values})

    def evaluation(self, step: int, held_out: dict[str, dict[str, float]]) -> None:
        """Report the held-out measurements taken after `step` steps."""
        self._evaluated.add(step)
        self._write({"kind": "eval", "step": step, "held_out": held_out})

    def event(self, step: int, message: str) -> None:
        """Report something that happened, in one line."""
        self._write({"kind": "event", "step": step, "message": message})

    def evaluated(self, step: int) -> bool:
        """Whether the log has the evaluation after `step` steps."""
        return step in self._evaluated

    def sync(self) -> None:
        """Flush to the disk."""
        self._writer.sync()
        self._synced = time.monotonic()

    def close(self) -> None:
        """Flush to the disk and close."""
        self._writer.close()

    def _write(self, row: Row) -> None:
        self._writer.append(row)
        if time.monotonic() - self._synced > SYNC_EVERY_S:
            self.sync()
        for listener in self._listeners:
            listener(row)


class Heartbeat:
    """`run_dir/heartbeat.json`: the step and the time the process was last seen working."""

    def __init__(self, run_dir: Path):
        self._path = run_dir / HEARTBEAT
        self._written = -HEARTBEAT_EVERY_S

    def beat(self, step: int) -> None:
        """Say that `step` steps are done, at most every HEARTBEAT_EVERY_S."""
        now = time.monotonic()
        if now - self._written < HEARTBEAT_EVERY_S:
            return
        self._written = now
        temporary = self._path.with_name(self._path.name + ".tmp")
        temporary.write_text(json.dumps({"step": step, "time": time.time()}) + "\n", encoding="utf-8")
        os.replace(temporary, self._path)
