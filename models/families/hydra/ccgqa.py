"""Compressed convolutional grouped-query attention: all of attention happens in a latent of H * head_dim channels.

    q0, k0   = Wq x, Wk x                         H and G latent heads
    q, k     = conv([q0; k0]) + head means        two causal convolutions, then the mean of raw q and k added back
    q, k     = sqrt(d) q/||q||, sqrt(d) k/||k|| exp(beta_g)
    v[t]     = [Wv x[t]; Wv' x[t-1]]              half of the value channels come from the token before
    y        = Wo softmax(rope(q) rope(k)^T / sqrt(d)) v

Scores are bounded by sqrt(d) exp(beta). Neither the convolutions nor the value shift cross a document's start.
Every token writes its key, value and convolution rows; with a subset, only its tokens attend and are projected out.
Run repeatedly, the layer may read the keys and values of its first run again (`FirstKeys`): later runs make queries
alone, whose head means then hold the first run's raw keys.
Source: Compressed Convolutional Attention (Zyphra 2025); the head means use the values before the convolutions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from athanor.kernels.attention import attention
from athanor.kernels.attention_choice import Heads
from athanor.kernels.causal_conv import causal_conv_pair
from athanor.kernels.packed_row import PackedRow, newest
from athanor.kernels.rope import rotate_half_split, rotate_interleaved
from athanor.kernels.span import Span
from athanor.models.blocks.key_values import KeyValues
from athanor.models.cache import Past
from athanor.models.families.hydra.recipe import HydraRecipe
from athanor.models.families.hydra.token_subset import TokenSubset
from athanor.models.model_recipe import ModelRecipe

ROTATIONS = {"interleaved": rotate_interleaved, "half-split": rotate_half_split}
NORM_EPS = 1e-12  # added to the squared norm of a head


@dataclass(frozen=True)
class Positions:
    """Where the T tokens of a forward pass stand."""

    offset: int  # row position of the first
    age_BT: Tensor  # tokens of the same document before each
    rope: Tensor  # from athanor.kernels.rope.rope_table
    span: Span | None

    @property
    def packed(self) -> PackedRow | None:
        """The row whose documents become rows of the cache, if this is one."""
        return None if self.span is None else self.span.packed

    def span_of(self, subset: TokenSubset) -> Span:
        """That of the subset's queries, which see all keys that they would see among the others."""
        position_BN = subset.index_BN + self.offset
        key_1S = torch.arange(self.offset + self.age_BT.shape[1], device=position_BN.device)[None]
        return Span(position_BN - subset.gather(self.age_BT), self.offset, query_BT=position_BN, key_BS=key_1S)


class FirstKeys:
    """What the first of several runs over the same tokens made, and the later ones read."""

    def __init__(self) -> None:
        self.raw_k_BTC: Tensor | None = None
        self.keys_values: tuple[Tensor, Tensor] | None = None  # of all positions, those in the cache included


class CCGQAState(Past):
    """What one attention remembers while decoding: keys and values, and what the next token's convolutions and
    value shift reach back to."""

    def __init__(self) -> None:
        self.keys_values = KeyValues()
        self.latent_BPC: Tensor | None = None  # raw [q; k], or q alone, of the last K1 + K2 - 2 positions
        self.shifted_B1C: Tensor | None = None  # Wv' x of the last position

    def unpack(self, packed: PackedRow) -> None:
        """The documents of the packed row that is held become rows of their own; the rest is by document already."""
        self.keys_values.unpack(packed)


