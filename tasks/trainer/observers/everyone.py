"""All observers of a run as one."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from athanor.core.rows import Row
from athanor.tasks.trainer.observers.kind import OBSERVERS, Observer, Scene


class Everyone(Observer):
    """Passes every call on, in the order of the table, and puts the answers together."""

    def __init__(self, scene: Scene):
        super().__init__(scene)
        self._observers = [kind(scene) for kind in OBSERVERS.records()]

    def begin(self, step: int) -> None:
        for observer in self._observers:
            observer.begin(step)

    def row(self, row: Row) -> None:
        for observer in self._observers:
            observer.row(row)

    def learned(self, step: int, progress: float) -> None:
        for observer in self._observers:
            observer.learned(step, progress)

    def evaluated(self, step: int, held_out: dict[str, dict[str, float]]) -> None:
        for observer in self._observers:
            observer.evaluated(step, held_out)

    @contextmanager
    def delivering(self) -> Iterator[None]:
        with ExitStack() as stack:
            for observer in self._observers:
                stack.enter_context(observer.delivering())
            yield

    def tensors(self) -> dict[str, Tensor]:
        return dict(ChainMap(*(observer.tensors() for observer in self._observers)))

    def state(self) -> dict[str, Any]:
        return dict(ChainMap(*(observer.state() for observer in self._observers)))

    def restore(self, state: dict[str, Any]) -> None:
        for observer in self._observers:
            observer.restore(state)

    def summary(self) -> dict[str, Any]:
        return dict(ChainMap(*(observer.summary() for observer in self._observers)))

    def close(self) -> None:
        for observer in self._observers:
            observer.close()
