"""Grouped-query attention: as it comes, a per-head RMSNorm on queries and keys before half-split RoPE, no biases.

The norm gains are vectors of head_dim shared by all heads. Keys enter the cache normalised and rotated.
"""

from __future__ import annotations

from torch import Tensor, nn

from athanor.kernels.attention import Visible, attention
from athanor.kernels.packed_row import PackedRow
from athanor.kernels.rope import rotate_half_split
from athanor.kernels.window_attention import window_attention
from athanor.models.blocks.norm import RMSNorm
from athanor.models.blocks.sliding_window import Span, WindowKeyValues, keys_seen
from athanor.models.model_recipe import ModelRecipe


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
        """The documents of the packed row that is held become rows of their own; nothing, where nothing is held."""
        if self.length:
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
    """H query heads over G key/value heads; causal within each document, and within a window if there is one.

    As it comes, the attention of the published PolychromaticLM; `VanillaRecipe` says what the options are.
    """

    def __init__(
        self,
        recipe: ModelRecipe,
        *,
        bias: bool = False,
        qk_norm: bool = True,
        cap: float | None = None,
        window: int | None = None,
    ):
        super().__init__()
        self.head_dim, self.cap, self.window = recipe.head_dim, cap, window
        query_width = recipe.n_heads * recipe.head_dim
        key_width = recipe.n_kv_heads * recipe.head_dim
        self.query = nn.Linear(recipe.d_model, query_width, bias)
        self.key = nn.Linear(recipe.d_model, key_width, bias)
        self.value = nn.Linear(recipe.d_model, key_width, bias)
        self.out = nn.Linear(query_width, recipe.d_model, bias)
        self.query_norm = RMSNorm(recipe.head_dim, recipe.norm_eps) if qk_norm else nn.Identity()
        self.key_norm = RMSNorm(recipe.head_dim, recipe.norm_eps) if qk_norm else nn.Identity()

    def forward(
        self,
        x_BTD: Tensor,
        rope: Tensor | None,
        seen: Visible | Span,
        past: KeyValues | WindowKeyValues | None = None,
    ) -> Tensor:
        """`rope` from kernels.rope.rope_table, if positions are rotations; `seen` is a Span where there is a window."""
        heads = (*x_BTD.shape[:2], -1, self.head_dim)
        q_BTHd = self.query_norm(self.query(x_BTD).view(heads))
        k_BSGd = self.key_norm(self.key(x_BTD).view(heads))
        v_BSGd = self.value(x_BTD).view(heads)
        if rope is not None:
            q_BTHd, k_BSGd = rotate_half_split(q_BTHd, rope), rotate_half_split(k_BSGd, rope)
        if isinstance(past, KeyValues):
            k_BSGd, v_BSGd = past.append(k_BSGd, v_BSGd)
        elif past is not None:
            assert isinstance(seen, Span) and seen.slots is not None
            k_BSGd, v_BSGd = past.append(k_BSGd, v_BSGd, seen.slots)
        if isinstance(seen, Span):
            return self.out(window_attention(q_BTHd, k_BSGd, v_BSGd, seen.mask, self.cap).flatten(2))
        return self.out(attention(q_BTHd, k_BSGd, v_BSGd, seen, self.cap).flatten(2))

    def new_past(self) -> KeyValues | WindowKeyValues:
        """An empty cache."""
        return KeyValues() if self.window is None else WindowKeyValues(self.window, sink=0)

    def flops_per_token(self, context_tokens: float) -> float:
        """Forward matrix-product FLOPs of a token in rows where `context_tokens` keys precede or are the query on
        average."""
        weights = sum(p.weight.numel() for p in (self.query, self.key, self.value, self.out))
        seen = context_tokens if self.window is None else keys_seen(context_tokens, self.window)
        return 2.0 * weights + 4.0 * self.out.in_features * seen

    def cache_bytes(self, context_tokens: int) -> int:
        """Bytes of the keys and values of a context, or of all slots of a window, in bf16."""
        positions = context_tokens if self.window is None else self.window
        return 2 * 2 * self.key.out_features * positions
