"""SWA-MLA: a cycle of sliding-window blocks and latent-attention blocks.

    x += attention(norm(x));  x += swiglu(norm(x))

`n_swa` blocks attend within a window and to their document's first tokens, then `n_mla` blocks attend to the whole
document through a small latent; and again from the start. So only the latent blocks' caches grow with the context,
and those are small. Matrices start as N(0, 0.02) without regard to depth, as published; `scale_residual_init` divides
those that write into the residual stream by sqrt(2 n_layers). The embedding is not decayed, nor are norms.

Dropout takes embedded tokens and what the branches add; attention weights, which the published code drops too, are
kept: a fused kernel draws from a generator, and the draw would follow the slices.

Published checkpoints join `ffn.up` and `ffn.gate` in one matrix, up first: its second half is the gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from athanor.kernels.rope import rope_table, rotate_interleaved
from athanor.kernels.span import Span
from athanor.models.blocks.attention import GroupedQueryAttention
from athanor.models.blocks.key_values import KeyValues
from athanor.models.blocks.norm import Norm, RMSNorm
from athanor.models.blocks.sliding_window import Window, WindowKeyValues
from athanor.models.blocks.swiglu import SwiGLU
from athanor.models.cache import Remember
from athanor.models.families.swa_mla.dropout import Dropout
from athanor.models.families.swa_mla.dynamic_tanh import DynamicTanh
from athanor.models.families.swa_mla.latent import LatentAttention
from athanor.models.families.swa_mla.probes import AttentionReach
from athanor.models.families.swa_mla.recipe import SwaMlaRecipe
from athanor.models.families.swa_mla.scaled_window import ScaledWindowAttention, stretched
from athanor.models.maps import AttentionShare, Probe
from athanor.models.model_recipe import ModelRecipe
from athanor.models.skeleton import INIT_STD, Context, LanguageModel

LOGIT_SCALE_WINDOW = 128
_EMBEDDED_STREAM = 0  # of dropout; two of each layer's follow


def _norm(recipe: ModelRecipe, section: SwaMlaRecipe, before_products: bool = False) -> Norm:
    if section.norm == "dynamic_tanh":
        return DynamicTanh(recipe.d_model, before_products=before_products)
    return RMSNorm(recipe.d_model, recipe.norm_eps, before_products=before_products)


class SwaMlaBlock(nn.Module):
    """Attention of either kind, then SwiGLU, each on the normed stream."""

    def __init__(self, recipe: ModelRecipe, section: SwaMlaRecipe, attention: GroupedQueryAttention | LatentAttention):
        super().__init__()
        self.attention_norm = _norm(recipe, section, before_products=True)
        self.attention = attention
        self.ffn_norm = _norm(recipe, section, before_products=True)
        self.ffn = SwiGLU(recipe.d_model, recipe.d_ff)

    def forward(
        self,
        x_BTD: Tensor,
        rope: Tensor,
        span: Span | None,
        past: Remember | KeyValues | None,
        dropout: Dropout,
        stream: int,
    ) -> Tensor:
        """`past` remembers for a window, or is that of latents. The branches take two streams of `dropout`."""
        mixed_BTD = self.attention(self.attention_norm(x_BTD), rope, span, past)
        x_BTD, normed_BTD = self.ffn_norm(x_BTD, dropout(mixed_BTD, stream))
        return x_BTD + dropout(self.ffn(normed_BTD), stream + 1)


class SwaMla(LanguageModel):
    """Sliding-window attention, multi-head latent attention and SwiGLU."""

    def __init__(self, recipe: ModelRecipe):
        super().__init__(recipe)
        self.section = section = recipe.section(SwaMlaRecipe)
        self.label_smoothing = section.label_smoothing or 0.0
        self.final_norm = _norm(recipe, section)
        self.blocks = cast("Sequence[SwaMlaBlock]", nn.ModuleList(self._block(i) for i in range(recipe.n_layers)))

    def _block(self, layer: int) -> SwaMlaBlock:
        recipe, section = self.recipe, self.section
        if layer % (section.n_swa + section.n_mla) < section.n_swa:
            window, sink = section.visible_window, section.sink
            kind = GroupedQueryAttention if section.logit_scale_base is None else ScaledWindowAttention
            attention = kind(recipe, rotate_interleaved, qk_norm=False, window=window, sink=sink)
            return SwaMlaBlock(recipe, section, attention)
        return SwaMlaBlock(recipe, section, LatentAttention(recipe, section))

    @property
    def repeating_layers(self) -> tuple[int, int]:
        cycle = self.section.n_swa + self.section.n_mla
        return cycle, cycle

    def body(self, x_BTD: Tensor, context: Context) -> Tensor:
        recipe, section = self.recipe, self.section
        near = Window.of(context, section.visible_window, section.sink)
        window_rope, latent_rope = (
            rope_table(context.position_BT, dim, recipe.rope_base, section.rope_factor)
            for dim in (recipe.head_dim, section.qk_rope_dim)
        )
        if section.logit_scale_base is not None:
            query_rope = window_rope
            if section.logit_scale_in_training or not self.training:
                window = section.logit_scale_window or LOGIT_SCALE_WINDOW
                query_rope = stretched(window_rope, context.position_BT, section.logit_scale_base, window)
            window_rope = torch.stack((query_rope, window_rope))
        dropout = Dropout.of(context, x_BTD.shape[1], section.dropout if self.training else None)
        x_BTD = dropout(x_BTD, _EMBEDDED_STREAM)
        for layer, block in enumerate(self.blocks):
            past, stream = context.past(layer), _EMBEDDED_STREAM + 1 + 2 * layer
            if isinstance(block.attention, LatentAttention):
                x_BTD = block(x_BTD, latent_rope, context.span, past, dropout, stream)
            else:
                x_BTD = block(x_BTD, window_rope, near.span, near.remember(past), dropout, stream)
        return x_BTD

    def new_layer_states(self) -> list[WindowKeyValues | KeyValues]:
        return [block.attention.new_past() for block in self.blocks]

    def init_parameter(self, name: str, parameter: nn.Parameter, generator: torch.Generator) -> None:
        if name.endswith("norm.alpha"):
            parameter.fill_(0.5)
        elif parameter.ndim == 2 and not self.section.scale_residual_init:
            parameter.copy_(torch.empty(parameter.shape).normal_(0.0, INIT_STD, generator=generator))
        else:
            super().init_parameter(name, parameter, generator)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        return super().decays(name, parameter) and name != "embedding.weight"

    def probes(self) -> Sequence[Probe]:
        return [
            AttentionShare([(block.attention_norm, block.attention) for block in self.blocks]),
            AttentionReach([block.attention for block in self.blocks]),
        ]

    def body_flops_per_token(self, context_tokens: float) -> float:
        """Windows honoured; the latent blocks as in training, with keys and values materialised."""
        return sum(
            block.attention.flops_per_token(context_tokens) + block.ffn.flops_per_token() for block in self.blocks
        )

    def cache_bytes_per_token(self, context_tokens: int) -> float:
        return sum(block.attention.cache_bytes(context_tokens) for block in self.blocks) / context_tokens
