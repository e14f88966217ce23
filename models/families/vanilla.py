"""The controlled baseline: pre-norm blocks of grouped-query attention and SwiGLU.

    x += attention(norm(x));  x += swiglu(norm(x))

Same skeleton, initialisation, QK-norm and RoPE as `polychromatic`; only the feed-forward layer differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn

from kernels.rope import rope_table
from models.blocks.gqa import GroupedQueryAttention, KeyValues
from models.blocks.norm import RMSNorm
from models.blocks.swiglu import SwiGLU
from models.config import ModelRecipe
from models.maps import AttentionShare, Probe
from models.skeleton import Context, LanguageModel


class Block(nn.Module):
    """Attention, then SwiGLU, each on the normed stream."""

    def __init__(self, recipe: ModelRecipe):
        super().__init__()
        self.attention_norm = RMSNorm(recipe.d_model, recipe.norm_eps)
        self.attention = GroupedQueryAttention(recipe)
        self.ffn_norm = RMSNorm(recipe.d_model, recipe.norm_eps)
        self.ffn = SwiGLU(recipe.d_model, recipe.d_ff)

    def forward(self, x_BTD: Tensor, context: Context, rope: Tensor, past: KeyValues | None) -> Tensor:
        x_BTD = x_BTD + self.attention(self.attention_norm(x_BTD), rope, context.visible, past)
        return x_BTD + self.ffn(self.ffn_norm(x_BTD))


class Vanilla(LanguageModel):
    """GQA + SwiGLU."""

    def __init__(self, recipe: ModelRecipe):
        super().__init__(recipe)
        self.blocks = cast("Sequence[Block]", nn.ModuleList(Block(recipe) for _ in range(recipe.n_layers)))

    def body(self, x_BTD: Tensor, context: Context) -> Tensor:
        recipe = self.recipe
        rope = rope_table(context.position_BT, recipe.head_dim, recipe.rope_base)
        for layer, block in enumerate(self.blocks):
            past = context.cache.layers[layer] if context.cache is not None else None
            x_BTD = block(x_BTD, context, rope, past)
        return x_BTD

    def new_layer_states(self) -> list[KeyValues]:
        return [KeyValues() for _ in self.blocks]

    def probes(self) -> Sequence[Probe]:
        return [AttentionShare([(block.attention_norm, block.attention) for block in self.blocks])]

    def body_flops_per_token(self, context_tokens: float) -> float:
        return sum(
            block.attention.flops_per_token(context_tokens) + block.ffn.flops_per_token() for block in self.blocks
        )

    def cache_bytes_per_token(self, context_tokens: int) -> float:
        return sum(block.attention.cache_bytes_per_token() for block in self.blocks)
