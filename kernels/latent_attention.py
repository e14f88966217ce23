"""Multi-head latent attention, absorbed: H query heads over one shared latent key, which is the value too.

    score[b, h, t, s] = (q_latent[b, t, h] . c[b, s] + q_rope[b, t, h] . k_rope[b, s]) * scale
    y[b, t, h]        = sum_s softmax_s(score)[b, h, t, s] c[b, s]

q_latent is the query carried into the latent space by the key half of the up-projection, y is carried out of it by
the value half (DeepSeek-V2, 2024). The cache is read once for all heads: S (R + r) values a row, against S H (dn +
dr + dv) when keys and values are materialised; the price is R + r and R multiply-adds a score instead of dn + dr and
dv. So it pays when few queries meet many keys, which is decoding. The reference holds the [B, H, T, S] scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from athanor.kernels.span import Span, causal_mask


def latent_attention(
    q_latent_BTHR: Tensor, q_rope_BTHr: Tensor, c_BSR: Tensor, k_rope_BSr: Tensor, span: Span | None, scale: float
) -> Tensor:
    """Returns `[B, T, H, R]`; softmax in fp32."""
    queries, keys = q_latent_BTHR.shape[1], c_BSR.shape[1]
    scores_BHTS = torch.einsum("bthr,bsr->bhts", q_latent_BTHR, c_BSR)
    scores_BHTS = (scores_BHTS + torch.einsum("bthr,bsr->bhts", q_rope_BTHr, k_rope_BSr)).float() * scale
    if span is not None:
        scores_BHTS = scores_BHTS.masked_fill(~span.mask, -torch.inf)
    elif queries > 1:
        scores_BHTS = scores_BHTS.masked_fill(~causal_mask(queries, keys, c_BSR.device), -torch.inf)
    return torch.einsum("bhts,bsr->bthr", scores_BHTS.softmax(-1).to(c_BSR.dtype), c_BSR)
