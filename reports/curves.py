"""What `metrics.jsonl` rows say, as series ready to draw.

A step that was run again (after a restart or a roll-back) counts once, with its last row: that is the one the final
weights come from. Values that are not finite are kept as gaps; they never enter a mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from athanor.data.data_recipe import MixtureRecipe
from athanor.data.mixture import scheduled_weights

Row = Mapping[str, Any]


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


def rows_of(rows: Sequence[Row], kind: str) -> list[Row]:
    """The rows of one kind in step order; of several with the same step the last. Events are all kept, as logged."""
    if kind == "event":
        return [row for row in rows if row["kind"] == kind]
    latest = {row["step"]: row for row in rows if row["kind"] == kind}
    return [latest[step] for step in sorted(latest)]


def series(rows: Sequence[Row], field: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and float64 values of one field of the step rows; None and missing become NaN."""
    steps = rows_of(rows, "step")
    values = [row.get(field) for row in steps]
    return _steps(steps), np.array([math.nan if v is None else v for v in values], dtype=float)


def named_series(rows: Sequence[Row], field: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The same for a field that holds a mapping, such as `schedule`: one series a name, in order of appearance."""
    steps = rows_of(rows, "step")
    found: dict[str, tuple[list[int], list[float]]] = {}
    for row in steps:
        for name, value in (row.get(field) or {}).items():
            at, values = found.setdefault(name, ([], []))
            at.append(row["step"])
            values.append(math.nan if value is None else value)
    return {name: (np.array(at), np.array(values, dtype=float)) for name, (at, values) in found.items()}


def held_out(rows: Sequence[Row], field: str = "bits_per_byte") -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per domain the steps of the held-out evaluations and what they measured."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for row in rows_of(rows, "eval"):
        for source, measured in row["held_out"].items():
            at, values = found.setdefault(source, ([], []))
            at.append(row["step"])
            values.append(measured[field])
    return {source: (np.array(at), np.array(values, dtype=float)) for source, (at, values) in found.items()}


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
    """Exponential moving average over about `span` values, corrected for its start; gaps carry the mean on."""
    average = Ema(1 - 1 / max(span, 1))
    out = np.full(len(values), np.nan)
    for i, value in enumerate(values):
        average.push(value)
        out[i] = average.mean
    return out


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


def asked_shares(mixture: MixtureRecipe, steps: int) -> dict[str, np.ndarray]:
    """Per source the share of rows asked for in each of the steps, float64 [steps]; item 0 is the first step."""
    weights_NS = scheduled_weights(mixture, steps)
    return {source: weights_NS[:, i] for i, source in enumerate(sorted(mixture.start))}


def realised_rows(rows: Sequence[Row]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Per source the logged steps and the rows it gave to each (int64)."""
    steps = [row for row in rows_of(rows, "step") if row.get("mix")]
    sources = sorted({source for row in steps for source in row["mix"]})
    counts = {source: np.array([row["mix"].get(source, 0) for row in steps], dtype=np.int64) for source in sources}
    return {source: (_steps(steps), counts[source]) for source in sources}


def _steps(rows: Sequence[Row]) -> np.ndarray:
    return np.array([row["step"] for row in rows], dtype=np.int64)
