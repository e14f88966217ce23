"""Sliding-window attention with sinks over whole rows, in blocks: what the reference does instead of a mask of the row.

A long row is cut into blocks of `window` queries. A block needs the keys of its own and the previous block, and
the sinks of one document: whatever document reaches back beyond the previous block is the document of the block's
first query. So a row costs T (2 window + sink) scores and not T^2, and forward moves 2 window + sink keys and
values per block of `window` queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from athanor.kernels.masked_attention import masked_attention
from athanor.kernels.span import Span, in_window


@dataclass(frozen=True)
class WindowBlocks:
    """What the queries of whole rows see, N blocks to a row."""

    visible: Tensor  # bool [B or 1, N, 1, window, sink + 2 window]
    sinks_BNs: Tensor  # row positions of each block's sinks

    @classmethod
    def of(cls, span: Span) -> WindowBlocks:
        """Those of a span that `in_blocks` is true of."""
        assert span.window is not None
        doc_start_BT, window, sink = span.doc_start_BT, span.window, span.sink
        length, device = doc_start_BT.shape[1], doc_start_BT.device
        blocks = -(-length // window)
        beyond = doc_start_BT[:, -1:].expand(-1, blocks * window - length)  # the last block's empty queries
        start_BNw1 = torch.cat((doc_start_BT, beyond), dim=1).unflatten(1, (blocks, window))[..., None]
        query_Nw = torch.arange(blocks * window, device=device).view(blocks, window)
        near_NS = torch.cat((query_Nw - window, query_Nw), dim=1)
        sinks_BNs = start_BNw1[:, :, 0] + torch.arange(sink, device=device)
        hidden = -1  # a sink among the near keys is scored there
        far_BNs = torch.where(sinks_BNs < near_NS[:, :1], sinks_BNs, hidden)
        key_BNS = torch.cat((far_BNs, near_NS.expand(len(far_BNs), -1, -1)), dim=2)
        visible = in_window(query_Nw[:, :, None], key_BNS[:, :, None], start_BNw1, window, sink)
        return cls(visible[:, :, None], sinks_BNs.clamp(max=length - 1))


def in_blocks(span: Span) -> bool:
    """Whether the rows are whole, and so long that blocks of the window spare scores."""
    return span.window is not None and span.whole_rows and span.sink + 2 * span.window < span.queries


def window_attention(q_BTHd: Tensor, k_BTGd: Tensor, v_BTGe: Tensor, span: Span, cap: float | None = None) -> Tensor:
    """`[B, T, H, e]`, for a span that `in_blocks` is true of; else as athanor.kernels.masked_attention."""
    within = span.once(WindowBlocks.of)
    rows, length = q_BTHd.shape[:2]
    blocks, window = within.visible.shape[1], within.visible.shape[3]
    missing = blocks * window - length
    q = F.pad(q_BTHd, (0, 0, 0, 0, 0, missing)).reshape(rows * blocks, window, *q_BTHd.shape[2:])
    k, v = (_near_and_sinks(x, within.sinks_BNs, blocks, window) for x in (k_BTGd, v_BTGe))
    visible = within.visible.expand(rows, -1, -1, -1, -1).flatten(0, 1)
    mixed = masked_attention(q, k, v, visible, cap)
    return mixed.reshape(rows, blocks * window, *mixed.shape[2:])[:, :length]


def _near_and_sinks(x_BTGd: Tensor, sinks_BNs: Tensor, blocks: int, window: int) -> Tensor:
    """Per block: the sinks, the previous block, the block itself; `[B * N, sink + 2 window, G, d]`."""
    rows, length = x_BTGd.shape[:2]
    padded = F.pad(x_BTGd, (0, 0, 0, 0, window, blocks * window - length)).unflatten(1, (blocks + 1, window))
    sinks = x_BTGd[torch.arange(rows, device=x_BTGd.device)[:, None, None], sinks_BNs]
    return torch.cat((sinks, padded[:, :-1], padded[:, 1:]), dim=2).flatten(0, 1)
