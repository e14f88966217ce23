"""Learning-rate schedules: pure functions of the step, so a resumed run needs to restore nothing.

    warm-up    w steps:  (s + 1) / w, so the first step already learns and step w - 1 is at the peak
    cosine     m + (1 - m) (1 + cos(pi p)) / 2,      p = (s - w) / (steps - w)
    linear     1 - (1 - m) p
    constant   1
    trapezoid  1, then linearly to m over the last `decay_steps`
    wsd        1, then along half a cosine to m over the last `decay_steps`

s counts from 0, m is `min_lr_fraction`; all but constant reach m at s = steps, one past the last step. A decay that
would begin inside the warm-up begins where the warm-up ends. A run that is cut short leaves its schedule for the
decay of tasks/trainer/course/course.py.
"""

from __future__ import annotations

import math

from athanor.tasks.trainer.train_recipe import TrainRecipe


def lr_fraction(recipe: TrainRecipe, step: int) -> float:
    """Learning rate of step `step`, 0-based, as a share of the peak."""
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    if recipe.schedule == "constant":
        return 1.0
    start = recipe.warmup_steps
    if recipe.schedule in ("trapezoid", "wsd"):
        start = max(start, recipe.steps - recipe.decay_steps)
    progress = max(0, step - start) / max(1, recipe.steps - start)
    eased = (1 + math.cos(math.pi * progress)) / 2 if recipe.schedule in ("cosine", "wsd") else 1 - progress
    return recipe.min_lr_fraction + (1 - recipe.min_lr_fraction) * eased
