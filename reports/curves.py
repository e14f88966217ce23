"""Curves over steps: how one run went, and series averaged and thinned so that they can be drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Curve:
    """How one run went: its loss as logged (nats per token), and the held-out bits per byte.

    step_N and eval_step_M are int64, the others float64 with NaN for what is not finite.
    """

    name: str
    step_N: np.ndarray
    loss_N: np.ndarray
    eval_step_M: np.ndarray
    bits_per_byte_M: np.ndarray

    @classmethod
    def of(cls, name: str, losses: Sequence[Sequence], evaluations: Sequence[Sequence]) -> Curve:
        """From rows (step, loss) and rows (step, bits per byte); None becomes NaN."""
        columns = []
        for rows in (losses, evaluations):
            step_N, value_N = np.array([tuple(row) for row in rows], dtype=float).reshape(-1, 2).T
            columns += [step_N.astype(np.int64), value_N]
        return cls(name, *columns)


def smoothing_span(*lengths: int) -> int:
    """Over how many values series of these lengths are averaged to be drawn over one another."""
    return max(max(lengths, default=0) // 80, 5)


class Ema:
    """Exponential moving average that keeps the share `keep` of itself at each value, corrected for its start."""

    def __init__(self, keep: float):
        self._keep = keep
        self._total = self._weight = 0.0

    def push(self, value: float) -> None:
        """Take in a value; one that is not finite changes nothing."""
        if math.isfinite(value):
            self._total = self._keep * self._total + (1 - self._keep) * value
            self._weight = self._keep * self._weight + (1 - self._keep)

    @property
    def mean(self) -> float:
        """The average of what was taken in; NaN before the first value."""
        return self._total / self._weight if self._weight else math.nan


def smoothed(values: np.ndarray, span: int) -> np.ndarray:
    """Mean over the `span` values around each, an odd number or one more; fewer towards the ends, as many on either
    side, so that the average of a falling curve lies on it and not above. What is not finite counts for nothing."""
    finite = np.isfinite(values)
    total = np.concatenate(([0.0], np.cumsum(np.where(finite, values, 0.0))))
    count = np.concatenate(([0], np.cumsum(finite)))
    at = np.arange(len(values))
    half = np.minimum(max(span, 1) // 2, np.minimum(at, len(values) - 1 - at))
    first, end = at - half, at + half + 1
    with np.errstate(invalid="ignore"):
        return (total[end] - total[first]) / (count[end] - count[first])


def thinned(steps: np.ndarray, values: np.ndarray, bins: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """At most `2 * bins` points that keep the lowest and the highest value of every bin, so that no spike is lost."""
    if len(steps) <= 2 * bins:
        return steps, values
    keep: list[int] = []
    for part in np.array_split(np.arange(len(steps)), bins):
        finite = part[np.isfinite(values[part])]
        if len(finite):
            keep += sorted({int(finite[values[finite].argmin()]), int(finite[values[finite].argmax()])})
    return steps[keep], values[keep]
