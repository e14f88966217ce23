"""The k-th largest number is the one that sorting gives, whoever holds it."""

import pytest
import torch
from meeting import Meeting

from athanor.kernels.kth_largest import kth_largest

NUMBERS = torch.tensor(
    [
        [3.0, -1.0, 2.0, 2.0, -7.5, 0.0, 1e-45, -1e-45],
        [-3.0, -1.0, -2.0, -2.0, 3.4e38, -3.4e38, float("inf"), float("-inf")],
    ]
)


@pytest.mark.parametrize("k", range(1, 9))
def test_it_is_what_sorting_gives(k):
    expected = NUMBERS.sort(descending=True).values[:, k - 1]
    assert torch.equal(kth_largest(NUMBERS, torch.tensor([k, k]), lambda count: count), expected)


def test_every_row_has_its_own_k():
    assert kth_largest(NUMBERS, torch.tensor([1, 8]), lambda count: count).tolist() == [3.0, float("-inf")]


def test_it_is_the_same_however_the_numbers_are_spread_over_ranks():
    numbers = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    k, meeting = torch.tensor([3, 20, 40]), Meeting(2)
    found = meeting.run(lambda own: kth_largest(own, k, meeting.total), numbers.split([25, 15], dim=1))
    expected = numbers.sort(descending=True).values.gather(1, (k - 1)[:, None])[:, 0]
    assert all(torch.equal(one, expected) for one in found)
