"""Curves over steps: how one run went, and series averaged and thinned so that they can be drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class HeldOut:
    """The evaluations of one source while a run went: step_M int64, the others float64 with NaN."""

    step_M: np.ndarray
    bits_per_byte_M: np.ndarray
    tokens_M: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence]) -> HeldOut:
        """From rows (step, bits per byte, tokens), one or more; None becomes NaN."""
        step_M, bits_per_byte_M, tokens_M = np.array([tuple(row) for row in rows], dtype=float).T
        return cls(step_M.astype(np.int64), bits_per_byte_M, tokens_M)

    @property
    def best(self) -> int | None:
        """Which of the M has the fewest bits per byte; None where none is finite."""
        finite = np.isfinite(self.bits_per_byte_M)
        return int(np.where(finite, self.bits_per_byte_M, np.inf).argmin()) if finite.any() else None


@dataclass(frozen=True)
class Curve:
    """How one run went: its loss as logged (nats per token), and the held-out bits per byte by source.

    step_N is int64, loss_N float64 with NaN for what is not finite.
    """

    name: str
    step_N: np.ndarray
    loss_N: np.ndarray
    held_out: Mapping[str, HeldOut]

    @classmethod
    def of(cls, name: str, losses: Sequence[Sequence], held_out: Mapping[str, HeldOut]) -> Curve:
        """From rows (step, loss); None becomes NaN."""
        step_N, loss_N = np.array([tuple(row) for row in losses], dtype=float).reshape(-1, 2).T
        return cls(name, step_N.astype(np.int64), loss_N, held_out)


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
