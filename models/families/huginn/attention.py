"""Attention whose queries and keys get a learned bias before interleaved RoPE, without any norm of them.

    q = R_i (Wq x_i + b_q),   k = R_j (Wk x_j + b_k),   out = Wo softmax(q k^T / sqrt(d)) v

RoPE turns the biases with the rest, so scores still depend on position differences alone. What is remembered of
past positions is the caller's: `remember(k, v)` stores the newest and returns all that are attended to.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from athanor.kernels.attention import Visible, attention
from athanor.kernels.rope import rotate_interleaved
from athanor.models.model_recipe import ModelRecipe

Remember = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class BiasedAttention(nn.Module):
    """H query heads over G key/value heads; the biases are vectors of all channels, zero at the start."""

    def __init__(self, recipe: ModelRecipe, bias: bool):
        super().__init__()
        self.head_dim = recipe.head_dim
        query_width = recipe.n_heads * recipe.head_dim
        key_width = recipe.n_kv_heads * recipe.head_dim
        self.widths = [query_width, key_width, key_width]
        self.query_key_value = nn.Linear(recipe.d_model, sum(self.widths), bias=False)
        self.out = nn.Linear(query_width, recipe.d_model, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(query_width)) if bias else None
        self.key_bias = nn.Parameter(torch.zeros(key_width)) if bias else None

    def forward(self, x_BTD: Tensor, rope: Tensor, visible: Visible, remember: Remember | None = None) -> Tensor:
        """`rope` from kernels.rope.rope_table, `visible` from kernels.attention.visible_keys."""
        heads = (*x_BTD.shape[:2], -1, self.head_dim)
        q, k, v = self.query_key_value(x_BTD).split(self.widths, dim=-1)
        if self.query_bias is not None and self.key_bias is not None:
            q, k = q + self.query_bias.to(q.dtype), k + self.key_bias.to(k.dtype)
        q_BTHd, k_BSGd = rotate_interleaved(q.view(heads), rope), rotate_interleaved(k.view(heads), rope)
        v_BSGd = v.view(heads)
        if remember is not None:
            k_BSGd, v_BSGd = remember(k_BSGd, v_BSGd)
        return self.out(attention(q_BTHd, k_BSGd, v_BSGd, visible).flatten(2))

    def flops_per_token(self, context_tokens: float) -> float:
        """Forward matrix-product FLOPs of a token that sees `context_tokens` keys, itself included."""
        weights = self.query_key_value.weight.numel() + self.out.weight.numel()
        return 2.0 * weights + 4.0 * self.out.in_features * context_tokens
