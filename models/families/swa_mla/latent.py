"""Multi-head latent attention (DeepSeek-V2, 2024): keys and values of all heads from one small latent per token.

    q_nope, q_rope = query(x)                  per head: dn channels without, dr channels with position
    c, k_rope = kv_reduce(x); c = kv_norm(c)   the latent, and one key slice for all heads, rotated
    k_nope, v = kv_expand(c)                   per head: its rows are [nope, v] blocks, head after head
    y = out(softmax((q_nope . k_nope + q_rope . k_rope) / sqrt(dn + dr)) v)

The cache holds c after its norm and k_rope after its rotation, nothing else. A row's first piece makes keys and
values of its own latents; a later piece carries its queries into the latent space instead, so that the past is
never expanded. Both compute the same. Rotation is interleaved.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from athanor.kernels.attention import attention
from athanor.kernels.attention_choice import Heads
from athanor.kernels.latent_attention import latent_attention
from athanor.kernels.rope import rotate_interleaved
from athanor.kernels.span import Span
from athanor.models.blocks.key_values import KeyValues
from athanor.models.blocks.norm import LayerNorm, RMSNorm
from athanor.models.families.swa_mla.recipe import SwaMlaRecipe
from athanor.models.model_recipe import ModelRecipe


def _latent_norm(width: int, recipe: ModelRecipe, section: SwaMlaRecipe) -> nn.Module:
    return LayerNorm(width) if section.kv_norm == "layernorm" else RMSNorm(width, recipe.norm_eps)


class LatentAttention(nn.Module):
    """Queries straight from x, or through a normed latent of `q_rank` channels."""

    def __init__(self, recipe: ModelRecipe, section: SwaMlaRecipe):
        super().__init__()
        self.heads = recipe.n_heads
        self.rank = section.kv_rank
        self.dims = section.qk_nope_dim, section.qk_rope_dim
        query_width = recipe.n_heads * sum(self.dims)
        self.query_reduce = nn.Linear(recipe.d_model, section.q_rank, bias=False) if section.q_rank else None
        self.query_norm = _latent_norm(section.q_rank, recipe, section) if section.q_rank else None
        self.query = nn.Linear(section.q_rank or recipe.d_model, query_width, bias=False)
        self.kv_reduce = nn.Linear(recipe.d_model, section.kv_rank + section.qk_rope_dim, bias=False)
        self.kv_norm = _latent_norm(section.kv_rank, recipe, section)
        self.kv_expand = nn.Linear(section.kv_rank, recipe.n_heads * (section.qk_nope_dim + section.v_dim), bias=False)
        self.out = nn.Linear(recipe.n_heads * section.v_dim, recipe.d_model, bias=False)

    def forward(self, x_BTD: Tensor, rope: Tensor, span: Span | None, past: KeyValues | None = None) -> Tensor:
        """`rope` from kernels.rope.rope_table. `past` keeps c where others keep keys, and k_rope where they keep
        values."""
        queries = self.queries(x_BTD, rope)
        latents = self.latents(x_BTD, rope)
        attend = self.materialised if past is None or past.length == 0 else self.absorbed
        if past is not None:
            latents = past.append(*latents)
        return self.out(attend(*queries, *latents, span).flatten(2))

    def queries(self, x_BTD: Tensor, rope: Tensor) -> tuple[Tensor, Tensor]:
        """`[B, T, H, dn]` and, rotated, `[B, T, H, dr]`."""
        if self.query_reduce is not None and self.query_norm is not None:
            x_BTD = self.query_norm(self.query_reduce(x_BTD))
        q_nope, q_rope = self.query(x_BTD).unflatten(-1, (self.heads, -1)).split(self.dims, dim=-1)
        return q_nope, rotate_interleaved(q_rope, rope)

    def latents(self, x_BTD: Tensor, rope: Tensor) -> tuple[Tensor, Tensor]:
        """c `[B, T, R]` and k_rope `[B, T, dr]`."""
        c_BTR, k_rope_BTr = self.kv_reduce(x_BTD).split((self.rank, self.dims[1]), dim=-1)
        return self.kv_norm(c_BTR), rotate_interleaved(k_rope_BTr[:, :, None], rope)[:, :, 0]

    def materialised(
        self, q_nope: Tensor, q_rope: Tensor, c_BSR: Tensor, k_rope_BSr: Tensor, span: Span | None
    ) -> Tensor:
        """Mixed values `[B, T, H, dv]`, from keys and values of every position."""
        k_BSHd, v_BSHv = self.keys_values(c_BSR, k_rope_BSr)
        return attention(torch.cat((q_nope, q_rope), dim=-1), k_BSHd, v_BSHv, span)

    def absorbed(self, q_nope: Tensor, q_rope: Tensor, c_BSR: Tensor, k_rope_BSr: Tensor, span: Span | None) -> Tensor:
        """The same numbers, the up-projection folded into the queries and taken out of the mix."""
        assert span is None or span.packed is None  # those begin a cache
        up_HdR = self.kv_expand.weight.unflatten(0, (self.heads, -1))
        key_up_HnR, value_up_HvR = up_HdR.tensor_split((self.dims[0],), dim=1)
        q_latent = torch.einsum("bthn,hnr->bthr", q_nope, key_up_HnR)
        mixed = latent_attention(q_latent, q_rope, c_BSR, k_rope_BSr, span, sum(self.dims) ** -0.5)
        return torch.einsum("bthr,hvr->bthv", mixed, value_up_HvR)

    def keys_values(self, c_BSR: Tensor, k_rope_BSr: Tensor) -> tuple[Tensor, Tensor]:
        """Keys `[B, S, H, dn + dr]` and values `[B, S, H, dv]`."""
        k_nope, v_BSHv = self.kv_expand(c_BSR).unflatten(-1, (self.heads, -1)).tensor_split((self.dims[0],), dim=-1)
        return torch.cat((k_nope, k_rope_BSr[:, :, None].expand(-1, -1, self.heads, -1)), dim=-1), v_BSHv

    def queries_keys(self, x_BTD: Tensor, rope: Tensor) -> tuple[Tensor, Tensor]:
        """Queries and keys of whole rows, both parts, `[B, T, H, dn + dr]`."""
        return torch.cat(self.queries(x_BTD, rope), dim=-1), self.keys_values(*self.latents(x_BTD, rope))[0]

    @property
    def attention_heads(self) -> Heads:
        """What decides which backend attends, where keys and values are materialised."""
        return Heads(sum(self.dims), self.out.in_features // self.heads)

    def new_past(self) -> KeyValues:
        """An empty cache."""
        return KeyValues()

    def flops_per_token(self, context_tokens: float) -> float:
        """Forward matrix-product FLOPs of a token that sees `context_tokens` keys, itself included, materialised."""
        weights = sum(layer.weight.numel() for layer in self.modules() if isinstance(layer, nn.Linear))
        return 2.0 * weights + 2.0 * (self.query.out_features + self.out.in_features) * context_tokens

    def cache_bytes(self, context_tokens: int) -> int:
        """Bytes of the latents and key slices of a context, in bf16."""
        return 2 * self.kv_reduce.out_features * context_tokens
