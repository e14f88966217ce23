"""Packing: every conversation once, no row over its capacity, few gaps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.data.packing import pack


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), max_size=300), st.integers(50, 90), st.integers(0, 2**40))
def test_pack_places_every_conversation_once_and_fills_no_row_over(lengths, capacity, seed):
    rows = pack(np.array(lengths, dtype=np.int64), capacity, seed)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in row) <= capacity for row in rows)
    assert rows == pack(np.array(lengths, dtype=np.int64), capacity, seed)
    half_empty = sum(sum(lengths[i] for i in row) * 2 <= capacity for row in rows)
    assert half_empty <= 1  # within a chunk, two such rows would have been one


@pytest.mark.parametrize("seed", range(5))
def test_pack_fills_the_gaps_of_long_conversations_with_short_ones(seed):
    assert len(pack(np.array([3, 7] * 20), 10, seed)) == 20


def test_pack_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="does not fit"):
        pack(np.array([5, 11]), 10, 0)
