"""Model recipes: one flat model for what all families share, one section per family for what is its own.

`family` chooses; the section of that name may be given, every other must be absent. An impossible
combination is refused here, in one line that names the fields.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from data.config import Recipe

Family = Literal["vanilla", "polychromatic"]


class PolychromaticRecipe(Recipe):
    """PolyGLU routing (models/families/polychromatic.py)."""

    gate_width: int = Field(default=32, ge=1, description="Hidden width of the routing network")
    pool: Literal["causal", "sequence"] = Field(
        default="causal",
        description="causal: mean over the document so far; sequence: the published mean over the whole row, "
        "which lets the future into the gate",
    )
    tau_start: float = Field(default=1.0, gt=0, description="Gumbel-softmax temperature at step 0")
    tau_end: float = Field(default=0.1, gt=0, description="Temperature at the last step; linear between")


class ModelRecipe(Recipe):
    """Shape of a decoder. Widths are in channels, lengths in tokens."""

    family: Family = Field(description="Architecture")
    vocab_size: int | None = Field(default=None, ge=2, description="Token ids; none takes the tokenizer's")
    d_model: int = Field(ge=2, description="Width of the residual stream")
    n_layers: int = Field(ge=1, description="Blocks")
    n_heads: int = Field(ge=1, description="Query heads")
    n_kv_heads: int = Field(ge=1, description="Key/value heads; divides n_heads")
    head_dim: int = Field(default=64, ge=2, description="Channels of a head; even, because RoPE rotates pairs")
    d_ff: int = Field(ge=1, description="Feed-forward width")
    max_seq_len: int = Field(default=4096, ge=2, description="Longest row the model accepts, tokens")
    rope_base: float = Field(default=10_000.0, gt=1, description="RoPE frequency base")
    norm_eps: float = Field(default=1e-6, gt=0, description="Added to the mean square in RMSNorm")
    polychromatic: PolychromaticRecipe | None = Field(default=None, description="Only for family=polychromatic")

    @model_validator(mode="after")
    def _possible(self) -> ModelRecipe:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_kv_heads={self.n_kv_heads} must divide n_heads={self.n_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} must be even: RoPE rotates pairs of channels")
        if self.polychromatic is not None and self.family != "polychromatic":
            raise ValueError(f"section polychromatic belongs to family=polychromatic, not family={self.family}")
        return self
