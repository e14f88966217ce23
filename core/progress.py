"""How long-running functions report progress without knowing who listens, and how fast it goes."""

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import Protocol


class Progress(Protocol):
    """Called now and then with work done so far, the total when it is known, and the unit (`documents`, `tokens`)."""

    def __call__(self, done: float, total: float | None, unit: str) -> None: ...


def silent(done: float, total: float | None, unit: str) -> None:
    """A listener that ignores every report."""


class Pace:
    """The speed of one piece of work since it was first heard of, so that what an earlier attempt did counts for
    nothing."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None  # when, and what was done by then
        self._last = (0.0, 0.0)

    def reached(self, done: float) -> None:
        """Note what is done now."""
        self._last = (time.monotonic(), done)
        if self._first is None or done < self._first[1]:
            self._first = self._last

    @property
    def per_s(self) -> float | None:
        """Units a second; None before it can be known."""
        if self._first is None or self._last[0] <= self._first[0] or self._last[1] <= self._first[1]:
            return None
        return (self._last[1] - self._first[1]) / (self._last[0] - self._first[0])

    def left_s(self, total: float) -> float | None:
        """Seconds until `total` at this speed; None before it can be known."""
        per_s = self.per_s
        return None if per_s is None else max(0.0, total - self._last[1]) / per_s


class Watcher:
    """Sees the stages of a run as they go; this one looks away. `title` is a stage and what it is about."""

    def began(self, title: str, usd_per_hour: float) -> None:
        """A stage is built, at that price of all devices."""

    def reached(self, title: str, done: float, total: float | None, unit: str) -> None:
        """A stage's progress."""

    def ended(self, title: str, cached: bool) -> None:
        """A stage is done; if `cached`, it was before."""


WATCHER: ContextVar[Watcher] = ContextVar("watcher", default=Watcher())  # noqa: B039
