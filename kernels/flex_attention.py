"""Attention of whole rows by FlexAttention: bounds of any kind, sinks, caps, values of another width.

The scores of 128 queries and 128 keys are a block. From the bounds alone, without a mask of all scores, it follows
which blocks hold something visible, and which hold nothing else, so that no mask is computed in them; the others are
skipped. The list is made once a forward pass and shared by the layers. Forward moves q and the output once, and k and v
once for each block of queries that sees them. Source: FlexAttention (arXiv 2412.05496).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from athanor.kernels.compiling import recompile_limit
from athanor.kernels.cross_entropy import soft_cap
from athanor.kernels.precision import products_dtype
from athanor.kernels.span import Span, in_window

BLOCK = 128
MOST_SHAPES = 64  # head widths, caps, windows, lengths that differ in kind: a dozen lengths take eight


def seen_blocks(span: Span) -> tuple[Tensor, Tensor]:
    """Of whole rows, bool `[B or 1, N, N]` each: whether a block may hold visible scores, and whether all are visible.
    A block said to hold some may hold none."""
    starts_BT, window, sink = span.doc_start_BT, span.window, span.sink
    length, device = span.queries, starts_BT.device
    first_N = torch.arange(0, length, BLOCK, device=device)
    last_N = (first_N + BLOCK - 1).clamp(max=length - 1)
    query_N1, newest_N1 = first_N[:, None], last_N[:, None]
    oldest_start_BN1, newest_start_BN1 = starts_BT[:, first_N, None], starts_BT[:, last_N, None]
    some = (first_N <= newest_N1) & (last_N >= oldest_start_BN1)
    every = (last_N <= query_N1) & (first_N >= newest_start_BN1)
    if window is not None:
        some = some & ((query_N1 - last_N < window) | (first_N < newest_start_BN1 + sink))
        every = every & (newest_N1 - first_N < window)
    return some, every


def block_mask(span: Span) -> BlockMask:
    """What the kernel reads of whole rows."""
    some, every = (x[:, None] for x in seen_blocks(span))
    partial, queries = some & ~every, span.queries
    starts_BT, window, sink, many = span.doc_start_BT, span.window, span.sink, int(len(span.doc_start_BT) > 1)

    def visible(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return in_window(query, key, starts_BT[row * many, query], window, sink)

    return BlockMask.from_kv_blocks(
        *_listed(partial), *_listed(every), BLOCK_SIZE=BLOCK, mask_mod=visible, seq_lengths=(queries, queries)
    )


def _listed(marked_B1NN: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of keys are marked for each block of queries, and which, they first; int32."""
    order = marked_B1NN.byte().argsort(dim=-1, descending=True, stable=True)
    return marked_B1NN.sum(-1, dtype=torch.int32), order.int()


def flex(q_BTHd: Tensor, k_BTGd: Tensor, v_BTGe: Tensor, span: Span, cap: float | None = None) -> Tensor:
    """`[B, T, H, e]` in the dtype of the products. On a CPU uncompiled, which holds all scores: for tests."""
    q, k, v = (x.transpose(1, 2).to(products_dtype(q_BTHd)) for x in (q_BTHd, k_BTGd, v_BTGe))
    attend: Any = _compiled() if q.is_cuda else flex_attention
    score_mod = None if cap is None else _capped(cap)
    mixed = attend(q, k, v, score_mod, span.once(block_mask), enable_gqa=q.shape[1] != k.shape[1])
    return mixed.transpose(1, 2)


@cache
def _compiled() -> Any:
    # Uncompiled it would hold all scores, so that too many shapes are an error and not slow.
    return torch.compile(flex_attention, fullgraph=True, **recompile_limit(MOST_SHAPES))


@cache
def _capped(cap: float) -> Any:
    def capped(score: Tensor, _row: Tensor, _head: Tensor, _query: Tensor, _key: Tensor) -> Tensor:
        return soft_cap(score, cap)

    return capped
