"""Weights & Biases, which the rows of the log are sent to.

Everything it keeps lies in the run's folder. One run there is one run here: the id is made once and kept across
resumes. Whatever goes wrong in it is said once and switches it off; it never stops training.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from athanor.core.disk import write_json
from athanor.core.rows import Row
from athanor.core.run_files import WANDB_ID
from athanor.tasks.trainer.observers.kind import Observer
from athanor.tasks.trainer.train_recipe import RunSpec

PATIENCE_S = 20.0  # for the network, when starting and when finishing


class WandbSink(Observer):
    """Sends step and eval rows to wandb, from the first rank."""

    name = "wandb"
    _run: Any = None

    def begin(self, step: int) -> None:
        if self.scene.engine.world.first and self.scene.spec.runtime.wandb != "off":
            self._attempt(lambda: self._start(self.scene.spec, self.scene.run_dir))

    def row(self, row: Row) -> None:
        if self._run is not None and row["kind"] != "event":
            self._attempt(lambda: self._run.log(_flat(row)))

    def close(self) -> None:
        """Finish the wandb run, waiting at most PATIENCE_S for the network."""
        if self._run is not None:
            self._attempt(lambda: self._run.finish())

    def _start(self, spec: RunSpec, run_dir: Path) -> None:
        import wandb

        self._run = wandb.init(
            project=spec.project,
            name=spec.run_name,
            id=_run_id(run_dir),
            resume="allow",
            mode=_mode(spec),
            dir=run_dir,
            config=spec.model_dump(mode="json"),
            settings=wandb.Settings(console="off", quiet=True, init_timeout=PATIENCE_S, finish_timeout=PATIENCE_S),
        )
        self._run.define_metric("*", step_metric="step")

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:
            self._run = None
            first_line = str(error).partition("\n")[0]
            self.scene.say(f"wandb is off from here on: {type(error).__name__}: {first_line}")


def _mode(spec: RunSpec) -> Any:
    if spec.runtime.wandb == "auto":
        return "online" if os.environ.get("WANDB_API_KEY") else "offline"
    return spec.runtime.wandb


def _run_id(run_dir: Path) -> str:
    path = run_dir / WANDB_ID
    if not path.exists():
        write_json(path, {"id": uuid.uuid4().hex[:12]})
    return json.loads(path.read_text(encoding="utf-8"))["id"]


def _flat(row: Row, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}/")
        elif name != "kind":
            flat[prefix + name] = value
    return flat


DECLARED = WandbSink
