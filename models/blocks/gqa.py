"""Grouped-query attention with a per-head RMSNorm on queries and keys, before half-split RoPE; no biases.

The norm gains are vectors of head_dim shared by all heads. Keys enter the cache normalised and rotated.
"""

from __future__ import annotations

from torch import Tensor, nn

from kernels.attention import Visible, attention
from kernels.packed_row import PackedRow
from kernels.rope import rotate_half_split
from models.blocks.norm import RMSNorm
from models.config import ModelRecipe


class KeyValues:
    """Keys and values of one layer's past positions; room doubles, so appending is O(1) amortised."""

    def __init__(self) -> None:
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, k_BTGd: Tensor, v_BTGd: Tensor) -> tuple[Tensor, Tensor]:
        """Store the newest T positions; returns all S positions of both, as views."""
        start, self.length = self.length, self.length + k_BTGd.shape[1]
        self._keys = self._stored(self._keys, k_BTGd, start)
        self._values = self._stored(self._values, v_BTGd, start)
        return self._keys[:, : self.length], self._values[:, : self.length]

    def held(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Keys and values of positions start .. stop-1, all stored before."""
        assert self._keys is not None and self._values is not None and stop <= self.length
        return self._keys[:, start:stop], self._values[:, start:stop]

    def rewind(self, length: int) -> None:
        """Forget the positions from `length` on."""
        self.length = length

    def unpack(self, packed: PackedRow) -> None:
        """The documents of the packed row that is held become rows of their own."""
        self._keys, self._values = (packed.rows(x) for x in self.held(0, self.length))
        self.length = packed.longest

    def _stored(self, room: Tensor | None, new: Tensor, start: int) -> Tensor:
        if room is None or room.shape[1] < self.length:
            grown = new.new_empty(new.shape[0], max(self.length, 2 * start), *new.shape[2:])
            if room is not None:
                grown[:, :start] = room[:, :start]
            room = grown
        room[:, start : self.length] = new
        return room


class GroupedQueryAttention(nn.Module):
    """H query heads over G key/value heads; causal within each document."""

    def __init__(self, recipe: ModelRecipe):
        super().__init__()
        self.head_dim = recipe.head_dim
        query_width = recipe.n_heads * recipe.head_dim
        key_width = recipe.n_kv_heads * recipe.head_dim
        self.query = nn.Linear(recipe.d_model, query_width, bias=False)
        self.key = nn.Linear(recipe.d_model, key_width, bias=False)
        self.value = nn.Linear(recipe.d_model, key_width, bias=False)
        self.out = nn.Linear(query_width, recipe.d_model, bias=False)
        self.query_norm = RMSNorm(recipe.head_dim, recipe.norm_eps)
        self.key_norm = RMSNorm(recipe.head_dim, recipe.norm_eps)

    def forward(self, x_BTD: Tensor, rope: Tensor, visible: Visible, past: KeyValues | None = None) -> Tensor:
        """`rope` from kernels.rope.rope_table, `visible` from kernels.attention.visible_keys."""
        heads = (*x_BTD.shape[:2], -1, self.head_dim)
        q_BTHd = rotate_half_split(self.query_norm(self.query(x_BTD).view(heads)), rope)
        k_BSGd = rotate_half_split(self.key_norm(self.key(x_BTD).view(heads)), rope)
        v_BSGd = self.value(x_BTD).view(heads)
        if past is not None:
            k_BSGd, v_BSGd = past.append(k_BSGd, v_BSGd)
        return self.out(attention(q_BTHd, k_BSGd, v_BSGd, visible).flatten(2))

    def flops_per_token(self, context_tokens: float) -> float:
        """Forward matrix-product FLOPs of a token that sees `context_tokens` keys, itself included."""
        weights = sum(p.weight.numel() for p in (self.query, self.key, self.value, self.out))
        return 2.0 * weights + 4.0 * self.out.in_features * context_tokens

    def cache_bytes_per_token(self) -> float:
        """Bytes that a token's key and value take, in bf16."""
        return 2.0 * (self.key.out_features + self.value.out_features)
