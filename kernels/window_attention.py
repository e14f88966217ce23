"""Sliding-window attention with sinks: each query sees the newest keys and the beginning of its document.

    softmax(q k^T / sqrt(d)) v where key j is visible to the query at row position i iff
    doc_start[i] <= j <= i   and   (i - j < window  or  j - doc_start[i] < sink)

`window` counts the query's own position; the `sink` first tokens are those of the document, not of the row.
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

from athanor.kernels.attention import attention


def in_window(query: Tensor, key: Tensor, doc_start: Tensor, window: int, sink: int) -> Tensor:
    """Whether row position `key` is visible to `query`, whose document starts at `doc_start`; int64, broadcast."""
    return (key >= doc_start) & (key <= query) & ((query - key < window) | (key - doc_start < sink))


@dataclass(frozen=True)
class WindowMask:
    """What the queries of one forward pass see. `sinks_BNs` is None where all keys are scored at once."""

    visible: Tensor  # bool [B or 1, 1, T, S], in blocks [B or 1, N, 1, window, sink + 2 window]
    sinks_BNs: Tensor | None = None  # row positions of each block's sinks, N blocks to a row


def row_mask(doc_start_BT: Tensor, window: int, sink: int) -> WindowMask:
    """The mask of whole rows; one row of `doc_start_BT` serves all."""
    length, device = doc_start_BT.shape[1], doc_start_BT.device
    if sink + 2 * window >= length:
        position_T = torch.arange(length, device=device)
        visible_BTS = in_window(position_T[:, None], position_T, doc_start_BT[:, :, None], window, sink)
        return WindowMask(visible_BTS[:, None])
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
    return WindowMask(visible[:, :, None], sinks_BNs.clamp(max=length - 1))


def window_attention(
    q_BTHd: Tensor, k_BSGd: Tensor, v_BSGd: Tensor, mask: WindowMask, cap: float | None = None
) -> Tensor:
    """Attend within the mask; returns `[B, T, H, d]`. In blocks, queries and keys are those of whole rows."""
    if mask.sinks_BNs is None:
        return attention(q_BTHd, k_BSGd, v_BSGd, mask.visible, cap)
    rows, length = q_BTHd.shape[:2]
    blocks, window = mask.visible.shape[1], mask.visible.shape[3]
    missing = blocks * window - length
    q = F.pad(q_BTHd, (0, 0, 0, 0, 0, missing)).reshape(rows * blocks, window, *q_BTHd.shape[2:])
    k, v = (_near_and_sinks(x, mask.sinks_BNs, blocks, window) for x in (k_BSGd, v_BSGd))
    visible = mask.visible.expand(rows, -1, -1, -1, -1).flatten(0, 1)
    return attention(q, k, v, visible, cap).reshape(rows, blocks * window, *q_BTHd.shape[2:])[:, :length]


def _near_and_sinks(x_BTGd: Tensor, sinks_BNs: Tensor, blocks: int, window: int) -> Tensor:
    """Per block: the sinks, the previous block, the block itself; `[B * N, sink + 2 window, G, d]`."""
    rows, length = x_BTGd.shape[:2]
    padded = F.pad(x_BTGd, (0, 0, 0, 0, window, blocks * window - length)).unflatten(1, (blocks + 1, window))
    sinks = x_BTGd[torch.arange(rows, device=x_BTGd.device)[:, None, None], sinks_BNs]
    return torch.cat((sinks, padded[:, :-1], padded[:, 1:]), dim=2).flatten(0, 1)
