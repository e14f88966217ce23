"""Grouped-query attention under a mask: the reference that every other backend is held to.

softmax(cap(scale q k^T)) v over the keys that a bool mask marks. Query head h reads key/value head h // (H / G). With a
cap, scores s are cap * tanh(s / cap); that path holds all of them, [B, H, T, S] in fp32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from athanor.kernels.cross_entropy import soft_cap
from athanor.kernels.span import causal_mask


def masked_attention(
    q_BTHd: Tensor, k_BSGd: Tensor, v_BSGe: Tensor, visible: Tensor | None, cap: float | None = None
) -> Tensor:
    """`[B, T, H, e]`, scale d^-1/2. `visible` bool `[B or 1, 1, T, S]`; None is a whole causal row, or one newest
    query."""
    if cap is not None:
        return _capped_attention(q_BTHd, k_BSGd, v_BSGe, visible, cap)
    queries, keys = q_BTHd.shape[1], k_BSGd.shape[1]
    repeats = q_BTHd.shape[2] // k_BSGd.shape[2]
    if visible is not None and repeats > 1 and q_BTHd.is_cuda:
        # With a mask and grouped heads CUDA only has the unfused path, which holds every [T, S] score.
        k_BSGd, v_BSGe = (x.repeat_interleave(repeats, dim=2) for x in (k_BSGd, v_BSGe))
    mixed_BHTe = F.scaled_dot_product_attention(
        q_BTHd.transpose(1, 2),
        k_BSGd.transpose(1, 2),
        v_BSGe.transpose(1, 2),
        attn_mask=visible,
        is_causal=visible is None and queries == keys,
        enable_gqa=q_BTHd.shape[2] != k_BSGd.shape[2],
    )
    return mixed_BHTe.transpose(1, 2)


def _capped_attention(q_BTHd: Tensor, k_BSGd: Tensor, v_BSGe: Tensor, visible: Tensor | None, cap: float) -> Tensor:
    queries, keys, groups = q_BTHd.shape[1], k_BSGd.shape[1], k_BSGd.shape[2]
    if visible is None:
        visible = causal_mask(queries, keys, q_BTHd.device)
    scores_BGhTS = torch.einsum("btghd,bsgd->bghts", q_BTHd.unflatten(2, (groups, -1)), k_BSGd)
    scores_BGhTS = soft_cap(scores_BGhTS.float() * q_BTHd.shape[-1] ** -0.5, cap)
    weights_BGhTS = scores_BGhTS.masked_fill(~visible[:, None], -torch.inf).softmax(-1).to(v_BSGe.dtype)
    return torch.einsum("bghts,bsge->btghe", weights_BGhTS, v_BSGe).flatten(2, 3)
