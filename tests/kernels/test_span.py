"""A span says by bounds what the words say: documents, windows, sinks, wherever queries and keys stand."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from visibility import doc_start, visible_by_definition

from athanor.kernels.packed_row import PackedRow
from athanor.kernels.span import Span, visible_keys

CPU = torch.device("cpu")
layouts = st.lists(st.integers(1, 9), min_size=1, max_size=4)


@given(layouts, st.one_of(st.none(), st.integers(1, 6)), st.integers(0, 3), st.integers(0, 40))
def test_the_mask_is_what_the_words_say(lengths, window, sink, offset):
    total, offset = sum(lengths), min(offset, sum(lengths) - 1)
    span = Span(doc_start(lengths)[:, offset:], offset, window, sink)
    wanted = visible_by_definition(lengths, window or total, sink)
    assert torch.equal(span.mask, wanted[offset:][None, None])
    assert span.queries == total - offset and span.whole_rows == (offset == 0)


@given(layouts, st.permutations(range(9)))
def test_queries_and_keys_may_stand_anywhere(lengths, order):
    total, starts = sum(lengths), doc_start(lengths)
    query_BT = torch.tensor([[i for i in order if i < total]])
    key_BS = torch.tensor([[-1, *(total - 1 - i for i in range(total))]])
    span = Span(starts[:, query_BT[0]], 0, 4, 1, query_BT=query_BT, key_BS=key_BS)
    wanted = visible_by_definition(lengths, 4, 1)[query_BT[0]][:, key_BS[0].clamp(min=0)]
    wanted[:, 0] = False  # where there is no key
    assert torch.equal(span.mask[0, 0], wanted) and not span.whole_rows


def test_an_arbitrary_mask_takes_from_what_the_bounds_leave():
    among = torch.rand(1, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    span = Span(doc_start([2, 3]), among_BTS=among)
    assert torch.equal(span.mask, Span(doc_start([2, 3])).mask & among[:, None]) and not span.whole_rows


def test_what_is_made_of_a_span_is_made_once_and_not_handed_on_to_another():
    span, calls = Span(doc_start([3, 2])), []

    def made(of):
        calls.append(of)
        return len(calls)

    assert [span.once(made), span.once(made), span.of_rows(slice(1)).once(made)] == [1, 1, 2]
    assert span.mask is span.mask


def test_some_rows_have_the_bounds_of_those_rows_and_one_row_serves_all():
    rows = Span(torch.stack([doc_start(lengths)[0] for lengths in ([2, 3], [5], [4, 1])]), window=2, sink=1)
    picked = torch.tensor([2, 0])
    assert torch.equal(rows.of_rows(picked).mask, rows.mask[picked])
    assert torch.equal(rows.of_rows(slice(2)).mask, rows.mask[:2])
    one = Span(doc_start([2, 3]))
    assert torch.equal(one.of_rows(picked).mask, one.mask)


def test_the_newest_of_a_query_is_its_row_of_the_mask_up_to_itself():
    span = Span(doc_start([2, 2, 5])[:, 3:], 3, 3, 1)
    for t in range(6):
        assert torch.equal(span.newest_of(t).mask, span.mask[:, :, t : t + 1, : 3 + t + 1])


def test_one_document_needs_no_mask_but_for_several_queries_behind_a_past():
    assert visible_keys(None, 9, 9, CPU) is None
    assert visible_keys(None, 1, 6, CPU) is None
    assert torch.equal(visible_keys(None, 2, 5, CPU), Span(torch.zeros(1, 2, dtype=torch.int64), 3).mask)


def test_a_packed_row_has_the_bounds_of_its_documents():
    packed = PackedRow((2, 3, 1))
    assert torch.equal(Span(packed.doc_start(CPU), packed=packed).mask, Span(doc_start([2, 3, 1])).mask)
