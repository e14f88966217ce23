"""Attention in a window with sinks: blocks of a row give what the whole mask gives, and hold less."""

import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from visibility import doc_start, visible_by_definition

from athanor.kernels.attention import attention
from athanor.kernels.span import Span
from athanor.kernels.window_attention import WindowBlocks, in_blocks

some_layouts = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
layouts = st.lists(st.integers(1, 12), min_size=1, max_size=4)


@some_layouts
@given(layouts, st.integers(1, 6), st.integers(0, 3))
@example([40], 4, 2)
def test_blockwise_attention_equals_attention_under_the_whole_mask_with_its_gradients(lengths, window, sink):
    generator = torch.Generator().manual_seed(0)
    length, starts = sum(lengths), doc_start(lengths)
    q, k, v = (torch.randn(2, length, h, 4, generator=generator, requires_grad=True) for h in (4, 2, 2))
    span = Span(starts, window=window, sink=sink)
    mixed = attention(q, k, v, span)
    assert in_blocks(span) == (sink + 2 * window < length)
    scores = torch.einsum("bthd,bshd->bhts", q, k.repeat_interleave(2, 2)) / 2.0
    weights = scores.masked_fill(~visible_by_definition(lengths, window, sink), -torch.inf).softmax(-1)
    wanted = torch.einsum("bhts,bshd->bthd", weights, v.repeat_interleave(2, 2))
    torch.testing.assert_close(mixed, wanted, atol=1e-5, rtol=1e-5)
    cotangent = torch.randn(mixed.shape, generator=generator)
    for found, exact in zip(*(torch.autograd.grad(y, (q, k, v), cotangent) for y in (mixed, wanted)), strict=True):
        torch.testing.assert_close(found, exact, atol=1e-5, rtol=1e-5)


def test_long_rows_are_scored_in_blocks_and_not_whole():
    span = Span(torch.zeros(1, 1000, dtype=torch.int64), window=10, sink=2)
    visible = span.once(WindowBlocks.of).visible
    assert visible.shape == (1, 100, 1, 10, 22)
    assert visible.sum() == visible_by_definition([1000], 10, 2).sum()


def test_only_whole_rows_in_a_window_are_cut_into_blocks():
    starts = torch.zeros(1, 9, dtype=torch.int64)
    assert in_blocks(Span(starts, window=3, sink=2)) and not in_blocks(Span(starts, window=3, sink=3))
    assert not in_blocks(Span(starts)) and not in_blocks(Span(starts, 1, 3, 2))
    assert not in_blocks(Span(starts, window=3, key_BS=torch.arange(9)[None]))
