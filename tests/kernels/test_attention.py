"""Attention sees exactly doc_start[i] <= j <= i, with or without a cache."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from athanor.kernels.attention import attention, visible_keys

CPU = torch.device("cpu")


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
    visible = visible_keys(doc_start if packed else None, offset, total - offset, CPU)
    torch.testing.assert_close(attention(q, k, v, visible, cap), reference(q, k, v, doc_start, offset, cap))


@pytest.mark.parametrize("cap", [None, 0.7])
@pytest.mark.parametrize("queries", [1, 2, 5])
def test_without_a_mask_the_newest_queries_see_what_precedes_them(queries, cap):
    q, k, v = torch.randn(2, queries, 4, 6), torch.randn(2, 5, 2, 6), torch.randn(2, 5, 2, 6)
    wanted = reference(q, k, v, torch.zeros(2, queries, dtype=torch.int64), 5 - queries, cap)
    torch.testing.assert_close(attention(q, k, v, None, cap), wanted)


def test_one_document_needs_no_mask():
    assert visible_keys(None, 0, 9, CPU) is None
    assert visible_keys(None, 5, 1, CPU) is None
