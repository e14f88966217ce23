"""How fast a run goes: tokens and FLOPs per second, share of the device's peak, time left."""

from __future__ import annotations

from collections import deque

RECENT_STEPS = 32  # the time left follows the mean of these, evaluations and checkpoints between them included


class Throughput:
    """Turns step times into rates. An unknown peak is infinite, so that utilisation reads 0 and not a wrong number."""

    def __init__(self, batch_tokens: int, peak_flops_per_s: float):
        self._batch_tokens = batch_tokens
        self._peak_flops_per_s = peak_flops_per_s
        self._recent_s: deque[float] = deque(maxlen=RECENT_STEPS)

    def after(self, step_s: float, wall_s: float, steps_left: int, flops_per_token: float) -> dict[str, float]:
        """The timing fields of a step row: tokens_per_s, flops_per_s, utilisation, step_s, wall_s, eta_s.

        `step_s` is what forward, backward and optimizer took, `wall_s` all since the step before; `flops_per_token` are
        those of the step's row length.
        """
        self._recent_s.append(wall_s)
        tokens_per_s = self._batch_tokens / step_s
        flops_per_s = tokens_per_s * flops_per_token
        return {
            "tokens_per_s": tokens_per_s,
            "flops_per_s": flops_per_s,
            "utilisation": flops_per_s / self._peak_flops_per_s,
            "step_s": step_s,
            "wall_s": wall_s,
            "eta_s": sum(self._recent_s) / len(self._recent_s) * steps_left,
        }
