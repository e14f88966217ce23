"""The budget: what the device time that is left allows, and the course a run takes in view of it.

    affordable end = step + (left_s - closing_s) / step_s

left_s remains of the budget after all attempts, by the ledger; step_s is the recent mean time of a step with its share
of evaluations and checkpoints; closing_s is what the end of a run takes. A run that cannot afford its planned end stays
on course for as long as a whole decay still fits, so a slow hour that passes costs nothing, and is then cut: its
learning rate falls from there and it ends annealed. A cut keeps a margin; only a later shortfall beyond it cuts again.
When not even one more step is affordable the run ends where it is, at the wall.
"""

from __future__ import annotations

import math
import time
from collections import deque

from athanor.tasks.trainer.course.course import Course

MARGIN = 0.03  # of the affordable steps, kept back at a cut for steps that turn out slower
RECENT_STEPS = 64
WARMING_STEPS, FEWEST_STEPS = 3, 5  # steps of an attempt that are slow, and that are measured before one is judged by


def revised(course: Course, step: int, left_s: float, step_s: float, closing_s: float) -> Course:
    """The course in view of the wall time left; `step` steps are done. Unchanged while it will do."""
    affordable = step + max(0, math.floor((left_s - closing_s) / step_s))
    if affordable >= course.end:
        return course
    if affordable <= step:
        return course.cut(step, step)
    if not course.decaying(step) and affordable - course.recipe.decay_steps > step:
        return course
    return course.cut(step, max(step + 1, step + math.floor((affordable - step) * (1 - MARGIN))))


class Pace:
    """Measured times of a run: `step_s` all in all, and what an evaluation and a save take."""

    def __init__(self) -> None:
        self._step_s: deque[float] = deque(maxlen=RECENT_STEPS)
        self._steps = 0
        self._evaluation_s = self._save_s = 0.0
        self._last = time.monotonic()

    def begin(self) -> None:
        """Time runs from here; what was before belongs to no step."""
        self._last = time.monotonic()

    def step_done(self) -> float:
        """Close a step, with what was done around it; returns its seconds."""
        now = time.monotonic()
        took_s, self._last = now - self._last, now
        self._steps += 1
        if self._steps > WARMING_STEPS:
            self._step_s.append(took_s)
        return took_s

    def evaluation(self, seconds: float) -> None:
        """An evaluation took this long."""
        self._evaluation_s = max(self._evaluation_s, seconds)

    def save(self, seconds: float) -> None:
        """A checkpoint took this long."""
        self._save_s = max(self._save_s, seconds)

    @property
    def slowest_save_s(self) -> float:
        """Seconds of the slowest checkpoint yet."""
        return self._save_s

    @property
    def step_s(self) -> float | None:
        """Mean seconds of the recent steps; None until enough of them are measured to go by."""
        return sum(self._step_s) / len(self._step_s) if len(self._step_s) >= FEWEST_STEPS else None

    @property
    def closing_s(self) -> float:
        """Seconds that the last evaluation, the last checkpoint and the portable one will take."""
        return self._evaluation_s + 2 * self._save_s + (self.step_s or 0.0)
