"""What the recipes of all families have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from athanor.core.kinds import NameOf
from athanor.core.recipe import Recipe
from athanor.models.family import FAMILIES


class Shape(Recipe):
    """The family and the fields that all have. Widths are in channels, lengths in tokens."""

    family: Annotated[str, NameOf(FAMILIES)] = Field(description="Architecture")
    vocab_size: int | None = Field(default=None, ge=2, description="Token ids; none takes the tokenizer's")
    d_model: int = Field(ge=2, description="Width of the residual stream")
    n_layers: int = Field(ge=1, le=1000, description="Blocks")
    n_heads: int = Field(ge=1, description="Query heads")
    n_kv_heads: int = Field(ge=1, description="Key/value heads; divides n_heads")
    head_dim: int = Field(default=64, ge=2, description="Channels of a head; even, because RoPE rotates pairs")
    d_ff: int = Field(ge=1, description="Feed-forward width")
    max_seq_len: int = Field(default=4096, ge=2, description="Longest row the model accepts, tokens")
    rope_base: float = Field(default=10_000.0, gt=1, description="RoPE frequency base")
    norm_eps: float = Field(default=1e-6, gt=0, description="Added to the mean square in RMSNorm")

    @model_validator(mode="after")
    def _possible_heads(self) -> Shape:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads={self.n_kv_heads} must divide n_heads={self.n_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even: RoPE rotates pairs of channels")
        return self
