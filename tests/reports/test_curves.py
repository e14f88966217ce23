"""Curves: averages and thinning that hide nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from athanor.reports.curves import HeldOut, smoothed, smoothing_span, thinned


def test_what_is_not_finite_stays_out_of_the_mean_and_is_a_gap_at_an_end():
    values = np.array([math.nan, 2.0, math.inf, 4.0, 6.0])
    average = smoothed(values, 3)
    assert np.isnan(average[0]) and average[1:].tolist() == [2.0, 3.0, 5.0, 6.0]


@pytest.mark.parametrize("steps", [3, 12, 400])
def test_the_average_of_a_line_is_the_line_however_short_the_run(steps):
    falling = np.linspace(9.0, 2.0, steps)
    assert smoothed(falling, smoothing_span(steps)) == pytest.approx(falling)


def test_noise_is_averaged_over_the_span():
    noise = np.resize([1.0, -1.0], 101)
    assert np.abs(smoothed(noise, 21)[10:-10]).max() < 0.05


def test_thinning_keeps_every_spike():
    values = np.zeros(100_000)
    values[[777, 50_001]] = 40.0, -3.0
    steps, kept = thinned(np.arange(100_000), values)
    assert len(kept) <= 1000 and dict(zip(steps, kept, strict=True)).items() >= {(777, 40.0), (50_001, -3.0)}


def test_the_best_evaluation_is_the_lowest_finite_one_and_none_where_there_is_none():
    assert HeldOut.of([(1, None, 8), (2, 3.0, 8), (3, 2.0, None), (4, math.inf, 8)]).best == 2
    assert HeldOut.of([(1, None, 8)]).best is None
