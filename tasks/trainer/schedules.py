"""Learning-rate schedules: pure functions of the step, so a resumed run needs to restore nothing.

    warm-up   w steps:  (s + 1) / w, so the first step already learns and step w - 1 is at the peak
    cosine    m + (1 - m) (1 + cos(pi p)) / 2,      p = (s - w) / (steps - w)
    wsd       1, then linearly to m over the last `decay_fraction` of all steps

s counts from 0, m is `min_lr_fraction`; both reach m at s = steps, one past the last step. A wsd decay that would
begin inside the warm-up begins where the warm-up ends.
"""

from __future__ import annotations

import math

from tasks.trainer.config import TrainRecipe


def learning_rate(recipe: TrainRecipe, step: int) -> float:
    """Learning rate of step `step`, 0-based."""
    return recipe.peak_lr * _fraction(recipe, step)


def _fraction(recipe: TrainRecipe, step: int) -> float:
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    floor = recipe.min_lr_fraction
    if recipe.schedule == "cosine":
        progress = (step - recipe.warmup_steps) / (recipe.steps - recipe.warmup_steps)
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
    decay_start = max(recipe.warmup_steps, recipe.steps - recipe.decay_fraction * recipe.steps)
    if step <= decay_start:
        return 1.0
    return 1 - (1 - floor) * (step - decay_start) / (recipe.steps - decay_start)
