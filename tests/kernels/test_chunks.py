"""Chunk sizes belong to kernels and devices; a change holds within its context alone."""

import pytest

from athanor.kernels.chunks import ChunkSize, counted_as_on


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


def test_the_chunks_are_every_row_in_order():
    chunks = ChunkSize(cpu=100, cuda=1000)
    assert list(chunks.slices(25, 10, "cpu")) == [slice(0, 10), slice(10, 20), slice(20, 25)]
    assert list(chunks.slices(25, 10, "cuda")) == [slice(0, 25)]
    assert list(chunks.slices(0, 10, "cpu")) == []


def test_in_a_count_the_second_chunk_stands_for_all_between_the_first_and_the_last():
    chunks, told = ChunkSize(cpu=100, cuda=1000), []
    with counted_as_on("cuda", lambda times: told.append(times)):
        gone_through = []
        for chunk in chunks.slices(1050, 10, "cpu"):
            gone_through.append(chunk)
            told.append(chunk)
        assert list(chunks.slices(300, 10, "cpu")) == [slice(0, 100), slice(100, 200), slice(200, 300)]
    assert gone_through == [slice(0, 100), slice(100, 200), slice(1000, 1050)]
    assert told == [slice(0, 100), 9, slice(100, 200), 1, slice(1000, 1050)]
    assert len(list(chunks.slices(1050, 10, "cpu"))) == 105
