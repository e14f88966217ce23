"""The schedules in common use.

    cosine, linear      fall from the warm-up to the end
    wsd, trapezoid      stay at the peak, then fall along half a cosine, or linearly
    constant            stays at the peak

All but `constant` come to `min_lr_fraction` of the peak.
"""

from __future__ import annotations

import math

from athanor.tasks.trainer.course.schedules.kind import Schedule


def _half_cosine(progress: float) -> float:
    return (1 + math.cos(math.pi * progress)) / 2


def _line(progress: float) -> float:
    return 1 - progress


DECLARED = (
    Schedule("cosine", _half_cosine),
    Schedule("wsd", _half_cosine, stable=True),
    Schedule("trapezoid", _line, stable=True),
    Schedule("linear", _line),
    Schedule("constant", None, stable=True),
)
