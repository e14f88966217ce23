"""Grouped-query attention over packed, padded or cached rows.

softmax(q k^T / sqrt(d)) v where key j is visible to the query at row position i iff
doc_start[i] <= j <= i. One tensor expresses causality, packing and left padding; a position always
sees itself, so no row of the softmax is empty. Query head h reads key/value head h // (H / G). With a cap, scores s
are cap * tanh(s / cap); that path holds all of them, [B, H, T, S] in fp32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from athanor.kernels.cross_entropy import soft_cap
from athanor.kernels.packed_row import PackedRow

Visible = Tensor | PackedRow | None  # what `visible_keys` returns, or a row whose documents are attended to one by one


def visible_keys(doc_start_BT: Tensor | None, offset: int, length: int, device: torch.device) -> Tensor | None:
    """The mask `bool [B or 1, 1, T, S]` of T = length queries at row positions offset .. S-1, S = offset + T.

    None stands for what needs no mask: a whole row that is one document, or a single newest query of one.
    """
    if doc_start_BT is None and (offset == 0 or length == 1):
        return None
    key_S = torch.arange(offset + length, device=device)
    query_T1 = key_S[offset:, None]
    visible_TS = key_S <= query_T1
    if doc_start_BT is None:
        return visible_TS[None, None]
    return (visible_TS & (key_S >= doc_start_BT[:, :, None]))[:, None]


def causal_mask(queries: int, keys: int, device: torch.device) -> Tensor:
    """bool `[1, 1, T, S]`: the last T of S positions, each seeing itself and what precedes it."""
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)[None, None]


def attention(q_BTHd: Tensor, k_BSGd: Tensor, v_BSGd: Tensor, visible: Visible, cap: float | None = None) -> Tensor:
    """Attend from the last T of S positions, causally where `visible` is None; returns `[B, T, H, d]`."""
    if isinstance(visible, PackedRow):
        documents = zip(*(x.split(visible.lengths, dim=1) for x in (q_BTHd, k_BSGd, v_BSGd)), strict=True)
        return torch.cat([attention(q, k, v, None, cap) for q, k, v in documents], dim=1)
    if cap is not None:
        return _capped_attention(q_BTHd, k_BSGd, v_BSGd, visible, cap)
    queries, keys = q_BTHd.shape[1], k_BSGd.shape[1]
    if visible is None and 1 < queries < keys:
        visible = causal_mask(queries, keys, q_BTHd.device)
    repeats = q_BTHd.shape[2] // k_BSGd.shape[2]
    if visible is not None and repeats > 1 and q_BTHd.is_cuda:
        # With a mask and grouped heads CUDA only has the unfused path, which holds every [T, S] score.
        k_BSGd, v_BSGd = (x.repeat_interleave(repeats, dim=2) for x in (k_BSGd, v_BSGd))
    mixed_BHTd = F.scaled_dot_product_attention(
        q_BTHd.transpose(1, 2),
        k_BSGd.transpose(1, 2),
        v_BSGd.transpose(1, 2),
        attn_mask=visible,
        is_causal=visible is None and queries == keys,
        enable_gqa=q_BTHd.shape[2] != k_BSGd.shape[2],
    )
    return mixed_BHTd.transpose(1, 2)


def _capped_attention(q_BTHd: Tensor, k_BSGd: Tensor, v_BSGd: Tensor, visible: Tensor | None, cap: float) -> Tensor:
    queries, keys, groups = q_BTHd.shape[1], k_BSGd.shape[1], k_BSGd.shape[2]
    if visible is None:
        visible = causal_mask(queries, keys, q_BTHd.device)
    scores_BGhTS = torch.einsum("btghd,bsgd->bghts", q_BTHd.unflatten(2, (groups, -1)), k_BSGd)
    scores_BGhTS = soft_cap(scores_BGhTS.float() * q_BTHd.shape[-1] ** -0.5, cap)
    weights_BGhTS = scores_BGhTS.masked_fill(~visible[:, None], -torch.inf).softmax(-1).to(v_BSGd.dtype)
    return torch.einsum("bghts,bsgd->btghd", weights_BGhTS, v_BSGd).flatten(2, 3)
