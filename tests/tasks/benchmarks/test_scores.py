"""Intervals against published and computed numbers."""

from __future__ import annotations

import pytest

from athanor.core.errors import UserError
from athanor.tasks.benchmarks.scores import bootstrap_interval, score, wilson_interval


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


def test_bootstrap_of_a_mean_is_the_normal_interval_and_repeats_with_its_seed():
    values = [float(n % 7) for n in range(700)]  # mean 3, variance 4
    low, high = bootstrap_interval(values, mean, seed=3)
    half = 1.96 * (4 / 700) ** 0.5
    assert (low, high) == pytest.approx((3 - half, 3 + half), abs=0.03)
    assert (low, high) == bootstrap_interval(values, mean, seed=3) != bootstrap_interval(values, mean, seed=4)


class Task:
    OUTPUT_TYPE = "generate_until"

    def aggregation(self):
        return {"points": mean}

    def higher_is_better(self):
        return {"points": True}


def record(value, filter_name="none"):
    return {"filter": filter_name, "metrics": ["points"], "points": value, "doc": {}}


def test_a_group_is_scored_over_the_documents_of_all_its_members():
    records = {"a": [record(1), record(1), record(0)], "b": [record(0)]}
    metrics = score({"a": Task(), "b": Task()}, records, split_by=None, seed=0)
    assert (metrics["points"]["value"], metrics["points"]["n"]) == (0.5, 4)


def test_each_filter_has_a_metric_of_its_own():
    records = {"a": [record(1, "strict"), record(0, "loose")]}
    metrics = score({"a": Task()}, records, split_by=None, seed=0)
    assert {name: metric["value"] for name, metric in metrics.items()} == {"points,strict": 1.0, "points,loose": 0.0}


def test_a_metric_that_is_not_finite_is_an_error():
    with pytest.raises(UserError, match="points is nan"):
        score({"a": Task()}, {"a": [record(float("nan")), record(1.0)]}, split_by=None, seed=0)
