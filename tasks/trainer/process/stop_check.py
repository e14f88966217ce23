"""Taking a stop where it costs least: between two slices of a step, and between two batches of an evaluation.

A step of a large batch takes minutes and a launcher's patience is half of one. So a stop does not wait for the step:
what was measured of it is forgotten, and the run is saved as the last step left it. Ranks must leave at the same place,
or their collective operations no longer meet: they ask one another, about once in ASK_EVERY_S, at a place that follows
from what they said the last time.
"""

from __future__ import annotations

import math
import time

from athanor.tasks.trainer.process.stop_request import StopRequest
from athanor.tasks.trainer.process.world import World

ASK_EVERY_S = 1.0
MOST_PLACES = 10_000  # between two questions, however fast they pass


class StopAsked(Exception):
    """Some rank was asked to stop, and all know it; the message is the reason."""


class StopCheck:
    """Where the ranks look whether one of them was asked to stop."""

    def __init__(self, stop: StopRequest, world: World):
        self._stop, self._world = stop, world
        self._places = 0  # passed since the ranks last asked one another
        self._next = 1  # the place at which they ask again
        self._asked_at = self._passed_at = time.monotonic()
        self.slowest_s = 0.0  # longest way from one place to the next

    def between_steps(self) -> None:
        """Ask all ranks. Raises StopAsked on every one of them if any was asked to stop."""
        self._ask(self._stop.reason)
        self._passed_at = time.monotonic()

    def within_step(self) -> None:
        """Ask the others, if it is time to, for signals: nobody waits for the orphan of a dead parent. Raises StopAsked
        as `between_steps` does."""
        now = time.monotonic()
        self.slowest_s, self._passed_at = max(self.slowest_s, now - self._passed_at), now
        self._places += 1
        if self._world.size == 1 or self._places >= self._next:
            self._ask(self._stop.signal)

    def _ask(self, own: str | None) -> None:
        now = time.monotonic()
        place_s = (now - self._asked_at) / self._places if self._places else 0.0
        said = self._world.gather((own, place_s))
        if slowest_s := max(place_s for _, place_s in said):
            self._next = max(1, math.floor(min(MOST_PLACES, ASK_EVERY_S / slowest_s)))
        self._places, self._asked_at = 0, now
        reason = next((reason for reason, _ in said if reason is not None), None)
        if reason is not None:
            raise StopAsked(reason)
