"""How fast a run goes: tokens and FLOPs per second, share of the device's peak, time left."""

from __future__ import annotations

from collections import deque

from athanor.models.counts import flops_per_token
from athanor.models.model_recipe import ModelRecipe
from athanor.tasks.trainer.train_recipe import TrainRecipe

RECENT_STEPS = 32  # the time left follows the mean of these, evaluations and checkpoints between them included


class Throughput:
    """Turns step times into rates. An unknown peak is infinite, so that utilisation reads 0 and not a wrong number."""

    def __init__(self, model: ModelRecipe, train: TrainRecipe, peak_flops_per_s: float):
        self._batch_tokens = train.batch_tokens
        flops = {phase.seq_len_tokens: flops_per_token(model, phase.seq_len_tokens) for phase in train.phases}
        self._flops_per_token = {length: found.forward + found.backward for length, found in flops.items()}
        self._peak_flops_per_s = peak_flops_per_s
        self._recent_s: deque[float] = deque(maxlen=RECENT_STEPS)

    def after(self, step_s: float, wall_s: float, steps_left: int, seq_len_tokens: int) -> dict[str, float]:
        """The timing fields of a step row: tokens_per_s, flops_per_s, utilisation, step_s, wall_s, eta_s.

        `step_s` is what forward, backward and optimizer took, `wall_s` all since the step before; the step's rows had
        `seq_len_tokens`.
        """
        self._recent_s.append(wall_s)
        tokens_per_s = self._batch_tokens / step_s
        flops_per_s = tokens_per_s * self._flops_per_token[seq_len_tokens]
        return {
            "tokens_per_s": tokens_per_s,
            "flops_per_s": flops_per_s,
            "utilisation": flops_per_s / self._peak_flops_per_s,
            "step_s": step_s,
            "wall_s": wall_s,
            "eta_s": sum(self._recent_s) / len(self._recent_s) * steps_left,
        }
