"""Sequence-length phases: spans of steps whose rows have one length.

Invariants of a run's phases: the first begins at step 0; every step has the same number of tokens; each length is a
multiple of the one before, so that a row is a whole number of the shorter rows; the last length is the longest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Phase:
    """From `first_step` until the next phase begins, a step is `batch_rows` rows of `seq_len_tokens`."""

    first_step: int
    seq_len_tokens: int
    batch_rows: int


def phase_at(phases: Sequence[Phase], step: int) -> int:
    """Index of the phase a step belongs to."""
    return bisect_right(phases, step, key=lambda phase: phase.first_step) - 1
