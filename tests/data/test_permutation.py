"""Permutations and hashes that need no memory: bijective, keyed, spread evenly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.data.permutation import hash64, permute

SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 63, 64, 65, 97, 100, 127, 128, 129, 1000, 4095, 4096, 4097]


@pytest.mark.parametrize("n", SIZES)
def test_permute_is_a_bijection(n):
    for key in (0, 1, 2**64 - 1):
        assert sorted(permute(np.arange(n), n, key)) == list(range(n))


@settings(deadline=None)
@given(n=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_permute_is_a_bijection_for_any_key(n, key):
    assert np.bincount(permute(np.arange(n), n, key), minlength=n).tolist() == [1] * n


def test_permute_needs_no_memory_of_n_and_reaches_everywhere():
    n = 10**15 + 37
    image = permute(np.arange(20_000), n, 3)
    assert len(set(image.tolist())) == 20_000
    assert np.histogram(image, 10, (0, n))[0].min() > 1_800


def test_permute_differs_by_key_and_takes_one_key_per_index():
    index, keys = np.arange(1000), hash64(7, np.arange(1000) // 500)
    mixed = permute(index, 1000, keys)
    for half in (slice(0, 500), slice(500, 1000)):
        assert (mixed[half] == permute(index[half], 1000, keys[half][0])).all()
    agreeing = (permute(index, 1000, 1) == permute(index, 1000, 2)).sum()
    assert agreeing < 12


def test_no_part_of_an_index_is_kept():
    n = 10_000  # permuted as 100 x 100
    image = permute(np.arange(n), n, 11)
    for part in (image // 100 == np.arange(n) // 100, image % 100 == np.arange(n) % 100):
        assert part.sum() < 200
    assert np.unique(np.diff(image)).size > 5_000


def test_permute_refuses_an_index_outside_the_range():
    for index in (-1, 5):
        with pytest.raises(IndexError):
            permute([index], 5, 0)


def test_hash_depends_on_every_part_and_their_order():
    values = {int(hash64(*parts)[0]) for parts in ((0,), (0, 0), (1, 2), (2, 1), (1, 2, 0), (2**63,), (1 << 32,))}
    assert len(values) == 7
