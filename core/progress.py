"""How long-running functions report progress without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called now and then with work done so far, the total when it is known, and the unit (`documents`, `tokens`)."""

    def __call__(self, done: float, total: float | None, unit: str) -> None: ...


def silent(done: float, total: float | None, unit: str) -> None:
    """A listener that ignores every report."""
