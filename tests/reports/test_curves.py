"""Curves: averages and thinning that hide nothing."""

from __future__ import annotations

import math

import numpy as np

from athanor.reports.curves import smoothed, thinned


def test_values_that_are_not_finite_stay_gaps_and_out_of_the_mean():
    values = np.array([math.nan, 2.0, math.inf, 2.0])
    assert np.isnan(smoothed(values, 5)[0]) and smoothed(values, 5)[1:].tolist() == [2.0, 2.0, 2.0]


def test_thinning_keeps_every_spike():
    values = np.zeros(100_000)
    values[[777, 50_001]] = 40.0, -3.0
    steps, kept = thinned(np.arange(100_000), values)
    assert len(kept) <= 1000 and dict(zip(steps, kept, strict=True)).items() >= {(777, 40.0), (50_001, -3.0)}
