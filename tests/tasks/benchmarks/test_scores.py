"""From what lm-eval logs to scores, and to what came of each item."""

from __future__ import annotations

import pytest

from athanor.core.errors import UserError
from athanor.tasks.benchmarks.scores import score


def mean(values):
    return sum(values) / len(values)


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
    metrics, _ = score({"a": Task(), "b": Task()}, records, split_by=None)
    assert (metrics["points"]["value"], metrics["points"]["n"]) == (0.5, 4)


def test_each_filter_has_a_metric_of_its_own():
    records = {"a": [record(1, "strict"), record(0, "loose")]}
    metrics, _ = score({"a": Task()}, records, split_by=None)
    assert {name: metric["value"] for name, metric in metrics.items()} == {"points,strict": 1.0, "points,loose": 0.0}


def test_a_metric_that_is_not_finite_is_an_error():
    with pytest.raises(UserError, match="points is nan"):
        score({"a": Task()}, {"a": [record(float("nan")), record(1.0)]}, split_by=None)


def test_what_came_of_each_item_is_kept_with_the_items_it_came_of():
    def kept(*values, documents=(1, 2)):
        records = [record(value) | {"doc": {"id": number}} for value, number in zip(values, documents, strict=True)]
        return score({"a": Task()}, {"a": records}, split_by=None)[1].get("points")

    ours, theirs = kept(1, 0), kept(0.5, 0.25)
    assert (ours["values"], theirs["values"]) == ([1.0, 0.0], [0.5, 0.25])
    assert ours["sha256"] == theirs["sha256"] != kept(1, 0, documents=(1, 3))["sha256"]


def test_a_sum_and_its_weight_are_kept_as_a_pair_and_what_is_neither_is_not_kept():
    class Weighted(Task):
        def aggregation(self):
            return {"points": lambda values: 1.0}

    def kept(value):
        return score({"a": Weighted()}, {"a": [record(value)]}, split_by=None)[1].get("points")

    assert kept((-3.5, 7))["values"] == [[-3.5, 7.0]]
    assert kept(("text", 1)) is None and kept((1, 2, 3)) is None


def test_few_documents_have_no_interval():
    metrics, _ = score({"a": Task()}, {"a": [record(1)] * 7}, split_by=None)
    assert (metrics["points"]["ci_low"], metrics["points"]["ci_high"], metrics["points"]["n"]) == (None, None, 7)
