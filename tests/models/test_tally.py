"""A tally divides once, what all passes of all ranks added by how much of it counted."""

import pytest
import torch

from athanor.models.tally import Tally


def alone(totals):
    return totals


def test_a_mean_is_that_of_all_that_counts_not_of_the_passes_means():
    step = Tally()
    for values, counted in (([1.0, 2.0, 9.0], [True, True, False]), ([6.0], [True])):
        one = Tally()
        one.add("depth", torch.tensor(values), torch.tensor(counted))
        step.absorb(one)
    assert step.means(alone) == {"depth": [3.0]}


def test_values_have_parts_and_any_shape_of_what_counts():
    tally = Tally()
    share_BTE = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.5, 0.5], [1.0, 0.0]]])
    tally.add("share", share_BTE, torch.tensor([[True, False], [True, True]]))
    tally.add("size", torch.tensor(7.0), torch.tensor(True))
    assert tally.means(alone) == {"share": [pytest.approx(2.5 / 3), pytest.approx(0.5 / 3)], "size": [7.0]}


def test_what_does_not_count_may_be_anything():
    tally = Tally()
    tally.add("cosine", torch.tensor([0.5, float("nan"), float("inf")]), torch.tensor([True, False, False]))
    assert tally.means(alone) == {"cosine": [0.5]}


def test_what_nothing_counted_for_has_no_mean():
    tally = Tally()
    tally.add("none", torch.ones(3), torch.zeros(3, dtype=torch.bool))
    tally.add("empty", torch.ones(2, 0), torch.ones(2, 0, dtype=torch.bool))
    tally.add("some", torch.ones(3), torch.ones(3, dtype=torch.bool))
    assert tally.means(alone) == {"some": [1.0]}
    assert Tally().means(alone) == {}


def test_the_ranks_are_asked_once_for_sums_and_counts():
    asked = []

    def other_rank(totals):  # one where the first value was 10 of 3 tokens, the second 1 of 1
        asked.append(len(totals))
        return totals + torch.tensor([10.0, 3.0, 1.0, 1.0])

    tally = Tally()
    tally.add("first", torch.tensor([2.0]), torch.tensor([True]))
    tally.add("second", torch.tensor([9.0]), torch.tensor([False]))
    assert tally.means(other_rank) == {"first": [3.0], "second": [1.0]}
    assert asked == [4]


def test_many_small_values_do_not_vanish_beside_their_sum():
    tally = Tally()
    for _ in range(3):
        tally.add("share", torch.full((100_000,), 0.1), torch.ones(100_000, dtype=torch.bool))
    assert tally.means(alone)["share"] == [pytest.approx(float(torch.tensor(0.1)), rel=1e-12)]
