"""FlexAttention's blocks follow from the bounds, and what it computes is the reference."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from visibility import doc_start, visible_by_definition

from athanor.kernels import flex_attention
from athanor.kernels.attention import reference
from athanor.kernels.flex_attention import block_mask, flex, seen_blocks
from athanor.kernels.span import Span

layouts = st.lists(st.integers(1, 30), min_size=1, max_size=5)
windows = st.one_of(st.none(), st.integers(1, 40))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(flex_attention, "BLOCK", 4)


@settings(max_examples=40, deadline=None)
@given(layouts, windows, st.integers(0, 5))
@example([40], 8, 2)
@example([30, 9], 5, 0)
def test_blocks_left_out_hold_nothing_visible_and_whole_ones_nothing_else(lengths, window, sink):
    total = sum(lengths)
    visible = visible_by_definition(lengths, window or total, sink)
    some, every = seen_blocks(Span(doc_start(lengths), window=window, sink=sink))
    for i in range(-(-total // 4)):
        for j in range(-(-total // 4)):
            block = visible[4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            assert some[0, i, j] or not block.any()
            assert block.all() or not every[0, i, j]
            assert some[0, i, j] or not every[0, i, j]


def test_few_blocks_are_visited_where_little_is_visible():
    documents, _ = seen_blocks(Span(doc_start([40] * 5)))
    assert documents.sum() == 5 * 10 * 11 / 2
    window, every = seen_blocks(Span(doc_start([200]), window=12))
    assert window.sum(-1).max() == 4 and every.sum(-1).max() == 2


def test_the_list_of_blocks_says_what_is_marked():
    span = Span(torch.stack((doc_start([10, 14])[0], doc_start([24])[0])))
    some, every = seen_blocks(span)
    mask = block_mask(span)
    assert torch.equal(mask.to_dense()[:, 0].bool(), some)
    assert torch.equal(mask.full_kv_num_blocks[:, 0], every.sum(-1, dtype=torch.int32))
    assert torch.equal((mask.kv_num_blocks + mask.full_kv_num_blocks)[:, 0], some.sum(-1, dtype=torch.int32))
    assert mask.full_kv_indices[1, 0, 5, :5].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("one_row", [True, False])
@pytest.mark.parametrize(("window", "sink"), [(None, 0), (5, 0), (4, 2)])
@pytest.mark.parametrize("cap", [None, 0.7])
def test_it_is_the_reference(window, sink, cap, one_row):
    generator = torch.Generator().manual_seed(0)
    rows = [[9, 14, 1]] if one_row else [[9, 14, 1], [24]]
    span = Span(torch.cat([doc_start(lengths) for lengths in rows]), window=window, sink=sink)
    shapes = ((2, 24, 4, 16), (2, 24, 2, 16), (2, 24, 2, 24))
    q, k, v = (torch.randn(shape, generator=generator).double() for shape in shapes)
    torch.testing.assert_close(flex(q, k, v, span, cap), reference(q, k, v, span, cap), rtol=1e-5, atol=1e-5)
