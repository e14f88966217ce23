"""Which of its checkpoints a run keeps; said here, where no torch is needed, for the plan too."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Retention:
    """Which checkpoints are kept: the newest `newest`, the newest two at multiples of `anchor_steps`, which the guard
    goes back to, and all at multiples of `permanent_steps`."""

    newest: int
    anchor_steps: int
    permanent_steps: int | None = None

    def of(self, steps: list[int]) -> set[int]:
        """Those of the given steps, in ascending order, that are kept."""
        anchors = [step for step in steps if step % self.anchor_steps == 0]
        permanent = {step for step in steps if self.permanent_steps and step % self.permanent_steps == 0}
        return {*steps[-self.newest :], *anchors[-2:], *permanent}
