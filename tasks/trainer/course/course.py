"""The course of a run: where it ends, and from where its learning rate falls, if that is no longer as planned.

    learning rate   the schedule's; from `decay_from` on, linearly from there to the floor at `end`
    progress        step / steps; after a cut at step c to end e, linearly from what it was at c to 1 at e

A *cut* makes the run end earlier (the budget's decision), a *cool-down* makes it only decay earlier (the guard's). Both
end annealed: learning rate at its floor and every schedule of the model at its end, at the last step whatever it is.
The course is kept in every checkpoint, so a resumed run goes on with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from athanor.tasks.trainer.course.schedules.kind import SCHEDULES, lr_fraction
from athanor.tasks.trainer.train_recipe import TrainRecipe


@dataclass(frozen=True)
class Course:
    """`cuts` are (step, end) in order; `decay_from` None leaves the decay to the schedule."""

    recipe: TrainRecipe
    cuts: tuple[tuple[int, int], ...] = ()
    decay_from: int | None = None

    @property
    def end(self) -> int:
        """Optimizer steps of the whole run."""
        return self.cuts[-1][1] if self.cuts else self.recipe.steps

    def learning_rate(self, step: int) -> float:
        """Of step `step`, 0-based."""
        peak, start = self.recipe.peak_lr, self.decay_from
        if start is None or step <= start:
            return peak * lr_fraction(self.recipe, step)
        top = lr_fraction(self.recipe, start)
        floor = min(self.recipe.min_lr_fraction, top)
        fallen = min(1.0, (step - start) / max(1, self.end - start))
        return peak * (top * (1.0 - fallen) + floor * fallen)

    def progress(self, step: int) -> float:
        """Share of the training that `step` completed steps are, for the model's schedules: 1 at the end."""
        anchor_step, anchor, end = 0, 0.0, self.recipe.steps
        for cut_step, cut_end in self.cuts:
            if step <= cut_step:
                break
            anchor += (1.0 - anchor) * (cut_step - anchor_step) / max(1, end - anchor_step)
            anchor_step, end = cut_step, cut_end
        if anchor_step == 0 and end == self.recipe.steps:
            return step / end
        return min(1.0, anchor + (1.0 - anchor) * (step - anchor_step) / max(1, end - anchor_step))

    def cut(self, step: int, end: int) -> Course:
        """The course of a run that is to end at `end`, decided at `step`."""
        start = max(step, end - self.recipe.decay_steps)
        decay_from = start if self.decay_from is None else min(start, self.decay_from)
        return replace(self, cuts=(*self.cuts, (step, end)), decay_from=decay_from)

    def cool_down(self, step: int) -> Course:
        """The course of a run whose decay begins at `step`, if it has not begun."""
        return self if self.decaying(step) else replace(self, decay_from=step)

    def decaying(self, step: int) -> bool:
        """Whether the learning rate already falls towards the end."""
        if self.decay_from is not None:
            return step >= self.decay_from
        return SCHEDULES[self.recipe.schedule].left is not None and step >= self.recipe.steps - self.recipe.decay_steps

    def state(self) -> dict[str, Any]:
        """As JSON, for the checkpoint."""
        return {"cuts": [list(cut) for cut in self.cuts], "decay_from": self.decay_from}

    @classmethod
    def restored(cls, recipe: TrainRecipe, state: dict[str, Any]) -> Course:
        """From `state()`."""
        return cls(recipe, tuple((step, end) for step, end in state["cuts"]), state["decay_from"])
