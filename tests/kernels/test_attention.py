"""Attention sees exactly doc_start[i] <= j <= i, with or without a cache."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.kernels.attention import attention, prepare
from athanor.kernels.packed_row import PackedRow
from athanor.kernels.span import Span


def reference(q, k, v, doc_start, offset, cap):
    """Softmax over an explicit mask, heads repeated contiguously, one query at a time."""
    rows, length, heads, width = q.shape
    out = torch.zeros_like(q)
    for b in range(rows):
        for t in range(length):
            first, last = int(doc_start[b, t]), offset + t
            for h in range(heads):
                g = h // (heads // k.shape[2])
                scores = k[b, first : last + 1, g] @ q[b, t, h] / width**0.5
                scores = scores if cap is None else cap * (scores / cap).tanh()
                out[b, t, h] = scores.softmax(0) @ v[b, first : last + 1, g]
    return out


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(0, 3), st.booleans(), st.sampled_from([None, 0.7])
)
def test_attention_equals_the_definition(lengths, kept, packed, cap):
    total = sum(lengths)
    offset = min(kept, total - 1)
    starts = [sum(lengths[:i]) for i, n in enumerate(lengths) for _ in range(n)] if packed else [0] * total
    doc_start = torch.tensor([starts[offset:]] * 2)
    q, k, v = torch.randn(2, total - offset, 4, 6), torch.randn(2, total, 2, 6), torch.randn(2, total, 2, 6)
    span = Span(doc_start, offset) if packed else None
    torch.testing.assert_close(attention(q, k, v, span, cap), reference(q, k, v, doc_start, offset, cap))


@pytest.mark.parametrize("cap", [None, 0.7])
@pytest.mark.parametrize("queries", [1, 2, 5])
def test_without_a_span_the_newest_queries_see_what_precedes_them(queries, cap):
    q, k, v = torch.randn(2, queries, 4, 6), torch.randn(2, 5, 2, 6), torch.randn(2, 5, 2, 6)
    wanted = reference(q, k, v, torch.zeros(2, queries, dtype=torch.int64), 5 - queries, cap)
    torch.testing.assert_close(attention(q, k, v, None, cap), wanted)


@pytest.mark.parametrize("cap", [None, 0.7])
def test_values_may_have_a_width_of_their_own(cap):
    q, k, v = torch.randn(1, 7, 4, 6), torch.randn(1, 7, 2, 6), torch.randn(1, 7, 2, 3)
    starts = torch.tensor([[0, 0, 0, 3, 3, 3, 3]])
    wide = torch.nn.functional.pad(v, (0, 3))
    torch.testing.assert_close(attention(q, k, v, Span(starts), cap), attention(q, k, wide, Span(starts), cap)[..., :3])


@pytest.mark.parametrize("cap", [None, 0.7])
def test_documents_of_a_packed_row_are_attended_to_one_by_one(cap):
    packed = PackedRow((3, 1, 4))
    q, k, v = torch.randn(1, 8, 4, 6), torch.randn(1, 8, 2, 6), torch.randn(1, 8, 2, 6)
    starts = packed.doc_start(torch.device("cpu"))
    found = attention(q, k, v, Span(starts, packed=packed), cap)
    torch.testing.assert_close(found, attention(q, k, v, Span(starts), cap))


def test_what_is_prepared_is_all_that_the_layers_make_of_a_span():
    q, k, v = torch.randn(1, 20, 4, 6), torch.randn(1, 20, 2, 6), torch.randn(1, 20, 2, 6)
    starts = torch.zeros(1, 20, dtype=torch.int64)
    for span in (Span(starts), Span(starts, window=3, sink=1), Span(starts, window=30)):
        prepare(span)
        before = dict(span._made)
        attention(q, k, v, span)
        assert before and span._made.keys() == before.keys()
        assert all(span._made[make] is made for make, made in before.items())
