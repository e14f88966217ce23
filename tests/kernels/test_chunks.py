"""Chunk sizes belong to kernels and devices; a change holds within its context alone."""

import pytest

from athanor.kernels.chunks import ChunkSize


def test_a_chunk_has_as_many_rows_as_fit_but_at_least_one():
    chunks = ChunkSize(cpu=100, cuda=1000)
    assert [chunks.rows(width, "cpu") for width in (30, 100, 101)] == [3, 1, 1]
    assert chunks.rows(30, "cuda") == 33


def test_another_size_holds_within_its_context_and_on_its_device_alone():
    chunks, other = ChunkSize(cpu=100, cuda=1000), ChunkSize(cpu=100, cuda=1000)
    with pytest.raises(ZeroDivisionError), chunks.instead(7):
        assert (chunks.elements("cpu"), chunks.elements("cuda"), other.elements("cpu")) == (7, 1000, 100)
        raise ZeroDivisionError
    assert chunks.elements("cpu") == 100
