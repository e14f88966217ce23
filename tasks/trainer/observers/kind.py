"""Observers: what watches a run, or rides along with it, without being training itself.

A profiler, an average of the weights, a probe, a sink of the log: each is a module of this package that declares its
class in `DECLARED`. Every run has one of each; one that its recipe or machine does not ask for does nothing.

Invariant: an observer changes no weight, gradient or random state that training goes on from; what it must remember
over an interruption it puts into the checkpoint. All its methods but `row` are called on all ranks alike.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from athanor.core.kinds import Kinds
from athanor.core.rows import Row
from athanor.tasks.trainer.engines.engine import Engine
from athanor.tasks.trainer.train_recipe import RunSpec


@dataclass(frozen=True)
class Scene:
    """What an observer may look at. `say` reports something in one line; it is heard on the first rank."""

    run_dir: Path
    spec: RunSpec
    engine: Engine
    say: Callable[[str], None]


class Observer:
    """Does nothing; a subclass overrides what concerns it. It is made before a checkpoint is loaded."""

    name: ClassVar[str]

    def __init__(self, scene: Scene):
        self.scene = scene

    def begin(self, step: int) -> None:
        """The attempt goes on after `step` completed steps; the log is open."""

    def row(self, row: Row) -> None:
        """A row of the log, on the first rank; of a resumed attempt from its first event on."""

    def learned(self, step: int, progress: float) -> None:
        """The weights have learned from step `step`, 0-based, which came at `progress` of the training (0 to 1)."""

    def evaluated(self, step: int, held_out: dict[str, dict[str, float]]) -> None:
        """What held-out text measured after `step` completed steps, by source."""

    def delivering(self) -> AbstractContextManager:
        """Within: the model has the weights that are handed on, and measured at the end."""
        return nullcontext()

    def tensors(self) -> dict[str, Tensor]:
        """By name, for a checkpoint to hold and to be loaded into."""
        return {}

    def state(self) -> dict[str, Any]:
        """As JSON, for the checkpoint; names must be this observer's own."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from the state of a checkpoint, which has that of everybody; `tensors` are filled."""

    def summary(self) -> dict[str, Any]:
        """What the finished run's summary says of it."""
        return {}

    def close(self) -> None:
        """The attempt ends, however it does."""


OBSERVERS: Kinds[type[Observer]] = Kinds("observer", "athanor.tasks.trainer.observers", "DECLARED")
