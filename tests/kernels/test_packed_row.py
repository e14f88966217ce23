"""Packed rows: documents become rows that end together, and are attended to one by one."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.kernels.attention import attention
from athanor.kernels.packed_row import PackedRow, newest
from athanor.kernels.span import Span

CPU = torch.device("cpu")
lengths = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@given(lengths, st.integers(0, 7), st.integers(0, 2))
def test_the_newest_positions_are_those_of_each_document_behind_zeros(lengths, count, earlier):
    row = torch.arange(1, sum(lengths) + 1)
    x = torch.cat((torch.full((earlier,), -9), row))[None, :, None]
    found = PackedRow(lengths).newest(x, count)[..., 0].tolist()
    for document, kept in zip(row.split(lengths), found, strict=True):
        assert kept == ([0] * count + document.tolist())[len(document) :][-count:] if count else kept == []
    assert torch.equal(newest(x, 1, None), x[:, -1:])


def test_documents_begin_where_the_one_before_ends_and_rows_end_together():
    packed = PackedRow((2, 3, 1))
    assert packed.doc_start(CPU).tolist() == [[0, 0, 2, 2, 2, 5]]
    assert packed.padding(CPU).tolist() == [[1], [0], [2]]
    assert packed.rows(torch.arange(1, 7)[None]).tolist() == [[0, 1, 2], [3, 4, 5], [0, 0, 6]]


@settings(max_examples=15, deadline=None)
@given(lengths)
def test_attention_to_documents_one_by_one_is_attention_under_their_mask(lengths):
    total, packed = sum(lengths), PackedRow(lengths)
    q, k, v = (torch.randn(1, total, heads, 6) for heads in (4, 2, 2))
    starts = packed.doc_start(CPU)
    found, wanted = (attention(q, k, v, Span(starts, packed=how)) for how in (packed, None))
    torch.testing.assert_close(found, wanted)
