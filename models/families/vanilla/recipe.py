"""Recipe section of `vanilla`: which plain decoder it is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from athanor.models.family import Section


class VanillaRecipe(Section):
    """What a plain decoder is made of (models/families/vanilla/model.py); as it comes, the control of the other
    families."""

    positions: Literal["rope", "learned"] = Field(
        default="rope", description="rope turns queries and keys; learned adds a vector for each position"
    )
    norm: Literal["rms", "layernorm"] = Field(default="rms", description="Norm of the residual stream")
    branch_norm: bool = Field(default=False, description="Norm what a branch adds, too")
    ffn: Literal["swiglu", "geglu", "gelu"] = Field(default="swiglu", description="Feed-forward layer")
    bias: bool = Field(default=False, description="Biases in attention and feed-forward layers")
    qk_norm: bool = Field(default=True, description="RMSNorm of every head's queries and keys")
    scale_embedding: bool = Field(default=False, description="Multiply embedded tokens by sqrt(d_model)")
    window: int | None = Field(
        default=None, ge=1, description="Keys a query sees in every other block from the first on, itself included"
    )
    attention_cap: float | None = Field(default=None, gt=0, description="Bound of attention scores, by tanh")
    tied: bool = Field(default=True, exclude_if=lambda tied: tied, description="The head is the embedding")
    logit_cap: float | None = Field(default=None, gt=0, description="Bound of logits, by tanh")
