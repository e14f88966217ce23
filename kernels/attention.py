"""Grouped-query attention over packed, padded or cached rows, within a window or not: one entrance for all of it.

    softmax(cap(q k^T / sqrt(d))) v   over the keys that a Span says each query sees (athanor.kernels.span)

athanor.kernels.attention_choice says which backend computes it. The reference, which autograd differentiates, attends
to the documents of a packed row one by one, to long rows in a window by blocks, to all else under a mask.
The other backends are imported where they are used: they load torch's compiler, which takes a second.
"""

from __future__ import annotations

import torch
from torch import Tensor

from athanor.kernels.attention_choice import FLASH_CAPABILITY, Call, choose, compute_capability, stand_in
from athanor.kernels.masked_attention import masked_attention
from athanor.kernels.span import Span, visible_keys
from athanor.kernels.window_attention import WindowBlocks, in_blocks, window_attention


def attention(q_BTHd: Tensor, k_BSGd: Tensor, v_BSGe: Tensor, span: Span | None, cap: float | None = None) -> Tensor:
    """`[B, T, H, e]`; scores are bounded by `cap`, softly."""
    backend = choose(Call.of(q_BTHd, v_BSGe, span, cap)).backend
    if span is not None and backend != "reference" and (counted := stand_in()) is not None:
        return counted(q_BTHd, k_BSGd, v_BSGe, span, cap)
    if span is not None and backend == "varlen":
        from athanor.kernels.varlen_attention import varlen_attention

        return varlen_attention(q_BTHd, k_BSGd, v_BSGe, span)
    if span is not None and backend == "flex":
        from athanor.kernels.flex_attention import flex

        return flex(q_BTHd, k_BSGd, v_BSGe, span, cap)
    return reference(q_BTHd, k_BSGd, v_BSGe, span, cap)


def reference(q_BTHd: Tensor, k_BSGd: Tensor, v_BSGe: Tensor, span: Span | None, cap: float | None = None) -> Tensor:
    """The same in torch's own operations, of any dtype and on any device."""
    if span is not None and span.packed is not None:
        documents = zip(*(x.split(span.packed.lengths, dim=1) for x in (q_BTHd, k_BSGd, v_BSGe)), strict=True)
        return torch.cat([reference(q, k, v, None, cap) for q, k, v in documents], dim=1)
    if span is not None and in_blocks(span):
        return window_attention(q_BTHd, k_BSGd, v_BSGe, span, cap)
    visible = visible_keys(span, q_BTHd.shape[1], k_BSGd.shape[1], q_BTHd.device)
    return masked_attention(q_BTHd, k_BSGd, v_BSGe, visible, cap)


def prepare(span: Span | None) -> None:
    """Make what the layers' attention will read of it, outside of what is compiled or recomputed block by block."""
    if span is None or stand_in() is not None:
        return
    capability = span.once(compute_capability)
    if capability is not None and capability >= FLASH_CAPABILITY and span.whole_rows:
        from athanor.kernels.flex_attention import block_mask
        from athanor.kernels.varlen_attention import DocumentLengths

        span.once(DocumentLengths.of)
        span.once(block_mask)
    elif in_blocks(span):
        span.once(WindowBlocks.of)
    elif span.packed is None:
        _ = span.mask
