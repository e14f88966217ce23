"""The guard: which steps are not learned from, when to go back, and when to cool down.

A step is *bad* when its loss or gradient norm is not finite, or lies more than `spike` spreads above the median of the
last `window_steps` good ones. The spread is 1.4826 x the median absolute deviation, at least 2 % of the median loss;
the gradient norm is judged by its logarithm, with a spread of at least 1/4. A bad step is skipped: nothing is updated,
and its values never enter the window. After `skips` bad steps in a row the weights go back to the last anchor before
them, the data that was read since is left behind, and after `rollbacks` of these training stops.

The verdict is a pure function of values all ranks share and of a state that every checkpoint keeps, so a resumed run
and every rank decide alike.
"""

from __future__ import annotations

import math
from collections import deque
from statistics import median
from typing import Any

from athanor.tasks.trainer.train_recipe import GuardRecipe

FEWEST = 16  # good steps before anything finite is called a spike
LOSS_SPREAD, LOG_NORM_SPREAD = 0.02, 0.25  # smallest spreads: of the median loss, of the log gradient norm
LOSS_MEMORY = 0.99  # decay of the mean loss behind the cool-down


class Guard:
    """Judges steps. Give every good one to `accept` and every bad one to `skip`."""

    def __init__(self, recipe: GuardRecipe):
        self.recipe = recipe
        self.skipped_in_a_row = 0
        self.rollbacks = 0
        self._losses: deque[float] = deque(maxlen=recipe.window_steps)
        self._log_norms: deque[float] = deque(maxlen=recipe.window_steps)
        self._loss_sum = self._loss_weight = 0.0
        self._lowest = math.inf
        self._rises = 0
        self._asked_at = 0

    def problem(self, loss: float, grad_norm: float) -> str | None:
        """Why a step with this loss (nats per token) and gradient norm is bad; None for a good one."""
        if not math.isfinite(loss) or not math.isfinite(grad_norm):
            return f"loss {loss:.4g}, gradient norm {grad_norm:.4g}"
        if len(self._losses) < FEWEST:
            return None
        if loss > (limit := self._limit(self._losses, LOSS_SPREAD * abs(median(self._losses)))):
            return f"loss {loss:.4g} is a spike, the last good ones allow {limit:.4g}"
        if _log(grad_norm) > (limit := self._limit(self._log_norms, LOG_NORM_SPREAD)):
            return f"gradient norm {grad_norm:.4g} is a spike, the last good ones allow {math.exp(limit):.4g}"
        return None

    def accept(self, loss: float, grad_norm: float) -> None:
        """A step was learned from."""
        self.skipped_in_a_row = 0
        self._losses.append(loss)
        self._log_norms.append(_log(grad_norm))
        self._loss_sum = LOSS_MEMORY * self._loss_sum + (1 - LOSS_MEMORY) * loss
        self._loss_weight = LOSS_MEMORY * self._loss_weight + (1 - LOSS_MEMORY)

    def skip(self) -> bool:
        """A bad step was passed over. Whether it is time to roll back."""
        self.skipped_in_a_row += 1
        return self.skipped_in_a_row >= self.recipe.skips

    def rolled_back(self, anchor: Guard) -> bool:
        """Go on with the window of the anchor. Whether training may go on."""
        self._adopt(anchor.state())
        self.skipped_in_a_row = 0
        self.rollbacks += 1
        return self.rollbacks <= self.recipe.rollbacks

    def should_cool_down(self, step: int, steps: int) -> bool:
        """To be asked at every evaluation, after `step` of `steps`: whether the mean loss has stayed above its lowest
        for too long. Asking twice at one step counts once."""
        if self.recipe.cooldown_rise is None or not self._loss_weight or step <= self._asked_at:
            return False
        self._asked_at = step
        mean = self._loss_sum / self._loss_weight
        self._lowest = min(self._lowest, mean)
        self._rises = self._rises + 1 if mean > self._lowest * (1 + self.recipe.cooldown_rise) else 0
        return step >= self.recipe.cooldown_from * steps and self._rises >= self.recipe.cooldown_patience

    def state(self) -> dict[str, Any]:
        """As JSON, for the checkpoint."""
        return {
            "skipped_in_a_row": self.skipped_in_a_row,
            "rollbacks": self.rollbacks,
            "losses": list(self._losses),
            "log_norms": list(self._log_norms),
            "loss_sum": self._loss_sum,
            "loss_weight": self._loss_weight,
            "lowest": self._lowest if math.isfinite(self._lowest) else None,
            "rises": self._rises,
            "asked_at": self._asked_at,
        }

    @classmethod
    def restored(cls, recipe: GuardRecipe, state: dict[str, Any]) -> Guard:
        """From `state()`."""
        guard = cls(recipe)
        guard.skipped_in_a_row, guard.rollbacks = state["skipped_in_a_row"], state["rollbacks"]
        guard._adopt(state)
        return guard

    def _adopt(self, state: dict[str, Any]) -> None:
        self._losses = deque(state["losses"], self.recipe.window_steps)
        self._log_norms = deque(state["log_norms"], self.recipe.window_steps)
        self._loss_sum, self._loss_weight = state["loss_sum"], state["loss_weight"]
        self._lowest = math.inf if state["lowest"] is None else state["lowest"]
        self._rises, self._asked_at = state["rises"], state["asked_at"]

    def _limit(self, window: deque[float], least_spread: float) -> float:
        middle = median(window)
        spread = 1.4826 * median([abs(value - middle) for value in window])
        return middle + self.recipe.spike * max(spread, least_spread)


def _log(grad_norm: float) -> float:
    return math.log(max(grad_norm, 1e-30))
