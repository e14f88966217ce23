"""What a learning-rate schedule declares of itself, and the table of those there are.

    warm-up    w steps: (s + 1) / w, so the first step already learns and step w - 1 is at the peak
    then       1 while the schedule is stable, and in its decay   m + (1 - m) left(p),   p = (s - d) / (steps - d)

s counts from 0, m is `min_lr_fraction`; the decay begins at d = w, where there is a stable phase `decay_steps` before
the end, but never inside the warm-up, and comes to m at s = steps, one past the last step. Pure functions of the step,
so a resumed run needs to restore nothing. A run that is cut short leaves its schedule for the decay of
tasks/trainer/course/course.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from athanor.core.kinds import Kinds

if TYPE_CHECKING:
    from athanor.tasks.trainer.train_recipe import TrainRecipe


@dataclass(frozen=True)
class Schedule:
    """One schedule. `left(p)` is the share of the way down that is left at the share p of its decay, 1 at 0 and 0 at 1;
    None never decays. `stable` ones stay at the peak for a while."""

    name: str
    left: Callable[[float], float] | None
    stable: bool = False


SCHEDULES: Kinds[Schedule] = Kinds("schedule", "athanor.tasks.trainer.course.schedules", "DECLARED")


def lr_fraction(recipe: TrainRecipe, step: int) -> float:
    """Learning rate of step `step`, 0-based, as a share of the peak."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    schedule = SCHEDULES[recipe.schedule]
    if schedule.left is None:
        return 1.0
    start = recipe.warmup_steps
    if schedule.stable:
        start = max(start, recipe.steps - recipe.decay_steps)
    progress = max(0, step - start) / max(1, recipe.steps - start)
    return recipe.min_lr_fraction + (1 - recipe.min_lr_fraction) * schedule.left(progress)
