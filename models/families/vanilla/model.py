"""Plain decoders: the controlled baseline of the other families and, by its section, GPT-2 and Gemma 2.

    x += attention(norm(x));  x += ffn(norm(x))

As it comes: grouped-query attention and SwiGLU on the skeleton, initialisation, QK-norm and RoPE of `polychromatic`;
only the feed-forward layer differs. GPT-2 (Radford et al. 2019) adds learned positions, which count from the beginning
of a document, and has LayerNorm, GELU and biases. Gemma 2 (2024) scales the embedding, norms what a branch adds, bounds
scores and logits softly, and looks back no further than a window in every other block, from the first on.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import cast

from torch import Tensor, nn

from athanor.kernels.rope import rope_table
from athanor.kernels.span import Span
from athanor.models.blocks.attention import GroupedQueryAttention
from athanor.models.blocks.key_values import KeyValues
from athanor.models.blocks.norm import LayerNorm, NoNorm, Norm, RMSNorm
from athanor.models.blocks.sliding_window import Window, WindowKeyValues
from athanor.models.blocks.swiglu import SwiGLU
from athanor.models.cache import Remember
from athanor.models.families.vanilla.gelu import GELU, GeGLU
from athanor.models.families.vanilla.recipe import VanillaRecipe
from athanor.models.maps import AttentionShare, Probe
from athanor.models.model_recipe import ModelRecipe
from athanor.models.skeleton import Context, LanguageModel

FFN = {"swiglu": SwiGLU, "geglu": GeGLU, "gelu": GELU}


def _norm(recipe: ModelRecipe, section: VanillaRecipe, before_products: bool = False) -> Norm:
    if section.norm == "layernorm":
        return LayerNorm(recipe.d_model, before_products=before_products)
    return RMSNorm(recipe.d_model, recipe.norm_eps, before_products=before_products)


class VanillaBlock(nn.Module):
    """Attention, then the feed-forward layer, each on the normed stream."""

    def __init__(self, recipe: ModelRecipe, section: VanillaRecipe, layer: int):
        super().__init__()
        norm = partial(_norm, recipe, section)
        branch_norm = norm if section.branch_norm else NoNorm
        self.attention_norm = norm(before_products=True)
        self.attention = GroupedQueryAttention(
            recipe,
            bias=section.bias,
            qk_norm=section.qk_norm,
            cap=section.attention_cap,
            window=section.window if layer % 2 == 0 else None,
        )
        self.attention_branch_norm = branch_norm()
        self.ffn_norm = norm(before_products=True)
        self.ffn = FFN[section.ffn](recipe.d_model, recipe.d_ff, section.bias)
        self.ffn_branch_norm = branch_norm()

    def forward(self, x_BTD: Tensor, rope: Tensor | None, span: Span | None, remember: Remember | None) -> Tensor:
        mixed_BTD = self.attention(self.attention_norm(x_BTD), rope, span, remember)
        x_BTD, normed_BTD = self.ffn_norm(x_BTD, self.attention_branch_norm(mixed_BTD))
        return x_BTD + self.ffn_branch_norm(self.ffn(normed_BTD))


class Vanilla(LanguageModel):
    """Attention and a feed-forward layer."""

    def __init__(self, recipe: ModelRecipe):
        super().__init__(recipe)
        self.section = section = recipe.section(VanillaRecipe)
        self.logit_cap = section.logit_cap
        learned = section.positions == "learned"
        self.position_embedding = nn.Embedding(recipe.max_seq_len, recipe.d_model) if learned else None
        self.blocks = cast(
            "Sequence[VanillaBlock]",
            nn.ModuleList(VanillaBlock(recipe, section, layer) for layer in range(recipe.n_layers)),
        )
        self.final_norm = _norm(recipe, section)
        self.head = None if section.tied else nn.Linear(recipe.d_model, self.embedding.num_embeddings, bias=False)

    @property
    def repeating_layers(self) -> tuple[int, int]:
        return 2, 1 if self.section.window is None else 2

    @property
    def head_weight(self) -> Tensor:
        return super().head_weight if self.head is None else self.head.weight

    def embed(self, ids_BT: Tensor) -> Tensor:
        x_BTD = self.embedding(ids_BT)
        return x_BTD * self.recipe.d_model**0.5 if self.section.scale_embedding else x_BTD

    def body(self, x_BTD: Tensor, context: Context) -> Tensor:
        recipe, window, rope = self.recipe, self.section.window, None
        if self.position_embedding is None:
            rope = rope_table(context.position_BT, recipe.head_dim, recipe.rope_base)
        else:
            # Rows that have ended may run on beyond the last position.
            x_BTD = x_BTD + self.position_embedding(context.position_BT.clamp(max=recipe.max_seq_len - 1))
        near = None if window is None else Window.of(context, window, sink=0)
        for layer, block in enumerate(self.blocks):
            past = context.past(layer)
            if near is None or block.attention.window is None:
                x_BTD = block(x_BTD, rope, context.span, None if past is None else past.append)
            else:
                x_BTD = block(x_BTD, rope, near.span, near.remember(past))
        return x_BTD

    def new_layer_states(self) -> list[KeyValues | WindowKeyValues]:
        return [block.attention.new_past() for block in self.blocks]

    def probes(self) -> Sequence[Probe]:
        return [AttentionShare([(block.attention_norm, block.attention_branch_norm) for block in self.blocks])]

    def body_flops_per_token(self, context_tokens: float) -> float:
        return sum(
            block.attention.flops_per_token(context_tokens) + block.ffn.flops_per_token() for block in self.blocks
        )

    def cache_bytes_per_token(self, context_tokens: int) -> float:
        return sum(block.attention.cache_bytes(context_tokens) for block in self.blocks) / context_tokens
