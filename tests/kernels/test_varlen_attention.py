"""Documents by their lengths: every row's, and what is asked of the kernel is the reference's attention."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from visibility import doc_start

from athanor.kernels import varlen_attention as module
from athanor.kernels.attention import reference
from athanor.kernels.span import Span
from athanor.kernels.varlen_attention import DocumentLengths, varlen_attention

layouts = st.lists(st.integers(1, 9), min_size=1, max_size=4)


@given(layouts, st.integers(1, 3))
def test_the_bounds_are_those_of_all_documents_of_all_rows(lengths, times):
    one = DocumentLengths.of(Span(doc_start(lengths)))
    many = DocumentLengths.of(Span(doc_start(lengths).expand(times, -1)))
    bounds = [sum(lengths[:i]) for i in range(len(lengths))]
    wanted = [row * sum(lengths) + bound for row in range(times) for bound in bounds] + [times * sum(lengths)]
    assert many.bound_N.tolist() == one.repeated(times).tolist() == wanted
    assert many.bound_N.dtype == one.repeated(times).dtype == torch.int32
    assert one.longest == many.longest == max(lengths)


def by_document(q, k, v, bound_q, bound_k, longest_q, longest_k, *, window_size, enable_gqa=False):
    """What torch.nn.attention.varlen.varlen_attn says it computes; `window_size` excludes the query."""
    lengths = bound_q.diff().tolist()
    assert torch.equal(bound_q, bound_k) and longest_q == longest_k == max(lengths) and window_size[1] == 0
    assert enable_gqa == (q.shape[1] != k.shape[1] and bool(module._GROUPED))
    out = []
    for one_q, one_k, one_v in zip(*(x.split(lengths) for x in (q, k, v)), strict=True):
        window = len(one_q) if window_size[0] == -1 else window_size[0] + 1
        span = Span(torch.zeros(1, len(one_q), dtype=torch.int64), window=window)
        out.append(reference(one_q[None], one_k[None], one_v[None], span)[0])
    return torch.cat(out)


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("one_row", [True, False])
@pytest.mark.parametrize("window", [None, 3, 30])
def test_it_asks_for_the_attention_of_the_span(monkeypatch, window, one_row, groups):
    monkeypatch.setattr(module, "varlen_attn", by_document)
    rows = [[5, 2, 5]] if one_row else [[5, 2, 5], [12]]
    span = Span(torch.cat([doc_start(lengths) for lengths in rows]), window=window)
    q, k, v = (torch.randn(2, 12, heads, 6) for heads in (4, groups, groups))
    torch.testing.assert_close(varlen_attention(q, k, v, span), reference(q, k, v, span))
