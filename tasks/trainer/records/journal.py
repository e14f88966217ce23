"""Everything a run writes while it trains, but its checkpoints: metrics, heartbeat, ledger, bad samples.

Rank 0 writes; on the other ranks a journal is silent, so that the training loop needs to know nothing of it.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from athanor.core.rows import Row, RowWriter
from athanor.core.run_files import BAD_SAMPLES
from athanor.data.loader import Sample
from athanor.tasks.trainer.process.world import World
from athanor.tasks.trainer.records.ledger import Ledger
from athanor.tasks.trainer.records.metrics import ATTEMPT_VARIABLE, Heartbeat, MetricsLog
from athanor.tasks.trainer.train_recipe import RunSpec


class Journal:
    """Opened before the run knows where it stands: the ledger charges from the start; `begin` opens the rest."""

    def __init__(self, run_dir: Path, spec: RunSpec, world: World, devices: int, running_s: float, cleanup: ExitStack):
        self._dir, self._cleanup = run_dir, cleanup
        self._attempt = os.environ.get(ATTEMPT_VARIABLE) or uuid.uuid4().hex[:12]
        self._ledger: Ledger | None = None
        self._log: MetricsLog | None = None
        self._pending: list[str] = []  # said before `begin`
        if world.first:
            self._ledger = Ledger(run_dir, self._attempt, devices, spec.runtime.price_usd_per_hour, running_s)
            cleanup.callback(self._ledger.close)
            self._heartbeat = Heartbeat(run_dir)
            self._bad_samples = RowWriter(run_dir / BAD_SAMPLES)
            cleanup.callback(self._bad_samples.close)

    def begin(self, step: int, listener: Callable[[Row], None]) -> None:
        """Go on after `step` completed steps; every row from here goes to `listener` too."""
        if self._ledger is None:
            return
        self._log = MetricsLog(self._dir, step, self._attempt, [listener])
        self._cleanup.callback(self._log.close)
        for message in self._pending:
            self.say(step, message)
        self._ledger.tick(force=True)

    def step(self, step: int, **values: object) -> None:
        """Report one optimizer step."""
        if self._log is not None and self._ledger is not None:
            self._log.step(step, **values, cost_usd=self._ledger.usd)
            self._ledger.tick()
            self._heartbeat.beat(step)

    def evaluation(self, step: int, held_out: dict[str, dict[str, float]]) -> None:
        """Report the held-out measurements taken after `step` steps."""
        if self._log is not None:
            self._log.evaluation(step, held_out)

    def evaluated(self, step: int) -> bool:
        """Whether the evaluation after `step` steps is in the log; false on silent ranks."""
        return self._log is not None and self._log.evaluated(step)

    def say(self, step: int, message: str) -> None:
        """Report something that happened, in one line."""
        if self._log is not None:
            self._log.event(step, message)
        elif self._ledger is not None:
            self._pending.append(message)

    def bad_sample(self, step: int, slot: int, loss: float, origin: Sample) -> None:
        """Note what a slot of a step that was not learned from had read."""
        if self._ledger is not None:
            said = loss if math.isfinite(loss) else str(loss)
            self._bad_samples.append({"step": step, "slot": slot, "loss": said, **origin.to_json()})

    def sync(self) -> None:
        """Flush the metrics to the disk."""
        if self._log is not None:
            self._log.sync()

    @property
    def device_s(self) -> float:
        """Device seconds the run has used, all attempts together; 0 on silent ranks."""
        return self._ledger.device_s if self._ledger is not None else 0.0