class CCGQA(nn.Module):
    """H latent query heads over G latent key/value heads."""

    def __init__(self, recipe: ModelRecipe, section: HydraRecipe):
        super().__init__()
        self.head_dim, self.groups = recipe.head_dim, recipe.n_kv_heads
        self.query_width, self.key_width = recipe.n_heads * recipe.head_dim, recipe.n_kv_heads * recipe.head_dim
        self.rotate = ROTATIONS[section.rope_pairing]
        width, bias = self.query_width + self.key_width, section.conv_bias
        self.reach = section.conv_kernel + section.mixing_kernel - 2
        self.query = nn.Linear(recipe.d_model, self.query_width, bias=False)
        self.key = nn.Linear(recipe.d_model, self.key_width, bias=False)
        self.value = nn.Linear(recipe.d_model, self.key_width - self.key_width // 2, bias=False)
        self.shifted_value = nn.Linear(recipe.d_model, self.key_width // 2, bias=False)
        self.conv = nn.Conv1d(width, width, section.conv_kernel, groups=width, bias=bias)
        self.mixing = nn.Conv1d(width, width, section.mixing_kernel, groups=width // recipe.head_dim, bias=bias)
        self.beta = nn.Parameter(torch.zeros(recipe.n_kv_heads))
        self.out = nn.Linear(self.query_width, recipe.d_model, bias=False)

    def forward(
        self,
        x_BTD: Tensor,
        positions: Positions,
        past: CCGQAState | None = None,
        subset: TokenSubset | None = None,
        first: FirstKeys | None = None,
    ) -> Tensor:
        """`[B, T, D]`, zero for tokens outside `subset`. Fills an empty `first`, reads a filled one."""
        if first is not None and first.keys_values is not None:
            q_BTHd = self.rotate(self.normed_queries(self.queries(x_BTD, positions, first, past)), positions.rope)
            k_BSGd, v_BSGd = first.keys_values
        else:
            mixed = self.mixed(x_BTD, positions, past, first)
            q_BTHd, k_BSGd = (self.rotate(x, positions.rope) for x in self.normed(*mixed))
            v_BSGd = self.values(x_BTD, positions, past)
            if past is not None:
                k_BSGd, v_BSGd = past.keys_values.append(k_BSGd, v_BSGd)
            if first is not None:
                first.keys_values = k_BSGd, v_BSGd
        if subset is None:
            return self.out(attention(q_BTHd, k_BSGd, v_BSGd, positions.span).flatten(2))
        if subset.index_BN.shape[1] == 0:
            return torch.zeros_like(x_BTD)
        if positions.packed is not None:  # a mask would be larger than what it spares
            mixed_BNHd = subset.gather(attention(q_BTHd, k_BSGd, v_BSGd, positions.span))
        else:
            mixed_BNHd = attention(subset.gather(q_BTHd), k_BSGd, v_BSGd, positions.span_of(subset))
        return subset.spread(self.out(mixed_BNHd.flatten(2)))

    @property
    def attention_heads(self) -> Heads:
        """What decides which backend attends."""
        return Heads(self.head_dim, self.head_dim)

    def mixed(
        self, x_BTD: Tensor, positions: Positions, past: CCGQAState | None = None, first: FirstKeys | None = None
    ) -> tuple[Tensor, Tensor]:
        """Queries `[B, T, H, d]` and keys `[B, T, G, d]` after the convolutions and head means."""
        raw_q_BTC, raw_k_BTC = self.query(x_BTD), self.key(x_BTD)
        if first is not None:
            first.raw_k_BTC = raw_k_BTC
        convolved_BTC = self._convolved(torch.cat((raw_q_BTC, raw_k_BTC), dim=-1), positions, past)
        q_BTC, k_BTC = convolved_BTC.split((self.query_width, self.key_width), dim=-1)
        mean_BTGhd = self._head_means(raw_q_BTC, raw_k_BTC)
        k_BTGd = k_BTC.unflatten(2, (self.groups, -1)) + mean_BTGhd.mean(3)
        return q_BTC.unflatten(2, (-1, self.head_dim)) + mean_BTGhd.flatten(2, 3), k_BTGd

    def queries(self, x_BTD: Tensor, positions: Positions, first: FirstKeys, past: CCGQAState | None = None) -> Tensor:
        """Like `mixed`, the queries alone, with the raw keys of the first run."""
        assert first.raw_k_BTC is not None
        raw_q_BTC = self.query(x_BTD)
        q_BTC = self._convolved(raw_q_BTC, positions, past)
        return q_BTC.unflatten(2, (-1, self.head_dim)) + self._head_means(raw_q_BTC, first.raw_k_BTC).flatten(2, 3)

    def _convolved(self, raw_BTC: Tensor, positions: Positions, past: CCGQAState | None) -> Tensor:
        """Both convolutions over the first channels of [q; k], as many as are given."""
        if past is None or past.latent_BPC is None:
            earlier = raw_BTC.new_zeros(raw_BTC.shape[0], self.reach, raw_BTC.shape[2])
        else:
            earlier = past.latent_BPC
        raw_BSC = torch.cat((earlier, raw_BTC), dim=1)
        if past is not None:
            past.latent_BPC = newest(raw_BSC, self.reach, positions.packed)
        depthwise, mixing = (
            (conv.weight[: raw_BTC.shape[2]], None if conv.bias is None else conv.bias[: raw_BTC.shape[2]])
            for conv in (self.conv, self.mixing)
        )
        return causal_conv_pair(raw_BSC, positions.age_BT, depthwise[0][:, 0], depthwise[1], *mixing)

    def _head_means(self, raw_q_BTC: Tensor, raw_k_BTC: Tensor) -> Tensor:
        """`[B, T, G, H / G, d]`: of every query head and its key head."""
        by_group = (self.groups, -1, self.head_dim)
        return (raw_q_BTC.unflatten(2, by_group) + raw_k_BTC.unflatten(2, (self.groups, 1, -1))) / 2

    def normed(self, q_BTHd: Tensor, k_BTGd: Tensor) -> tuple[Tensor, Tensor]:
        """Queries of norm sqrt(d), keys of norm sqrt(d) exp(beta) of their head; fp32 inside."""
        temperature_G1 = self.beta.float().exp()[:, None]
        return self.normed_queries(q_BTHd), (_to_sqrt_d(k_BTGd) * temperature_G1).to(k_BTGd.dtype)

    def normed_queries(self, q_BTHd: Tensor) -> Tensor:
        """Queries of norm sqrt(d)."""
        return _to_sqrt_d(q_BTHd).to(q_BTHd.dtype)

    def values(self, x_BTD: Tensor, positions: Positions, past: CCGQAState | None = None) -> Tensor:
        """`[B, T, G, d]`: of the G * d channels the first half is the token's, the rest the previous token's."""
        now_BTC, next_BTC = self.value(x_BTD), self.shifted_value(x_BTD)
        earlier = torch.zeros_like(next_BTC[:, :1]) if past is None or past.shifted_B1C is None else past.shifted_B1C
        before_BTC = torch.cat((earlier, next_BTC[:, :-1]), dim=1)
        if past is not None:
            past.shifted_B1C = newest(next_BTC, 1, positions.packed)
        before_BTC = torch.where((positions.age_BT > 0)[:, :, None], before_BTC, 0)
        return torch.cat((now_BTC, before_BTC), dim=-1).unflatten(2, (self.groups, -1))

    def flops_per_token(self, context_tokens: float, attending: float = 1.0, first: bool = True) -> float:
        """Forward matrix-product FLOPs of a token that sees `context_tokens` keys, itself included, when the share
        `attending` of the tokens queries; `first` false: with the keys and values of an earlier run."""
        written = self.query.weight.numel() + self.mixing.weight[: self.query_width].numel()
        if first:
            keys = (self.key, self.value, self.shifted_value)
            written += sum(part.weight.numel() for part in keys) + self.mixing.weight[self.query_width :].numel()
        read = self.out.weight.numel() + 2.0 * self.query_width * context_tokens
        return 2.0 * (written + attending * read)

    def cache_values_per_token(self, context_tokens: int, first: bool = True) -> float:
        """Values that a run leaves in the cache of a row of `context_tokens`, divided by them."""
        if not first:
            return self.reach * self.query_width / context_tokens
        last_rows = self.reach * (self.query_width + self.key_width) + self.key_width // 2
        return 2 * self.key_width + last_rows / context_tokens


def _to_sqrt_d(x: Tensor) -> Tensor:
    x = x.float()
    return x * (x.square().mean(-1, keepdim=True) + NORM_EPS / x.shape[-1]).rsqrt()
