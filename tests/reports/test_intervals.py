"""Intervals against published and computed numbers; what they hold, and when nothing is said."""

from __future__ import annotations

import math

import pytest
from scipy.stats import t

from athanor.reports.benchmarks.interval_coverage import (
    bits_per_byte,
    coverage,
    false_verdicts,
    false_verdicts_of_answers,
    truth,
)
from athanor.reports.intervals import LEAST_N, differ, effective_n, interval, jackknife_interval, wilson_interval


# Newcombe (1998), Statistics in Medicine 17, table I, method 3.
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_matches_newcombe(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)
    assert wilson_interval(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_wilson_interval_ends_exactly_at_none_and_all():
    assert wilson_interval(0, 200)[0] == 0.0
    assert wilson_interval(200, 200)[1] == 1.0


def mean(values):
    return sum(values) / len(values)


def test_the_jackknife_of_a_mean_is_students_interval():
    values = [0.5, 1.5, 4.0, 2.0, 2.5, 3.5, 0.0, 9.0, 1.0]
    n = len(values)
    deviation = math.sqrt(sum((value - mean(values)) ** 2 for value in values) / (n - 1))
    half = t.ppf(0.975, n - 1) * deviation / math.sqrt(n)
    assert jackknife_interval(values, mean) == pytest.approx((mean(values) - half, mean(values) + half))


def test_a_document_longer_than_the_rest_together_counts_for_most():
    even, uneven = [(1.0, 10.0)] * 16, [(1.0, 10.0)] * 15 + [(1.0, 1000.0)]
    assert effective_n(even) == pytest.approx(16.0)
    assert 1 < effective_n(uneven) < 2


@pytest.mark.parametrize("n", [8, 16, 64])
@pytest.mark.parametrize(("sigma", "power"), [(0.0, 0.0), (1.0, 0.0), (1.0, -0.1), (1.5, 0.0)])
def test_ninety_five_percent_intervals_hold_the_truth_about_so_often(n, sigma, power):
    draws = 1000  # of seed 0; the standard error is 0.7 points
    assert 0.93 <= coverage(n, sigma, power, draws) <= 0.98


def test_the_truth_of_the_simulation_is_what_many_documents_have():
    import numpy as np

    from athanor.reports.benchmarks.interval_coverage import documents

    rng = np.random.default_rng(1)
    assert bits_per_byte(documents(rng, 400_000, 1.0, -0.1)) == pytest.approx(truth(1.0, -0.1), rel=0.01)


def test_nothing_is_said_on_a_handful():
    few, enough = [1.0, 0.0] * 3 + [1.0], [1.0, 0.0] * 4
    assert (len(few), len(enough)) == (LEAST_N - 1, LEAST_N)
    assert interval(few, mean) is None and interval(enough, mean) is not None
    assert interval([(1.0, 2.0)] * (LEAST_N - 1), bits_per_byte) is None
    right, wrong = [1.0] * (LEAST_N - 1), [0.0] * (LEAST_N - 1)
    assert differ(items(right), items(wrong)) is None


def items(values, sha256="a"):
    return {"sha256": sha256, "values": values}


def test_other_items_are_not_compared():
    right, wrong = items([1.0] * 20), items([0.0] * 20)
    assert differ(right, wrong) is True
    assert differ(right, {**wrong, "sha256": "b"}) is None
    assert differ(right, None) is None and differ(None, wrong) is None


# The exact test by hand: 2 * (1/2)^6 = 0.031, 2 * (1/2)^5 = 0.063; of ten, 9: 2 * 11/1024 = 0.021, 8: 0.109.
@pytest.mark.parametrize(
    ("only_ours", "only_theirs", "apart"),
    [(6, 0, True), (5, 0, False), (0, 6, True), (9, 1, True), (8, 2, False), (0, 0, False)],
)
def test_answers_are_compared_by_the_exact_test_of_those_on_which_models_differ(only_ours, only_theirs, apart):
    both = [1.0] * 50 + [0.0] * 50
    ours = both + [1.0] * only_ours + [0.0] * only_theirs
    theirs = both + [0.0] * only_ours + [1.0] * only_theirs
    assert differ(items(ours), items(theirs)) is apart


def test_a_small_difference_on_every_document_is_seen_though_the_documents_differ_much():
    lengths = [100.0 * (1 + n % 7) for n in range(40)]
    rates = [1.0 + 0.8 * (n % 5) for n in range(40)]
    base = [[rate * length, length] for rate, length in zip(rates, lengths, strict=True)]
    tuned = [[bits * (0.985 + 0.01 * (n % 2)), length] for n, (bits, length) in enumerate(base)]
    assert differ(items(base), items(tuned)) is differ(items(tuned), items(base)) is True, "either may be the better"
    low, high = jackknife_interval(base, bits_per_byte)
    assert low < bits_per_byte(tuned) < high, "unpaired, the two would not be told apart"
    assert differ(items(base), items(base)) is False


@pytest.mark.parametrize("n", [8, 32])
def test_equal_models_are_rarely_told_apart(n):
    draws = 300
    assert false_verdicts(n, 1.0, draws) <= 0.08
    assert false_verdicts_of_answers(n, 0.5, draws) <= 0.05
