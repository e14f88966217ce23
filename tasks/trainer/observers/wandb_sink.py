"""Weights & Biases, which the rows of the log are sent to.

Everything it keeps lies in the run's folder; what a run there is says tasks/trainer/wandb_run.py. Whatever goes wrong
in it is said once and switches it off; it never stops training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from athanor.core.rows import Row
from athanor.tasks.trainer.observers.kind import Observer
from athanor.tasks.trainer.wandb_run import open_run


class WandbSink(Observer):
    """Sends step and eval rows to wandb, from the first rank."""

    name = "wandb"
    _run: Any = None

    def begin(self, step: int) -> None:
        if self.scene.engine.world.first and self.scene.spec.runtime.wandb != "off":
            self._attempt(self._start)

    def row(self, row: Row) -> None:
        if self._run is not None and row["kind"] != "event":
            self._attempt(lambda: self._run.log(_flat(row)))

    def close(self) -> None:
        """Finish the wandb run, waiting for the network as long as `tasks.trainer.wandb_run` has patience."""
        if self._run is not None:
            self._attempt(lambda: self._run.finish())

    def _start(self) -> None:
        scene = self.scene
        self._run = open_run(scene.spec, scene.spec.runtime, scene.run_dir, scene.run_dir, scene.say)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            self._run = None
            first_line = str(error).partition("\n")[0]
            self.scene.say(f"wandb is off from here on: {type(error).__name__}: {first_line}")


def _flat(row: Row, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}/")
        elif name != "kind":
            flat[prefix + name] = value
    return flat


DECLARED = WandbSink
