"""Softmax attention of H query heads over G key/value heads: project, rotate, remember, attend, project out.

    q, k, v = project(x);   q, k = R q, R k;   y = Wo softmax(cap(q k^T / sqrt(d))) v

Causal within each document, and within a window and its sinks if there is one. Keys enter the past rotated. Subclasses
say how x becomes queries, keys and values: `GroupedQueryAttention` by three matrices, with biases or a norm of every
head's queries and keys, whose gains are vectors of head_dim shared by all heads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from athanor.kernels.attention import attention
from athanor.kernels.attention_choice import Heads
from athanor.kernels.rope import rotate_half_split
from athanor.kernels.span import Span
from athanor.models.blocks.key_values import KeyValues
from athanor.models.blocks.norm import RMSNorm
from athanor.models.blocks.sliding_window import WindowKeyValues, keys_seen
from athanor.models.cache import Remember
from athanor.models.model_recipe import ModelRecipe

Rotation = Callable[[Tensor, Tensor], Tensor]  # see kernels/rope.py


class Attention(nn.Module, ABC):
    """What follows the projection. A query sees at most `sink + window` keys, if there is a window."""

    out: nn.Linear

    def __init__(
        self,
        recipe: ModelRecipe,
        rotate: Rotation,
        *,
        cap: float | None = None,
        window: int | None = None,
        sink: int = 0,
    ):
        super().__init__()
        self.head_dim, self.rotate, self.cap, self.window, self.sink = recipe.head_dim, rotate, cap, window, sink
        self.query_width = recipe.n_heads * recipe.head_dim
        self.key_width = recipe.n_kv_heads * recipe.head_dim

    @abstractmethod
    def project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries `[B, T, H, d]`, keys and values `[B, T, G, d]`, none of them rotated."""

    def heads(self, x_BTC: Tensor) -> Tensor:
        """`[B, T, H * d]` -> `[B, T, H, d]`."""
        return x_BTC.unflatten(-1, (-1, self.head_dim))

    def rotated(self, x_BTD: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """The same three, queries and keys rotated by `rope` (kernels.rope.rope_table), if positions are rotations."""
        q_BTHd, k_BTGd, v_BTGd = self.project(x_BTD)
        if rope is not None:
            q_BTHd, k_BTGd = self.rotate(q_BTHd, rope), self.rotate(k_BTGd, rope)
        return q_BTHd, k_BTGd, v_BTGd

    def queries_keys(self, x_BTD: Tensor, rope: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rotated queries `[B, T, H, d]` and keys `[B, T, G, d]`."""
        return self.rotated(x_BTD, rope)[:2]

    def forward(
        self, x_BTD: Tensor, rope: Tensor | None, span: Span | None, remember: Remember | None = None
    ) -> Tensor:
        """`[B, T, D]`. `span` is that of sliding_window.Window where there is a window, else that of the context."""
        q_BTHd, k_BSGd, v_BSGd = self.rotated(x_BTD, rope)
        if remember is not None:
            k_BSGd, v_BSGd = remember(k_BSGd, v_BSGd)
        return self.out(attention(q_BTHd, k_BSGd, v_BSGd, span, self.cap).flatten(2))

    @property
    def attention_heads(self) -> Heads:
        """What decides which backend attends."""
        return Heads(self.head_dim, self.head_dim, self.cap, self.sink)

    def new_past(self) -> KeyValues | WindowKeyValues:
        """What is remembered, empty."""
        return KeyValues() if self.window is None else WindowKeyValues(self.window, self.sink)

    def flops_per_token(self, context_tokens: float) -> float:
        """Forward matrix-product FLOPs of a token in rows where `context_tokens` keys precede or are the query on
        average."""
        weights = sum(layer.weight.numel() for layer in self.modules() if isinstance(layer, nn.Linear))
        seen = context_tokens if self.window is None else keys_seen(context_tokens, self.window + self.sink)
        return 2.0 * weights + 4.0 * self.query_width * seen

    def cache_bytes(self, context_tokens: int) -> int:
        """Bytes of the keys and values of a context, or of all slots of a window, in bf16."""
        positions = context_tokens if self.window is None else self.window + self.sink
        return 2 * 2 * self.key_width * positions


class GroupedQueryAttention(Attention):
    """A matrix each for queries, keys and values. As it comes, the attention of the published PolychromaticLM."""

    def __init__(
        self,
        recipe: ModelRecipe,
        rotate: Rotation = rotate_half_split,
        *,
        bias: bool = False,
        qk_norm: bool = True,
        cap: float | None = None,
        window: int | None = None,
        sink: int = 0,
    ):
        super().__init__(recipe, rotate, cap=cap, window=window, sink=sink)
        self.query = nn.Linear(recipe.d_model, self.query_width, bias)
        self.key = nn.Linear(recipe.d_model, self.key_width, bias)
        self.value = nn.Linear(recipe.d_model, self.key_width, bias)
        self.out = nn.Linear(self.query_width, recipe.d_model, bias)
        self.query_norm = RMSNorm(recipe.head_dim, recipe.norm_eps) if qk_norm else nn.Identity()
        self.key_norm = RMSNorm(recipe.head_dim, recipe.norm_eps) if qk_norm else nn.Identity()

    def project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_BTHd = self.query_norm(self.heads(self.query(x_BTD)))
        k_BTGd = self.key_norm(self.heads(self.key(x_BTD)))
        return q_BTHd, k_BTGd, self.heads(self.value(x_BTD))
