"""What one run's `metrics.jsonl` says, as series ready to draw; each is made when first asked for, and once.

A step that was run again (after a restart or a roll-back) counts once, with its last row: that is the one the final
weights come from. Values that are not finite are kept as gaps; they never enter a mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from athanor.data.data_recipe import MixtureRecipe
from athanor.data.mixture import scheduled_weights
from athanor.reports.curves import smoothed, smoothing_span

Row = Mapping[str, Any]
Series = tuple[np.ndarray, np.ndarray]  # steps int64, values float64 with NaN for a gap


class Log:
    """The rows of a run by kind, and their series. `steps` are in order, `events` as logged."""

    def __init__(self, rows: Sequence[Row]):
        self.steps = _latest(rows, "step")
        self.evaluations = _latest(rows, "eval")
        self.events = [row for row in rows if row["kind"] == "event"]

    def __bool__(self) -> bool:
        return bool(self.steps or self.evaluations or self.events)

    @cached_property
    def loss(self) -> Series:
        """Training loss, nats per token."""
        return self._field("loss")

    @cached_property
    def averaged_loss(self) -> np.ndarray:
        """The moving average of `loss`, float64."""
        values = self.loss[1]
        return smoothed(values, smoothing_span(len(values)))

    @cached_property
    def rate(self) -> Series:
        """Learning rate."""
        return self._field("lr")

    @cached_property
    def gradient_norm(self) -> Series:
        """Norm of the gradient before clipping."""
        return self._field("grad_norm")

    @cached_property
    def tokens_per_s(self) -> Series:
        """Throughput."""
        return self._field("tokens_per_s")

    @cached_property
    def utilisation(self) -> Series:
        """Share of the device's peak that the model's FLOPs used."""
        return self._field("utilisation")

    @cached_property
    def schedule(self) -> dict[str, Series]:
        """Scheduled values by name, in order of appearance."""
        return _by_name((row["step"], row.get("schedule") or {}) for row in self.steps)

    @cached_property
    def auxiliary(self) -> dict[str, Series]:
        """Auxiliary losses and diagnostics by name, in order of appearance."""
        return _by_name((row["step"], row.get("aux") or {}) for row in self.steps)

    @cached_property
    def bits_per_byte(self) -> dict[str, Series]:
        """Held-out bits per byte by domain."""
        return self._held_out("bits_per_byte")

    @cached_property
    def held_out_loss(self) -> dict[str, Series]:
        """Held-out loss by domain, nats per token."""
        return self._held_out("loss")

    def _field(self, name: str) -> Series:
        """None and missing become NaN."""
        values = [row.get(name) for row in self.steps]
        return _ints(row["step"] for row in self.steps), _floats(values)

    def _held_out(self, measure: str) -> dict[str, Series]:
        return _by_name(
            (row["step"], {source: measured[measure] for source, measured in row["held_out"].items()})
            for row in self.evaluations
        )


@dataclass(frozen=True)
class Mix:
    """Rows by source: how many were read at each logged step, and the share asked for at every step.

    step_K int64; rows_K int64 by source; asked_N float64 by source, item 0 the first step, empty where none was asked.
    """

    step_K: np.ndarray
    rows_K: Mapping[str, np.ndarray]
    asked_N: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, log: Log, mixture: MixtureRecipe | None, steps: int) -> Mix | None:
        """The mix of a run asked for so many steps; None where no step says what it read."""
        logged = [row for row in log.steps if row.get("mix")]
        if not logged:
            return None
        sources = sorted({source for row in logged for source in row["mix"]})
        rows_K = {source: _ints(row["mix"].get(source, 0) for row in logged) for source in sources}
        asked_N = asked_shares(mixture, steps) if mixture is not None and steps else {}
        return cls(_ints(row["step"] for row in logged), rows_K, asked_N)

    @cached_property
    def total_K(self) -> np.ndarray:
        """Rows of all sources at each logged step, int64."""
        return np.sum(list(self.rows_K.values()), axis=0)


def asked_shares(mixture: MixtureRecipe, steps: int) -> dict[str, np.ndarray]:
    """Per source the share of rows asked for in each of the steps, float64 [steps]; item 0 is the first step."""
    weights_NS = scheduled_weights(mixture, steps)
    return {source: weights_NS[:, i] for i, source in enumerate(sorted(mixture.start))}


def _latest(rows: Sequence[Row], kind: str) -> list[Row]:
    """The rows of one kind in step order; of several with the same step the last."""
    latest = {row["step"]: row for row in rows if row["kind"] == kind}
    return [latest[step] for step in sorted(latest)]


def _by_name(rows: Iterable[tuple[int, Mapping[str, float | None]]]) -> dict[str, Series]:
    """Rows of named values as one series a name, each with its own steps."""
    found: dict[str, tuple[list[int], list[float | None]]] = {}
    for step, named in rows:
        for name, value in named.items():
            at, values = found.setdefault(name, ([], []))
            at.append(step)
            values.append(value)
    return {name: (_ints(at), _floats(values)) for name, (at, values) in found.items()}


def _ints(values: Iterable[int]) -> np.ndarray:
    return np.array(list(values), dtype=np.int64)


def _floats(values: Iterable[float | None]) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in values], dtype=float)
