"""What changes in a model in the course of its training beside its parameters; as it comes, nothing does.

Invariant: all of it follows from the arguments or lies in persistent buffers, so that a run that was cut goes on as if
it had not been.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


class Curriculum(nn.Module):
    """What a trainer tells a model as it goes."""

    def schedule(self, progress: float) -> dict[str, float]:
        """Scheduled values at `progress` in [0, 1] of training; pure."""
        return {}

    def apply_schedule(self, values: dict[str, float]) -> None:
        """Store scheduled values in persistent buffers of the same names."""
        for name, value in values.items():
            self.get_buffer(name).fill_(value)

    def begin_training(self, sources: Sequence[str]) -> None:
        """Called before the first step of every attempt at a run, with the names that `source_B` of a model's `loss`
        indexes."""

    def begin_step(self, step_key: int) -> None:
        """Called before every optimizer step with a hash of (seed, step) in 0 .. 2^63 - 1: for draws that must be the
        same for all rows, micro-batches and ranks of the step."""

    def after_step(self, loss: float) -> None:
        """Called after every optimizer step with its loss in nats per target token, before `apply_schedule`: for
        curricula gated by what was learned."""
