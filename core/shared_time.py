"""The time of a machine, divided among what is done on it at once.

Invariant: however many pieces of work overlap, their shares add up to the time that passed, so what each costs adds up
to what is paid.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Share:
    """The part of one piece of work, so far."""

    seconds = 0.0


class SharedTime:
    """Divides every moment evenly among the work that is going on in it."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._lock = threading.Lock()
        self._going_on: list[Share] = []
        self._divided_s = now()

    @contextmanager
    def share(self) -> Iterator[Share]:
        """Inside, work is going on; afterwards its share is whole."""
        mine = Share()
        with self._lock:
            self._divide()
            self._going_on.append(mine)
        try:
            yield mine
        finally:
            with self._lock:
                self._divide()
                self._going_on.remove(mine)

    def _divide(self) -> None:
        now = self._now()
        for share in self._going_on:
            share.seconds += (now - self._divided_s) / len(self._going_on)
        self._divided_s = now


SHARED_TIME = SharedTime()  # of what this process has built
