"""Attention whose queries and keys get a learned bias before interleaved RoPE, without any norm of them.

    q = R_i (Wq x_i + b_q),   k = R_j (Wk x_j + b_k),   out = Wo softmax(q k^T / sqrt(d)) v

RoPE turns the biases with the rest, so scores still depend on position differences alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from athanor.kernels.rope import rotate_interleaved
from athanor.models.blocks.attention import Attention
from athanor.models.model_recipe import ModelRecipe


class BiasedAttention(Attention):
    """One matrix for queries, keys and values; the biases are vectors of all channels, zero at the start."""

    def __init__(self, recipe: ModelRecipe, bias: bool):
        super().__init__(recipe, rotate_interleaved)
        self.widths = [self.query_width, self.key_width, self.key_width]
        self.query_key_value = nn.Linear(recipe.d_model, sum(self.widths), bias=False)
        self.out = nn.Linear(self.query_width, recipe.d_model, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(self.query_width)) if bias else None
        self.key_bias = nn.Parameter(torch.zeros(self.key_width)) if bias else None

    def project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.query_key_value(x_BTD).split(self.widths, dim=-1)
        if self.query_bias is not None and self.key_bias is not None:
            q, k = q + self.query_bias.to(q.dtype), k + self.key_bias.to(k.dtype)
        return self.heads(q), self.heads(k), self.heads(v)
